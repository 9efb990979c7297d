//! Level 0 has no boundary, and guardrails that hold: the limits of its calls, folders of other accounts, and what is the
//! platform's. (That links and races lead out of no folder, and that a call's time ends, is tested where init is.)

use crate::intruder::second_account;
use std::fs;
use testkit::World;

const MOST: u64 = 64 << 20;

#[test]
fn one_call_moves_no_more_than_its_limit() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.cli(&["create", "--name", "notes", "--level", "workspace", "--disk", "512MiB"]).ok();
    let here = |name: &str| world.dir().join("home").join(name).display().to_string();
    for (name, size) in [("small", MOST - (1 << 20)), ("large", MOST + 1)] {
        fs::File::create(here(name)).and_then(|file| file.set_len(size)).expect("a file");
        let there = format!("notes:/home/agent/{name}");
        let into = world.cli(&["cp", &here(name), &there]);
        world.sh("notes", &format!("head -c {size} /dev/zero > ~/{name}")).ok();
        let out = world.cli(&["cp", &there, &here(&format!("{name}-back"))]);
        for ran in [into, out] {
            match name {
                "small" => drop(ran.ok()),
                _ => assert!(ran.code != 0 && ran.err.contains("at most 67108864 bytes"), "{}", ran.err),
            }
        }
    }
    assert_eq!(fs::metadata(here("small-back")).expect("it came back").len(), MOST - (1 << 20));
    // It goes on, and nobody's worker is left.
    assert_eq!(world.sh("notes", "ls /proc | grep -c '^[0-9]'").ok().out.trim(), "4");
}

/// What a workspace finds of others: prints what it should not.
const LOOK: &str = r#"
import json, os, socket, sys
asked = json.loads(sys.argv[1])
def tried(what, attempt):
    try: print("got", what, repr(attempt())[:200])
    except OSError: pass
for path in asked["paths"]:
    tried("list " + path, lambda: os.listdir(path))
    tried("read " + path, lambda: open(path, "rb").read(10))
    tried("write " + path, lambda: open(path, "ab"))
    tried("connect " + path, lambda: socket.socket(socket.AF_UNIX).connect(path))
for pid in asked["pids"]:
    tried("signal %d" % pid, lambda: os.kill(pid, 0))
    tried("watch %d" % pid, lambda: os.pidfd_open(pid))
    tried("read %d" % pid, lambda: open("/proc/%d/environ" % pid, "rb").read(10))
for top, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if top != "/" or name not in ("proc", "usr", "sys")]
    for name in files:
        if name == "treasure": print("found", top)
for port in asked["ports"]:
    door = socket.create_connection(("127.0.0.1", port), 5)
    door.sendall(b"GET /v1/agents HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % port)
    print("answered", door.recv(12).decode()[9:])
print("uid", os.getuid())
"#;

#[test]
fn a_workspace_reaches_neither_other_accounts_nor_the_platform() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    let second = second_account(&world);
    world.cli(&["create", "--name", "mine", "--level", "workspace"]).ok();
    let (runtime, _) = world.control();
    let (theirs, uid) = runtime.block_on(async {
        let request =
            serde_json::json!({"level": "workspace", "name": "theirs", "token": {"scopes": ["exec"]}});
        let request = serde_json::from_value(request).expect("a request");
        let (agent, workspace) = second.start_agent(&request, 60).await.expect("an agent");
        let script = "echo mine > ~/treasure; echo mine > /tmp/treasure; chmod -R 777 ~ /tmp; id -u";
        let run =
            serde_json::from_value(serde_json::json!({"argv": ["sh", "-c", script]})).expect("a request");
        let said = workspace.expect("a way in").run(&run, 30).await.expect("it ran");
        (agent, String::from_utf8(said.stdout.into_bytes().expect("bytes")).expect("text"))
    });
    let dir = |path: &str| world.dir().join(path).display().to_string();
    let below = |path: &str| {
        let found = fs::read_dir(world.dir().join(path)).into_iter().flatten().flatten();
        found.map(|entry| entry.path().display().to_string()).collect::<Vec<_>>()
    };
    let mut paths = vec![dir("run"), dir("data"), dir("etc"), dir("home"), "/etc/shadow".to_owned()];
    paths.extend(["run", "data", "data/control", "run/agents", "run/gates"].into_iter().flat_map(below));
    let pids: Vec<i32> = ["control", "node", "gate", "zygote"]
        .into_iter()
        .filter_map(|kind| world.pid_of(kind))
        .chain(world.inits())
        .collect();
    assert!(paths.len() > 8 && pids.len() >= 5, "{paths:?} {pids:?}");
    let asked = serde_json::json!({"paths": paths, "pids": pids, "ports": [world.control_port]}).to_string();
    let said = world.python("mine", "agent", &[], LOOK, &[&asked]).ok().out;
    let lines: Vec<&str> = said.lines().collect();
    let own = lines.last().and_then(|line| line.strip_prefix("uid ")).expect("its uid");
    assert_ne!(own, uid.trim());
    // The machine's network is its network; what listens there wants a key.
    assert_eq!(lines[..lines.len() - 1], ["answered 401"], "{said}");
    // Nor by way of the file API, whatever its own links say.
    let link = "ln -s / ~/root; ln -s /proc/1 ~/init; ln -s ../../etc ~/etc; echo";
    world.sh("mine", link).ok();
    for path in
        ["/etc/passwd", "/home/agent/root/etc/passwd", "/home/agent/etc/passwd", "/home/agent/init/environ"]
    {
        let ran = world.cli(&["cp", &format!("mine:{path}"), &dir("home/stolen")]);
        assert!(ran.code != 0 && ran.err.contains("beneath /home/agent alone"), "{path}: {}", ran.err);
    }
    runtime.block_on(async {
        second.verb("theirs", model::Verb::Destroy).await.expect("destroyed");
        second.wait_agent(&theirs.id.to_string(), "destroyed", 60).await.expect("destroyed");
    });
}
