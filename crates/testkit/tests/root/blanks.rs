//! Boundaries that were made ahead: agents on them are as isolated as others, and none of them outlives its node.

use crate::faults::eventually;
use serde_json::Value;
use std::fs;
use testkit::{Blanks, World};

/// The ids of the boundaries that wait.
fn waiting(world: &World) -> Vec<String> {
    let entries = fs::read_dir(world.dir().join("run/blanks")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The boundary of the agent with this name.
fn record(world: &World, name: &str) -> Value {
    let id = world.cli(&["show", name, "-o", "json"]).json()["id"].as_str().expect("an id").to_owned();
    let path = world.dir().join("run/agents").join(id.trim_start_matches("agt_")).join("boundary.json");
    serde_json::from_slice(&fs::read(path).expect("a record")).expect("JSON")
}

#[test]
fn an_agent_on_a_blank_is_as_any_other() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    // Before anybody asked for an image, there is one without.
    eventually("a bare one is ready", || world.blanks(Blanks::Bare) > 0);
    let bare = waiting(&world);
    world.create("first", &[]);
    let boundary = |name: &str| {
        record(&world, name)["boundary"].as_str().expect("its id").trim_start_matches("bnd_").to_owned()
    };
    assert!(bare.contains(&boundary("first")), "{} is none of {bare:?}", boundary("first"));
    eventually("one with the image is ready as well", || world.blanks(Blanks::Whole) > 0);
    let blanks = waiting(&world);
    // There is none with a volume of this size.
    world.create("cold", &["--disk", "1GiB"]);
    assert!(!blanks.contains(&boundary("cold")));
    // What a blank cannot know ahead: name, limits, environment, user, main process.
    let more = ["--cpus", "0.5", "--pids", "77", "-e", "WHO=me", "--root", "--", "sh", "-c"];
    world
        .create("second", &[&more[..], &["echo begun as $(id -u) on $(hostname); exec sleep 1000"]].concat());
    let boundary = boundary("second");
    assert!(blanks.contains(&boundary), "{boundary} is none of {blanks:?}");
    assert!(!waiting(&world).contains(&boundary), "it is nobody's any more");

    eventually("its main process spoke", || !world.cli(&["logs", "second"]).out.is_empty());
    assert_eq!(world.cli(&["logs", "second"]).ok().out, "begun as 0 on second\n");
    let script = "cat /etc/hostname; grep -c second /etc/hosts; echo $WHO; ls -A /tmp";
    assert_eq!(world.sh("second", script).ok().out, "second\n1\nme\n");
    let limit = |kind: &str, file: &str| {
        let path = format!("/sys/fs/cgroup/{kind}/{}/{boundary}/{file}", world.cgroup());
        let unified = format!("/sys/fs/cgroup/{}/{boundary}/{file}", world.cgroup());
        fs::read_to_string(path).or_else(|_| fs::read_to_string(unified)).expect("a limit").trim().to_owned()
    };
    assert_eq!(limit("pids", "pids.max"), "77");

    // The same evidence, found in the same way, and the same claim; what differs is names and numbers.
    let shown = |name: &str| world.cli(&["show", name, "-o", "json"]).json();
    let cold = shown("cold");
    assert_eq!(cold["claim"], "sandboxed (container)");
    let controls = |agent: &Value| -> Vec<(Value, Value)> {
        let evidence = agent["evidence"].as_array().expect("evidence").iter();
        evidence.map(|found| (found["control"].clone(), found["state"].clone())).collect()
    };
    for ahead in ["first", "second"] {
        let ahead = shown(ahead);
        assert_eq!(ahead["claim"], cold["claim"]);
        assert_eq!(controls(&ahead), controls(&cold));
    }
    // No two agents have ids in common.
    let bases = ["first", "second", "cold"].map(|name| record(&world, name)["base_uid"].to_string());
    assert_eq!(bases.iter().collect::<std::collections::BTreeSet<_>>().len(), bases.len(), "{bases:?}");
}

#[test]
fn no_blank_outlives_its_node() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("first", &[]);
    eventually("a bare one and a whole one are ready", || {
        world.blanks(Blanks::Bare) > 0 && world.blanks(Blanks::Whole) > 0
    });
    let blanks = waiting(&world);
    let cgroup_of = |blank: &String| {
        let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let dirs = mounts.map(|mount| format!("{mount}/{}/{blank}/cgroup.procs", world.cgroup()));
        dirs.iter().find_map(|path| fs::read_to_string(path).ok())
    };
    assert!(blanks.iter().all(|blank| cgroup_of(blank).is_some_and(|procs| !procs.trim().is_empty())));
    let node = world.pid_of("node").expect("a node");
    let node = rustix::process::Pid::from_raw(node).expect("a pid");
    rustix::process::kill_process(node, rustix::process::Signal::KILL).expect("killed");
    eventually("their inits end by themselves", || {
        blanks.iter().all(|blank| cgroup_of(blank).is_none_or(|procs| procs.trim().is_empty()))
    });
    // The next node removes what they left, is ready again without being asked, and the agent lives.
    eventually("another blank is ready", || world.blanks(Blanks::Whole) > 0);
    assert!(waiting(&world).iter().all(|blank| !blanks.contains(blank)));
    let volumes: Vec<_> = fs::read_dir(world.dir().join("data/volumes/.blank"))
        .expect("the folder")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().trim_end_matches(".ext4").to_owned())
        .collect();
    assert!(volumes.iter().all(|volume| !blanks.contains(volume)), "{volumes:?}");
    assert_eq!(world.sh("first", "echo alive").ok().out, "alive\n");
    world.create("second", &[]);
    assert_eq!(world.sh("second", "hostname").ok().out, "second\n");
}
