//! Memory and disk: what the platform takes, and what it makes durable.

use crate::rows::{Rows, Target};
use crate::session::{self, Session};
use std::fs;
use std::process::{Command, Stdio};
use testkit::World;

const MIB: f64 = 1_048_576.0;

/// Bytes of a line of `smaps_rollup`, in a process.
fn rollup(pid: i32, label: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.strip_prefix(label));
    lines.filter_map(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok()).sum::<f64>() * 1024.0
}

/// Memory that the machine could still give, in bytes.
pub fn available() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).expect("MemAvailable");
    line.trim().strip_suffix(" kB").and_then(|text| text.trim().parse::<f64>().ok()).expect("a number")
        * 1024.0
}

/// Private memory of one agent's init, in bytes.
pub fn init_private(world: &World) -> f64 {
    world.newest_init().map_or(0.0, |pid| rollup(pid, "Private_Dirty:"))
}

/// The idle platform with one agent's gate, and the calls that make a create durable.
pub fn platform(session: &Session, rows: &mut Rows) {
    eprintln!("weight");
    let agent = session.wait(session::create(&session.control));
    let pids: Vec<i32> =
        ["control", "node", "gate"].iter().filter_map(|kind| session.world.pid_of(kind)).collect();
    assert_eq!(pids.len(), 3, "control, node and gate run");
    let memory: f64 = pids.iter().map(|pid| rollup(*pid, "Pss:")).sum();
    rows.add("control + node + one gate, idle (PSS)", "MiB", memory / MIB, None, Target::AtMost(80.0));
    session.wait(session::destroy(&session.control, &agent));
    rows.add("fsyncs of a create", "", fsyncs(session, &pids), None, Target::AtMost(2.0));
}

/// Counts with strace, which slows everything down and changes no count.
fn fsyncs(session: &Session, pids: &[i32]) -> f64 {
    let log = session.world.dir().join("strace.log");
    let mut command = Command::new("strace");
    command.args(["-f", "-e", "trace=fsync,fdatasync,msync,sync_file_range,syncfs", "-o"]).arg(&log);
    for pid in pids {
        command.arg("-p").arg(pid.to_string());
    }
    let mut strace = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace");
    let attached = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        !status.contains("TracerPid:\t0")
    };
    while !pids.iter().all(attached) {
        std::thread::yield_now();
    }
    let count = || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.lines().filter(|line| line.contains("sync(") || line.contains("sync_file_range(")).count()
    };
    let before = count();
    let agent = session.wait(session::create(&session.control));
    let after = count();
    let text = fs::read_to_string(&log).unwrap_or_default();
    text.lines().skip(before).for_each(|line| eprintln!("      {line}"));
    let pid = rustix::process::Pid::from_child(&strace);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("strace runs");
    let _ = strace.wait();
    session.wait(session::destroy(&session.control, &agent));
    (after - before) as f64
}
