//! The platform's own processes and programs: replaced, killed, started twice, ended while busy.

use super::{eventually, gone, kill, send};
use rustix::process::Signal;
use std::fs;
use std::process::{Child, Stdio};
use testkit::{Ran, World};

#[test]
fn a_killed_supervisor_is_replaced() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("kept", &[]);
    let started = world.sh("kept", "cut -d' ' -f22 /proc/1/stat").ok().out;
    for _ in 0..2 {
        let supervisor = world.pid_of("supervise").expect("the supervisor runs");
        kill(supervisor);
        gone(supervisor);
        // At once: control and node of the dead one may still be there.
        world.up();
        assert_eq!(world.sh("kept", "cut -d' ' -f22 /proc/1/stat").ok().out, started, "another init");
    }
    // And without a supervisor, `down` ends everything all the same; again it has nothing to do.
    let supervisor = world.pid_of("supervise").expect("the supervisor runs");
    kill(supervisor);
    gone(supervisor);
    world.down();
    world.down();
    world.up();
    eventually("the agent runs again", || world.sh("kept", "echo here").out == "here\n");
}

#[test]
fn down_needs_no_living_node() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("kept", &[]);
    world.sh("kept", "echo here > ~/mark").ok();
    // The supervisor cannot start another node any more.
    let supervisor = world.pid_of("supervise").expect("the supervisor runs");
    let node = world.pid_of("node").expect("node runs");
    send(supervisor, Signal::STOP);
    kill(node);
    gone(node);
    kill(supervisor);
    gone(supervisor);
    assert!(world.newest_init().is_some(), "agents outlive their node");
    world.down();
    world.down();
    world.up();
    eventually("the agent runs again", || world.sh("kept", "cat ~/mark").out == "here\n");
}

#[test]
fn a_service_that_was_asked_to_end_is_started_again() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("kept", &[]);
    let init = world.newest_init();
    assert!(init.is_some(), "the agent's init");
    for kind in ["control", "node"] {
        let victim = world.pid_of(kind).unwrap_or_else(|| panic!("{kind} runs"));
        send(victim, Signal::TERM);
        gone(victim);
        eventually(kind, || world.cli(&["run", "--image", "debian", "--", "true"]).code == 0);
        assert_ne!(world.pid_of(kind), Some(victim));
        assert_eq!(world.sh("kept", "echo here").ok().out, "here\n");
        assert_eq!(world.inits().first().copied(), init, "another init after {kind} was ended");
    }
    // A node that was told to end everything takes the rest with it; nobody starts it again.
    world.down();
    assert_eq!(world.pid_of("control"), None);
    world.up();
    eventually("the agent runs again", || world.sh("kept", "echo here").out == "here\n");
}

fn start(world: &World, args: &[&str]) -> Child {
    world.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("cofferdam starts")
}

#[test]
fn two_ups_at_once_make_one_installation() {
    if !testkit::can_run() {
        return;
    }
    let world = World::prepare();
    for _ in 0..3 {
        let both = [start(&world, &["up", "--detach"]), start(&world, &["up", "--detach"])];
        let mut ran = both.map(|up| Ran::from(up.wait_with_output().expect("it ends")));
        ran.sort_by_key(|ran| ran.code);
        let [first, second] = ran;
        assert!(first.out.contains("Cofferdam is up"), "{first:?}");
        match second.code {
            // It came when the first had begun, or when that was done.
            4 => assert!(second.err.contains("at work") && second.err.contains("IN_USE"), "{second:?}"),
            code => assert!(code == 0 && second.out.contains("up already"), "{second:?}"),
        }
        for kind in ["supervise", "control", "node"] {
            let count = world.leftovers().processes.iter().filter(|line| line.contains(kind)).count();
            assert_eq!(count, 1, "{kind}: {:?}", world.leftovers().processes);
        }
        world.cli(&["ls"]).ok();
        world.down();
    }
}

#[test]
fn down_amid_creates_ends_them_all() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("kept", &[]);
    for round in 0..4_u64 {
        let names: Vec<String> = (0..4).map(|number| format!("busy-{round}-{number}")).collect();
        let creates: Vec<Child> = names
            .iter()
            .map(|name| start(&world, &["create", "--name", name, "--image", "debian"]))
            .collect();
        // Each round meets them elsewhere on their way.
        std::thread::sleep(std::time::Duration::from_millis(40 * round));
        world.down();
        let codes: Vec<i32> = creates
            .into_iter()
            .map(|create| Ran::from(create.wait_with_output().expect("create ends")).code)
            .collect();
        println!("round {round}: creates left with {codes:?}");
        world.up();
        let (runtime, control) = world.control();
        let known = runtime.block_on(control.agents(&client::AgentFilter::default())).expect("the agents");
        assert!(known.iter().any(|agent| agent.name.as_str() == "kept"));
        for agent in known {
            let name = agent.name.to_string();
            eventually(&format!("{name} runs again"), || world.sh(&name, "echo here").out == "here\n");
        }
        for name in &names {
            assert!(matches!(world.cli(&["rm", "-f", name]).code, 0 | 3));
        }
    }
    super::nothing_but(&world, 1);
}

#[test]
fn a_replaced_program_is_what_is_started_next() {
    if !testkit::can_run() {
        return;
    }
    let world = World::prepare_with_programs();
    world.up();
    world.provide_image();
    world.create("kept", &[]);
    let init = world.newest_init();
    for name in ["cofferdam", "cofferdam-jail"] {
        let path = world.programs().join(name);
        let fresh = path.with_extension("new");
        fs::copy(&path, &fresh).expect("a copy");
        fs::rename(&fresh, &path).expect("in its place");
    }
    let program = |pid: i32| fs::read_link(format!("/proc/{pid}/exe")).map(|path| path.display().to_string());
    let node = world.pid_of("node").expect("node runs");
    assert!(program(node).expect("its program").ends_with(" (deleted)"), "the old file has no name any more");
    // The supervisor and the node are the old program, and start the new one.
    for kind in ["gate", "zygote", "control", "node", "gate"] {
        let victim = world.pid_of(kind).unwrap_or_else(|| panic!("{kind} runs"));
        kill(victim);
        gone(victim);
        eventually(kind, || world.sh("kept", "echo here").out == "here\n");
        eventually("a new agent", || world.cli(&["run", "--image", "debian", "--", "true"]).code == 0);
    }
    let node = world.pid_of("node").expect("node runs");
    assert!(!program(node).expect("its program").ends_with(" (deleted)"), "the node is the new program");
    assert_eq!(world.inits(), Vec::from_iter(init));
    // Removed, and not replaced: it says so, and goes on once it is there again.
    let path = world.programs().join("cofferdam");
    let aside = world.programs().join("aside");
    fs::rename(&path, &aside).expect("aside");
    let control = world.pid_of("control").expect("control runs");
    kill(control);
    let log = world.dir().join("data/log/up.log");
    eventually("a word about it", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("was removed while it ran"))
    });
    fs::rename(&aside, &path).expect("it is back");
    eventually("control", || world.cli(&["ls"]).code == 0);
}
