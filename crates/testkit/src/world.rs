//! One installation, started by the command that users type.

use crate::internet::{Internet, RESOLVER};
use crate::leftovers::Leftovers;
use crate::stale::{self, PREFIX, unmount_beneath};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// A running installation of its own.
pub struct World {
    dir: PathBuf,
    cgroup: String,
    /// The directory of `cofferdam` and `cofferdam-jail`.
    programs: PathBuf,
    /// Where the test mounted something.
    disks: Vec<PathBuf>,
    /// Port of the control API on 127.0.0.1.
    pub control_port: u16,
    /// Port of the first gate on 127.0.0.1.
    pub guard_port: u16,
}

/// Boundaries that are made ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blanks {
    /// Without an image.
    Bare,
    /// With one.
    Whole,
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; -1 for a signal.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// Fails the test unless the command succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let ran = self.ok();
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{error}: {}", ran.out))
    }
}

/// The directory with the built binaries: `target/release`, above the test's own.
fn binaries() -> PathBuf {
    let this = std::env::current_exe().expect("this program knows its own path");
    let dir = this.parent().expect("it lies in a directory");
    // Tests and examples lie one deeper.
    let deeper = dir.ends_with("deps") || dir.ends_with("examples");
    if deeper { dir.parent().expect("that lies in a directory").to_path_buf() } else { dir.to_path_buf() }
}

/// Takes something that worlds at the same time must not share, for as long as this process lives.
fn take(name: &str) -> bool {
    static HELD: Mutex<Vec<fs::File>> = Mutex::new(Vec::new());
    let locks = std::env::temp_dir().join(".cofferdam-test-ports");
    fs::create_dir_all(&locks).expect("a folder for locks");
    let lock = fs::File::create(locks.join(name)).expect("a lock");
    let ours = rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok();
    if ours {
        HELD.lock().unwrap_or_else(PoisonError::into_inner).push(lock);
    }
    ours
}

/// A free port, below those of outgoing connections, that is this process's as long as it lives: also while the server that
/// had it is being started again, and another test looks for a port.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let count = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (std::process::id().wrapping_mul(16).wrapping_add(count) % 12_000) as u16;
        if take(&port.to_string()) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Ids of agents and gates that no other world has: 64 ranges out of those below a real installation's. Above them there
/// is no room: older kernels know no terminals with ids of 2^31 and more.
fn free_ids(from: u32) -> u32 {
    const SLOTS: u32 = 192;
    let free = (0..SLOTS).map(|count| (from + count) % SLOTS).find(|slot| take(&format!("ids-{slot}")));
    0x3000_0000 + free.expect("ids for one more world") * 64 * 65_536
}

impl World {
    /// Starts an installation with the base image known as `debian`.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// The same with more in node.toml.
    pub fn start_with(node: &str) -> Self {
        let world = Self::prepare();
        let path = world.dir.join("etc/node.toml");
        let text = fs::read_to_string(&path).expect("node.toml");
        fs::write(&path, format!("{node}\n{text}")).expect("node.toml");
        world.up();
        world.provide_image();
        world
    }

    /// Starts an installation whose agents leave into a small internet. What they have to trust for its servers is the file `ca.pem`.
    pub fn start_in(net: &Internet) -> Self {
        Self::start_in_with(net, RESOLVER)
    }

    /// The same with this resolver in node.toml.
    pub fn start_in_with(net: &Internet, resolver: &str) -> Self {
        let world = Self::prepare();
        let roots = world.dir.join("ca.pem");
        fs::write(&roots, net.authority()).expect("ca.pem");
        let path = world.dir.join("etc/node.toml");
        let mut text = fs::read_to_string(&path).expect("node.toml");
        text.push_str(&format!("[egress]\nresolver = {resolver:?}\nroots = {roots:?}\n"));
        fs::write(&path, text).expect("node.toml");
        world.up();
        world.provide_image();
        world
    }

    /// An installation that is not started yet: its configuration is written.
    pub fn prepare() -> Self {
        remove_stale_worlds();
        Self::prepare_as(std::process::id())
    }

    /// The same with programs of its own, which a test may then replace.
    pub fn prepare_with_programs() -> Self {
        let mut world = Self::prepare();
        let programs = world.dir.join("bin");
        fs::create_dir(&programs).expect("a folder for programs");
        for name in ["cofferdam", "cofferdam-jail"] {
            fs::copy(world.programs.join(name), programs.join(name)).expect("a copy of the program");
        }
        world.programs = programs;
        world
    }

    /// One that can hold many agents. Only one of these can be there at a time.
    pub fn prepare_sized(slots: u32) -> Self {
        remove_stale_worlds();
        let mut world = Self::prepare_as(std::process::id());
        // As /run is on a machine.
        world.tmpfs("run", 256 << 20);
        let path = world.dir.join("etc/node.toml");
        let text = fs::read_to_string(&path).expect("node.toml");
        let kept = text
            .lines()
            .filter(|line| !["uid_", "slots", "gate_uid"].iter().any(|key| line.starts_with(key)));
        let mut text: String = kept.map(|line| format!("{line}\n")).collect();
        // Below the ids of a real installation, and of all other worlds.
        text.push_str(&format!(
            "uid_first = {}\nuid_ranges = {}\nslots = {slots}\ngate_uid_first = {}\n",
            0x2000_0000,
            // Blanks take some as well.
            slots + 64,
            0x2000_0000 - 65_536
        ));
        fs::write(&path, text).expect("node.toml");
        world
    }

    /// What a test of this pid would have prepared.
    pub fn prepare_as(pid: u32) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("{PREFIX}{pid}-{count}");
        let dir = std::env::temp_dir().join(&cgroup);
        for part in ["etc", "run", "data", "home"] {
            fs::create_dir_all(dir.join(part)).expect("a world of its own");
        }
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o711)).expect("mode of the world");
        let world = Self {
            dir,
            cgroup,
            programs: binaries(),
            disks: Vec::new(),
            control_port: free_port(),
            guard_port: free_port(),
        };
        let uid_first = free_ids(pid + count * 97);
        let dir = world.dir.display();
        fs::write(
            world.dir.join("etc/control.toml"),
            format!("listen = \"127.0.0.1:{}\"\ndata = \"{dir}/data/control\"\n", world.control_port),
        )
        .expect("control.toml");
        fs::write(
            world.dir.join("etc/node.toml"),
            format!(
                "control = \"unix://{dir}/run/control.sock\"\nguard = \"127.0.0.1:{}\"\ndata = \"{dir}/data\"\n\
                 run = \"{dir}/run\"\ncgroup = \"{}\"\nuid_first = {uid_first}\nuid_ranges = 63\nslots = 60\n\
                 gate_uid_first = {}\n",
                world.guard_port,
                world.cgroup,
                uid_first + 63 * 65_536,
            ),
        )
        .expect("node.toml");
        world
    }

    /// Puts a part of the data on a disk of its own, of so many bytes. It goes with the world.
    pub fn small_disk(&mut self, part: &str, bytes: u64) -> PathBuf {
        self.tmpfs(&format!("data/{part}"), bytes)
    }

    /// A tmpfs, so that it is full when it is full.
    fn tmpfs(&mut self, part: &str, bytes: u64) -> PathBuf {
        let point = self.dir.join(part);
        fs::create_dir_all(&point).expect("a mount point");
        let options = std::ffi::CString::new(format!("size={bytes},mode=0711")).expect("no NUL");
        let flags = rustix::mount::MountFlags::NODEV;
        rustix::mount::mount("tmpfs", &point, "tmpfs", flags, options.as_c_str()).expect("a tmpfs");
        self.disks.push(point.clone());
        point
    }

    /// Makes so many boundaries ahead at most. Before it is started.
    pub fn blanks_at_most(&self, most: u32) {
        let path = self.dir.join("etc/node.toml");
        let text = fs::read_to_string(&path).expect("node.toml");
        fs::write(&path, format!("blanks = {most}\n{text}")).expect("node.toml");
    }

    /// How many boundaries the node has ready for new agents, with an image or without; none when it does not answer.
    pub fn blanks(&self, kind: Blanks) -> u64 {
        let Ok(mut socket) = UnixStream::connect(self.dir.join("run/node.sock")) else { return 0 };
        let mut answer = String::new();
        let asked =
            socket.write_all(b"{\"op\":\"status\"}\n").and_then(|()| socket.read_to_string(&mut answer));
        let answer = asked.ok().and_then(|_| serde_json::from_str::<serde_json::Value>(&answer).ok());
        let kind = match kind {
            Blanks::Bare => "bare",
            Blanks::Whole => "whole",
        };
        answer.and_then(|answer| answer["blanks"][kind].as_u64()).unwrap_or(0)
    }

    /// `cofferdam up --detach`.
    #[track_caller]
    pub fn up(&self) {
        self.cli(&["up", "--detach"]).ok();
    }

    /// The directory of everything.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The name of its cgroup in every hierarchy.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// The directory of the programs.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// A `cofferdam` command in this world.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join("cofferdam"));
        command
            .args(args)
            .env_remove("COFFERDAM_URL")
            .env_remove("COFFERDAM_API_KEY")
            .env("COFFERDAM_ETC", self.dir.join("etc"))
            .env("COFFERDAM_RUN", self.dir.join("run"))
            .env("COFFERDAM_DATA", self.dir.join("data"))
            .env("HOME", self.dir.join("home"))
            .env("XDG_CONFIG_HOME", self.dir.join("home/.config"))
            .stdin(Stdio::null());
        command
    }

    /// Runs a `cofferdam` command to its end.
    pub fn cli(&self, args: &[&str]) -> Ran {
        self.command(args).output().expect("cofferdam starts").into()
    }

    /// The same with something on standard input.
    pub fn cli_with(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("cofferdam starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || {
            // A command that ends early closes its end; that is its business.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().expect("it ends");
        writer.join().expect("the writer ends");
        output.into()
    }

    /// Creates a running agent.
    #[track_caller]
    pub fn create(&self, name: &str, more: &[&str]) {
        let mut args = vec!["create", "--name", name];
        args.extend(more);
        self.cli(&args).ok();
    }

    /// Runs a shell command in an agent.
    pub fn sh(&self, agent: &str, script: &str) -> Ran {
        self.cli(&["exec", agent, "--", "sh", "-c", script])
    }

    /// Runs a Python program, given as text, in an agent as `user`.
    pub fn python(&self, agent: &str, user: &str, env: &[&str], program: &str, args: &[&str]) -> Ran {
        let mut words = vec!["exec", "-i", "-u", user];
        for pair in env {
            words.extend(["-e", pair]);
        }
        words.extend([agent, "--", "python3", "-"]);
        words.extend(args);
        self.cli_with(&words, program.as_bytes())
    }

    /// The control API with this world's key, and a runtime to call it in.
    pub fn control(&self) -> (tokio::runtime::Runtime, client::Control) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let url = format!("http://{}", self.control_address());
        let control = client::Control::new(&url, Some(self.api_key())).expect("a client");
        (runtime, control)
    }

    /// Where control listens.
    pub fn control_address(&self) -> String {
        format!("127.0.0.1:{}", self.control_port)
    }

    /// The first account's API key, as `up` stored it.
    pub fn api_key(&self) -> String {
        let text =
            fs::read_to_string(self.dir.join("home/.config/cofferdam/config.toml")).expect("a context");
        let start = text.find("cof_").expect("the context has a key");
        text[start..].chars().take_while(|c| *c != '"').collect()
    }

    /// Builds the base image once for all worlds of this checkout and makes it known here.
    pub fn provide_image(&self) {
        let cache = image_cache();
        let lock = fs::File::create(cache.join("lock")).expect("a lock");
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("the lock");
        let images = self.dir.join("data/images");
        let Some(file) = cached_image(&cache) else {
            self.cli(&["image", "build", "debian", "--name", "debian"]).ok();
            let entries = fs::read_dir(&images).expect("the store").filter_map(Result::ok);
            let made =
                entries.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "erofs"));
            let made = made.expect("the image that was just built");
            fs::copy(&made, cache.join(made.file_name().expect("it has a name")))
                .expect("a copy for other worlds");
            return;
        };
        fs::create_dir_all(&images).expect("the store");
        let digest = file.file_stem().expect("it has a name").to_string_lossy().into_owned();
        let size = fs::metadata(&file).expect("the image").len();
        let target = images.join(format!("{digest}.erofs"));
        if fs::hard_link(&file, &target).is_err() {
            fs::copy(&file, &target).expect("the image");
        }
        let (runtime, control) = self.control();
        let image = model::api::RegisterImage {
            name: "debian".parse().expect("a name"),
            digest,
            size,
            config: model::image::ImageConfig::default(),
            packages: None,
            voucher: None,
        };
        runtime.block_on(control.register_image(&image)).expect("the image is registered");
    }

    /// The pid of the world's process of this kind (`control`, `node`, `gate`, `zygote`), if it runs.
    pub fn pid_of(&self, kind: &str) -> Option<i32> {
        let dir = self.dir.display().to_string();
        let mut found: Vec<i32> = processes()
            .into_iter()
            .filter(|(pid, words)| {
                let named = words.iter().skip(1).any(|word| word == kind);
                named && (words.iter().any(|word| word.contains(&dir)) || environment(*pid).contains(&dir))
            })
            .map(|(pid, _)| pid)
            .collect();
        found.sort_unstable();
        found.pop()
    }

    /// Pids of the inits of this world's agents, oldest first. Those of blanks are nobody's.
    pub fn inits(&self) -> Vec<i32> {
        let agents = fs::read_dir(self.dir.join("run/agents")).into_iter().flatten().flatten();
        let record = |agent: fs::DirEntry| {
            let json = fs::read(agent.path().join("boundary.json")).ok()?;
            let record: serde_json::Value = serde_json::from_slice(&json).ok()?;
            let pid = i32::try_from(record["pid"].as_i64()?).ok()?;
            let here = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
            here.contains(&format!("/{}/", self.cgroup)).then_some((record["start_time"].as_i64()?, pid))
        };
        let mut found: Vec<_> = agents.filter_map(record).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, pid)| pid).collect()
    }

    /// The pid of the init that was started last.
    pub fn newest_init(&self) -> Option<i32> {
        self.inits().pop()
    }

    /// The pid of the init whose start time, in ticks, is this text.
    pub fn init_of_uptime(&self, ticks: &str) -> Option<i32> {
        self.inits().into_iter().find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| stat.split(' ').nth(21) == Some(ticks.trim()))
        })
    }

    /// What the node knows of its agents, as its journal has it.
    pub fn journal(&self) -> Vec<serde_json::Value> {
        let mut records = BTreeMap::new();
        for path in self.records() {
            // It may be replaced or removed right now.
            let Ok(bytes) = fs::read(&path) else { continue };
            let Ok(record) = serde_json::from_slice(&bytes) else { continue };
            records.insert(path.file_name().map(std::ffi::OsStr::to_owned), record);
        }
        records.into_values().collect()
    }

    /// The files of the node's journal that are about agents: on disk, then the newer ones in memory.
    pub fn records(&self) -> Vec<PathBuf> {
        let places = ["data/node/agents", "run/journal"].map(|place| fs::read_dir(self.dir.join(place)));
        let entries = places.into_iter().flatten().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
    }

    /// What there is now of what a world must not leave behind.
    pub fn leftovers(&self) -> Leftovers {
        let mut found = Leftovers::look(&self.cgroup, &self.dir);
        // What the test mounted itself is its own.
        found.mounts.retain(|line| {
            let point = line.split(' ').nth(4).unwrap_or_default();
            !self.disks.iter().any(|disk| disk == Path::new(point))
        });
        found
    }

    /// Ends the installation and fails the test when anything of it is left.
    #[track_caller]
    pub fn down(&self) {
        self.cli(&["down"]).ok();
        let after = self.leftovers();
        assert_eq!(after, Leftovers::default(), "something is left after down");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["control.log", "node.log"] {
                let text = fs::read_to_string(self.dir.join("data/log").join(log)).unwrap_or_default();
                let start = text.len().saturating_sub(6000);
                let start = (start..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
                eprintln!("--- {log}\n{}", &text[start..]);
            }
            let ran = self.cli(&["down"]);
            if ran.code != 0 {
                eprintln!("--- down\n{}", ran.err);
                return;
            }
            unmount_beneath(&self.dir);
        } else {
            self.down();
            unmount_beneath(&self.dir);
            fs::remove_dir_all(&self.dir).expect("nobody writes to the world any more");
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Where the base image is kept for all worlds of this checkout.
/// Where `cargo xtask setup` puts programs that the distribution does not have.
pub fn tools() -> PathBuf {
    binaries().parent().expect("the target directory").join("tools")
}

fn image_cache() -> PathBuf {
    let cache = binaries().join("testkit-images");
    fs::create_dir_all(&cache).expect("a folder for images");
    cache
}

fn cached_image(cache: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(cache).expect("the folder").filter_map(Result::ok);
    entries.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "erofs"))
}

/// Builds the base image if no test did: for those who will have no network to build it with.
pub fn ensure_image() {
    if cached_image(&image_cache()).is_none() {
        drop(World::start());
    }
}

/// Whether a process is a boundary that waits for its image: a copy of the zygote, with its command line.
pub(crate) fn is_bare(process: &Path) -> bool {
    fs::read_to_string(process.join("comm")).is_ok_and(|name| name == "blank\n")
}

/// All processes with their command lines, but for boundaries that wait for their image.
fn processes() -> Vec<(i32, Vec<String>)> {
    let entries = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok);
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok().filter(|_| !is_bare(&entry.path()))?;
            let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
            Some((pid, words.collect()))
        })
        .collect()
}

/// The environment of a process, or of the nearest ancestor that has one.
fn environment(pid: i32) -> String {
    let mut pid = pid;
    while pid > 1 {
        let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if text.contains("COFFERDAM_RUN") {
            return text;
        }
        pid = status_field(pid, "PPid:\t").and_then(|text| text.parse().ok()).unwrap_or(0);
    }
    String::new()
}

fn status_field(pid: i32, label: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(label)).map(str::to_owned)
}

/// Ends and removes worlds whose test is gone. One test at a time does; the others need not wait for it.
pub fn remove_stale_worlds() {
    let lock = fs::File::create(std::env::temp_dir().join(".cofferdam-test.lock")).expect("a lock");
    if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        return;
    }
    let entries = fs::read_dir(std::env::temp_dir()).expect("the temporary directory").filter_map(Result::ok);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !stale::is_of_dead_test(&name) {
            continue;
        }
        let stale = std::mem::ManuallyDrop::new(World {
            dir: entry.path(),
            cgroup: name,
            programs: binaries(),
            disks: Vec::new(),
            control_port: 0,
            guard_port: 0,
        });
        // Without its configuration it was never started, and `down` would look for another installation.
        if stale.dir.join("etc/node.toml").exists() {
            let ran = stale.cli(&["down"]);
            if ran.code != 0 {
                eprintln!("{}, of a test that was killed, stays: {}", stale.dir.display(), ran.err);
                continue;
            }
        }
        unmount_beneath(&stale.dir);
        let _ = fs::remove_dir_all(&stale.dir);
    }
    // And those whose directory is gone, so that nothing but the kernel's own lists names them.
    for name in stale::without_directory() {
        stale::remove(&name);
    }
}
