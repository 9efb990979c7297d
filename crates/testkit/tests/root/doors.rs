//! Bytes that are no requests, or two at once, at the doors of gate and control; and words of others in their logs.

use model::token::Scope;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};
use testkit::World;

/// Sends bytes and reads whatever comes until the end, or until nothing more comes.
fn exchange(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// How each answer in a connection begins.
fn statuses(answer: &str) -> Vec<u16> {
    answer.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.get(..3)?.parse().ok()).collect()
}

#[test]
fn one_request_is_never_two() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("one", &[]);
    let (runtime, control) = world.control();
    let agent = runtime.block_on(control.agent("one")).expect("the agent").id;
    let token =
        runtime.block_on(control.workspace_token("one", &[Scope::Exec, Scope::Files])).expect("a token");
    let guard = token.url.trim_start_matches("http://").to_owned();
    let own = format!("127.0.0.1:{}", world.control_port);
    let execs = format!("/v1/agents/{agent}/execs");
    for (host, path, secret) in
        [(&own, "/v1/keys", world.api_key()), (&guard, execs.as_str(), token.token.clone())]
    {
        let head =
            format!("Host: {host}\r\nAuthorization: Bearer {secret}\r\nContent-Type: application/json\r\n");
        // The second request would be answered with 200 by both.
        let second = format!("GET /v1/healthz HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let length = second.len();
        for (what, framing) in [
            (
                "both lengths",
                format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{second}"),
            ),
            (
                "both, the other way",
                format!("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{second}"),
            ),
            ("two lengths", format!("Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{second}")),
            ("a list of lengths", format!("Content-Length: 0, {length}\r\n\r\n{second}")),
            ("a signed length", format!("Content-Length: +0\r\n\r\n{second}")),
            ("a length in hex", format!("Content-Length: 0x0\r\n\r\n{second}")),
            ("a huge length", format!("Content-Length: 18446744073709551616\r\n\r\n{second}")),
            ("folded", format!("X: y\r\n Content-Length: {length}\r\n\r\n{second}")),
            ("folded encoding", format!("Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n{second}")),
            ("not quite chunked", format!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{second}")),
            ("chunked twice", format!("Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n{second}")),
            ("chunked, then not", format!("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{second}")),
            ("a space before the colon", format!("Content-Length : {length}\r\n\r\n{second}")),
            ("a wrong chunk", format!("Transfer-Encoding: chunked\r\n\r\n-1\r\n{second}")),
            ("a huge chunk", format!("Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{second}")),
            ("a chunk's end missing", format!("Transfer-Encoding: chunked\r\n\r\n1\r\naa0\r\n\r\n{second}")),
            ("a NUL", format!("X: a\0b\r\n\r\n{second}")),
            ("a bare CR", format!("X: a\rContent-Length: {length}\r\n\r\n{second}")),
        ] {
            let answer = exchange(host, format!("POST {path} HTTP/1.1\r\n{head}{framing}").as_bytes());
            let said = statuses(&answer);
            println!("{host} {what}: {said:?}");
            // The first is an error whatever its body is taken for; then nothing is believed any more.
            assert!(said.first().is_none_or(|status| (400..=501).contains(status)), "{what}: {answer}");
            assert!(said.len() <= 1, "{what}: a second request was seen: {answer}");
        }
        for (what, text) in [
            ("two hosts", format!("GET /v1/healthz HTTP/1.1\r\nHost: {host}\r\nHost: evil.example\r\n\r\n")),
            ("no host", "GET /v1/healthz HTTP/1.1\r\n\r\n".to_owned()),
            (
                "another host in the target",
                format!("GET http://evil.example/v1/healthz HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            ),
            ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
            ("HTTP/0.9", "GET /v1/healthz\r\n\r\n".to_owned()),
            ("CONNECT", format!("CONNECT evil.example:443 HTTP/1.1\r\nHost: {host}\r\n\r\n")),
            (
                "a giant header",
                format!("GET /v1/healthz HTTP/1.1\r\nHost: {host}\r\nX: {}\r\n\r\n", "x".repeat(1 << 20)),
            ),
            ("a giant target", format!("GET /{} HTTP/1.1\r\nHost: {host}\r\n\r\n", "x".repeat(1 << 20))),
            (
                "many headers",
                format!("GET /v1/healthz HTTP/1.1\r\nHost: {host}\r\n{}\r\n", "X: x\r\n".repeat(5000)),
            ),
        ] {
            let answer = exchange(host, text.as_bytes());
            assert!(statuses(&answer).iter().all(|status| (400..=505).contains(status)), "{what}: {answer}");
        }
        // Nesting without end, as a body.
        for body in ["[".repeat(500_000), r#"{"a":"#.repeat(100_000)] {
            let length = body.len();
            let request = format!(
                "POST {path} HTTP/1.1\r\n{head}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            let said = statuses(&exchange(host, request.as_bytes()));
            assert!(matches!(said.as_slice(), [400..=422]), "{said:?}");
        }
        let healthy = exchange(
            host,
            format!("GET /v1/healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes(),
        );
        assert_eq!(statuses(&healthy), [200]);
    }
}

/// Opens connections that say little, and waits until one that says a byte now and then was put out.
fn dawdle(address: &str) {
    let mut slow: Vec<TcpStream> = (0..200)
        .map(|index| {
            let mut stream = TcpStream::connect(address).expect("it listens");
            let part = ["", "GET /v1/he", "GET /v1/healthz HTTP/1.1\r\nHost: x\r\nX: "][index % 3];
            stream.write_all(part.as_bytes()).expect("the beginning");
            stream
        })
        .collect();
    let request = format!("GET /v1/healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    assert_eq!(statuses(&exchange(address, request.as_bytes())), [200]);
    // A byte now and then does not keep a head alive.
    let started = Instant::now();
    let last = slow.last_mut().expect("there are some");
    last.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    let mut byte = [0; 512];
    loop {
        assert!(started.elapsed() < Duration::from_secs(40), "{address}: it may dawdle for ever");
        if last.write_all(b"x").is_err() {
            break;
        }
        match last.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    println!("{address}: put out after {:?}", started.elapsed());
}

#[test]
fn those_who_dawdle_are_put_out_and_hold_nobody_up() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("one", &[]);
    let addresses = [format!("127.0.0.1:{}", world.control_port), format!("127.0.0.1:{}", world.guard_port)];
    std::thread::scope(|scope| addresses.iter().for_each(|address| drop(scope.spawn(|| dawdle(address)))));
    assert_eq!(world.sh("one", "echo served").ok().out, "served\n");
}

#[test]
fn words_of_others_stay_one_line_in_the_logs() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    let planted =
        "\x1b[2J\x1b]0;planted\x07\r\n2026-01-01T00:00:00Z ERROR planted line\n\u{9b}31mplanted\u{202e}";
    let escaped = planted.replace('\x1b', "%1b").replace('\r', "%0d").replace('\n', "%0a");
    // What an agent says of itself: arguments, names of files, its output, its end.
    world
        .cli(&[
            "create",
            "--name",
            "loud",
            "--image",
            "debian",
            "-e",
            &format!("A={planted}"),
            "--label",
            "a=b",
        ])
        .ok();
    world.cli(&["exec", "loud", "--", "sh", "-c", "echo \"$0\" >&2; exit 3", planted]);
    world.cli(&["exec", "loud", "--", planted]);
    world.cli(&["exec", "-w", planted, "loud", "--", "true"]);
    world.sh("loud", &format!("mkdir -p ~/d; touch ~/d/\"{planted}\"; ln -s \"{planted}\" ~/d/link"));
    world.cli(&["cp", "loud:/home/agent/d", world.dir().join("home/copied").to_str().expect("UTF-8")]);
    world.cli(&["cp", &format!("loud:/{planted}"), "-"]);
    world.cli(&["create", "--name", "ends", "--image", "debian", "--", planted]);
    // What strangers say.
    for port in [world.control_port, world.guard_port] {
        let host = format!("127.0.0.1:{port}");
        for request in [
            format!("GET /{escaped} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
            format!(
                "GET /v1/agents/{escaped}?{escaped} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {escaped}\r\nConnection: close\r\n\r\n"
            ),
            "PLANTED /v1/healthz HTTP/1.1\r\nHost: \u{9b}planted\r\nUser-Agent: \x1bplanted\r\nConnection: close\r\n\r\n".to_owned(),
            format!("GET /\x1b[2Jplanted HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        ] {
            exchange(&host, request.as_bytes());
        }
    }
    let logs = world.dir().join("data/log");
    let mut looked_at = 0;
    for entry in std::fs::read_dir(&logs).expect("the logs") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("UTF-8");
        looked_at += usize::from(!text.is_empty());
        for line in text.lines() {
            let raw = line.chars().find(|c| c.is_control() && *c != '\t' || *c == '\u{202e}');
            assert_eq!(raw, None, "{}: {line:?}", path.display());
            let forged = line.trim_start().starts_with("2026-01-01T00:00:00Z");
            assert!(!forged && !line.starts_with("planted"), "{}: {line:?}", path.display());
        }
    }
    assert!(looked_at >= 2, "control and node write logs");
}

#[test]
fn the_control_socket_is_for_its_group_and_outlives_control() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    let path = world.dir().join("run/control.sock");
    let meta = std::fs::metadata(&path).expect("the socket");
    let control = world.pid_of("control").expect("control runs");
    let owner = std::fs::metadata(format!("/proc/{control}")).expect("its owner");
    assert_eq!((meta.uid(), meta.gid()), (owner.uid(), owner.gid()));
    assert_ne!(meta.uid(), 0);
    assert_eq!(meta.permissions().mode() & 0o7777, 0o660);
    let url = format!("unix://{}", path.display());
    let whoami = |key: &str| {
        let mut command = world.command(&["ls", "-o", "json"]);
        command.env("COFFERDAM_URL", &url).env("COFFERDAM_API_KEY", key);
        command.output().expect("the command line")
    };
    assert!(whoami(&world.api_key()).status.success());
    assert!(!whoami("cof_of-nobody").status.success());
    // Not for others of this machine.
    let nobody = std::process::Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "python3", "-c"])
        .arg("import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])")
        .arg(&path)
        .stderr(std::process::Stdio::null())
        .status()
        .expect("setpriv");
    assert!(!nobody.success(), "another user of the machine connected");
    // While control starts again, whoever connects waits and is served.
    let pid = rustix::process::Pid::from_raw(control).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is ours");
    let output = whoami(&world.api_key());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
