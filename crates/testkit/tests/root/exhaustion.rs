//! One agent tries to take all of something. It gets its share; the host and its neighbour get theirs.

use std::process::Command;
use testkit::World;

const EXHAUST: &str = include_str!("inside/exhaust.py");

/// The number after `label:` in what the program printed.
fn number(text: &str, label: &str) -> u64 {
    let line =
        text.lines().find(|line| line.starts_with(label)).unwrap_or_else(|| panic!("{label} in {text}"));
    let digits = line[label.len()..].trim_start_matches([':', ' ']);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().expect("a number")
}

/// The same functions, with these calls in place of the command line.
fn calling(calls: &str) -> String {
    let functions = EXHAUST.split("if __name__").next().expect("the functions come first");
    format!("{functions}\n{calls}")
}

#[test]
fn kernel_objects_are_bounded_for_each_agent() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("greedy", &["--memory", "1GiB"]);
    world.create("neighbour", &[]);
    for (name, label, bound) in [
        ("inotify", "inotify instances", 1024),
        ("timers", "timers", 20_000),
        ("signals", "queued signals", 20_000),
        ("descriptors", "descriptors", 1_100_000),
    ] {
        for user in ["agent", "root"] {
            let ran = world.python("greedy", user, &[], EXHAUST, &[name]).ok();
            let count = number(&ran.out, label);
            println!("{user}: {label} {count}");
            assert!((1..bound).contains(&count), "{label}: {count}");
        }
    }
    // While the greedy one holds all that it gets, others still get some.
    let mut holder = world
        .command(&["exec", "-i", "-u", "root", "greedy", "--", "python3", "-c"])
        .arg(calling("inotify(); timers(); print('held', flush=True); time.sleep(60)"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("an exec");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(holder.stdout.take().expect("a pipe")));
    assert!(lines.any(|line| line.expect("output") == "held"));
    let ran = world.python("neighbour", "agent", &[], EXHAUST, &["inotify"]).ok();
    assert!(number(&ran.out, "inotify instances") >= 16, "{}", ran.out);
    let host = Command::new("python3")
        .args(["-c", "import ctypes; assert ctypes.CDLL(None).inotify_init1(0) >= 0"])
        .status()
        .expect("python on the host");
    assert!(host.success(), "the host has inotify instances left");
    holder.kill().expect("it is ours");
    holder.wait().expect("it ended");
}

#[test]
fn netlink_sockets_are_counted() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("greedy", &[]);
    for user in ["agent", "root"] {
        let ran = world.python("greedy", user, &[], EXHAUST, &["netlink"]).ok();
        let count = number(&ran.out, "netlink sockets");
        assert!((16..=128).contains(&count), "{user}: {count}");
    }
}

#[test]
fn filters_of_one_agent_leave_room_for_boundaries() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("greedy", &["--memory", "4GiB", "--pids", "2048"]);
    let mut holder = world
        .command(&["exec", "greedy", "--", "python3", "-c"])
        .arg(calling("filters()"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("an exec");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(holder.stdout.take().expect("a pipe")));
    let mut said = Vec::new();
    while said.last().is_none_or(|line: &String| !line.starts_with("filters")) {
        said.push(lines.next().expect("it comes to an end").expect("output"));
    }
    println!("{said:?}");
    assert!(said.iter().any(|line| line == "no more room for filters"), "nothing was used up: {said:?}");
    // A boundary starts, and nobody in it gets a filter of their own any more: the room is gone for all. What another
    // test on the machine gave back meanwhile is taken too.
    world.create("neighbour", &["--memory", "4GiB", "--pids", "2048"]);
    assert_eq!(world.sh("neighbour", "echo fine").ok().out, "fine\n");
    let more = || {
        let ran = world.python("neighbour", "agent", &[], &calling("filters(0)"), &[]).ok();
        number(&ran.out, "filters")
    };
    assert!((0..4).any(|_| more() == 0), "there still is room for filters");
    // So does a gate.
    let gate = world.pid_of("gate").expect("a gate");
    let pid = rustix::process::Pid::from_raw(gate).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is ours");
    assert_eq!(world.sh("neighbour", "echo again").ok().out, "again\n");
    assert_ne!(world.pid_of("gate"), Some(gate));
    world.cli(&["rm", "-f", "greedy"]).ok();
    holder.kill().expect("it is ours");
    holder.wait().expect("it ended");
}

#[test]
fn init_is_small() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("measured", &[]);
    let private = || {
        let pid = world.newest_init().expect("its init");
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps_rollup");
        number(&rollup, "Private_Dirty")
    };
    let fresh = private();
    for _ in 0..20 {
        world.sh("measured", "echo short").ok();
    }
    let used = private();
    println!("Private_Dirty of init: {fresh} KiB fresh, {used} KiB after 20 execs");
    assert!(fresh.max(used) <= 700, "{fresh} and {used} KiB");
}

#[test]
fn a_fork_bomb_stays_inside() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("bomb", &["--pids", "64"]);
    world.create("neighbour", &["--pids", "64"]);
    let ran = world.python("bomb", "root", &[], EXHAUST, &["forks"]).ok();
    let count = number(&ran.out, "processes");
    assert!(count < 64, "{count} processes under a limit of 64");
    assert!(count > 16, "{count}: it may use what it was given");
    // A bomb that stays leaves the workspace API with a clear answer, and the neighbour alone.
    let bomb = ":(){ :|:& };:";
    world.cli(&["exec", "bomb", "--", "timeout", "5", "bash", "-c", bomb]);
    assert_eq!(world.sh("neighbour", "echo fine").ok().out, "fine\n");
    world.cli(&["rm", "-f", "bomb"]).ok();
}

#[test]
fn a_memory_bomb_ends_alone() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("hungry", &["--memory", "128MiB"]);
    world.create("neighbour", &[]);
    let ran = world.python("hungry", "agent", &[], EXHAUST, &["memory"]);
    assert_eq!(ran.code, 137, "killed for memory: {ran:?}");
    let reached = ran.out.lines().filter_map(|line| line.strip_prefix("MiB: ")?.parse::<u64>().ok()).max();
    assert!(reached.unwrap_or(0) < 128, "{reached:?} MiB under a limit of 128");
    assert_eq!(world.sh("hungry", "echo alive").ok().out, "alive\n");
    assert_eq!(world.sh("neighbour", "echo fine").ok().out, "fine\n");
    // As the main process it takes the agent with it, and the reason is told. A program of many pages would read them again
    // and again before the kernel gives up, for as long as a busy disk takes.
    world.create("main", &["--memory", "128MiB", "--", "tail", "/dev/zero"]);
    let (runtime, control) = world.control();
    let agent = runtime.block_on(control.wait_agent("main", "stopped", 60)).expect("it stops");
    assert_eq!(agent.reason, Some(model::ExitReason::OutOfMemory), "{agent:?}");
}

#[test]
fn socket_buffers_count_as_memory() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("buffers", &["--memory", "64MiB"]);
    let before = tcp_pages();
    let mut child = world
        .command(&["exec", "-i", "buffers", "--", "python3", "-c"])
        .arg(calling("socket_buffers(); time.sleep(3)"))
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("an exec");
    let mut most = 0;
    let output = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
    for line in std::io::BufRead::lines(output) {
        println!("{}", line.expect("output"));
        most = most.max(tcp_pages());
    }
    child.wait().expect("it ended");
    most = most.max(tcp_pages());
    let pinned = most.saturating_sub(before) * 4096;
    println!("pinned at most: {} MiB", pinned >> 20);
    assert!(pinned < 128 << 20, "{} MiB of TCP buffers under a limit of 64 MiB", pinned >> 20);
}

/// Pages in TCP buffers on the whole machine.
fn tcp_pages() -> u64 {
    let text = std::fs::read_to_string("/proc/net/sockstat").expect("sockstat");
    let line = text.lines().find(|line| line.starts_with("TCP:")).expect("TCP");
    line.split_whitespace().last().and_then(|word| word.parse().ok()).expect("mem")
}

#[test]
fn a_full_disk_is_the_agents_own() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("full", &["--disk", "128MiB"]);
    let ran = world.python("full", "agent", &[], EXHAUST, &["disk"]).ok();
    let written = number(&ran.out, "bytes");
    assert!((32 << 20..128 << 20).contains(&written), "{written} bytes on a disk of 128 MiB");
    let refused = world.cli_with(&["cp", "-", "full:/home/agent"], &a_tar("big", &vec![7; 4 << 20]));
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.err.contains("DISK_FULL"), "{}", refused.err);
    // The way out works.
    world.sh("full", "rm ~/fill && echo x > ~/small && cat ~/small").ok();
    // Scratch and home share the one limit.
    let both = world.cli(&[
        "exec",
        "-u",
        "root",
        "full",
        "--",
        "sh",
        "-c",
        "dd if=/dev/zero of=/var/fill bs=1M count=200 2>&1; stat -c %s /var/fill",
    ]);
    let size: u64 = both.out.lines().last().and_then(|line| line.parse().ok()).expect("a size");
    assert!(size < 128 << 20, "{size} bytes of scratch on a disk of 128 MiB");
}

/// A tar archive with one file.
fn a_tar(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, name, content).expect("an entry");
    archive.into_inner().expect("an archive")
}
