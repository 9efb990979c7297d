//! Who makes an agent's boundary.

use serde::{Deserialize, Serialize};

/// Who makes the boundary of a container: Cofferdam itself, or an OCI runtime of the node's. A closed list of names:
/// where a runtime lies is the node's business, and what it is asked to do too.
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
}

impl Driver {
    /// All that there are.
    pub const ALL: [Self; 3] = [Self::Builtin, Self::Runc, Self::Runsc];

    /// Whether the agent's system calls are answered by a kernel that is not the host's.
    pub fn is_kernel(self) -> bool {
        self == Self::Runsc
    }

    /// The name on the wire, in `node.toml`, and of a runtime's program.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Runc => "runc",
            Self::Runsc => "runsc",
        }
    }
}

impl std::fmt::Display for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}
