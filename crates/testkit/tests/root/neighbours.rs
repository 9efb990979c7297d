//! One agent tries to reach another: its files, processes, network, sockets and gate.

use testkit::World;

#[test]
fn agents_do_not_see_each_other() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("one", &[]);
    world.create("two", &[]);
    world.sh("one", "echo treasure > /home/agent/treasure; echo treasure > /tmp/treasure").ok();
    // A server on loopback, an abstract socket and a process with a telling name.
    let server = "import socket,time\n\
         a=socket.socket(); a.bind(('0.0.0.0',8123)); a.listen()\n\
         b=socket.socket(socket.AF_UNIX); b.bind('\\0treasure'); b.listen()\n\
         print('ready',flush=True); time.sleep(60)";
    let mut child = world
        .command(&["exec", "one", "--", "python3", "-c", server])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("an exec");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("a pipe")));
    assert_eq!(lines.next().expect("a line").expect("text"), "ready");
    let inside_one = world.cli(&[
        "exec",
        "one",
        "--",
        "python3",
        "-c",
        "import socket; socket.create_connection(('127.0.0.1',8123)); print('ok')",
    ]);
    assert_eq!(inside_one.ok().out, "ok\n", "its own server is reachable for the owner");
    for user in ["agent", "root"] {
        let program = "import os, socket, sys\n\
             bad = []\n\
             for path in ('/home/agent/treasure', '/tmp/treasure'):\n\
             \x20   if os.path.exists(path): bad.append(path)\n\
             for make, where in ((lambda: socket.socket(), ('127.0.0.1', 8123)), (lambda: socket.socket(socket.AF_UNIX), '\\0treasure')):\n\
             \x20   try:\n\
             \x20       make().connect(where); bad.append(where)\n\
             \x20   except OSError: pass\n\
             for pid in filter(str.isdigit, os.listdir('/proc')):\n\
             \x20   try: line = open(f'/proc/{pid}/cmdline').read()\n\
             \x20   except OSError: continue\n\
             \x20   if '8123' in line and int(pid) != os.getpid() and 'treasure' in line: bad.append(line)\n\
             print(bad); sys.exit(bool(bad))";
        let ran = world.python("two", user, &[], program, &[]);
        assert_eq!(ran.code, 0, "as {user}: {ran:?}");
    }
    // Ids on the host differ, so that not even a hole in the mount namespace would give access.
    let map = |agent: &str| world.sh(agent, "cat /proc/self/uid_map").ok().out;
    assert_ne!(map("one"), map("two"));
    child.kill().expect("it is ours");
    child.wait().expect("it ended");
}

#[test]
fn a_token_opens_one_agent() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("one", &[]);
    world.create("two", &[]);
    let (runtime, control) = world.control();
    runtime.block_on(async {
        let scopes = [model::token::Scope::Exec, model::token::Scope::Files];
        let token = control.workspace_token("one", &scopes).await.expect("a token");
        let two = control.agent("two").await.expect("the other agent");
        let url = format!("{}/v1/agents/{}/processes", token.url, two.id);
        let address = token.url.strip_prefix("http://").expect("plain on one machine");
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
            url.strip_prefix(&token.url).expect("a path"),
            token.token
        );
        let answer = http(address, &request).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        // The same token for its own agent, from a web page and for another host name.
        let one = control.agent("one").await.expect("the agent");
        let path = format!("/v1/agents/{}/processes", one.id);
        for (headers, status) in [
            (format!("Host: {address}\r\nOrigin: https://evil.example"), "403"),
            ("Host: evil.example".to_owned(), "421"),
            (format!("Host: {address}"), "200"),
        ] {
            let request = format!(
                "GET {path} HTTP/1.1\r\n{headers}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
                token.token
            );
            let answer = http(address, &request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{headers}: {answer}");
        }
        let unsigned = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        assert!(http(address, &unsigned).await.starts_with("HTTP/1.1 401"));
    });
}

#[test]
fn the_gate_is_the_only_way_in() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("served", &[]);
    let server = "import http.server; http.server.HTTPServer(('0.0.0.0', 8900), http.server.SimpleHTTPRequestHandler).serve_forever()";
    let mut child =
        world.command(&["exec", "served", "--", "python3", "-c", server]).spawn().expect("an exec");
    let wait = "import socket,time\nfor _ in range(3000):\n  try: socket.create_connection(('127.0.0.1',8900)); break\n  except OSError: time.sleep(0.02)\nelse: raise SystemExit(1)";
    world.python("served", "agent", &[], wait, &[]).ok();
    // Not from the host, on any address.
    for address in ["127.0.0.1:8900", "[::1]:8900"] {
        assert!(std::net::TcpStream::connect(address).is_err(), "{address} is reachable from the host");
    }
    // The channel's socket is closed to other users of the machine.
    let gates = world.dir().join("run/gates");
    let nobody = std::process::Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c"])
        .arg(format!("find {} -name '*.sock' 2>/dev/null | grep -q . && exit 1; exit 0", gates.display()))
        .status()
        .expect("setpriv");
    assert!(nobody.success(), "another user of the machine sees the channels");
    child.kill().expect("it is ours");
    child.wait().expect("it ended");
}

async fn http(address: &str, request: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("the guard listens");
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}
