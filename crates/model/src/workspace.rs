//! The workspace API, which the guard serves at `/v1/agents/ID/…`: execs, files, logs, ports.
//!
//! Attach and port relays are WebSockets with the subprotocols `cofferdam.v1, bearer.JWT`. On them a binary
//! message is one byte of [`Stream`] and then data; a text message is a [`FromClient`] or [`FromAgent`] as JSON.
//! An empty binary message for a stream is its end.

use crate::agent::{Command, RunAs};
use crate::id::ExecId;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The first byte of a binary WebSocket message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stream {
    /// To the process; also both directions of a port relay.
    Stdin = 0,
    /// From the process; all output of a terminal.
    Stdout = 1,
    /// From the process.
    Stderr = 2,
}

impl Stream {
    /// Reads the first byte of a message.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Stdin, Self::Stdout, Self::Stderr].into_iter().find(|stream| *stream as u8 == byte)
    }
}

/// Size of a terminal, in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// `POST execs`: starts a process. The answer is an [`Exec`].
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateExec {
    /// Program and arguments; the program is looked up in `PATH` inside the agent.
    pub argv: Vec<String>,
    /// Added to the agent's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Absolute; default is the home directory.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Default is the agent's own.
    #[serde(default)]
    pub user: Option<RunAs>,
    /// Gives it a terminal of this size in place of pipes.
    #[serde(default)]
    pub tty: Option<TerminalSize>,
    /// Keeps stdin open for an attached client; otherwise it is empty.
    #[serde(default)]
    pub stdin: bool,
    /// Milliseconds after which it is killed.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Bytes of output, both streams together, after which it is killed.
    #[serde(default)]
    pub output_limit: Option<u64>,
}

impl CreateExec {
    /// The same without terminal, stdin and limits.
    pub fn command(command: Command) -> Self {
        let Command { argv, env, cwd, user } = command;
        Self { argv, env, cwd, user, tty: None, stdin: false, timeout_ms: None, output_limit: None }
    }
}

/// An exec, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Exec {
    /// Its id.
    pub id: ExecId,
    /// Program and arguments, as asked for.
    pub argv: Vec<String>,
    /// Its pid inside the agent.
    pub pid: i32,
    /// Whether it has a terminal.
    pub tty: bool,
    /// How it ended, once it did.
    pub exit: Option<ExecExit>,
}

/// How an exec ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExecExit {
    /// Its exit code, or 128 + the signal that ended it, as shells say it.
    pub code: i32,
    /// Why, if it was not its own doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<ExitCause>,
}

/// What ended an exec, if not itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    /// Its `timeout_ms` ran out.
    Timeout,
    /// It wrote more than `output_limit`.
    OutputLimit,
}

/// `POST execs?wait=TIME`: an exec that was waited for, and what it wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExecOutput {
    /// The exec. Without an exit when the time was over first: it goes on, and can be attached to.
    #[serde(flatten)]
    pub exec: Exec,
    /// Its output; all of it when it has a terminal.
    pub stdout: Captured,
    /// Its error output.
    pub stderr: Captured,
}

/// Bytes in JSON: a string when they are UTF-8 with few control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum Captured {
    /// As they are.
    Text(String),
    /// Anything else.
    Bytes {
        /// In base64, with padding (RFC 4648, section 4).
        base64: String,
    },
}

impl From<Vec<u8>> for Captured {
    fn from(bytes: Vec<u8>) -> Self {
        // Most control characters take six bytes in JSON.
        let escaped = bytes.iter().filter(|byte| **byte < 0x20 && !b"\n\r\t".contains(byte)).count();
        if escaped > bytes.len() / 8 {
            return Self::Bytes { base64: STANDARD.encode(bytes) };
        }
        String::from_utf8(bytes)
            .map_or_else(|error| Self::Bytes { base64: STANDARD.encode(error.as_bytes()) }, Self::Text)
    }
}

impl Captured {
    /// The bytes; `None` when that is no base64.
    pub fn into_bytes(self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.into_bytes()),
            Self::Bytes { base64 } => STANDARD.decode(base64).ok(),
        }
    }
}

/// `POST execs/X/signal`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendSignal {
    /// The signal's number, 1 to 31. It goes to the exec's whole process group.
    pub signal: i32,
}

/// Text messages from the client of an attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromClient {
    /// The client's terminal changed.
    Resize {
        /// Lines.
        rows: u16,
        /// Columns.
        cols: u16,
    },
    /// A signal for the process group.
    Signal {
        /// The signal's number.
        signal: i32,
    },
}

/// Text messages to the client of an attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromAgent {
    /// Output that nobody was attached for, and that is gone.
    Lost {
        /// How many bytes.
        bytes: u64,
    },
    /// The last message: the process ended, and all its output was sent.
    Exited(ExecExit),
}

/// What kind of thing a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

/// `GET files?path=P&view=stat`, and each entry of `view=list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FileInfo {
    /// The last component. Bytes that are not UTF-8 are replaced.
    pub name: String,
    /// What it is; a symbolic link is not followed.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner inside the agent.
    pub uid: u32,
    /// Group inside the agent.
    pub gid: u32,
    /// Last change of content, seconds since 1970.
    pub mtime: i64,
    /// Where a symbolic link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// `POST files?path=P`: changes that are not content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum FileOp {
    /// Makes the directory, and those above it.
    Mkdir,
    /// Renames it.
    Move {
        /// The new path.
        to: String,
    },
}

/// `GET processes`: one process inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Process {
    /// Inside the agent.
    pub pid: i32,
    /// Parent.
    pub ppid: i32,
    /// Owner.
    pub uid: u32,
    /// One letter, as ps(1) shows it.
    pub state: String,
    /// Processor time in milliseconds.
    pub cpu_ms: u64,
    /// Resident memory in bytes.
    pub rss: u64,
    /// Command line, or the name in brackets.
    pub command: String,
}

/// `GET stats`: what the agent uses, read from its cgroups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Stats {
    /// Processor time since the start, in microseconds.
    pub cpu_usec: u64,
    /// Memory in use, in bytes.
    pub memory: u64,
    /// Its limit, in bytes.
    pub memory_limit: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Their limit.
    pub pids_limit: u64,
    /// Bytes used on the volume.
    pub disk: u64,
    /// Its size, in bytes.
    pub disk_limit: u64,
    /// Processes that the kernel ended for want of memory since the start.
    #[serde(default)]
    pub oom_kills: u64,
}
