//! Clones of real agents: what they have of their source, and what they do not.

use testkit::World;

/// What tells an agent from others, as it sees itself.
const IDENTITY: &str = "hostname; cat /etc/machine-id 2>/dev/null; cat /proc/sys/kernel/random/boot_id";

#[test]
fn a_clone_has_the_disk_and_nothing_of_the_identity() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    for level in ["process", "container"] {
        let source = format!("{level}-a");
        world.create(&source, &["--level", level]);
        // Nothing of it is synced, and it goes on writing: what is there when it stands still is whole.
        let fill = "i=0; while [ $i -lt 200 ]; do echo $i > ~/file-$i; i=$((i+1)); done; \
            head -c 20000000 /dev/urandom > ~/large; sha256sum < ~/large > ~/sum; echo planted > ~/mark";
        world.sh(&source, fill).ok();
        let before = world.sh(&source, "cut -d' ' -f22 /proc/1/stat").ok().out;
        let copy = format!("{level}-b");
        world.cli(&["agent", "clone", &source, &copy]).ok();
        assert_eq!(world.sh(&copy, "sha256sum < ~/large | diff - ~/sum && cat ~/mark").ok().out, "planted\n");
        assert_eq!(world.sh(&copy, "ls ~ | grep -c file-").ok().out, "200\n");
        // Its source goes on, as the same one, and neither sees what the other writes.
        assert_eq!(world.sh(&source, "cut -d' ' -f22 /proc/1/stat").ok().out, before);
        world.sh(&copy, "echo changed > ~/mark").ok();
        assert_eq!(world.sh(&source, "cat ~/mark").ok().out, "planted\n");
        let shown = |agent: &str| world.cli(&["show", agent, "-o", "json"]).json();
        let (one, two) = (shown(&source), shown(&copy));
        for own in ["id", "volume", "name"] {
            assert_ne!(one[own], two[own], "{own}");
        }
        assert_eq!(two["origin"]["agent"], one["id"]);
        let identities = [&source, &copy].map(|agent| world.sh(agent, IDENTITY).out);
        let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
        assert_ne!(first(&identities[0]), first(&identities[1]));
        // A copy of one that is stopped, and of a copy.
        world.cli(&["stop", &copy]).ok();
        let third = format!("{level}-c");
        world.cli(&["agent", "clone", &copy, &third]).ok();
        assert_eq!(world.sh(&third, "cat ~/mark").ok().out, "changed\n");
    }
}

#[test]
fn a_clone_begins_with_an_empty_scratch_layer_and_log() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world
        .create("a", &["--keep-scratch", "--root", "--", "sh", "-c", "echo the source said this; sleep 600"]);
    world.sh("a", "echo 0123456789abcdef0123456789abcdef > /etc/machine-id; echo 1 > /opt/scratch; echo home > /home/agent/kept").ok();
    world.cli(&["agent", "clone", "a", "b", "--no-wait"]).ok();
    world.cli(&["exec", "b", "--", "true"]).ok();
    assert_eq!(world.sh("b", "cat /etc/machine-id; ls /opt").ok().out, "");
    assert_eq!(world.sh("b", "cat /home/agent/kept").ok().out, "home\n");
    // The log is that of its own main process, which ran once.
    let log = world.cli(&["logs", "b"]).ok().out;
    assert_eq!(log.matches("the source said this").count(), 1, "{log}");
    assert!(world.sh("a", "cat /opt/scratch").ok().out.contains('1'));
}

#[test]
fn of_an_agent_that_is_gone_nothing_is_made() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("a", &[]);
    world.cli(&["stop", "a"]).ok();
    let volumes = || std::fs::read_dir(world.dir().join("data/volumes")).unwrap().flatten().count();
    let before = volumes();
    // Node is away while both are ordered: the source is gone when it gets to the copy.
    let node = world.pid_of("node").expect("node runs");
    let node = rustix::process::Pid::from_raw(node).expect("a pid");
    rustix::process::kill_process(node, rustix::process::Signal::STOP).expect("a signal");
    world.cli(&["agent", "clone", "a", "b", "--no-wait"]).ok();
    let removed = world.cli(&["rm", "a", "--no-wait"]);
    rustix::process::kill_process(node, rustix::process::Signal::CONT).expect("a signal");
    removed.ok();
    let shown = world.cli(&["show", "b", "-o", "json"]);
    let settled = || world.cli(&["show", "b", "-o", "json"]).json()["state"].clone();
    let begun = std::time::Instant::now();
    while !["failed", "running"].contains(&settled().as_str().unwrap_or_default()) {
        assert!(begun.elapsed() < testkit::patience(30), "{}", shown.out);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    // Whichever came first, it is whole or it is nothing.
    let agent = world.cli(&["show", "b", "-o", "json"]).json();
    match agent["state"].as_str() {
        Some("running") => world.sh("b", "true").ok(),
        _ => {
            assert!(agent["reason"].to_string().contains("copy of"), "{agent}");
            assert!(volumes() <= before);
            world.cli(&["show", "b"])
        }
    };
}

#[test]
fn a_node_that_dies_over_a_copy_leaves_it_whole_or_not_there() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("a", &[]);
    world.sh("a", "head -c 150000000 /dev/urandom > ~/large; sha256sum < ~/large > ~/sum").ok();
    let init = world.newest_init();
    for (number, delay) in [0, 30, 90].into_iter().enumerate() {
        let copy = format!("b-{number}");
        world.cli(&["agent", "clone", "a", &copy, "--no-wait"]).ok();
        std::thread::sleep(std::time::Duration::from_millis(delay));
        let node = world.pid_of("node").and_then(rustix::process::Pid::from_raw).expect("node runs");
        rustix::process::kill_process(node, rustix::process::Signal::KILL).expect("a signal");
        let begun = std::time::Instant::now();
        let check = "sha256sum < ~/large | diff - ~/sum && echo whole";
        // Another node finds both, lets the source go on, and makes the copy if it is not there.
        while world.sh(&copy, check).out != "whole\n" {
            let shown = world.cli(&["show", &copy, "-o", "json"]);
            assert!(begun.elapsed() < testkit::patience(60), "{}{}", shown.out, shown.err);
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        assert_eq!(world.sh("a", check).ok().out, "whole\n");
        world.cli(&["rm", &copy]).ok();
    }
    assert_eq!(world.inits().first().copied(), init, "the source is the same one");
    let volumes = std::fs::read_dir(world.dir().join("data/volumes")).unwrap().flatten();
    let partial = volumes.filter(|entry| entry.path().to_string_lossy().ends_with(".partial"));
    assert_eq!(partial.count(), 0);
}
