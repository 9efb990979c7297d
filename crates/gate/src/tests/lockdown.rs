//! What a gate that was taken over can still do. Each attempt is made for real, in a process of its own.

use std::process::Command;

/// Runs one attempt behind the locks; its process must end as told.
fn attempt(name: &str) -> std::process::Output {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "tests::lockdown::behind_the_locks",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env("GATE_ATTEMPT", name)
        .output()
        .unwrap()
}

#[test]
fn what_it_must_still_do() {
    let output = attempt("serve");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn what_it_must_not_do() {
    let calls = [
        "read a file",
        "write a file",
        "list a directory",
        "inet socket",
        "netlink socket",
        "vsock socket",
        "bind tcp",
        "fork",
        "signal the parent",
        "abstract socket",
        "duplicate a process's descriptor",
    ];
    for name in calls {
        let output = attempt(name);
        assert!(output.status.success(), "{name}: {output:?}");
    }
}

#[test]
fn what_ends_it() {
    use std::os::unix::process::ExitStatusExt;
    for name in ["execute", "pivot_root"] {
        let output = attempt(name);
        assert_eq!(output.status.signal(), Some(libc::SIGSYS), "{name}: {output:?}");
    }
}

#[test]
#[ignore = "runs in a process of its own, started by the tests above"]
fn behind_the_locks() {
    let Ok(name) = std::env::var("GATE_ATTEMPT") else { return };
    inside::attempt(&name);
}

mod inside {
    use ::channel::{Hello, Kind, Reply};
    use model::gate_api::ToGate;
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketType};
    use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    fn refused<T>(result: std::io::Result<T>) {
        let kind = result.err().map(|error| error.kind());
        assert_eq!(kind, Some(ErrorKind::PermissionDenied));
    }

    pub fn attempt(name: &str) {
        let dir = tempfile::tempdir().unwrap();
        if name == "serve" {
            return serve(&dir);
        }
        let parent = rustix::process::getppid().unwrap();
        let outside = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        // Made by another domain: this thread, before it is locked.
        let abstract_name = format!("gate-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(abstract_name).unwrap();
        let _listening = UnixListener::bind_addr(&address).unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        crate::lockdown(dir.path()).unwrap();
        let socket = |family| rustix::net::socket(family, SocketType::STREAM, None).map(drop).unwrap_err();
        match name {
            "read a file" => {
                refused(std::fs::read("/etc/passwd"));
                refused(std::fs::read(dir.path().join("file")));
            }
            "write a file" => refused(std::fs::write(dir.path().join("new"), "x")),
            "list a directory" => refused(std::fs::read_dir("/")),
            "inet socket" => {
                assert_eq!(socket(AddressFamily::INET), Errno::PERM);
                assert_eq!(socket(AddressFamily::INET6), Errno::PERM);
                refused(std::net::TcpStream::connect(outside.local_addr().unwrap()));
            }
            "netlink socket" => assert_eq!(socket(AddressFamily::NETLINK), Errno::PERM),
            "vsock socket" => assert_eq!(socket(AddressFamily::from_raw(40)), Errno::PERM),
            "bind tcp" => refused(std::net::TcpListener::bind("127.0.0.1:0")),
            "fork" => refused(std::process::Command::new("/bin/true").spawn()),
            "signal the parent" => {
                let sent = rustix::process::test_kill_process(parent);
                assert_eq!(sent.unwrap_err(), Errno::PERM);
            }
            "abstract socket" => {
                let connected = UnixStream::connect_addr(&address);
                refused(connected);
            }
            "duplicate a process's descriptor" => {
                assert!(rustix::process::pidfd_open(parent, rustix::process::PidfdFlags::empty()).is_err());
            }
            "execute" => {
                let error =
                    std::os::unix::process::CommandExt::exec(&mut std::process::Command::new("/bin/true"));
                panic!("still here: {error}");
            }
            "pivot_root" => {
                let result = rustix::process::pivot_root(".", ".");
                panic!("still here: {result:?}");
            }
            other => panic!("unknown attempt {other}"),
        }
    }

    /// The whole gate behind its locks, and a client that was there before they closed.
    fn serve(dir: &tempfile::TempDir) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let guard = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = guard.local_addr().unwrap();
        let mut client = std::net::TcpStream::connect(address).unwrap();
        let agent = model::gate_api::GateAgent {
            id: model::AgentId::new(),
            channel: dir.path().join("a.sock").to_str().unwrap().to_owned(),
            token_epoch: 0,
            condition: model::gate_api::Condition::Running,
        };
        let init = UnixListener::bind(&agent.channel).unwrap();
        let path = dir.path().to_owned();
        let gate = std::thread::spawn(move || crate::main(theirs, guard, &path));
        let key = super::super::world::Key::new();
        let now = super::super::world::now();
        let claims = model::token::WorkspaceClaims {
            iss: "here".into(),
            sub: String::new(),
            aud: agent.id,
            acc: model::AccountId::new(),
            scp: vec![model::token::Scope::Logs],
            epoch: 0,
            jti: String::new(),
            iat: now,
            exp: now + 60,
        };
        let token = key.sign(&claims);
        let path = format!("/v1/agents/{}/logs", agent.id);
        let keys = vec![key.verifying()];
        let state =
            ToGate::State { installation: "here".into(), account: claims.acc, keys, agents: vec![agent] };
        writeln!(&ours, "{}", serde_json::to_string(&state).unwrap()).unwrap();
        let mut line = String::new();
        BufReader::new(&ours).read_line(&mut line).unwrap();
        assert!(line.contains("ready"), "{line}");
        write!(client, "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n").unwrap();
        let mut said = Vec::new();
        ::channel::encode_json(Kind::Hello, &Hello::OURS, &mut said).unwrap();
        ::channel::encode_json(Kind::Reply, &Reply::Streaming, &mut said).unwrap();
        ::channel::encode(Kind::Data1, b"it passed", &mut said).unwrap();
        ::channel::encode(Kind::End1, &[], &mut said).unwrap();
        init.accept().unwrap().0.write_all(&said).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("it passed"), "{answer}");
        drop(ours);
        gate.join().unwrap().unwrap();
    }
}
