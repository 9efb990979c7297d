//! Attempts to leave the boundary, made from inside, as the agent's user and as its root.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use testkit::World;

const ATTACKS: &str = include_str!("inside/attacks.py");

const NAMES: [&str; 21] = [
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
];

/// Makes every attempt, and says all that got through rather than the first.
fn all_hold(user: &str, level: &str) {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("attacker", &["--memory", "512MiB", "--level", level]);
    let name = format!("cofferdam-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("an abstract name");
    let _listener = UnixListener::bind_addr(&address).expect("an abstract socket of the host");
    let ports = format!("HOST_PORTS={},{}", world.control_port, world.guard_port);
    let env = [format!("ABSTRACT={name}"), ports];
    let env: Vec<&str> = env.iter().map(String::as_str).collect();
    let mut through = Vec::new();
    // Without an image the machine's mounts are in sight, and there is no map of ids.
    for attack in NAMES.into_iter().filter(|name| level == "container" || *name != "leaks") {
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
