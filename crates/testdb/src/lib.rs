//! PostgreSQL for tests: a server of the test process's own, on a unix socket in a directory of its own, with a database for each
//! world. It ends with the last database that is used, or with the process, and never listens on the network.

use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use tempfile::TempDir;

/// The user that the server runs as when tests run as root, which it refuses to be.
const NOBODY: u32 = 65534;
const USER: &str = "cofferdam";

/// A database of one's own; the server lives for as long as there is one.
pub struct Database {
    server: Arc<Server>,
    name: String,
}

impl Database {
    /// An empty one, or why there can be none on this machine. In CI that is a failure.
    pub fn new() -> Result<Self, String> {
        static SERVER: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        static NAMES: AtomicU64 = AtomicU64::new(0);
        let mut known = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        let server = match known.upgrade() {
            Some(server) => server,
            None => Server::started()?,
        };
        *known = Arc::downgrade(&server);
        drop(known);
        let name = format!("test{}", NAMES.fetch_add(1, Ordering::Relaxed));
        server.psql("postgres", &format!("CREATE DATABASE {name}"));
        Ok(Self { server, name })
    }

    /// The same, on a server that no other test of the process uses.
    pub fn alone() -> Result<Self, String> {
        Ok(Self { server: Server::started()?, name: "postgres".to_owned() })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        let host = self.server.directory.path().display().to_string().replace('/', "%2F");
        format!("postgres://{USER}@{host}/{}", self.name)
    }

    /// Runs SQL as somebody beside the program, and tells what it says.
    pub fn psql(&self, sql: &str) -> String {
        self.server.psql(&self.name, sql)
    }

    /// Ends all connections to it but the one that says so, as a network does that fails.
    pub fn cut(&self) {
        self.psql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        );
    }

    /// Kills the server's processes, as when its machine fails, and starts it again.
    pub fn crash(&self) {
        self.server.crash();
    }
}

struct Server {
    tools: PathBuf,
    running: Mutex<Option<Running>>,
    directory: TempDir,
    /// Held for as long as the directory is used.
    _lock: File,
}

/// A child whose parent is a thread that lives for as long as it does: it dies with its parent.
struct Running {
    pid: rustix::process::Pid,
    ended: mpsc::Receiver<()>,
}

/// Debian has them where no PATH leads.
fn tools() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions.flatten().map(|version| version.path().join("bin")).collect();
    found.retain(|path| path.join("postgres").exists());
    found.sort();
    found.pop()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The command, run by the server's user, which the kernel ends by SIGQUIT with the thread that starts it.
fn as_user(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if is_root() {
        let id = NOBODY.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
    }
    command.arg(program).stdin(Stdio::null()).env("LC_ALL", "C.UTF-8");
    command
}

fn done(command: &mut Command) -> io::Result<String> {
    let output = command.output()?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(io::Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))),
    }
}

fn give(path: &Path) -> io::Result<()> {
    match is_root() {
        true => std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)),
        false => Ok(()),
    }
}

/// The directory for all servers of this user's tests.
fn base() -> io::Result<PathBuf> {
    let own = rustix::process::geteuid().as_raw();
    let base = std::env::temp_dir().join(format!("cofferdam-testdb-{own}"));
    match fs::create_dir(&base) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if fs::symlink_metadata(&base)?.uid() != own {
        return Err(io::Error::other(format!("{} is somebody else's", base.display())));
    }
    fs::set_permissions(&base, fs::Permissions::from_mode(0o755))?;
    Ok(base)
}

/// Removes what processes left that were killed.
fn clean(base: &Path) -> io::Result<()> {
    for entry in fs::read_dir(base)?.flatten() {
        let Ok(lock) = File::open(entry.path().join("lock")) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// A cluster that was made once, to be copied.
fn template(base: &Path, tools: &Path) -> io::Result<PathBuf> {
    let version = tools.parent().and_then(Path::file_name).unwrap_or_default();
    let (mut name, mut making) = (std::ffi::OsString::from("template-"), std::ffi::OsString::from("making-"));
    name.push(version);
    making.push(version);
    let (template, making) = (base.join(name), base.join(making));
    if !template.exists() {
        let _ = fs::remove_dir_all(&making);
        fs::create_dir(&making)?;
        give(&making)?;
        let mut make = as_user(&tools.join("initdb"));
        make.arg("--pgdata").arg(&making).args(["--username", USER, "--auth", "trust", "--no-sync"]);
        // Not C on purpose: the order of texts is that of the columns, not of the database.
        make.args(["--locale", "C.UTF-8", "--wal-segsize", "1"]);
        done(&mut make)?;
        fs::rename(&making, &template)?;
    }
    Ok(template)
}

impl Server {
    fn started() -> Result<Arc<Self>, String> {
        match tools() {
            Some(tools) => match Self::start(tools) {
                Ok(server) => Ok(Arc::new(server)),
                Err(error) => panic!("cannot start PostgreSQL: {error}"),
            },
            None if std::env::var_os("CI").is_some() => panic!("PostgreSQL is not installed"),
            None => Err("PostgreSQL is not installed".to_owned()),
        }
    }

    fn start(tools: PathBuf) -> io::Result<Self> {
        let base = base()?;
        // Of several processes one after the other makes what it needs here.
        let making = File::create(base.join("making"))?;
        flock(&making, FlockOperation::LockExclusive)?;
        clean(&base)?;
        let template = template(&base, &tools)?;
        let directory = tempfile::Builder::new()
            .prefix("server-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in(&base)?;
        let lock = File::create(directory.path().join("lock"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        drop(making);
        give(directory.path())?;
        done(Command::new("cp").arg("-a").arg(&template).arg(directory.path().join("data")))?;
        let server = Self { tools, running: Mutex::new(None), directory, _lock: lock };
        server.run()?;
        Ok(server)
    }

    fn run(&self) -> io::Result<()> {
        let path = self.directory.path();
        let mut command = as_user(&self.tools.join("postgres"));
        command.arg("-D").arg(path.join("data")).arg("-k").arg(path).args(["-c", "listen_addresses="]);
        // What a power cut would leave is for the tests of PostgreSQL itself.
        command.args(["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=100"]);
        command.args(["-c", "shared_buffers=16MB", "-c", "autovacuum=off", "-c", "logging_collector=off"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let (started, starting) = mpsc::channel();
        let (gone, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let child = command.spawn();
            let mut child = match child {
                Ok(child) => child,
                Err(error) => return drop(started.send(Err(error))),
            };
            let pid = rustix::process::Pid::from_child(&child);
            let _ = started.send(ready(&mut child).map(|()| pid));
            let _ = child.wait();
            let _ = gone.send(());
        });
        let pid = starting.recv().map_err(io::Error::other)??;
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(Running { pid, ended });
        Ok(())
    }

    fn stop(&self, signal: rustix::process::Signal) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { pid, ended }) = running {
            let _ = rustix::process::kill_process(pid, signal);
            let _ = ended.recv();
        }
    }

    fn crash(&self) {
        self.stop(rustix::process::Signal::QUIT);
        self.run().unwrap_or_else(|error| panic!("PostgreSQL does not come back: {error}"));
    }

    fn psql(&self, database: &str, sql: &str) -> String {
        let mut psql = as_user(&self.tools.join("psql"));
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"]);
        psql.arg("--host").arg(self.directory.path()).args(["--username", USER, "--dbname", database]);
        done(psql.args(["--command", sql])).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(rustix::process::Signal::QUIT);
    }
}

/// Reads its log until it takes connections.
fn ready(child: &mut Child) -> io::Result<()> {
    let log = child.stderr.take().ok_or_else(|| io::Error::other("no log"))?;
    let mut said = String::new();
    let mut lines = BufReader::new(log);
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        if line.contains("ready to accept connections") {
            // Read to its end, or the server would wait for somebody to do so.
            std::thread::spawn(move || io::copy(&mut lines, &mut io::sink()));
            return Ok(());
        }
        said.push_str(&line);
        line.clear();
    }
    Err(io::Error::other(said))
}
