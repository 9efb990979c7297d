//! Who makes an agent's boundary.

use crate::agent::Level;
use serde::{Deserialize, Serialize};

/// Who makes the boundary of an agent: Cofferdam itself, or for a container an OCI runtime of the node's, or for an OS user
/// systemd. A closed list of names: where a runtime lies is the node's business, and what it is asked to do too.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// Cofferdam itself.
    #[default]
    Builtin,
    /// runc, or what is installed under its name.
    Runc,
    /// gVisor: a kernel of its own answers the agent's system calls.
    Runsc,
    /// systemd, where it runs the machine.
    Systemd,
}

impl Driver {
    /// All that there are.
    pub const ALL: [Self; 4] = [Self::Builtin, Self::Runc, Self::Runsc, Self::Systemd];

    /// Whether the agent's system calls are answered by a kernel that is not the host's.
    pub fn is_kernel(self) -> bool {
        self == Self::Runsc
    }

    /// Whether it can make boundaries of a level.
    pub fn makes(self, level: Level) -> bool {
        match self {
            Self::Builtin => true,
            Self::Runc | Self::Runsc => level == Level::Container,
            Self::Systemd => level == Level::Process,
        }
    }

    /// The name on the wire, in `node.toml`, and of a runtime's program.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Runc => "runc",
            Self::Runsc => "runsc",
            Self::Systemd => "systemd",
        }
    }
}

impl std::fmt::Display for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}
