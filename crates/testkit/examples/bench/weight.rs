//! Memory and disk: what the platform takes, and what it makes durable.

use crate::rows::{Rows, Target, median};
use crate::session::{self, Blanks, Session};
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;
use testkit::World;

const MIB: f64 = 1_048_576.0;

/// Bytes of a line of `smaps_rollup`, in a process.
fn rollup(pid: i32, label: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.strip_prefix(label));
    lines.filter_map(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok()).sum::<f64>() * 1024.0
}

/// A line of /proc/meminfo, in bytes.
fn meminfo(label: &str) -> f64 {
    let text = fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix(label)).expect("a line of /proc/meminfo");
    let number = line.trim().strip_suffix(" kB").and_then(|text| text.trim().parse::<f64>().ok());
    number.expect("a number") * 1024.0
}

/// Memory that the machine could still give, in bytes. Whatever else runs here changes it too.
pub fn available() -> f64 {
    meminfo("MemAvailable:")
}

/// What the kernel holds for objects of its own, in bytes: network namespaces, control groups, mounts, page tables, stacks.
/// Reclaimable or not, because an agent that is looked at has it all.
pub fn kernel() -> f64 {
    ["Slab:", "Percpu:", "PageTables:", "KernelStack:"].iter().map(|label| meminfo(label)).sum()
}

/// The platform's processes.
const PROCESSES: [&str; 4] = ["control", "node", "zygote", "gate"];

/// Memory of the platform's processes together, in bytes.
pub fn processes(world: &World) -> f64 {
    PROCESSES.iter().filter_map(|kind| world.pid_of(kind)).map(|pid| rollup(pid, "Pss:")).sum()
}

/// Processor time that each of the platform's processes and this one have used, in milliseconds.
pub fn processor(world: &World) -> Vec<(&'static str, f64)> {
    let used = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // utime and stime are the 14th and 15th fields of proc_pid_stat(5), in hundredths of a second.
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) * 10.0
    };
    let own = i32::try_from(std::process::id()).expect("a pid");
    let platform = PROCESSES.iter().filter_map(|kind| Some((*kind, used(world.pid_of(kind)?))));
    platform.chain([("client", used(own))]).collect()
}

/// Private memory of one agent's init, in bytes.
pub fn init_private(world: &World) -> f64 {
    world.newest_init().map_or(0.0, |pid| rollup(pid, "Private_Dirty:"))
}

/// The idle platform with one agent's gate, and the calls that make a create durable.
pub fn platform(session: &Session, rows: &mut Rows) {
    eprintln!("weight");
    let agent = session.wait(session::create(&session.control, session.request()));
    let pids: Vec<i32> =
        ["control", "node", "gate"].iter().filter_map(|kind| session.world.pid_of(kind)).collect();
    assert_eq!(pids.len(), 3, "control, node and gate run");
    let memory: f64 = pids.iter().map(|pid| rollup(*pid, "Pss:")).sum();
    rows.add("control + node + one gate, idle (PSS)", "MiB", memory / MIB, None, Target::AtMost(80.0));
    session.wait(session::destroy(&session.control, &agent));
}

/// How long it takes to read a boundary from the kernel, and to try all ways out of it: what `cofferdam verify` does.
pub fn proof(session: &Session, rounds: usize, rows: &mut Rows) {
    eprintln!("evidence");
    let agent = session.wait(session::create(&session.control, session.request()));
    let id = agent.id.to_string();
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..rounds.min(20) {
        let report = session.world.cli(&["verify", &id, "-o", "json"]).json();
        for (took, key) in took.iter_mut().zip(["inspect_us", "probe_us"]) {
            took.push(Duration::from_micros(report[key].as_u64().expect("how long it took")));
        }
    }
    let [inspect, probe] = &took;
    rows.add("inspect one boundary", "ms", median(inspect), None, Target::AtMost(2.0));
    rows.add("probe one boundary", "ms", median(probe), None, Target::AtMost(1000.0));
    session.wait(session::destroy(&session.control, &agent));
}

/// The calls that make a create durable, its token included, and those of a boundary made ahead. Counted with strace,
/// which slows everything down and changes no count.
pub fn durability(session: &Session, rows: &mut Rows) {
    eprintln!("fsyncs");
    // The first starts the gate, and asks for blanks.
    let agent = session.wait(session::create(&session.control, session.request()));
    let pids: Vec<i32> =
        ["control", "node", "gate"].iter().filter_map(|kind| session.world.pid_of(kind)).collect();
    session.ready();
    let log = session.world.dir().join("strace.log");
    let mut command = Command::new("strace");
    command.args(["-f", "-e", "trace=fsync,fdatasync,msync,sync_file_range,syncfs", "-o"]).arg(&log);
    for pid in &pids {
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
    let (second, _) = session.wait(session::open(&session.control, session.request()));
    let after = count();
    // The next one is made once the node has nothing else to do.
    session.ready();
    let blank = count() - after;
    let text = fs::read_to_string(&log).unwrap_or_default();
    text.lines().skip(before).for_each(|line| eprintln!("      {line}"));
    let pid = rustix::process::Pid::from_child(&strace);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("strace runs");
    let _ = strace.wait();
    for agent in [agent, second] {
        session.wait(session::destroy(&session.control, &agent));
    }
    let how = session.blanks.name();
    rows.add(format!("fsyncs of a create, {how}"), "", (after - before) as f64, None, Target::AtMost(2.0));
    if session.blanks == Blanks::Ready {
        rows.add("fsyncs of making a blank", "", blank as f64, None, Target::None);
    }
}
