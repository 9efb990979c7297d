//! Errors of whole operations. Each says what was attempted; the source follows in the chain.

use crate::cgroup::CgroupError;
use crate::image::ImageError;
use crate::network::SteerError;
use crate::oci::RuntimeError;
use crate::systemd::SystemdError;
use crate::volume::VolumeError;
use crate::zygote::ZygoteError;
use model::evidence::Evidence;
use std::io;
use std::path::PathBuf;

/// Why no sandbox could be started on this machine.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Not root.
    #[error("boundaries can only be made by root: run this as root")]
    NotRoot,
    /// A configured name that cannot be used.
    #[error(
        "the cgroup {0:?} must be a name of letters, digits, '-', '_' or '.', or several with '/' between them"
    )]
    CgroupName(String),
    /// A directory could not be made.
    #[error("cannot make the directory {path}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The jail binary could not be read or stored.
    #[error("cannot store the init binary {path}; build it with `cargo xtask build`")]
    Init {
        /// The configured binary.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `PR_SET_CHILD_SUBREAPER` failed.
    #[error("cannot become the parent of orphaned agents (PR_SET_CHILD_SUBREAPER)")]
    Subreaper(#[source] io::Error),
    /// No usable cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// No zygote.
    #[error(transparent)]
    Zygote(#[from] ZygoteError),
}

/// Why a boundary could not be made. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Limits out of bounds.
    #[error(transparent)]
    Resources(#[from] model::resources::ResourcesError),
    /// The agent has a live boundary already.
    #[error("agent {agent} already has a running boundary; adopt it or stop it first")]
    AlreadyRunning {
        /// Which.
        agent: model::AgentId,
    },
    /// No image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// No volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// No limits.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The runtime files could not be made.
    #[error("cannot make the runtime file {path}")]
    Files {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The channel could not be bound.
    #[error("cannot listen on the agent's channel {path}")]
    Channel {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The boundary could not be given its name.
    #[error("cannot set the boundary's host name")]
    HostName(#[source] io::Error),
    /// The init's configuration could not be handed over.
    #[error("cannot hand its configuration to the agent's init")]
    Config(#[source] io::Error),
    /// The zygote could not be asked.
    #[error(transparent)]
    Zygote(#[from] ZygoteError),
    /// The zygote could not make the boundary.
    #[error("the boundary could not be made at step `{step}`: {detail}")]
    Step {
        /// What the zygote was doing.
        step: String,
        /// In its words.
        detail: String,
        /// What the kernel said, if it was the kernel.
        source: Option<io::Error>,
    },
    /// The boundary was made, and lacks something. Nothing of the agent ran in it.
    #[error("its boundary lacks what level {level:?} demands: {}; `cofferdam doctor` says what this machine offers", listed(.lacking))]
    Unproven {
        /// What was demanded.
        level: model::agent::Level,
        /// What was not seen.
        lacking: Vec<Evidence>,
    },
    /// The runtime could not make the boundary.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Nothing could be made to arrive at its gate.
    #[error(transparent)]
    Steer(#[from] SteerError),
    /// Init ended before it could be recorded.
    #[error("the agent's init ended at once")]
    DiedAtOnce(#[source] io::Error),
}

fn listed(lacking: &[Evidence]) -> String {
    let name =
        |control| serde_json::to_value(control).ok().and_then(|name| Some(name.as_str()?.replace('_', " ")));
    let line = |found: &Evidence| format!("{} ({})", name(found.control).unwrap_or_default(), found.detail);
    lacking.iter().map(line).collect::<Vec<_>>().join("; ")
}

impl LaunchError {
    /// Whether a new attempt by itself could succeed: the zygote died under the launch.
    pub fn is_transient(&self) -> bool {
        use SystemdError::{Call, Timeout};
        matches!(
            self,
            // A systemd that executes itself anew forgets what it was just asked.
            Self::Zygote(
                ZygoteError::Died
                    | ZygoteError::Timeout { .. }
                    | ZygoteError::Systemd(Call { .. } | Timeout { .. })
            )
        )
    }
}

/// Why something could not be done to a boundary.
#[derive(Debug, thiserror::Error)]
pub enum BoundaryError {
    /// No v2 hierarchy.
    #[error(
        "this host has no cgroup v2 hierarchy, so an agent cannot be paused; mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"
    )]
    NoFreezer,
    /// Cgroup files could not be used.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// It did not end or freeze in time.
    #[error("agent {agent} did not {what} within {seconds} s")]
    Timeout {
        /// Which.
        agent: model::AgentId,
        /// What it did not do.
        what: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// Its process could not be found out about.
    #[error("cannot {what} agent {agent}")]
    Process {
        /// Which.
        agent: model::AgentId,
        /// What was attempted.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}
