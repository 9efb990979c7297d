//! Between the channel's types and the workspace API's: the same words twice, because init must stay small.

use ::channel as wire;
use model::agent::RunAs;
use model::workspace::{Exec, ExecExit, ExitCause, FileInfo, FileKind, Process};

/// An exec; `None` if its id is none of ours.
pub fn exec(info: wire::ExecInfo) -> Option<Exec> {
    let wire::ExecInfo { id, argv, pid, tty, exit } = info;
    Some(Exec { id: id.parse().ok()?, argv, pid, tty, exit: exit.map(self::exit) })
}

/// How it ended.
pub fn exit(exit: wire::Exit) -> ExecExit {
    let cause = exit.cause.map(|cause| match cause {
        wire::ExitCause::Timeout => ExitCause::Timeout,
        wire::ExitCause::OutputLimit => ExitCause::OutputLimit,
    });
    ExecExit { code: exit.code, cause }
}

/// A file. Names and targets are what the agent chose; whoever shows them neutralises them.
pub fn file(info: wire::FileInfo) -> Option<FileInfo> {
    let wire::FileInfo { name, kind, size, mode, uid, gid, mtime, target } = info;
    let kind = match kind {
        wire::FileKind::File => FileKind::File,
        wire::FileKind::Directory => FileKind::Directory,
        wire::FileKind::Symlink => FileKind::Symlink,
        wire::FileKind::Other => FileKind::Other,
    };
    Some(FileInfo { name, kind, size, mode: mode & 0o7777, uid, gid, mtime, target })
}

/// A process.
pub fn process(info: wire::ProcessInfo) -> Option<Process> {
    let wire::ProcessInfo { pid, ppid, uid, state, cpu_ms, rss, command } = info;
    Some(Process { pid, ppid, uid, state, cpu_ms, rss, command })
}

/// Who a process runs as.
pub fn user(user: RunAs) -> wire::User {
    match user {
        RunAs::Agent => wire::User::Agent,
        RunAs::Root => wire::User::Root,
    }
}
