//! What the JSON frames say. The wire types of `model` are mirrored here, because init must stay small.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version that this build speaks best.
pub const VERSION: u32 = 1;

/// The oldest version that this build still speaks (N−1 from the second version on).
pub const VERSION_MIN: u32 = 1;

/// [`ExecInfo::argv`] is cut to about this many bytes, because lists of execs are kept and sent often.
pub const MAX_ARGV_BYTES: usize = 512;

/// The versions that one end speaks. Each end sends its own, and both use what [`Hello::agree`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest.
    pub min: u32,
    /// The newest.
    pub max: u32,
}

impl Hello {
    /// What this build speaks.
    pub const OURS: Self = Self { min: VERSION_MIN, max: VERSION };

    /// The newest version that both speak.
    pub fn agree(self, other: Self) -> Option<u32> {
        let version = self.max.min(other.max);
        (version >= self.min && version >= other.min).then_some(version)
    }
}

/// Whom a process or a file operation runs as, inside the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum User {
    /// uid 1000, no capabilities.
    Agent,
    /// root of the user namespace, with the agent's bounded capabilities.
    Root,
}

/// Size of a terminal, in character cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// A process to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// The caller's name for it: 1 to 64 of `a-z 0-9 _ -`. Refused with `Exists` if it is taken.
    pub id: String,
    /// Program and arguments; the program is looked up in the `PATH` of the resulting environment.
    pub argv: Vec<String>,
    /// Added to the agent's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Absolute; default is the user's home.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Default is the agent's own `run_as`.
    #[serde(default)]
    pub user: Option<User>,
    /// A terminal of this size in place of pipes. Its output is stream 1.
    #[serde(default)]
    pub tty: Option<Size>,
    /// Whether clients may write stdin. Otherwise it is `/dev/null` (with a terminal: nothing is ever typed).
    #[serde(default)]
    pub stdin: bool,
    /// Milliseconds from the start after which everything in its session is killed.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// Bytes of output, both streams together, after which it is killed. What is over the limit is not delivered.
    #[serde(default)]
    pub output_limit: Option<u64>,
    /// Whether this connection is attached to it at once.
    #[serde(default)]
    pub attach: bool,
}

/// What a connection is for. Each variant says what init answers, if not an error.
///
/// Paths are absolute and followed as the user would follow them. `user` defaults to the agent's `run_as`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// [`Reply::Pong`].
    Ping,
    /// [`Reply::Exec`] once the program really runs; with `attach` [`Reply::Attached`] and then as
    /// [`Request::Attach`].
    Exec(Box<ExecRequest>),
    /// [`Reply::Attached`]; [`Event::Lost`] if output is gone that nobody was told of; `Data1` and `Data2` from
    /// the oldest byte that is kept; `End1`, `End2`; [`Event::Exited`], which is the last frame. The client may
    /// send `Data0`, `End0` and [`Control`]. Closing the connection leaves the process alone.
    Attach {
        /// Which exec.
        id: String,
    },
    /// [`Reply::Execs`], as many as needed.
    Execs,
    /// To the exec's whole process group. [`Reply::Done`].
    Signal {
        /// Which exec.
        id: String,
        /// 1 to 31.
        signal: i32,
    },
    /// Drops what is kept of an exec that ended. [`Reply::Done`]; `Invalid` while it lives.
    Forget {
        /// Which exec.
        id: String,
    },
    /// What the main process wrote: [`Reply::Streaming`], `Data1`, `End1`.
    Logs {
        /// Goes on until the main process ends.
        follow: bool,
        /// How many bytes from the end; default is all that is kept.
        #[serde(default)]
        tail: Option<u64>,
    },
    /// [`Reply::File`]. A link is not followed.
    Stat {
        /// Absolute.
        path: String,
        /// As whom.
        #[serde(default)]
        user: Option<User>,
    },
    /// [`Reply::Files`], as many as needed, in no order.
    List {
        /// A directory.
        path: String,
        /// As whom.
        #[serde(default)]
        user: Option<User>,
    },
    /// [`Reply::File`] (of what a link points to), `Data1`, `End1`. Regular files only.
    Read {
        /// A regular file.
        path: String,
        /// First byte.
        #[serde(default)]
        offset: u64,
        /// At most so many bytes; default is to the end.
        #[serde(default)]
        length: Option<u64>,
        /// As whom.
        #[serde(default)]
        user: Option<User>,
    },
    /// The client sends `Data0` and `End0`; then [`Reply::Done`]. The file is replaced in one step at the end;
    /// if the connection closes before `End0`, nothing changed.
    Write {
        /// Its directory must exist.
        path: String,
        /// Permission bits; default is those of the file that is replaced, else 0644.
        #[serde(default)]
        mode: Option<u32>,
        /// As whom.
        #[serde(default)]
        user: Option<User>,
    },
    /// The directory and those above it. [`Reply::Done`], also if it exists.
    Mkdir {
        /// Absolute.
        path: String,
        /// As whom.
        #[serde(default)]
        user: Option<User>,
    },
    /// rename(2). [`Reply::Done`].
    Move {
        /// From.
        path: String,
        /// To; replaced if it exists.
        to: String,
        /// As whom.
        #[serde(default)]
        user: Option<User>,
    },
    /// [`Reply::Done`]. A link is removed, not what it points to.
    Remove {
        /// Absolute.
        path: String,
        /// Also a directory that is not empty.
        #[serde(default)]
        recursive: bool,
        /// As whom.
        #[serde(default)]
        user: Option<User>,
    },
    /// [`Reply::Streaming`], `Data1` (a tar archive whose top entry is the last component of the path), `End1`.
    TarOut {
        /// A file or a directory.
        path: String,
        /// As whom.
        #[serde(default)]
        user: Option<User>,
    },
    /// The client sends `Data0` (a tar archive) and `End0`; then [`Reply::Done`]. Unpacks beneath the path.
    TarIn {
        /// A directory; made if it is missing.
        path: String,
        /// As whom.
        #[serde(default)]
        user: Option<User>,
    },
    /// Connects to the port on the agent's loopback: [`Reply::Streaming`], then `Data0`/`End0` and
    /// `Data1`/`End1`, each direction ending on its own.
    Port {
        /// TCP.
        port: u16,
    },
    /// [`Reply::Processes`], as many as needed.
    Processes,
    /// Ends the agent: SIGTERM to all, SIGKILL after the grace. [`Reply::Done`] at once.
    Terminate {
        /// Milliseconds, at most 600,000.
        grace_ms: u64,
    },
}

/// What init answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Init lives.
    Pong {
        /// Whether the main process runs.
        main: bool,
        /// Execs that run.
        execs: u32,
    },
    /// It was started.
    Exec(ExecInfo),
    /// This connection is attached.
    Attached {
        /// What it is attached to.
        exec: ExecInfo,
        /// Where in stdout and stderr the bytes that follow begin, counted from the start of the process. A client
        /// that attaches again skips what it already has.
        offsets: [u64; 2],
    },
    /// Some of the execs.
    Execs {
        /// Oldest first.
        execs: Vec<ExecInfo>,
        /// Whether another such reply follows.
        more: bool,
    },
    /// The one file.
    File(FileInfo),
    /// Some of a directory's entries.
    Files {
        /// In no order.
        files: Vec<FileInfo>,
        /// Whether another such reply follows.
        more: bool,
    },
    /// Some of the processes.
    Processes {
        /// In the order of /proc.
        processes: Vec<ProcessInfo>,
        /// Whether another such reply follows.
        more: bool,
    },
    /// Data frames follow.
    Streaming,
    /// It was done.
    Done,
}

/// An exec, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecInfo {
    /// The caller's name for it.
    pub id: String,
    /// Program and arguments, cut to [`MAX_ARGV_BYTES`].
    pub argv: Vec<String>,
    /// Inside the agent's pid namespace.
    pub pid: i32,
    /// Whether it has a terminal.
    pub tty: bool,
    /// How it ended, once it did.
    pub exit: Option<Exit>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code, or 128 + the signal that ended it.
    pub code: i32,
    /// Why, if it was not its own doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<ExitCause>,
}

/// What ended a process, if not itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    /// `timeout_ms` ran out.
    Timeout,
    /// It wrote more than `output_limit`.
    OutputLimit,
}

/// What kind of thing a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// A file, as lstat(2) sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// The last component. Bytes that are not UTF-8 are replaced.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits, 0 to 0o7777.
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

/// A process inside the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Inside the agent's pid namespace.
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
    /// Command line, cut to 4096 bytes, or the name in brackets.
    pub command: String,
}

/// From an attached client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// The client's terminal changed. Without a terminal it means nothing and is ignored.
    Resize(Size),
    /// For the process group.
    Signal {
        /// 1 to 31.
        signal: i32,
    },
}

/// To an attached client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Output that nobody was attached for, and that is gone.
    Lost {
        /// How many bytes, both streams together.
        bytes: u64,
    },
    /// The process ended and all its output was sent. The last frame.
    Exited(Exit),
}

/// Why a request was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// No such file or directory.
    NotFound,
    /// The user may not.
    PermissionDenied,
    /// The name is taken.
    Exists,
    /// A component is not a directory.
    NotADirectory,
    /// It is a directory.
    IsADirectory,
    /// The directory holds something.
    NotEmpty,
    /// The request makes no sense as it is.
    Invalid,
    /// A limit is reached: execs, connections, workers, processes, descriptors, memory.
    TooMany,
    /// No room on the volume.
    DiskFull,
    /// The program is not in `PATH`. Shells say 127.
    CommandNotFound,
    /// The program cannot be executed. Shells say 126.
    NotExecutable,
    /// No exec of that id.
    NoSuchExec,
    /// Nothing listens on the port.
    Refused,
    /// Init or the kernel failed in a way that the caller did not cause.
    Internal,
}

/// An error, as init reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ChannelError {
    /// For programs.
    pub kind: ErrorKind,
    /// For people. It may hold text that the agent chose.
    pub message: String,
}

impl ChannelError {
    /// A new one.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}
