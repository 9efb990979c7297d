//! What node and zygote say to each other, and what init is given and leaves behind.
//!
//! Node and zygote share a `SOCK_SEQPACKET` socket pair (descriptor 3 of the zygote): one message is one JSON
//! document with the descriptors that belong to it ([`crate::wire`] sends and receives both). Init reads its
//! [`InitConfig`] from a pipe and writes one [`ExitRecord`] before it ends.
//!
//! Nothing here is a path of the host: what the zygote works on arrives as descriptors.

use crate::laps::Lap;
use crate::layout::{AGENT_ID, HOME};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// From node to the zygote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Keeps an image at hand. Comes with one descriptor: its detached mount (from `fsmount`), not idmapped.
    /// Adding it twice is fine. Answered by [`Reply::ImageAdded`] or [`Reply::ImageFailed`].
    AddImage {
        /// 64 lowercase hex digits.
        digest: String,
    },
    /// Lets go of an image; running agents keep theirs. Not answered.
    RemoveImage {
        /// 64 lowercase hex digits.
        digest: String,
    },
    /// Makes what every boundary has: a process in its cgroups, its namespaces, its ids, its network. It waits for its
    /// [`Launch`] as long as the zygote lives. Comes with the descriptors of [`PrepareFds`], in that order. Answered by
    /// [`Reply::Prepared`] or [`Reply::Failed`], in the order in which they get there.
    Prepare(Box<Prepare>),
    /// Makes a prepared one whole, and starts its init. Comes with one descriptor, the detached mount of the volume's
    /// ext4: writable, not idmapped. Its source is visible inside in `/proc/self/mountinfo`: mount it by
    /// `/proc/self/fd/N`, which tells nothing. Answered by [`Reply::Launched`] or [`Reply::Failed`].
    Launch(Box<Launch>),
}

/// A boundary to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepare {
    /// Comes back in replies; [`Launch`] names it.
    pub request: u64,
    /// First id of the agent's range of [`crate::layout::ID_COUNT`], for uids and gids alike. Never below that count.
    pub base_uid: u32,
    /// What cgroups do not bound.
    pub limits: Limits,
    /// Stays in the host's network namespace: for [`Root::System`] with a rail, which is no boundary.
    #[serde(default)]
    pub host_network: bool,
}

/// What a prepared boundary still needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// That of its [`Prepare`].
    pub request: u64,
    /// What the agent sees around its home.
    pub root: Root,
    /// Whose the home is when it is made.
    #[serde(default)]
    pub owner: Identity,
    /// Begins in the AppArmor profile ([`crate::apparmor`]), which is loaded.
    #[serde(default)]
    pub apparmor: bool,
    /// Size of the tmpfs on `/tmp`. Its pages are charged to the agent's memory.
    pub tmp_bytes: u64,
    /// Size of the tmpfs on `/dev/shm`, charged likewise.
    pub shm_bytes: u64,
}

/// What an agent sees around its home, and with it who it is outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Root {
    /// An image, in a user namespace of its own.
    Image {
        /// One that was added before.
        digest: String,
        /// Whether the scratch layer over the image survives from the last start. The home always does.
        keep_scratch: bool,
    },
    /// The machine's own system, read-only, as an OS user of the leased range without any capability.
    System {
        /// Landlock lets it write to places of its own alone.
        rail: bool,
    },
}

/// Limits of one agent that are no cgroup's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Open files of one process (`RLIMIT_NOFILE`, hard); lowered to what the zygote itself may have.
    pub open_files: u64,
    /// Queued signals of the whole agent (`RLIMIT_SIGPENDING`; the user namespace bounds the sum).
    pub pending_signals: u64,
    /// Locked memory in bytes of the whole agent (`RLIMIT_MEMLOCK`; likewise).
    pub locked_memory: u64,
    /// Inotify instances of the whole agent.
    pub inotify_instances: u32,
    /// Inotify watches of the whole agent.
    pub inotify_watches: u32,
    /// Pseudo terminals.
    pub terminals: u32,
    /// Namespaces of each kind that may be made inside: none, but by a runtime that is a kernel.
    #[serde(default)]
    pub namespaces: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            open_files: 65_536,
            pending_signals: 4_096,
            locked_memory: 8 << 20,
            inotify_instances: 128,
            inotify_watches: 65_536,
            terminals: 64,
            namespaces: 0,
        }
    }
}

/// The descriptors of [`Request::Prepare`], in the order in which they are sent.
#[derive(Debug)]
pub struct PrepareFds<F> {
    /// The init binary, `O_RDONLY` or `O_PATH`: static, executable and readable for others (mode 0755), on a mount
    /// that may be executed from. Were it unreadable, `/proc/PID` of init's children would be the host root's, and init
    /// could not adjust them.
    pub init: F,
    /// The channel: a unix stream socket, bound and listening.
    pub channel: F,
    /// Where init leaves its [`ExitRecord`]; opened for reading and writing.
    pub exit_record: F,
    /// Where init reads its [`InitConfig`], as JSON up to the end of file: a pipe whose other end is node's alone. Init
    /// does nothing before that; at an end without a configuration it ends.
    pub config: F,
    /// What leads into all the cgroups that the agent belongs in: files, opened for writing, that take a `0` of whoever joins,
    /// and of v2 a directory to be cloned into, or else its file.
    pub cgroups: Vec<F>,
}

/// The kernel's own limit for one message (`SCM_MAX_FD` is 253) leaves room for many hierarchies; no host has more.
pub const PREPARE_FDS_MAX: usize = 4 + 16;

impl<F> PrepareFds<F> {
    /// In the order of the wire.
    pub fn into_vec(self) -> Vec<F> {
        let mut fds = vec![self.init, self.channel, self.exit_record, self.config];
        fds.extend(self.cgroups);
        fds
    }

    /// From the order of the wire; `None` when some are missing.
    pub fn from_vec(fds: Vec<F>) -> Option<Self> {
        let mut fds = fds.into_iter();
        let (init, channel, exit_record, config) = (fds.next()?, fds.next()?, fds.next()?, fds.next()?);
        let cgroups: Vec<F> = fds.collect();
        // A process that joins none is in the zygote's.
        (!cgroups.is_empty()).then_some(Self { init, channel, exit_record, config, cgroups })
    }
}

/// From the zygote to node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Reply {
    /// Sent once, unasked: the zygote is set up.
    Ready {
        /// The ABI of the kernel's Landlock that boundaries will be under; 0 = this kernel has none.
        landlock_abi: u32,
    },
    /// The image can be launched from.
    ImageAdded {
        /// Which.
        digest: String,
    },
    /// The image could not be attached.
    ImageFailed {
        /// Which.
        digest: String,
        /// What was attempted.
        step: String,
        /// `errno`.
        errno: i32,
    },
    /// A boundary is begun, and its process waits. Comes with one descriptor: its pidfd.
    Prepared {
        /// Which.
        request: u64,
        /// Its pid as the zygote's pid namespace counts. It is a child of the zygote's parent, which reaps it.
        pid: i32,
        /// How long each step took.
        laps: Vec<Lap>,
    },
    /// Init runs in its place, behind a boundary that is whole.
    Launched {
        /// Which.
        request: u64,
        /// The ABI of Landlock that is in force around it; 0 = none.
        landlock_abi: u32,
        /// How long each step took.
        laps: Vec<Lap>,
    },
    /// There is no boundary.
    Failed {
        /// Which.
        request: u64,
        /// What was attempted, as a phrase: `mounting the overlay`.
        step: String,
        /// `errno`, 0 where none fits.
        errno: i32,
        /// What the kernel or the zygote said on top of it; may be empty.
        detail: String,
        /// The process that failed, where there was one. It has ended or is about to, and must be reaped like any
        /// other; its pidfd comes with the message.
        pid: Option<i32>,
    },
}

/// What init needs to know; node writes it, nobody inside can change it. It may hold secrets, which `Debug` does not show.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitConfig {
    /// Host name, already set; for `HOSTNAME` and `/etc`.
    pub hostname: String,
    /// Environment of every process, beneath its own.
    pub env: BTreeMap<String, String>,
    /// Who processes are that do not say.
    pub run_as: User,
    /// Who [`User::Agent`] is.
    #[serde(default)]
    pub agent: Agent,
    /// Where processes start that do not say; the home without it.
    #[serde(default)]
    pub cwd: Option<String>,
    /// The main process. Without one, init lives until it is told to end.
    pub main: Option<ExecSpec>,
    /// What calls for files are held to; without it nothing but the user's rights.
    #[serde(default)]
    pub files: Option<FileRules>,
    /// What the files in [`crate::layout::SECRETS`] hold, by their names. Nothing of the agent runs before they are there.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    /// The certificate (PEM) of an authority that the agent is to trust besides those that its system trusts.
    #[serde(default)]
    pub authority: Option<String>,
    /// Certificates (PEM) to trust with it where the agent's system has none.
    #[serde(default)]
    pub roots: Option<String>,
}

impl fmt::Debug for InitConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InitConfig").field("hostname", &self.hostname).finish_non_exhaustive()
    }
}

/// Guardrails of calls for files and trees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRules {
    /// Paths lead beneath this directory alone, whatever links there are.
    pub root: String,
    /// So many bytes go either way in one call at most.
    pub bytes: u64,
    /// One call takes no longer than this.
    pub seconds: u32,
}

impl Default for FileRules {
    fn default() -> Self {
        Self { root: HOME.to_owned(), bytes: 64 << 20, seconds: 60 }
    }
}

/// A user inside the boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum User {
    /// [`InitConfig::agent`], without any capability.
    #[default]
    Agent,
    /// root of the user namespace with the bounded capabilities; nobody outside.
    Root,
}

/// Ids inside the boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// User id, below [`crate::layout::ID_COUNT`]; for an agent without a user namespace, in its range.
    pub uid: u32,
    /// Group id, likewise.
    pub gid: u32,
}

impl Identity {
    /// root of the user namespace.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
}

impl Default for Identity {
    fn default() -> Self {
        Self { uid: AGENT_ID, gid: AGENT_ID }
    }
}

/// The one user besides root that processes can be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// For `USER` and `LOGNAME`.
    pub name: String,
    /// Its ids; its uid is not 0.
    pub ids: Identity,
}

impl Default for Agent {
    fn default() -> Self {
        Self { name: "agent".to_owned(), ids: Identity::default() }
    }
}

impl InitConfig {
    /// The ids of a user.
    pub fn ids(&self, user: User) -> Identity {
        match user {
            User::Agent => self.agent.ids,
            User::Root => Identity::ROOT,
        }
    }
}

/// A process to start inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecSpec {
    /// Program (looked up in `PATH`) and arguments.
    pub argv: Vec<String>,
    /// Added to [`InitConfig::env`].
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Absolute; [`InitConfig::cwd`] without it.
    #[serde(default)]
    pub cwd: Option<String>,
    /// [`InitConfig::run_as`] without it.
    #[serde(default)]
    pub user: Option<User>,
}

/// The last thing that init says: one line of JSON in a file of [`EXIT_RECORD_MAX`] bytes that node reads. It comes from
/// inside: a reader believes nothing but what it says of the agent itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExitRecord {
    /// Why the agent ended.
    pub reason: Ended,
}

impl ExitRecord {
    /// Reads the file's content. What follows the line is not part of it.
    pub fn read(content: &[u8]) -> Option<Self> {
        let line = content.split(|&byte| byte == b'\n').next()?;
        serde_json::from_slice(line).ok()
    }
}

/// Longest exit record in bytes.
pub const EXIT_RECORD_MAX: usize = 4096;

/// Why an agent ended, as its init saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Ended {
    /// The main process returned.
    Exited {
        /// Its exit code.
        code: i32,
    },
    /// The main process died of a signal.
    Signaled {
        /// The signal's number.
        signal: i32,
    },
    /// It was told to end.
    Requested,
    /// The main process could not be started.
    NotStarted {
        /// Why, in words.
        detail: String,
    },
    /// Init itself cannot go on.
    InitFailed {
        /// Why, in words.
        detail: String,
    },
}
