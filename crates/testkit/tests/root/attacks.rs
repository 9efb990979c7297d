//! Attempts to leave the boundary, made from inside, as the agent's user and as its root.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use testkit::World;

const ATTACKS: &str = include_str!("inside/attacks.py");

const NAMES: [&str; 22] = [
    "mount",
    "namespaces",
    "modules",
    "kernel_interfaces",
    "keyrings",
    "sockets",
    "devices",
    "proc",
    "sys",
    "cgroup",
    "init",
    "outside_processes",
    "privileges",
    "setuid_program",
    "leaks",
    "network",
    "abstract_sockets",
    "tty",
    "chroot",
    "core_pattern",
    "filesystem_ioctls",
    "makers",
];

/// Those against what the maker of a boundary makes, or might leave open in it.
const OF_THE_MAKER: [&str; 14] = [
    "mount",
    "namespaces",
    "kernel_interfaces",
    "devices",
    "proc",
    "sys",
    "cgroup",
    "init",
    "outside_processes",
    "privileges",
    "setuid_program",
    "leaks",
    "core_pattern",
    "makers",
];

/// Makes every attempt, and says all that got through rather than the first.
fn all_hold(user: &str, level: &str) {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("attacker", &["--memory", "512MiB", "--level", level]);
    // Without an image the machine's mounts are in sight, and there is no map of ids.
    let names = NAMES.into_iter().filter(|name| level == "container" || *name != "leaks");
    attack(&world, user, names);
}

fn attack(world: &World, user: &str, names: impl Iterator<Item = &'static str>) {
    let name = format!("cofferdam-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("an abstract name");
    let _listener = UnixListener::bind_addr(&address).expect("an abstract socket of the host");
    let ports = format!("HOST_PORTS={},{}", world.control_port, world.guard_port);
    let env = [format!("ABSTRACT={name}"), ports];
    let env: Vec<&str> = env.iter().map(String::as_str).collect();
    let mut through = Vec::new();
    for attack in names {
        let ran = world.python("attacker", user, &env, ATTACKS, &[attack]);
        println!("{}{}", ran.out, ran.err);
        if ran.code != 0 {
            through.push(format!("{attack} (exit {}): {}{}", ran.code, ran.out, ran.err));
        }
    }
    assert!(through.is_empty(), "as {user}:\n{}", through.join("\n"));
    // Whatever was done to it, init still serves.
    assert_eq!(world.sh("attacker", "echo alive").ok().out, "alive\n");
}

#[test]
fn attacks_on_what_a_runtime_made_hold() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start_with("drivers = [\"builtin\", \"runc\"]");
    let program = || fs::read("/usr/sbin/runc").or_else(|_| fs::read("/usr/bin/runc")).expect("runc");
    let before = program();
    world.create("attacker", &["--memory", "512MiB", "--driver", "runc"]);
    for user in ["agent", "root"] {
        attack(&world, user, OF_THE_MAKER.into_iter());
    }
    // Another start, with a working directory that is somebody's descriptor, and a program that is whoever starts it.
    for number in 3..12 {
        let directory = format!("/proc/self/fd/{number}");
        let ran = world.cli(&["exec", "-w", &directory, "attacker", "--", "sh", "-c", "cd ..; ls -a"]);
        assert!(ran.code != 0, "{directory} is {}", ran.out);
    }
    let ran = world.cli(&["exec", "-u", "root", "attacker", "--", "/proc/self/exe", "inside"]);
    assert!(ran.code != 0, "{}", ran.out);
    assert!(program() == before, "the runtime was changed");
    world.cli(&["stop", "attacker"]).ok();
    world.cli(&["start", "attacker"]).ok();
    assert!(program() == before, "the runtime was changed");
}

#[test]
fn attacks_as_agent_hold() {
    all_hold("agent", "container");
}

#[test]
fn attacks_as_an_os_user_hold() {
    all_hold("agent", "process");
}

#[test]
fn attacks_as_root_hold() {
    all_hold("root", "container");
}
