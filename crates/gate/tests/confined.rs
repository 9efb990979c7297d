//! What a gate that was taken over can still do, behind the real locks: `cofferdam-jail confine` around it, as node
//! starts it, and its own. Each attempt is made for real, by a process of its own.
//!
//! The confined program is this very one, started again as `attempt NAME`. That an honest gate does its work there is
//! what every test with an agent shows.

use command_fds::{CommandFdExt, FdMapping};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};

/// Of nobody.
const UID: &str = "2147481999";

type Test = (&'static str, fn(&Path));

const TESTS: [Test; 4] = [
    ("what_it_must_still_do", what_it_must_still_do),
    ("what_it_must_not_do", what_it_must_not_do),
    ("what_ends_it", what_ends_it),
    ("without_a_filter_it_does_not_serve", without_a_filter_it_does_not_serve),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, name, sockets] = arguments.as_slice()
        && command == "attempt"
    {
        attempt(name, Path::new(sockets));
        return ExitCode::SUCCESS;
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--list") {
        // The form that nextest asks for.
        for (name, _) in TESTS.iter().filter(|_| !has("--ignored")) {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let chosen =
        |name: &str| arguments.iter().all(|filter| filter.starts_with("--") || name.contains(filter));
    let jail = match jail() {
        Ok(jail) => jail,
        Err(why) if std::env::var_os("CI").is_none() => {
            println!("skipped: {why}");
            return ExitCode::SUCCESS;
        }
        Err(why) => panic!("{why}"),
    };
    for (name, test) in TESTS.iter().filter(|(name, _)| chosen(name)) {
        test(&jail);
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

fn jail() -> Result<PathBuf, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("confining a gate needs root".to_owned());
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    // Test programs lie in a folder of their own, below that of the binaries.
    let jail = program.ancestors().nth(2).unwrap_or(Path::new("/")).join("cofferdam-jail");
    if jail.exists() {
        Ok(jail)
    } else {
        Err(format!("{} is not there; run `cargo xtask build`", jail.display()))
    }
}

/// Lets a confined process, which inherits a listener of TCP as 3, make one attempt.
fn confined(jail: &Path, name: &str) -> Output {
    let program = std::env::current_exe().unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    let sockets = UnixListener::bind(dir.path().join("a.sock")).unwrap();
    for (path, mode) in [("", 0o755), ("file", 0o666), ("a.sock", 0o666)] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(dir.path().join(path), mode).unwrap();
    }
    let guard = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // The attempts may find one in the queue.
    let _client = std::net::TcpStream::connect(guard.local_addr().unwrap()).unwrap();
    let outside = UnixListener::bind_addr(&abstract_address(dir.path())).unwrap();
    let mut command = Command::new(jail);
    command.args(["confine", "--uid", UID, "--gid", UID]);
    for library in ["/usr", "/lib", "/lib64"] {
        if Path::new(library).exists() {
            command.args(["--ro", library]);
        }
    }
    command.arg("--ro").arg(&program).arg("--ro").arg(dir.path()).args(["--keep-fds", "1", "--"]);
    command.arg(&program).args(["attempt", name]).arg(dir.path()).env_clear().stdin(Stdio::null());
    command.fd_mappings(vec![FdMapping { parent_fd: guard.into(), child_fd: 3 }]).unwrap();
    let output = command.output().unwrap();
    drop((sockets, outside));
    output
}

/// One that somebody else listens at, told apart by a directory.
fn abstract_address(dir: &Path) -> SocketAddr {
    SocketAddr::from_abstract_name(dir.as_os_str().as_encoded_bytes()).unwrap()
}

fn what_it_must_still_do(jail: &Path) {
    let output = confined(jail, "serve");
    assert!(output.status.success(), "{output:?}");
}

fn what_it_must_not_do(jail: &Path) {
    let calls = [
        "read a file",
        "write a file",
        "list a directory",
        "inet socket",
        "netlink socket",
        "vsock socket",
        "bind tcp",
        "fork",
        "execute",
        "signal the parent",
        "abstract socket",
        "duplicate a process's descriptor",
        "become dumpable",
        "become somebody",
        "executable memory",
    ];
    for name in calls {
        let output = confined(jail, name);
        assert!(output.status.success(), "{name}: {output:?}");
    }
}

fn what_ends_it(jail: &Path) {
    /// SIGSYS of signal(7), which is the same on all architectures of today.
    const SIGSYS: i32 = 31;
    for name in ["pivot_root", "setns"] {
        let output = confined(jail, name);
        assert_eq!(output.status.signal(), Some(SIGSYS), "{name}: {output:?}");
    }
}

fn without_a_filter_it_does_not_serve(_: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["attempt", "serve"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("NoFilter"), "{output:?}");
}

fn refused<T>(result: std::io::Result<T>) {
    let kind = result.err().map(|error| error.kind());
    assert_eq!(kind, Some(ErrorKind::PermissionDenied));
}

fn attempt(name: &str, sockets: &Path) {
    let parent = rustix::process::getppid().unwrap();
    gate::lockdown(sockets).unwrap();
    let socket = |family| rustix::net::socket(family, SocketType::STREAM, None).map(drop).unwrap_err();
    match name {
        "serve" => {
            let guard = listenfd::ListenFd::from_env().take_tcp_listener(0).unwrap().unwrap();
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.unwrap().block_on(async {
                guard.set_nonblocking(true).unwrap();
                let guard = tokio::net::TcpListener::from_std(guard).unwrap();
                let (client, _) = guard.accept().await.unwrap();
                client.set_nodelay(true).unwrap();
                tokio::net::UnixStream::connect(sockets.join("a.sock")).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                drop(tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap());
            });
        }
        "read a file" => {
            refused(std::fs::read("/usr/bin/env"));
            refused(std::fs::read(sockets.join("file")));
        }
        "write a file" => {
            for place in [&sockets.join("file"), &sockets.join("new"), Path::new("/tmp/new")] {
                let kind = std::fs::write(place, "x").unwrap_err().kind();
                assert!(
                    matches!(kind, ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem),
                    "{kind}"
                );
            }
        }
        "list a directory" => refused(std::fs::read_dir("/usr")),
        "inet socket" => {
            assert_eq!(socket(AddressFamily::INET), Errno::PERM);
            assert_eq!(socket(AddressFamily::INET6), Errno::PERM);
        }
        "netlink socket" => assert_eq!(socket(AddressFamily::NETLINK), Errno::PERM),
        "vsock socket" => assert_eq!(socket(AddressFamily::from_raw(40)), Errno::PERM),
        "bind tcp" => refused(std::net::TcpListener::bind("127.0.0.1:0")),
        "fork" => refused(Command::new("/bin/true").spawn()),
        "execute" => {
            refused::<()>(Err(std::os::unix::process::CommandExt::exec(&mut Command::new("/usr/bin/env"))));
        }
        "signal the parent" => {
            let sent = rustix::process::test_kill_process(parent);
            assert_eq!(sent.unwrap_err(), Errno::PERM);
        }
        "abstract socket" => {
            // Refused by Landlock, or not even there: another network namespace.
            UnixStream::connect_addr(&abstract_address(sockets)).unwrap_err();
        }
        "duplicate a process's descriptor" => {
            assert!(rustix::process::pidfd_open(parent, rustix::process::PidfdFlags::empty()).is_err());
        }
        "become dumpable" => {
            let behavior = rustix::process::DumpableBehavior::Dumpable;
            assert_eq!(rustix::process::set_dumpable_behavior(behavior), Err(Errno::PERM));
        }
        "become somebody" => {
            let nobody = rustix::process::Uid::from_raw(65_534);
            assert_eq!(rustix::thread::set_thread_uid(nobody), Err(Errno::PERM));
            assert!(rustix::thread::capabilities(None).unwrap().permitted.is_empty());
        }
        // A file to map code from. That no other memory becomes executable is tested beside the filter.
        "executable memory" => {
            let name = c"code";
            assert!(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::empty()).is_err());
        }
        "pivot_root" => {
            let result = rustix::process::pivot_root(".", ".");
            panic!("still here: {result:?}");
        }
        "setns" => {
            use std::os::fd::AsFd;
            let result = rustix::thread::move_into_link_name_space(std::io::stdin().as_fd(), None);
            panic!("still here: {result:?}");
        }
        other => panic!("unknown attempt {other}"),
    }
}
