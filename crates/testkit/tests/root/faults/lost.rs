//! What was known is lost, or wrong: the runtime directory after a reboot, the journal, a node in mid-launch.

use super::{eventually, gone, kill, nothing_but, send};
use rustix::process::Signal;
use std::fs;
use std::process::{Child, Stdio};
use testkit::World;

/// Its main process counts its starts on its volume.
const COUNTS: [&str; 4] = ["--", "sh", "-c", "echo start >> ~/starts; exec sleep 100000"];

fn create(world: &World, name: &str) -> Child {
    let mut command = world.command(&["create", "--name", name, "--image", "debian"]);
    command.args(COUNTS).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("create")
}

/// Holds the supervisor still and kills the node, so that nobody acts on the journal; the supervisor's pid.
fn without_node(world: &World) -> i32 {
    let supervisor = world.pid_of("supervise").expect("the supervisor runs");
    let node = world.pid_of("node").expect("node runs");
    send(supervisor, Signal::STOP);
    kill(node);
    gone(node);
    supervisor
}

#[test]
fn a_reboot_starts_agents_once() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("wanted", &COUNTS);
    world.create("stopped", &COUNTS);
    world.cli(&["stop", "stopped"]).ok();
    eventually("it counts", || world.sh("wanted", "cat ~/starts").out == "start\n");
    // Power off: everything at once, and what lay in memory is gone.
    let supervisor = without_node(&world);
    for pid in [Some(supervisor), world.pid_of("control"), world.pid_of("zygote"), world.newest_init()] {
        let Some(pid) = pid else { continue };
        kill(pid);
        gone(pid);
    }
    let agents = world.dir().join("data/node/agents");
    for entry in fs::read_dir(&agents).expect("the journal").flatten() {
        let text = fs::read_to_string(entry.path()).expect("a record");
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("the boot id");
        let earlier = "00000000-0000-4000-8000-000000000000";
        fs::write(entry.path(), text.replace(boot.trim(), earlier)).expect("a record of an earlier boot");
    }
    fs::remove_dir_all(world.dir().join("run")).expect("a new boot has no runtime files");
    world.up();
    eventually("it runs again", || world.sh("wanted", "cat ~/starts").out == "start\nstart\n");
    let shown = world.cli(&["show", "stopped", "-o", "json"]).json();
    assert_eq!(shown["state"], "stopped");
    nothing_but(&world, 1);
}

/// Every agent runs, in one boundary.
fn all_run_once(world: &World) {
    let (runtime, control) = world.control();
    let agents = || runtime.block_on(control.agents(&client::AgentFilter::default())).unwrap_or_default();
    eventually("every agent runs", || {
        let agents = agents();
        !agents.is_empty() && agents.iter().all(|agent| agent.state == model::AgentState::Running)
    });
    let agents = agents();
    nothing_but(world, agents.len());
    for agent in &agents {
        let name = agent.name.to_string();
        let running =
            "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done | grep -c '^sleep 100000'";
        assert_eq!(world.sh(&name, running).ok().out, "1\n", "main processes of {name}");
    }
}

#[test]
fn a_lost_journal_ends_nothing_and_starts_nothing_twice() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    for name in ["one", "two"] {
        world.create(name, &COUNTS);
        eventually("it counts", || world.sh(name, "cat ~/starts").out == "start\n");
    }
    // Another is being made.
    let mut making = create(&world, "three");
    eventually("it is heard of", || world.journal().len() == 3);
    let supervisor = without_node(&world);
    let before = world.inits();
    for path in world.records() {
        fs::remove_file(path).expect("a record is lost");
    }
    send(supervisor, Signal::CONT);
    for name in ["one", "two"] {
        eventually("it answers", || world.sh(name, "cat ~/starts").out == "start\n");
    }
    making.wait().expect("create ends");
    all_run_once(&world);
    let after = world.inits();
    assert!(before[..2].iter().all(|pid| after.contains(pid)), "{before:?} before, {after:?} after");
    for name in ["one", "two", "three"] {
        world.cli(&["rm", "-f", name]).ok();
    }
    nothing_but(&world, 0);
}
