//! Controls, the evidence for each, and the claim that follows.
//!
//! A claim is a pure function of what was observed; what was configured does not enter it.

use crate::agent::Level;
use crate::probe::{Outcome, Tried, attempt};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// One thing that is enforced around an agent.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// Below level 2: the OS user that it runs as, which is neither root nor a user of the platform's.
    OsUser,
    /// A user namespace of its own, its ids mapped to a range that no other agent has.
    UserNamespace,
    /// A pid namespace of its own.
    PidNamespace,
    /// A mount namespace of its own, owned by the host's user namespace.
    MountNamespace,
    /// A network namespace of its own with no device but `lo`, owned by the host's user namespace; all that is sent in it
    /// arrives at the gate, or nowhere.
    NetworkNamespace,
    /// An ipc namespace of its own.
    IpcNamespace,
    /// A uts namespace of its own.
    UtsNamespace,
    /// A cgroup namespace of its own.
    CgroupNamespace,
    /// `no_new_privs` is set.
    NoNewPrivs,
    /// A seccomp filter is loaded.
    Seccomp,
    /// The bounding set holds nothing but what the level allows.
    Capabilities,
    /// The root is an overlay over a read-only image; no mount of the host is visible.
    RootFilesystem,
    /// Below level 2: the machine's system is read-only, and other people's files are not in sight.
    ReadOnlySystem,
    /// `/tmp` is its own.
    PrivateTmp,
    /// Memory is limited, TCP buffers included.
    MemoryLimit,
    /// Processor time is limited.
    CpuLimit,
    /// The number of processes is limited.
    PidsLimit,
    /// The disk is limited by the size of its volume.
    DiskLimit,
    /// A Landlock domain around all that the agent runs.
    Landlock,
    /// The AppArmor profile of containers around all that the agent runs.
    #[serde(rename = "apparmor")]
    AppArmor,
    /// Nothing of `/proc` and `/sys` that is the host's can be read or written.
    KernelInterfaces,
    /// No device nodes but harmless ones, and no way to make or use others.
    Devices,
    /// Init is out of reach of the processes that it serves.
    InitProtection,
    /// A kernel that is not the host's answers the agent's system calls. Of no level: what a driver brings besides.
    KernelBoundary,
}

impl Control {
    /// All controls of level 2.
    pub const CONTAINER: [Self; 20] = [
        Self::UserNamespace,
        Self::PidNamespace,
        Self::MountNamespace,
        Self::NetworkNamespace,
        Self::IpcNamespace,
        Self::UtsNamespace,
        Self::CgroupNamespace,
        Self::NoNewPrivs,
        Self::Seccomp,
        Self::Capabilities,
        Self::RootFilesystem,
        Self::MemoryLimit,
        Self::CpuLimit,
        Self::PidsLimit,
        Self::DiskLimit,
        Self::Landlock,
        Self::AppArmor,
        Self::KernelInterfaces,
        Self::Devices,
        Self::InitProtection,
    ];

    /// All controls of level 1.
    pub const PROCESS: [Self; 20] = [
        Self::OsUser,
        Self::PidNamespace,
        Self::MountNamespace,
        Self::NetworkNamespace,
        Self::IpcNamespace,
        Self::UtsNamespace,
        Self::CgroupNamespace,
        Self::NoNewPrivs,
        Self::Seccomp,
        Self::Capabilities,
        Self::ReadOnlySystem,
        Self::PrivateTmp,
        Self::MemoryLimit,
        Self::CpuLimit,
        Self::PidsLimit,
        Self::DiskLimit,
        Self::Landlock,
        Self::KernelInterfaces,
        Self::Devices,
        Self::InitProtection,
    ];

    /// All controls of level 0: guardrails, and no boundary.
    pub const WORKSPACE: [Self; 9] = [
        Self::OsUser,
        Self::NoNewPrivs,
        Self::Capabilities,
        Self::ReadOnlySystem,
        Self::MemoryLimit,
        Self::CpuLimit,
        Self::PidsLimit,
        Self::DiskLimit,
        Self::Landlock,
    ];

    /// All controls of a level: the closed list that a claim needs evidence for.
    pub fn of(level: Level) -> &'static [Self] {
        match level {
            Level::Workspace => &Self::WORKSPACE,
            Level::Process => &Self::PROCESS,
            Level::Container => &Self::CONTAINER,
        }
    }

    /// What init puts in force around itself, and the probe around itself in its likeness: for an init of another make,
    /// attempts against these prove nothing.
    pub const BY_INIT: [Self; 4] = [Self::NoNewPrivs, Self::Seccomp, Self::Capabilities, Self::Landlock];

    /// Whether a claim may be made where the machine does not have it: what comes on top of other controls.
    pub fn is_optional(self) -> bool {
        matches!(self, Self::Landlock | Self::AppArmor)
    }

    /// What is demanded of it, in a sentence. The API shows it, and `docs/threat-model.md` lists it.
    pub fn expected(self, level: Level) -> &'static str {
        match self {
            Self::UserNamespace => {
                "A user namespace of its own, made under its own first uid, whose 65,536 ids are a range that no other agent has."
            }
            Self::PidNamespace => "A pid namespace that is nobody else's and belongs to the host.",
            Self::MountNamespace => "A mount namespace that is nobody else's and belongs to the host.",
            Self::NetworkNamespace => {
                "A network namespace that is nobody else's and belongs to the host, with no device but lo, and with no routes and packet rules but those that lead to its gate."
            }
            Self::IpcNamespace => "An ipc namespace that is nobody else's and belongs to the host.",
            Self::UtsNamespace => "A uts namespace that is nobody else's and belongs to the host.",
            Self::CgroupNamespace => "A cgroup namespace that is nobody else's and belongs to the host.",
            Self::NoNewPrivs => "no_new_privs is set: no program gives a privilege.",
            Self::Seccomp => "A seccomp filter is loaded, which refuses every call that it does not list.",
            Self::Capabilities if !level.has_image() => "No capability is permitted, and none can be had.",
            Self::Capabilities => {
                "The bounding set holds no capability but those that are harmless in a user namespace, and init's own."
            }
            Self::RootFilesystem => {
                "The root is a writable overlay over its read-only image; no mount of the host is visible."
            }
            Self::MemoryLimit => "Its memory is limited by its cgroup, socket buffers included.",
            Self::CpuLimit => "Its processor time is limited by its cgroup.",
            Self::PidsLimit => "The number of its processes is limited by its cgroup.",
            Self::DiskLimit => "All that it writes goes to a volume of its own, whose size is the limit.",
            Self::Landlock => {
                "A Landlock domain was put in force before init was started, where the kernel has Landlock."
            }
            Self::AppArmor => {
                "Init is in the AppArmor profile cofferdam-agent, which is enforced, where this machine can load it."
            }
            Self::KernelInterfaces => {
                "/proc/sys and /sys are read-only, names in /proc that are the machine's are covered, and no file system of the kernel's is mounted that reaches the host."
            }
            Self::Devices => "/dev is read-only with six harmless nodes; devices work nowhere else.",
            Self::OsUser if level == Level::Workspace => {
                "The OS user of the account's workspaces: its ids are neither root's nor the platform's."
            }
            Self::OsUser => {
                "An OS user of its own: its ids are nobody else's, and neither root's nor the platform's."
            }
            Self::ReadOnlySystem => {
                "Nothing of the machine's system can be written to, and what is the platform's is covered."
            }
            Self::PrivateTmp => "/tmp and /var/tmp are its own.",
            Self::KernelBoundary => {
                "Its system calls are answered by a kernel of its own, and nothing of it is a process that could ask the host's."
            }
            Self::InitProtection if !level.has_image() => {
                "Init has a saved group that no process of the agent has, so that none can trace, read or limit it."
            }
            Self::InitProtection => {
                "Init has a capability that no process of the agent has, so that none can trace, read or limit it."
            }
        }
    }
}

/// What is known of a control.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is not in force, or nobody could tell.
    Missing,
    /// This kernel does not have it, or this machine cannot use it.
    Unsupported,
    /// The kernel was seen to enforce it.
    Observed,
    /// The same, and all that was tried against it from inside was stopped.
    Probed,
}

impl State {
    /// Whether the control is in force.
    pub fn holds(self) -> bool {
        matches!(self, Self::Observed | Self::Probed)
    }
}

/// What was seen of one control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Evidence {
    /// Which.
    pub control: Control,
    /// Whether it is in force, and how that is known.
    #[serde(alias = "observed", deserialize_with = "state")]
    pub state: State,
    /// What the kernel said, in one line.
    pub detail: String,
}

/// Reads a state. What was stored before there were states is whether a control was observed.
fn state<'de, D: serde::Deserializer<'de>>(from: D) -> Result<State, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Known {
        Observed(bool),
        State(State),
    }
    Ok(match Known::deserialize(from)? {
        Known::Observed(true) => State::Observed,
        Known::Observed(false) => State::Missing,
        Known::State(state) => state,
    })
}

/// What may be said of an agent's isolation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub enum Claim {
    /// Nothing was proved.
    #[serde(rename = "none")]
    None,
    /// Every control of level 0 was observed.
    #[serde(rename = "isolated workspace (no boundary)")]
    Workspace,
    /// Every control of level 1 was observed.
    #[serde(rename = "isolated workspace with guardrails (OS user)")]
    Process,
    /// Every control of level 2 was observed.
    #[serde(rename = "sandboxed (container)")]
    Container,
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Workspace => "isolated workspace (no boundary)",
            Self::Process => "isolated workspace with guardrails (OS user)",
            Self::Container => "sandboxed (container)",
        })
    }
}

/// Each control that the level demands and the evidence does not show, with why. A control without evidence counts as
/// missing, and contradicting evidence counts against it.
pub fn missing(level: Level, evidence: &[Evidence]) -> Vec<Evidence> {
    let kernel = |found: &Evidence| found.control == Control::KernelBoundary && found.state.holds();
    let own_kernel = evidence.iter().any(kernel);
    let lacks = |control: Control| {
        // Under a kernel of its own, what its root does to its init reaches nobody else.
        let optional = control.is_optional() || own_kernel && control == Control::InitProtection;
        let holds = |state: State| state.holds() || state == State::Unsupported && optional;
        let mut of_it = evidence.iter().filter(|found| found.control == control).peekable();
        if of_it.peek().is_none() {
            let detail = "nothing was observed of it".to_owned();
            return Some(Evidence { control, state: State::Missing, detail });
        }
        of_it.find(|found| !holds(found.state)).cloned()
    };
    // What stands in for another is demanded in its place.
    let is_excused = |found: &Evidence| {
        found.control == Control::InitProtection && found.state == State::Unsupported && level.has_image()
    };
    let besides = evidence.iter().any(is_excused).then_some(Control::KernelBoundary);
    Control::of(level).iter().copied().chain(besides).filter_map(lacks).collect()
}

/// The claim that the evidence allows.
pub fn claim(level: Level, evidence: &[Evidence]) -> Claim {
    if !missing(level, evidence).is_empty() {
        return Claim::None;
    }
    match level {
        Level::Workspace => Claim::Workspace,
        Level::Process => Claim::Process,
        Level::Container => Claim::Container,
    }
}

/// A control that came into force or went out of it while its agent ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// Which.
    pub control: Control,
    /// What was known of it.
    pub before: State,
    /// What is known of it now.
    pub after: State,
    /// What the kernel says now.
    pub detail: String,
}

/// What differs in a way that a claim could differ by. That a probe adds to what was observed is no drift, and neither is
/// a control that was not looked at before, as long as it holds.
pub fn drift(before: &[Evidence], after: &[Evidence]) -> Vec<Drift> {
    let find = |list: &[Evidence], control| list.iter().find(|found| found.control == control).cloned();
    let gone = |found: &Evidence| {
        let detail = "nothing was observed of it".to_owned();
        Evidence { control: found.control, state: State::Missing, detail }
    };
    let lost = before.iter().filter(|found| find(after, found.control).is_none()).map(gone);
    let now = after.iter().cloned().chain(lost);
    now.filter_map(|Evidence { control, state, detail }| {
        let known = find(before, control).map(|found| found.state);
        let known = known.unwrap_or(if state == State::Missing { State::Unsupported } else { state });
        let same = known == state || known.holds() && state.holds();
        (!same).then_some(Drift { control, before: known, after: state, detail })
    })
    .collect()
}

/// When evidence was taken, and by what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    /// When the boundary was last looked at, by its machine's clock.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: OffsetDateTime,
    /// The kernel's release.
    pub kernel: String,
    /// The version of the node that looked.
    pub version: String,
    /// SHA-256 of the program that runs as the agent's init.
    pub init: String,
}

/// What was observed, with what a probe adds: a control that an attempt got past is missing, and one that stopped all
/// that was tried is probed. What was missing before stays so, and so does what nothing could really be tried against.
/// What is `unlike` the agent's own in a probe by a newer program is not probed by it.
pub fn with_probe(observed: Vec<Evidence>, tried: &[Tried], unlike: &[Control]) -> Vec<Evidence> {
    let add = |found: Evidence| {
        let of_it =
            |tried: &&Tried| attempt(&tried.id).is_some_and(|attempt| attempt.control == found.control);
        let count = |outcome| tried.iter().filter(of_it).filter(|tried| tried.outcome == outcome).count();
        if let Some(broken) = tried.iter().filter(of_it).find(|tried| tried.outcome == Outcome::Broken) {
            let detail = format!("{} got through: {}", broken.id, broken.detail);
            return Evidence { state: State::Missing, detail, ..found };
        }
        match (found.state, count(Outcome::Held), count(Outcome::Unclear)) {
            (State::Observed, 1.., 0) if unlike.contains(&found.control) => {
                let detail = format!("{}; runs an older init: restart it to have this probed", found.detail);
                Evidence { detail, ..found }
            }
            (State::Observed, held @ 1.., 0) => {
                let detail = format!("{}; {held} attempts were stopped", found.detail);
                Evidence { state: State::Probed, detail, ..found }
            }
            _ => found,
        }
    };
    observed.into_iter().map(add).collect()
}
