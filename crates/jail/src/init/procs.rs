//! The agent's processes, read from its /proc. Runs in workers only: reading a command line may wait for its
//! process.

use super::errors::of_io;
use super::worker::Link;
use channel::{ChannelError, Kind, ProcessInfo, Reply};
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

/// Processes in one reply. A command line has at most [`COMMAND`] bytes, six times that in JSON.
const PAGE: usize = 32;

/// Where a command line is cut.
const COMMAND: u64 = 4096;

/// `USER_HZ`, which is 100 on every architecture that this runs on (time(7)).
const TICK_MS: u64 = 10;

/// [`channel::Request::Processes`].
pub fn list(link: &mut Link) -> Result<(), ChannelError> {
    let entries = fs::read_dir("/proc").map_err(|error| of_io("could not read /proc", &error))?;
    let mut processes = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // Init and this worker are no processes of the agent's; what ended meanwhile is not there.
        if pid == 1 || u32::try_from(pid) == Ok(std::process::id()) {
            continue;
        }
        let Some(process) = process(pid) else { continue };
        if processes.len() == PAGE {
            let full = std::mem::take(&mut processes);
            link.say(Kind::Reply, &Reply::Processes { processes: full, more: true })?;
        }
        processes.push(process);
    }
    link.say(Kind::Reply, &Reply::Processes { processes, more: false })
}

fn process(pid: i32) -> Option<ProcessInfo> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let uid = fs::metadata(format!("/proc/{pid}")).ok()?.uid();
    parse(pid, uid, &stat, &command(pid))
}

fn command(pid: i32) -> Vec<u8> {
    let mut text = Vec::new();
    if let Ok(file) = fs::File::open(format!("/proc/{pid}/cmdline")) {
        let _ = file.take(COMMAND).read_to_end(&mut text);
    }
    text
}

/// `stat` as proc_pid_stat(5) has it: pid, name in brackets, state, ppid; 14 and 15 are the times, 24 is the rss in pages.
fn parse(pid: i32, uid: u32, stat: &[u8], command: &[u8]) -> Option<ProcessInfo> {
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let name = String::from_utf8_lossy(stat.get(open + 1..close)?);
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    // The first of these is field 3.
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let command = String::from_utf8_lossy(command).trim_end_matches('\0').replace('\0', " ");
    Some(ProcessInfo {
        pid,
        ppid: fields.get(1)?.parse().ok()?,
        uid,
        state: (*fields.first()?).to_owned(),
        cpu_ms: number(14)?.saturating_add(number(15)?).saturating_mul(TICK_MS),
        rss: number(24)?.saturating_mul(4096),
        command: if command.is_empty() { format!("[{name}]") } else { command },
    })
}
