//! The command line's own promises: forms of output, exit codes, signals, contexts.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use testkit::{Ran, World};

#[test]
fn every_list_is_json_when_asked() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("worker", &["--label", "team=blue"]);
    let lists: [&[&str]; 7] = [
        &["ls"],
        &["ls", "--all"],
        &["ls", "--label", "team=blue"],
        &["image", "ls"],
        &["context", "ls"],
        &["events"],
        &["stats"],
    ];
    for list in lists {
        let json = world.cli(&[list, &["-o", "json"]].concat()).json();
        assert!(json.as_array().is_some_and(|rows| !rows.is_empty()), "{list:?}: {json}");
    }
    assert!(world.cli(&["top", "worker", "-o", "json"]).json().is_array());
    let doctor = world.cli(&["doctor", "-o", "json"]).json();
    assert_eq!(doctor["control_url"], format!("http://127.0.0.1:{}", world.control_port));
    let refused = world.cli(&["show", "nobody", "-o", "json"]);
    let problem: serde_json::Value = serde_json::from_str(&refused.err).expect("a problem on stderr");
    assert_eq!(problem["code"], "NOT_FOUND");
}

#[test]
fn exit_codes_are_as_documented() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("worker", &[]);
    let cases: [(&[&str], i32); 20] = [
        (&["ls", "--no-such-flag"], 2),
        (&["create", "--nmae", "x"], 2),
        (&["run", "--imgae", "debian", "--", "true"], 2),
        (&["login", "127.0.0.1:7700"], 2),
        (&["create", "--memory", "lots"], 2),
        (&["create", "--memory", "1"], 2),
        (&["create", "--allow", "https://example.com"], 2),
        (&["create", "--no-network", "--allow", "example.com"], 2),
        (&["show", "nobody"], 3),
        (&["policy", "show", "nobody"], 3),
        (&["policy", "check", "/nonexistent.toml"], 3),
        (&["create", "--image", "nothing"], 3),
        (&["--context", "nowhere", "ls"], 3),
        (&["create", "--name", "worker"], 4),
        (&["image", "rm", "debian"], 4),
        (&["exec", "nobody", "--", "true"], 125),
        (&["exec", "worker", "--", "/etc/passwd"], 126),
        (&["exec", "worker", "--", "no-such-program"], 127),
        (&["exec", "worker", "--", "sh", "-c", "exit 42"], 42),
        (&["exec", "worker", "--", "sh", "-c", "kill -9 $$"], 137),
    ];
    for (args, code) in cases {
        let ran = world.cli(args);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
    }
    let elsewhere = |key: &str, port: u16| -> Ran {
        let url = format!("http://127.0.0.1:{port}");
        let mut command = world.command(&["ls"]);
        command.env("COFFERDAM_URL", url).env("COFFERDAM_API_KEY", key);
        command.output().expect("cofferdam starts").into()
    };
    assert_eq!(elsewhere("cof_wrong", world.control_port).code, 4);
    // Nobody listens on port 1.
    assert_eq!(elsewhere(&world.api_key(), 1).code, 5);
}

#[test]
fn an_interrupt_reaches_the_command_and_the_agent_goes() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    let script = "trap 'echo got; exit 9' INT; echo ready; while :; do sleep 0.05; done";
    let mut child = world
        .command(&["run", "--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cofferdam starts");
    let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("the rest");
    assert_eq!(rest, "got\n");
    assert_eq!(child.wait().expect("it ends").code(), Some(9));
    assert_eq!(world.cli(&["ls", "-o", "json"]).json().as_array().map(Vec::len), Some(0));
}

#[test]
fn a_detached_run_stays() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    let ran = world.cli(&["run", "-d", "--name", "web", "--", "sh", "-c", "echo up; exec sleep 1000"]).ok();
    assert!(ran.out.starts_with("agt_"), "{}", ran.out);
    assert_eq!(world.cli(&["show", "web", "-o", "json"]).json()["state"], "running");
    let mut logs = world.command(&["logs", "-f", "web"]).stdout(Stdio::piped()).spawn().expect("logs");
    let mut line = String::new();
    BufReader::new(logs.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    assert_eq!(line, "up\n");
    logs.kill().expect("it is ours");
    logs.wait().expect("it ends");
    world.cli(&["rm", "web"]).ok();
}

#[test]
fn login_keeps_the_key_for_its_owner_only() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    let key = world.api_key();
    let kept = world.dir().join("home/.config");
    fs::remove_dir_all(&kept).expect("the context of `up`");
    assert_eq!(world.cli(&["ls"]).code, 4);
    let url = format!("http://127.0.0.1:{}", world.control_port);
    assert_eq!(world.cli_with(&["login", &url, "--name", "second"], b"cof_wrong\n").code, 4);
    assert!(!kept.join("cofferdam/config.toml").exists(), "a wrong key is not kept");
    let ran = world.cli_with(&["login", &url, "--name", "second"], format!("{key}\n").as_bytes()).ok();
    assert!(!ran.out.contains(&key) && !ran.err.contains(&key), "the key is never shown");
    let file = fs::metadata(kept.join("cofferdam/config.toml")).expect("the contexts");
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    world.cli(&["ls"]).ok();
    assert_eq!(world.cli_with(&["login", "http://example.com"], b"x\n").code, 2, "no key without TLS");
}

#[test]
fn completions_are_read_by_their_shells() {
    if !testkit::can_run() {
        return;
    }
    let world = World::prepare();
    for shell in ["bash", "zsh", "fish"] {
        let ran = world.cli(&["completions", shell]).ok();
        let file = world.dir().join(shell);
        fs::write(&file, &ran.out).expect("a file");
        match Command::new(shell).arg("-n").arg(&file).output() {
            Ok(read) => assert!(read.status.success(), "{shell}: {}", String::from_utf8_lossy(&read.stderr)),
            // Bash is everywhere; the others are looked at where they are.
            Err(error) => assert_ne!(shell, "bash", "{error}"),
        }
    }
}

#[test]
fn what_ended_an_agent_or_its_command_is_said() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    // Its logs are on its volume.
    world.create("dead", &["--", "sh", "-c", "echo why; exit 3"]);
    let ended = || world.cli(&["show", "dead", "-o", "json"]).json()["state"] == "stopped";
    crate::faults::eventually("it ended", ended);
    assert_eq!(world.cli(&["logs", "dead"]).ok().out, "why\n");
    assert_eq!(world.cli(&["logs", "--tail", "3B", "-f", "dead"]).ok().out, "hy\n");
    world.cli(&["start", "--no-wait", "dead"]).ok();
    crate::faults::eventually("it ended again", ended);
    assert_eq!(world.cli(&["logs", "dead"]).ok().out, "why\nwhy\n");

    let hog = "x = bytearray(256 << 20); print(len(x))";
    let ran = world.cli(&["run", "--memory", "64MiB", "--", "python3", "-c", hog]);
    assert!(ran.code == 137 && ran.err.contains("want of memory") && ran.err.contains("--memory"), "{ran:?}");
    let ran = world.cli(&["run", "--", "sh", "-c", "kill -KILL $$"]);
    assert!(ran.code == 137 && !ran.err.contains("memory"), "{ran:?}");
    let ran = world.cli(&["run", "--ttl", "2s", "--", "sleep", "60"]);
    assert!(ran.code != 0 && ran.err.contains("time to live (2s)") && ran.err.contains("--ttl"), "{ran:?}");

    world.create("closed", &[]);
    world.sh("closed", "mkdir -p d/e; echo 1 > d/e/open; echo 2 > d/e/secret; chmod 0 d/e/secret").ok();
    let there = world.dir().join("there");
    for path in ["closed:d", "closed:d/e/secret"] {
        let ran = world.cli(&["cp", path, there.to_str().unwrap()]);
        assert!(ran.code == 4 && ran.err.contains("/home/agent/d/e/secret"), "{path}: {ran:?}");
    }
    let ids = world.cli(&["ls", "-q", "-o", "json"]).json();
    assert_eq!(ids.as_array().map(Vec::len), Some(2), "{ids}");
    let ran = world.cli(&["shell", "closed"]);
    assert!(ran.err.contains("cofferdam exec closed") && !ran.err.contains("-t;"), "{ran:?}");
    let who = world.cli(&["whoami", "-o", "json"]).json();
    assert!(who["account"].as_str().is_some_and(|id| id.starts_with("acc_")), "{who}");
}
