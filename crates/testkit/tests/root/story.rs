//! What a user does in a day, through the command line.

use std::fs;
use std::io::Read;
use std::process::Stdio;
use testkit::World;

#[test]
fn run_streams_and_returns_the_exit_code() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    let ran = world.cli(&["run", "--image", "debian", "--", "sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!((ran.code, ran.out.as_str()), (42, "out\n"), "{}", ran.err);
    assert!(ran.err.contains("err\n"), "{}", ran.err);
    assert_eq!(world.cli(&["run", "--image", "debian", "--", "no-such-program"]).code, 127);
    assert_eq!(world.cli(&["run", "--image", "debian", "--", "/etc/passwd"]).code, 126);
    let ran = world.cli_with(&["run", "-i", "--image", "debian", "--", "cat"], b"through\n");
    assert_eq!(ran.ok().out, "through\n");
    // Each was destroyed with what it made.
    let left = world.cli(&["ls", "-o", "json"]).json();
    assert_eq!(left.as_array().map(Vec::len), Some(0), "{left}");
    let files = fs::read_dir(world.dir().join("run/agents")).expect("runtime files").count();
    assert_eq!(files, 0);
}

#[test]
fn a_life_with_its_volume() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("worker", &["--label", "team=a", "-e", "GREETING=hello"]);
    assert_eq!(
        world.sh("worker", "echo $GREETING $(id -un) $PWD $(hostname)").ok().out,
        "hello agent /home/agent worker\n"
    );
    // Evidence, and the claim that follows from it.
    let shown = world.cli(&["show", "worker", "-o", "json"]).json();
    assert_eq!(shown["claim"], "sandboxed (container)", "{shown}");
    let evidence = shown["evidence"].as_array().expect("evidence");
    // Not every kernel has AppArmor.
    let holds = |found: &serde_json::Value| found["state"] == "observed" || found["control"] == "apparmor";
    assert!(evidence.len() >= 20 && evidence.iter().all(holds), "{evidence:?}");
    // A folder in and out.
    let folder = world.dir().join("home/project");
    fs::create_dir_all(folder.join("deep")).expect("a folder");
    fs::write(folder.join("deep/file"), "content").expect("a file");
    world.cli(&["cp", &folder.display().to_string(), "worker:/home/agent/"]).ok();
    assert_eq!(
        world.sh("worker", "cat project/deep/file; stat -c %U project/deep/file").ok().out,
        "contentagent\n"
    );
    let back = world.dir().join("home/back");
    fs::create_dir_all(&back).expect("a folder");
    world.cli(&["cp", "worker:/home/agent/project", &back.display().to_string()]).ok();
    assert_eq!(fs::read_to_string(back.join("project/deep/file")).expect("a file"), "content");
    // Pause: nothing runs, calls are refused at once.
    world.cli(&["pause", "worker"]).ok();
    let refused = world.sh("worker", "true");
    assert_ne!(refused.code, 0);
    assert!(refused.err.contains("paused"), "{}", refused.err);
    world.cli(&["resume", "worker"]).ok();
    assert_eq!(world.sh("worker", "echo back").ok().out, "back\n");
    // Stop and start: the home stays, the scratch layer goes.
    world.cli(&["exec", "-u", "root", "worker", "--", "touch", "/opt/scratch"]).ok();
    world.cli(&["stop", "worker"]).ok();
    assert_eq!(world.cli(&["show", "worker", "-o", "json"]).json()["state"], "stopped");
    assert_ne!(world.sh("worker", "true").code, 0);
    world.cli(&["start", "worker"]).ok();
    assert_eq!(world.sh("worker", "cat project/deep/file; ls /opt").ok().out, "content");
    world.cli(&["rm", "-f", "worker"]).ok();
    assert_eq!(world.cli(&["show", "worker"]).code, 3);
    // What happened is told afterwards.
    let events = world.cli(&["events", "-o", "json"]).json().to_string();
    for kind in ["agent.created", "agent.token_issued", "agent.ordered", "agent.state"] {
        assert!(events.contains(kind), "{kind} in {events}");
    }
}

#[test]
fn main_process_logs_and_exit() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world
        .cli(&[
            "create",
            "--name",
            "main",
            "--image",
            "debian",
            "--",
            "sh",
            "-c",
            "echo one; echo two >&2; sleep 1000",
        ])
        .ok();
    let (runtime, control) = world.control();
    let mut follow = world.command(&["logs", "-f", "main"]).stdout(Stdio::piped()).spawn().expect("logs");
    let mut text = [0; 8];
    follow.stdout.take().expect("a pipe").read_exact(&mut text).expect("both lines");
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.contains("one") && text.contains("two"), "{text:?}");
    world.cli(&["stop", "main"]).ok();
    follow.wait().expect("the follower ends with the agent");
    world.cli(&["create", "--name", "seven", "--image", "debian", "--", "sh", "-c", "exit 7"]);
    let agent = runtime.block_on(control.wait_agent("seven", "stopped", 30)).expect("it stops");
    assert_eq!(agent.reason, Some(model::ExitReason::Exited { code: 7 }), "{agent:?}");
}

#[test]
fn forward_reaches_a_port_inside() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world
        .cli(&["create", "--name", "web", "--image", "debian", "--", "python3", "-m", "http.server", "8000"])
        .ok();
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").port()
    };
    let mut forward = world
        .command(&["forward", "web", &format!("{port}:8000")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("forward");
    let deadline = std::time::Instant::now() + testkit::patience(20);
    let answer = loop {
        assert!(std::time::Instant::now() < deadline, "the port never answered");
        let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else {
            std::thread::yield_now();
            continue;
        };
        let mut answer = String::new();
        std::io::Write::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n").expect("a request");
        if stream.read_to_string(&mut answer).is_ok() && !answer.is_empty() {
            break answer;
        }
    };
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    forward.kill().expect("it is ours");
    forward.wait().expect("it ended");
}

#[test]
fn ttl_and_idle_timeout_end_agents() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("short", &["--ttl", "3s"]);
    world.create("idle", &["--idle-timeout", "3s"]);
    let (runtime, control) = world.control();
    let idle = runtime.block_on(control.wait_agent("idle", "stopped", 60)).expect("it stops");
    assert_eq!(idle.state, model::AgentState::Stopped);
    let short = runtime.block_on(async {
        let id = control.agents(&client::AgentFilter::default()).await.expect("a list");
        let short = id.iter().find(|agent| agent.name.as_str() == "short")?;
        Some(control.wait_agent(&short.id.to_string(), "destroyed", 60).await.expect("it goes"))
    });
    assert!(short.is_none_or(|agent| agent.state == model::AgentState::Destroyed));
}
