//! What is claimed is proved: `cofferdam verify` on real agents, also on one that fights it.

use crate::faults::eventually;
use serde_json::Value;
use std::process::Stdio;
use testkit::World;

const HOSTILE: &str = include_str!("inside/hostile.py");

fn verify(world: &World, agent: &str) -> Value {
    world.cli(&["verify", agent, "-o", "json"]).json()
}

fn attempts(report: &Value) -> &Vec<Value> {
    report["attempts"].as_array().expect("attempts")
}

/// Those that were not stopped, but for what there is nothing of to try.
fn open(report: &Value) -> Vec<String> {
    let open = |found: &&Value| !matches!(found["outcome"].as_str(), Some("held" | "unsupported"));
    attempts(report).iter().filter(open).map(Value::to_string).collect()
}

#[test]
fn every_attempt_is_stopped() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("proved", &[]);
    let report = verify(&world, "proved");
    assert_eq!(report["claim"], "sandboxed (container)");
    assert_eq!(report["not_probed"], Value::Null);
    assert_eq!(open(&report), [""; 0]);
    assert_eq!(report["signed"].as_str().map(|text| text.split('.').count()), Some(3), "a JWS");
    let attempts = attempts(&report);
    assert!(attempts.len() >= 2 * 80, "{}", attempts.len());
    for found in attempts {
        let told = ["tries", "source", "proves", "detail", "control"].map(|key| found[key].as_str());
        assert!(told.iter().all(|text| text.is_some_and(|text| !text.is_empty())), "{found}");
    }
    let evidence = report["evidence"].as_array().expect("evidence");
    assert!(evidence.iter().filter(|found| found["state"] == "probed").count() >= 17, "{evidence:?}");
    let printed = world.cli(&["verify", "proved"]).ok().out;
    assert!(printed.contains("✓ probed") && printed.contains("sandboxed (container)"), "{printed}");
    let all = world.cli(&["verify", "--all", "-o", "json"]).json();
    assert_eq!(all.as_array().map(Vec::len), Some(1));
    // The agent goes on, and nothing of the probe is left in it.
    assert_eq!(world.sh("proved", "cat /proc/[0-9]*/comm | grep -c probe").out.trim(), "0");
    // What does not run cannot be proved.
    world.cli(&["stop", "proved"]).ok();
    let refused = world.cli(&["verify", "proved"]);
    assert!(refused.code != 0 && refused.err.contains("does not run"), "{}", refused.err);
}

/// Attempts whose answer is another where nobody told of the outside, or where the program lies inside.
const OF_THE_OUTSIDE: [&str; 21] = [
    "root-working-directory",
    "pid-signal",
    "pid-pidfd",
    "pid-ptrace",
    "pid-read-memory",
    "pid-limits",
    "pid-priority",
    "pid-list",
    "ipc-namespace",
    "uts-namespace",
    "net-namespace",
    "cgroup-namespace",
    "net-abstract-socket",
    "root-own-program",
    "landlock-signal",
    "landlock-ptrace",
    "landlock-abstract-socket",
    "apparmor-profile",
    "apparmor-leave",
    "apparmor-leave-at-exec",
    "apparmor-hat",
];

/// What the probe meets is what every process of the agent meets: the same program, started by the agent, is answered alike.
#[test]
fn the_probe_is_as_any_process_of_the_agent() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("alike", &[]);
    let jail = world.programs().join("cofferdam-jail");
    world.cli(&["cp", jail.to_str().expect("a path"), "alike:/home/agent/jail"]).ok();
    let report = verify(&world, "alike");
    let mut others = Vec::new();
    for user in ["agent", "root"] {
        let ran = world.cli(&["exec", "-u", user, "alike", "--", "/home/agent/jail", "probe"]).ok();
        let of_node: Vec<&Value> = attempts(&report).iter().filter(|found| found["user"] == user).collect();
        // By itself it makes those of the other levels too.
        let of_level = |inside: &Value| of_node.iter().any(|found| found["id"] == inside["id"]);
        let inside: Vec<Value> = ran
            .out
            .lines()
            .map(|line| serde_json::from_str(line).expect("a result"))
            .filter(of_level)
            .collect();
        assert_eq!(inside.len(), of_node.len());
        for (inside, of_node) in inside.iter().zip(of_node) {
            assert_eq!(inside["id"], of_node["id"]);
            let known = OF_THE_OUTSIDE.iter().any(|id| inside["id"] == *id);
            if !known && ["outcome", "detail"].iter().any(|key| inside[key] != of_node[key]) {
                others.push(format!("as {user}: {inside}, by node: {of_node}"));
            }
        }
    }
    assert_eq!(others, [""; 0]);
}

#[test]
fn a_hostile_agent_cannot_make_a_probe_look_good() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("hostile", &["--memory", "512MiB"]);
    let users = ["root", "agent"];
    let mut attackers = users.map(|user| {
        let args = ["exec", "-u", user, "hostile", "--", "python3", "-c", HOSTILE, user];
        world.command(&args).stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("an attacker")
    });
    eventually("both attackers", || world.sh("hostile", "ls /tmp/ready-root /tmp/ready-agent").code == 0);
    let abi = landlock_abi(&world);
    for round in 0..3 {
        let ran = world.cli(&["verify", "hostile", "-o", "json"]);
        let report: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{}", ran.err));
        // Whatever it did to the probe, nothing is taken for stopped that was not tried to its end.
        if report["not_probed"] == Value::Null {
            assert_eq!(open(&report), [""; 0], "round {round}");
        } else {
            assert_eq!(attempts(&report).len(), 0);
            assert!(abi < 6, "Landlock keeps signals away: {}", report["not_probed"]);
        }
    }
    let got = world.sh("hostile", "cat /tmp/got-* 2> /dev/null | sort | uniq -c").out;
    for attacker in &mut attackers {
        attacker.kill().expect("it is ours");
        attacker.wait().expect("it is ours");
    }
    if abi >= 6 {
        assert_eq!(got, "", "what the agent could do to the probe");
    }
}

/// What init puts in force around itself is proved of the newest init alone.
#[test]
fn an_older_init_is_not_proved_by_a_newer_one() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("older", &[]);
    let agents = std::fs::read_dir(world.dir().join("run/agents")).expect("agents");
    let path = agents.flatten().next().expect("one agent").path().join("boundary.json");
    let record = std::fs::read_to_string(&path).expect("its record");
    let mut older: Value = serde_json::from_str(&record).expect("a record");
    older["init_digest"] = "0".repeat(64).into();
    std::fs::write(&path, older.to_string()).expect("its record");
    let report = verify(&world, "older");
    std::fs::write(&path, record).expect("its record");
    assert_eq!(report["not_probed"], Value::Null);
    let evidence = report["evidence"].as_array().expect("evidence");
    for control in ["no_new_privs", "seccomp", "capabilities", "landlock"] {
        let found = evidence.iter().find(|found| found["control"] == control).expect("each control");
        assert_ne!(found["state"], "probed", "{found}");
    }
    let pids = evidence.iter().find(|found| found["control"] == "pid_namespace").expect("each control");
    assert_eq!(pids["state"], "probed");
    for key in ["boundary", "node"] {
        assert!(report[key].is_string(), "{}", report[key]);
    }
}

/// The ABI of Landlock, from the evidence.
fn landlock_abi(world: &World) -> u32 {
    let shown = world.cli(&["show", "hostile", "-o", "json"]).json();
    let evidence = shown["evidence"].as_array().expect("evidence").iter();
    let detail =
        evidence.filter(|found| found["control"] == "landlock").find_map(|found| found["detail"].as_str());
    let number =
        detail.and_then(|detail| detail.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty()));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}
