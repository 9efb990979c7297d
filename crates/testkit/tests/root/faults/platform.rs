//! The platform's own processes and programs: replaced, killed, started twice, ended while busy.

use super::{eventually, gone, kill, send};
use rustix::process::Signal;
use testkit::World;

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
