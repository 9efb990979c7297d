//! Agents whose boundary an OCI runtime or systemd makes: allowed by node.toml, chosen by name, and like all others.

use crate::faults::eventually;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use testkit::World;

const PATH: &str = "/usr/bin/runc";

#[test]
fn a_runtime_is_chosen_by_name_where_the_node_allows_it() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start_with("drivers = [\"builtin\", \"runc\"]");
    world.create("second", &["--driver", "runc"]);
    let shown = world.cli(&["show", "second", "-o", "json"]).json();
    assert_eq!((&shown["driver"], &shown["claim"]), (&"runc".into(), &"sandboxed (container)".into()));
    assert_eq!(world.sh("second", "echo kept > ~/file; id -u; hostname").out, "1000\nsecond\n");
    world.cli(&["pause", "second"]).ok();
    world.cli(&["resume", "second"]).ok();
    let report = world.cli(&["verify", "second", "-o", "json"]).json();
    assert_eq!((&report["claim"], &report["not_probed"]), (&"sandboxed (container)".into(), &().into()));
    // The same disk in another life.
    world.cli(&["stop", "second"]).ok();
    world.cli(&["start", "second"]).ok();
    assert_eq!(world.sh("second", "cat ~/file").out, "kept\n");
    world.cli(&["rm", "second"]).ok();

    // A name that is not on the list is no driver, least of all a path.
    let refused = world.cli(&["create", "--driver", PATH]);
    assert!(refused.err.contains("expected builtin, runc, runsc or systemd"), "{}", refused.err);
}

#[test]
fn a_kernel_of_its_own_is_evidence() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start_with("drivers = [\"builtin\", \"runsc\"]\ndriver = \"runsc\"");
    world.create("second", &["--memory", "512MiB"]);
    let shown = world.cli(&["show", "second", "-o", "json"]).json();
    assert_eq!(shown["claim"], "sandboxed (container)", "{shown}");
    assert!(shown.to_string().contains("kernel_boundary"), "{shown}");
    let kernel = std::fs::read_to_string("/proc/version").unwrap();
    assert_ne!(world.sh("second", "cat /proc/version").ok().out, kernel);
    assert_eq!(world.sh("second", "echo kept > ~/file; id -u; hostname").out, "1000\nsecond\n");
    // Trees both ways.
    let tree = world.dir().join("tree");
    std::fs::create_dir_all(tree.join("below/it")).unwrap();
    std::fs::write(tree.join("below/it/file"), "from outside\n").unwrap();
    world.cli(&["cp", tree.to_str().unwrap(), "second:/home/agent/tree"]).ok();
    assert_eq!(world.sh("second", "cat ~/tree/below/it/file").ok().out, "from outside\n");
    let back = world.dir().join("back");
    world.cli(&["cp", "second:/home/agent/tree", back.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read(back.join("below/it/file")).unwrap(), b"from outside\n");
    // The probe is one for the host's kernel, and says so: what was not tried is not verified.
    let verified = world.cli(&["verify", "second", "-o", "json"]);
    assert_eq!(verified.code, 1, "{}", verified.err);
    let report: serde_json::Value = serde_json::from_str(&verified.out).unwrap();
    assert!(report["not_probed"].to_string().contains("another kernel"), "{report}");
    world.cli(&["stop", "second"]).ok();
    world.cli(&["start", "second"]).ok();
    assert_eq!(world.sh("second", "cat ~/file").out, "kept\n");
    // The same disk under the host's kernel is another agent's business; the driver stays for life.
    world.cli(&["rm", "second"]).ok();
}

#[test]
fn a_node_that_allows_no_runtime_uses_none() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    let refused = world.cli(&["create", "--name", "second", "--image", "debian", "--driver", "runc"]);
    let shown = world.cli(&["show", "second", "-o", "json"]).json();
    let said = format!("{}{shown}", refused.err);
    assert!(said.contains("add it to drivers in node.toml"), "{said}");
    assert_eq!(shown["claim"], "none");
}

/// The units that run programs of this world's.
fn units(world: &World) -> Vec<String> {
    let dir = world.dir().to_str().unwrap();
    let ours = |entry: &fs::DirEntry| fs::read_to_string(entry.path()).is_ok_and(|text| text.contains(dir));
    let entries = fs::read_dir("/run/systemd/transient").into_iter().flatten().flatten();
    entries.filter(ours).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn systemd_makes_os_users_where_it_runs_the_machine() {
    if !testkit::can_run() {
        return;
    }
    let world = World::prepare();
    // None that waits for an agent, so that each unit is an agent's.
    world.blanks_at_most(0);
    world.up();
    let create = |name, driver: &[&str]| {
        world.cli(&[&["create", "--name", name, "--level", "process"], driver].concat())
    };
    let claim = "isolated workspace with guardrails (OS user)";
    let refused = world.cli(&["create", "--level", "workspace", "--driver", "systemd"]);
    assert!(refused.err.contains("makes no agent of level `workspace`"), "{}", refused.err);
    if !fs::exists("/run/systemd/system").unwrap() {
        eprintln!("skipped: units, for systemd does not run this machine");
        let refused = create("no", &["--driver", "systemd"]);
        let said = format!("{}{}", refused.err, world.cli(&["show", "no", "-o", "json"]).json());
        assert!(said.contains("where systemd runs the machine (`cofferdam doctor` says)"), "{said}");
        create("ours", &[]).ok();
        assert_eq!(world.cli(&["show", "ours", "-o", "json"]).json()["claim"], claim);
        return;
    }
    create("ours", &["--driver", "builtin"]).ok();
    assert_eq!(units(&world), [""; 0]);
    create("named", &["--driver", "systemd"]).ok();
    create("theirs", &[]).ok();
    assert_eq!(units(&world).len(), 2, "it is the default here");
    for name in ["ours", "named", "theirs"] {
        let report = world.cli(&["verify", name, "-o", "json"]).json();
        assert_eq!((&report["claim"], &report["not_probed"]), (&claim.into(), &().into()), "{name}");
    }

    // The node dies, and the next takes the agent over.
    let started = "echo kept > ~/file; cut -d' ' -f22 /proc/1/stat";
    let before = world.sh("theirs", started).ok().out;
    let node = world.pid_of("node").expect("a node");
    kill_process(Pid::from_raw(node).unwrap(), Signal::KILL).unwrap();
    eventually("another node", || world.pid_of("node").is_some_and(|pid| pid != node));
    eventually("it is served again", || world.sh("theirs", started).out == before);
    assert_eq!(units(&world).len(), 2);
    let report = world.cli(&["verify", "theirs", "-o", "json"]).json();
    assert_eq!(report["claim"], claim);
    world.cli(&["pause", "theirs"]).ok();
    world.cli(&["resume", "theirs"]).ok();

    world.cli(&["stop", "theirs"]).ok();
    eventually("its unit is gone", || units(&world).len() == 1);
    world.cli(&["start", "theirs"]).ok();
    assert_eq!(world.sh("theirs", "cat ~/file").ok().out, "kept\n");
    for name in ["ours", "named", "theirs"] {
        world.cli(&["rm", "-f", name]).ok();
    }
    eventually("all units are gone", || units(&world).is_empty());
}
