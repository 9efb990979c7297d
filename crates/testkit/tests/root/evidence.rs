//! A claim stands on what is seen: of a boundary that lacks something there is no agent, and of one that loses something the
//! claim falls, and rises when it is back.

use crate::faults::eventually;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use testkit::World;

fn evidence(world: &World, agent: &str) -> Value {
    world.cli(&["inspect", agent, "-o", "json"]).json()
}

fn claim(world: &World, agent: &str) -> String {
    world.cli(&["show", agent, "-o", "json"]).json()["claim"].as_str().expect("a claim").to_owned()
}

/// Events of drift, oldest first.
fn drifts(world: &World) -> Vec<Value> {
    let events = world.cli(&["events", "-n", "200", "-o", "json"]).json();
    let events = events.as_array().expect("events").iter();
    events.filter(|event| event["kind"] == "agent.drift").cloned().collect()
}

/// The limits of the number of processes in agents' cgroups.
fn process_limits(world: &World) -> Vec<PathBuf> {
    let tops = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(PathBuf::from);
    let dirs = tops.iter().filter_map(|top| fs::read_dir(top.join(world.cgroup())).ok());
    dirs.flatten().flatten().map(|entry| entry.path().join("pids.max")).filter(|path| path.exists()).collect()
}

fn frequent(world: &World) {
    let path = world.dir().join("etc/node.toml");
    let text = fs::read_to_string(&path).expect("node.toml");
    // Before the first table.
    fs::write(&path, format!("inspect_every = \"1s\"\nblanks = 0\n{text}")).expect("node.toml");
}

#[test]
fn what_is_lost_takes_the_claim_and_what_is_back_gives_it() {
    if !testkit::can_run() {
        return;
    }
    let world = World::prepare();
    frequent(&world);
    world.up();
    world.provide_image();
    world.create("watched", &[]);
    let seen = evidence(&world, "watched");
    assert_eq!((&seen["claim"], &seen["state"]), (&"sandboxed (container)".into(), &"running".into()));
    let controls = seen["controls"].as_array().expect("controls");
    assert!(controls.len() >= 19);
    for control in controls {
        let told = ["expected", "observed", "state"].map(|key| control[key].as_str().unwrap_or_default());
        assert!(told.iter().all(|text| !text.is_empty()), "{control}");
    }
    let observation = &seen["observation"];
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
    assert_eq!(observation["kernel"], release.trim());
    assert_eq!(observation["init"].as_str().map(str::len), Some(64));
    let printed = world.cli(&["inspect", "watched"]).ok().out;
    assert!(printed.contains("A seccomp filter is loaded") && printed.contains("Seccomp 2"), "{printed}");

    let limits = process_limits(&world);
    assert_eq!(limits.len(), 1, "{limits:?}");
    let limit = fs::read_to_string(&limits[0]).expect("a limit");
    fs::write(&limits[0], "max").expect("the host's root may");
    eventually("the claim falls", || claim(&world, "watched") == "none");
    let fallen = drifts(&world);
    assert_eq!(fallen.len(), 1, "{fallen:?}");
    let detail = &fallen[0]["detail"];
    assert_eq!((&detail["from"], &detail["to"]), (&"sandboxed (container)".into(), &"none".into()));
    assert_eq!(detail["controls"].as_array().map(Vec::len), Some(1), "{detail}");
    let control = &detail["controls"][0];
    assert_eq!(
        [&control["control"], &control["before"], &control["after"]],
        ["pids_limit", "observed", "missing"]
    );
    let node = world.cli(&["show", "watched", "-o", "json"]).json()["node"].clone();
    assert_eq!(fallen[0]["actor"], node);
    assert!(world.cli(&["ls"]).ok().out.contains("none"));
    // It goes on, and that it is looked at again and again is no news.
    assert_eq!(world.sh("watched", "echo here").out.trim(), "here");
    fs::write(&limits[0], limit.trim()).expect("the host's root may");
    eventually("the claim is back", || claim(&world, "watched") == "sandboxed (container)");
    let both = drifts(&world);
    assert_eq!(both.len(), 2, "{both:?}");
    assert_eq!(both[1]["detail"]["controls"][0]["after"], "observed");

    // Of one that is gone, what was last known.
    let id = seen["agent"].as_str().expect("an id").to_owned();
    world.cli(&["rm", "--force", "watched"]).ok();
    eventually("it is gone", || evidence(&world, &id)["state"] == "destroyed");
    let last = evidence(&world, &id);
    assert_eq!((&last["claim"], &last["claim_then"]), (&"none".into(), &"sandboxed (container)".into()));
    assert_eq!(last["observation"]["kernel"], release.trim());
}

/// A jail that leaves something out.
fn sabotage(world: &World, what: &str) {
    const MARK: &[u8] = b"COFFERDAM-SABOTAGE:";
    let target = std::env::current_exe().expect("this test").ancestors().nth(3).expect("target").to_owned();
    let places = ["release/cofferdam-jail-sabotaged", "sabotage/release/cofferdam-jail"];
    let built = places.iter().map(|place| target.join(place)).find(|path| path.is_file());
    let mut program =
        fs::read(built.expect("the jail for sabotage: `cargo xtask sabotaged` builds it")).expect("a jail");
    let at = program.windows(MARK.len()).position(|window| window == MARK).expect("its mark") + MARK.len();
    program[at..at + what.len()].copy_from_slice(what.as_bytes());
    fs::write(world.programs().join("cofferdam-jail"), program).expect("a jail of its own");
}

#[test]
fn what_lacks_a_control_never_runs() {
    if !testkit::can_run() {
        return;
    }
    for (level, what, said) in [
        ("container", "seccomp", "seccomp (Seccomp is 0, not 2 (filter))"),
        ("process", "private_tmp", "private tmp (/tmp is no file system of its own)"),
        ("workspace", "os_user", "os user (Uid is "),
    ] {
        let world = World::prepare_with_programs();
        world.blanks_at_most(0);
        sabotage(&world, what);
        world.up();
        world.provide_image();
        let made = ["create", "--name", "bare", "--level", level, "--", "sh", "-c", "touch /home/agent/ran"];
        let made = world.cli(&made);
        assert_ne!(made.code, 0, "{}", made.out);
        let shown = world.cli(&["show", "bare", "-o", "json"]).json();
        assert_eq!((&shown["state"], &shown["claim"]), (&"failed".into(), &"none".into()), "{level}");
        let reason = shown["reason"]["detail"].as_str().expect("a reason");
        assert!(reason.contains(said), "{level}: {reason}");
        // It never was called running, and nothing of it is left to be found.
        let events = world.cli(&["events", "-n", "200", "-o", "json"]).json();
        let ran = events.as_array().expect("events").iter().find(|event| event["detail"]["to"] == "running");
        assert_eq!(ran, None);
        assert!(process_limits(&world).is_empty());
    }
}
