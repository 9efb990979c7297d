//! A control of the real kind, and the machines of people who use it.

use crate::screen::{PATIENCE, Terminal};
use aws_lc_rs::digest::{SHA256, digest};
use command_fds::{CommandFdExt, FdMapping};
use model::clock::Clock;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use store::Store;
use time::OffsetDateTime;

/// A control that runs, with an empty database but for its operator.
pub struct Installation {
    directory: tempfile::TempDir,
    control: Child,
    /// Its origin.
    pub url: String,
    /// The operator's key.
    pub key: String,
    log: Arc<Mutex<String>>,
}

/// What a command left.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    #[track_caller]
    pub fn json(self) -> Value {
        serde_json::from_str(&self.ok().out).unwrap()
    }

    /// What is said of a command that failed.
    #[track_caller]
    pub fn refused(&self, code: i32, said: &str) {
        assert!(self.code == code && self.err.contains(said), "{code} {said}: {self:?}");
    }
}

impl Installation {
    pub fn start() -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), "")
    }

    /// With more in control.toml.
    pub fn start_with(directory: tempfile::TempDir, more: &str) -> Self {
        let path = directory.path();
        for part in ["etc", "run", "data"] {
            std::fs::create_dir(path.join(part)).unwrap();
        }
        let config =
            format!("listen = \"127.0.0.1:0\"\n{more}\n[passwords]\nmemory = \"19MiB\"\npasses = 2\n");
        std::fs::write(path.join("etc/control.toml"), config).unwrap();
        let made = service(path).arg("--init").output().unwrap();
        let made: Value = serde_json::from_slice(&made.stdout).unwrap();
        let key = made["api_key"].as_str().unwrap().to_owned();

        let listener = UnixListener::bind(path.join("run/control.sock")).unwrap();
        let socket = FdMapping { parent_fd: listener.into(), child_fd: 3 };
        let mut command = service(path);
        // All that anybody would ever have it write down.
        command.env("RUST_LOG", "trace").env("LISTEN_FDS", "1").stderr(Stdio::piped());
        let mut control = command.fd_mappings(vec![socket]).unwrap().spawn().unwrap();
        let (log, lines) = (Arc::<Mutex<String>>::default(), BufReader::new(control.stderr.take().unwrap()));
        let (ready, told) = mpsc::channel();
        let written = log.clone();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if line.contains("control is ready") {
                    let address = line.split("listen=").nth(1).unwrap().split(' ').next().unwrap();
                    ready.send(address.to_owned()).unwrap();
                }
                written.lock().unwrap().extend([&line, "\n"]);
            }
        });
        let address = told.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{}", log.lock().unwrap()));
        let scheme = if more.contains("certificate") { "https" } else { "http" };
        Self { url: format!("{scheme}://{address}"), directory, control, key, log }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Where control answers to whoever is at its machine.
    pub fn socket(&self) -> String {
        format!("unix://{}", self.path().join("run/control.sock").display())
    }

    /// What control has written down so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// A machine of somebody.
    pub fn desk(&self, name: &str) -> Desk {
        let home = self.path().join(name);
        std::fs::create_dir(&home).unwrap();
        Desk { home }
    }

    /// Whoever operates it, at its machine.
    pub fn operator(&self) -> Desk {
        let desk = self.desk("operator");
        desk.run_with(&["login", &self.socket(), "--name", "local"], &self.key).ok();
        desk
    }

    /// Somebody whom the operator made known, and who has logged in.
    pub fn person(&self, operator: &Desk, email: &str, password: &str) -> Desk {
        let made = operator.run(&["user", "create", email, "-o", "json"]).json();
        let desk = self.desk(email);
        let token = made["token"].as_str().unwrap();
        desk.run_with(&["user", "redeem", &self.url], &format!("{token}\n{password}\n")).ok();
        desk.run_with(&["login", &self.url, "--email", email], password).ok();
        desk
    }

    /// Time passes: whatever the person at this machine proved is long ago.
    pub fn forget_proofs(&self, desk: &Desk) {
        struct Earlier;
        impl Clock for Earlier {
            fn now(&self) -> OffsetDateTime {
                OffsetDateTime::now_utc() - time::Duration::minutes(10)
            }
        }
        let hash = digest(&SHA256, desk.session().as_bytes());
        let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let path = self.path().join("data/control/cofferdam.db");
            let store = Store::open(&path, Arc::new(Earlier), Arc::new(|_, _| {})).await.unwrap();
            let sitting = store.sitting(&hash, None).await.unwrap().expect("the session");
            store.prove(&sitting, None).await.unwrap();
            store.close().await;
        });
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        let _ = self.control.kill();
        let _ = self.control.wait();
    }
}

fn service(path: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    command.arg("control").env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    for (name, part) in [("COFFERDAM_ETC", "etc"), ("COFFERDAM_RUN", "run"), ("COFFERDAM_DATA", "data")] {
        command.env(name, path.join(part));
    }
    command.stdin(Stdio::null());
    command
}

/// Somebody's machine: what their command line keeps is in a home of its own.
pub struct Desk {
    pub home: PathBuf,
}

impl Desk {
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
        command.args(args).env("HOME", &self.home).env("TERM", "xterm").env("SHELL", "/bin/sh");
        for name in
            ["XDG_CONFIG_HOME", "COFFERDAM_URL", "COFFERDAM_API_KEY", "COFFERDAM_CONTEXT", "COFFERDAM_CA"]
        {
            command.env_remove(name);
        }
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, "")
    }

    /// With something on standard input.
    pub fn run_with(&self, args: &[&str], input: &str) -> Ran {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that ends early closes its end; that is its business.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }

    pub fn terminal(&self, args: &[&str]) -> Terminal {
        Terminal::start(&self.command(args))
    }

    /// What its command line keeps.
    pub fn kept(&self) -> PathBuf {
        self.home.join(".config/cofferdam/config.toml")
    }

    /// What tells the session that it keeps.
    pub fn session(&self) -> String {
        let text = std::fs::read_to_string(self.kept()).unwrap();
        let start = text.find("cofs_").expect("a session");
        text[start..].chars().take_while(|c| *c != '"').collect()
    }
}
