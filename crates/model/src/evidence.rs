//! Controls, the evidence for each, and the claim that follows.
//!
//! A claim is a pure function of what was observed; what was configured does not enter it.

use crate::agent::Level;
use serde::{Deserialize, Serialize};

/// One thing that is enforced around a level-2 agent.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// A user namespace of its own, its ids mapped to a range that no other agent has.
    UserNamespace,
    /// A pid namespace of its own.
    PidNamespace,
    /// A mount namespace of its own, owned by the host's user namespace.
    MountNamespace,
    /// A network namespace of its own with no device but `lo`, owned by the host's user namespace.
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
    /// Memory is limited, TCP buffers included.
    MemoryLimit,
    /// Processor time is limited.
    CpuLimit,
    /// The number of processes is limited.
    PidsLimit,
    /// The disk is limited by the size of its volume.
    DiskLimit,
}

impl Control {
    /// All controls of level 2.
    pub const CONTAINER: [Self; 15] = [
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
    ];
}

/// What was seen of one control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Evidence {
    /// Which.
    pub control: Control,
    /// Whether it was seen in force.
    pub observed: bool,
    /// What the kernel said, in one line.
    pub detail: String,
}

/// What may be said of an agent's isolation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub enum Claim {
    /// Nothing was proved.
    #[serde(rename = "none")]
    None,
    /// Every control of level 2 was observed.
    #[serde(rename = "sandboxed (container)")]
    Container,
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Container => "sandboxed (container)",
        })
    }
}

/// The claim that the evidence allows. A control without evidence counts as missing, and contradicting
/// evidence counts against it.
pub fn claim(level: Level, evidence: &[Evidence]) -> Claim {
    let seen = |control: Control| {
        let mut of_it = evidence.iter().filter(|found| found.control == control).peekable();
        of_it.peek().is_some() && of_it.all(|found| found.observed)
    };
    match level {
        Level::Container if Control::CONTAINER.into_iter().all(seen) => Claim::Container,
        Level::Container => Claim::None,
    }
}
