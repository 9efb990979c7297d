//! Starts the real init as pid 1 of a pid and mount namespace of its own, without the rest of the boundary, and
//! talks to its channel.

use channel::{Decoder, ErrorKind, ExecRequest, Exit, Frame, Hello, Kind, Reply, Request};
use jail::spec::{ExecSpec, ExitRecord, FileRules, InitConfig, User};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// An agent without a boundary: its init, and a directory that its user may write in.
pub struct Agent {
    pub dir: PathBuf,
    outer: Child,
}

/// Says why a test did nothing, if it must be skipped.
pub fn skipped() -> bool {
    // SAFETY: takes nothing, changes nothing.
    let skip = unsafe { libc::geteuid() } != 0;
    if skip {
        assert!(std::env::var_os("CI").is_none(), "in CI these tests must run, and they need root");
        eprintln!("skipped: needs root, for a pid namespace");
    }
    skip
}

impl Agent {
    /// Without a main process.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// With so few descriptors for init.
    pub fn with_open_files(limit: u32) -> Self {
        Self::launch(None, &format!("ulimit -n {limit}; "), None)
    }

    /// With this shell script as the main process.
    pub fn with_main(script: &str) -> Self {
        Self::start_with(Some(&["sh", "-c", script]))
    }

    /// With this main process.
    pub fn start_with(main: Option<&[&str]>) -> Self {
        Self::launch(main, "", None)
    }

    /// With calls for files that lead beneath its directory alone, and may move so many bytes in so many seconds.
    pub fn with_rules(bytes: u64, seconds: u32) -> Self {
        Self::launch(None, "", Some((bytes, seconds)))
    }

    fn launch(main: Option<&[&str]>, before: &str, rules: Option<(u64, u32)>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("cofferdam-init-{}-{count}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).expect("a directory for the test");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("for the agent");
        let main = main.map(|argv| ExecSpec {
            argv: argv.iter().map(|text| (*text).to_owned()).collect(),
            env: BTreeMap::new(),
            cwd: None,
            user: None,
        });
        let env = BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]);
        let config = InitConfig {
            hostname: "test".to_owned(),
            env,
            run_as: User::Agent,
            agent: Default::default(),
            cwd: None,
            main,
            files: rules.map(|(bytes, seconds)| {
                let root = dir.to_str().expect("UTF-8").to_owned();
                FileRules { root, bytes, seconds }
            }),
            secrets: BTreeMap::new(),
            authority: None,
            roots: None,
        };
        fs::write(dir.join("config"), serde_json::to_vec(&config).expect("plain"))
            .expect("the configuration");
        let open = |name: &str| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(dir.join(name))
                .expect("a file")
        };
        let fds: [OwnedFd; 5] = [
            UnixListener::bind(dir.join("sock")).expect("a socket").into(),
            open("exit").into(),
            File::open(dir.join("config")).expect("just written").into(),
            open("main.0").into(),
            open("main.1").into(),
        ];
        let raw = fds.each_ref().map(AsRawFd::as_raw_fd);
        let mut command = Command::new("unshare");
        command.args(["--pid", "--mount", "--mount-proc", "--fork", "--kill-child", "bash", "-c"]);
        // Init writes the machine's name to /etc: to a layer of the test's own.
        let etc = format!(
            "mkdir {0}/etc {0}/work && mount -t overlay overlay -o lowerdir=/etc,upperdir={0}/etc,workdir={0}/work /etc && ",
            dir.display()
        );
        command.arg(format!("{etc}{before}exec -a init \"$0\"")).arg(env!("CARGO_BIN_EXE_cofferdam-jail"));
        // SAFETY: only dup2-like calls, which are safe between fork and exec. The sources are first moved above the
        // targets, so that none is overwritten.
        unsafe {
            command.pre_exec(move || {
                let mut moved = [0; 5];
                for (to, from) in moved.iter_mut().zip(raw) {
                    *to = libc::fcntl(from, libc::F_DUPFD_CLOEXEC, 64);
                }
                for (number, from) in (3..).zip(moved) {
                    if libc::dup2(from, number) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let outer = command.spawn().expect("unshare(1) of util-linux");
        Self { dir, outer }
    }

    /// A path in the directory, as a string.
    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().expect("UTF-8").to_owned()
    }

    /// Opens a connection and sends the request.
    pub fn ask(&self, request: &Request) -> Client {
        let mut client = self.connect();
        client.send_json(Kind::Hello, &Hello::OURS);
        client.send_json(Kind::Request, request);
        client
    }

    pub fn connect(&self) -> Client {
        let socket = UnixStream::connect(self.dir.join("sock")).expect("the channel");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        Client { socket, decoder: Decoder::new() }
    }

    /// The one reply to a request.
    pub fn reply(&self, request: &Request) -> Reply {
        let mut client = self.ask(request);
        client.hello();
        client.reply()
    }

    /// The error that a request ends in.
    pub fn error(&self, request: &Request) -> ErrorKind {
        let mut client = self.ask(request);
        client.hello();
        client.error()
    }

    /// Runs a shell script attached, to its end: both outputs, and how it ended.
    pub fn sh(&self, script: &str) -> (String, String, Exit) {
        let mut client = self.ask(&Request::Exec(Box::new(attached(&["sh", "-c", script]))));
        client.hello();
        assert!(matches!(client.reply(), Reply::Attached { .. }));
        client.until_exit()
    }

    /// Init's pid, as seen from here.
    pub fn init_pid(&self) -> u32 {
        self.reply(&Request::Ping);
        let outer = self.outer.id();
        let children =
            fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).expect("CONFIG_PROC_CHILDREN");
        children.trim().parse().expect("one child")
    }

    /// Waits until init ended.
    pub fn wait(&mut self) -> (ExitStatus, Option<ExitRecord>) {
        let status = self.outer.wait().expect("a child");
        let record = fs::read(self.dir.join("exit")).expect("the file exists");
        (status, ExitRecord::read(&record))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.outer.kill();
        let _ = self.outer.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A request to run this, as the agent's user, with a fresh id.
pub fn exec(argv: &[&str]) -> ExecRequest {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    ExecRequest {
        id: format!("exe_{}", COUNT.fetch_add(1, Ordering::Relaxed)),
        argv: argv.iter().map(|text| (*text).to_owned()).collect(),
        env: BTreeMap::new(),
        cwd: None,
        user: None,
        tty: None,
        stdin: false,
        timeout_ms: None,
        output_limit: None,
        attach: false,
    }
}

/// The same, attached.
pub fn attached(argv: &[&str]) -> ExecRequest {
    ExecRequest { attach: true, ..exec(argv) }
}

/// One connection to the channel.
pub struct Client {
    pub socket: UnixStream,
    decoder: Decoder,
}

impl Client {
    pub fn send(&mut self, kind: Kind, payload: &[u8]) {
        let mut out = Vec::new();
        channel::encode(kind, payload, &mut out).expect("small");
        self.socket.write_all(&out).expect("init reads");
    }

    /// The same to somebody who may have stopped listening.
    pub fn offer(&mut self, kind: Kind, payload: &[u8]) {
        let mut out = Vec::new();
        channel::encode(kind, payload, &mut out).expect("small");
        let _ = self.socket.write_all(&out);
    }

    /// Whatever comes, to the end of the connection.
    pub fn finish(&mut self) {
        while self.frame().is_some() {}
    }

    /// All data after what the reply says; `None` when an error comes instead or before their end.
    pub fn bytes_or_error(&mut self) -> Option<Vec<u8>> {
        let mut data = Vec::new();
        loop {
            let frame = self.frame()?;
            match frame.kind {
                Kind::Data1 => data.extend(frame.payload),
                Kind::End1 => return Some(data),
                Kind::Error => return None,
                _ => {}
            }
        }
    }

    pub fn send_json<T: serde::Serialize>(&mut self, kind: Kind, value: &T) {
        self.send(kind, &serde_json::to_vec(value).expect("plain"));
    }

    /// The next frame; `None` at the end of the connection.
    pub fn frame(&mut self) -> Option<Frame> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Some(frame) = self.decoder.next().expect("init sends frames") {
                return Some(frame);
            }
            match self.socket.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("init did not answer: {error}"),
            }
        }
    }

    pub fn hello(&mut self) {
        let frame = self.frame().expect("a hello");
        assert_eq!(frame.expect::<Hello>(Kind::Hello).expect("a hello"), Hello::OURS);
    }

    pub fn reply(&mut self) -> Reply {
        let frame = self.frame().expect("a reply");
        assert_eq!(frame.kind, Kind::Reply, "{}", String::from_utf8_lossy(&frame.payload));
        frame.json().expect("a reply")
    }

    pub fn error(&mut self) -> ErrorKind {
        let frame = self.frame().expect("an error");
        let error: channel::ChannelError = frame.expect(Kind::Error).expect("an error");
        eprintln!("refused as expected: {error}");
        error.kind
    }

    /// Data up to `End1`, for files, archives and logs.
    pub fn data(&mut self) -> Vec<u8> {
        let mut data = Vec::new();
        loop {
            let frame = self.frame().expect("data");
            match frame.kind {
                Kind::Data1 => data.extend(frame.payload),
                Kind::End1 => return data,
                other => panic!("{other:?}: {}", String::from_utf8_lossy(&frame.payload)),
            }
        }
    }

    /// Everything up to `Exited`.
    pub fn until_exit(&mut self) -> (String, String, Exit) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            let frame = self.frame().expect("an exit");
            match frame.kind {
                Kind::Data1 => out.extend(frame.payload),
                Kind::Data2 => err.extend(frame.payload),
                Kind::End1 | Kind::End2 => {}
                Kind::Event => match frame.json().expect("an event") {
                    channel::Event::Exited(exit) => {
                        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                        return (text(&out), text(&err), exit);
                    }
                    channel::Event::Lost { bytes } => out.extend(format!("[lost {bytes}]").into_bytes()),
                },
                other => panic!("{other:?}: {}", String::from_utf8_lossy(&frame.payload)),
            }
        }
    }

    /// Reads output until it holds the text.
    pub fn until(&mut self, text: &str) -> String {
        let mut out = String::new();
        while !out.contains(text) {
            let frame = self.frame().unwrap_or_else(|| panic!("no {text:?} in {out:?}"));
            if matches!(frame.kind, Kind::Data1 | Kind::Data2) {
                out.push_str(&String::from_utf8_lossy(&frame.payload));
            }
        }
        out
    }
}
