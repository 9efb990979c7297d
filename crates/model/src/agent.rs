//! The agent's states and the only moves between them.
//!
//! `provisioning → running ⇄ paused`, `running|paused → stopping → stopped → starting → running`,
//! any → `destroying → destroyed`, and `failed`. Both control and node use these functions; neither
//! writes a state of its own making.

use crate::id::{AgentId, ImageId, VolumeId};
use crate::image::ImageConfig;
use crate::name::Name;
use crate::policy::{Egress, Policy, Preset, Unknown};
use crate::quantity::Span;
use crate::resources::Resources;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where an agent is in its life, as control tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// Wanted, and not yet seen running.
    Provisioning,
    /// Its init answers.
    Running,
    /// Frozen: nothing of it runs.
    Paused,
    /// Being ended, its volume is kept.
    Stopping,
    /// Ended, its volume is kept.
    Stopped,
    /// Being started again on its volume.
    Starting,
    /// Being removed with its volume.
    Destroying,
    /// Gone. Its ledger stays.
    Destroyed,
    /// Its boundary could not be made, or was lost. The reason says why; `start` tries again.
    Failed,
}

impl AgentState {
    /// All states, in the order of a life.
    pub const ALL: [Self; 9] = [
        Self::Provisioning,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Stopped,
        Self::Starting,
        Self::Destroying,
        Self::Destroyed,
        Self::Failed,
    ];

    /// The name on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Destroying => "destroying",
            Self::Destroyed => "destroyed",
            Self::Failed => "failed",
        }
    }

    /// Whether the agent rests here until somebody asks for a change.
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Stopped | Self::Destroyed | Self::Failed)
    }
}

impl std::fmt::Display for AgentState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for AgentState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(UnknownState)
    }
}

/// A text that names no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected one of provisioning, running, paused, stopping, stopped, starting, destroying, destroyed, failed"
)]
pub struct UnknownState;

/// What the node is told to make true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Desired {
    /// A boundary with a live init.
    Running,
    /// The same, frozen.
    Paused,
    /// No boundary; the volume is kept.
    Stopped,
    /// Neither boundary nor volume: the tombstone, the only order to destroy.
    Destroyed,
}

impl Desired {
    /// The name on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Destroyed => "destroyed",
        }
    }

    /// The state in which this wish is fulfilled.
    pub fn fulfilled(self) -> AgentState {
        match self {
            Self::Running => AgentState::Running,
            Self::Paused => AgentState::Paused,
            Self::Stopped => AgentState::Stopped,
            Self::Destroyed => AgentState::Destroyed,
        }
    }
}

impl std::str::FromStr for Desired {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Running, Self::Paused, Self::Stopped, Self::Destroyed]
            .into_iter()
            .find(|desired| desired.as_str() == text)
            .ok_or(UnknownState)
    }
}

/// What a person or a program asks of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Freeze it.
    Pause,
    /// Thaw it.
    Resume,
    /// End it, keep the volume.
    Stop,
    /// Start it again.
    Start,
    /// Remove it.
    Destroy,
}

/// A verb that makes no sense in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot {verb} an agent that is {state}", verb = verb_word(*.verb))]
pub struct IllegalVerb {
    /// What was asked.
    pub verb: Verb,
    /// Where the agent is.
    pub state: AgentState,
}

fn verb_word(verb: Verb) -> &'static str {
    match verb {
        Verb::Pause => "pause",
        Verb::Resume => "resume",
        Verb::Stop => "stop",
        Verb::Start => "start",
        Verb::Destroy => "destroy",
    }
}

/// The state and the wish that follow from a verb. Asking for what already is (or is under way) is
/// accepted and changes nothing.
pub fn apply_verb(state: AgentState, verb: Verb) -> Result<(AgentState, Desired), IllegalVerb> {
    use AgentState as S;
    let next = match (verb, state) {
        (Verb::Destroy, S::Destroyed) => (S::Destroyed, Desired::Destroyed),
        (Verb::Destroy, _) => (S::Destroying, Desired::Destroyed),
        (Verb::Pause, S::Running | S::Paused) => (state, Desired::Paused),
        (Verb::Resume, S::Paused | S::Running) => (state, Desired::Running),
        (Verb::Stop, S::Stopped | S::Stopping) => (state, Desired::Stopped),
        (Verb::Stop, S::Running | S::Paused | S::Provisioning | S::Starting) => {
            (S::Stopping, Desired::Stopped)
        }
        (Verb::Start, S::Running | S::Starting | S::Provisioning) => (state, Desired::Running),
        (Verb::Start, S::Stopped | S::Failed) => (S::Starting, Desired::Running),
        (verb, state) => return Err(IllegalVerb { verb, state }),
    };
    Ok(next)
}

/// What a node saw of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observed {
    /// Its init lives.
    Running,
    /// Its init lives and is frozen.
    Paused,
    /// It has no boundary; its volume is there.
    Stopped,
    /// The boundary could not be made or was lost.
    Failed,
    /// Nothing of it is left.
    Destroyed,
}

/// The state after a report that acted on the current generation.
///
/// A report never resurrects: what is destroyed stays so, and an agent that is being destroyed leaves that
/// state only when the node says that nothing is left.
pub fn apply_observed(state: AgentState, desired: Desired, observed: Observed) -> AgentState {
    use AgentState as S;
    match (desired, observed) {
        _ if state == S::Destroyed => S::Destroyed,
        (Desired::Destroyed, Observed::Destroyed) => S::Destroyed,
        (Desired::Destroyed, _) => S::Destroying,
        (_, Observed::Running) => match desired {
            Desired::Stopped => S::Stopping,
            _ => S::Running,
        },
        (_, Observed::Paused) => match desired {
            Desired::Stopped => S::Stopping,
            _ => S::Paused,
        },
        (_, Observed::Stopped) => S::Stopped,
        // The node lost it without having been told to: its volume is gone, so nothing can be started again.
        (_, Observed::Failed | Observed::Destroyed) => S::Failed,
    }
}

/// Why an agent's processes ended, or never began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ExitReason {
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
    /// The kernel ended it for want of memory.
    OutOfMemory,
    /// It was asked to stop.
    Requested,
    /// Its init was killed from outside, or the machine restarted.
    Lost {
        /// What the node found.
        detail: String,
    },
    /// The boundary could not be made.
    Boundary {
        /// Which step failed, and the remedy where there is one.
        detail: String,
    },
}

impl std::fmt::Display for ExitReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exited with code {code}"),
            Self::Signaled { signal } => write!(f, "ended by signal {signal}"),
            Self::OutOfMemory => f.write_str("out of memory"),
            Self::Requested => f.write_str("stopped on request"),
            Self::Lost { detail } => write!(f, "lost: {detail}"),
            Self::Boundary { detail } => write!(f, "no boundary: {detail}"),
        }
    }
}

/// The user that an agent's processes run as, inside its user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunAs {
    /// `agent`: uid 1000, or whom the image names if that is not root.
    #[default]
    Agent,
    /// root of the user namespace; nobody outside.
    Root,
}

/// How strong the boundary is meant to be. The order is that of strength.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Level 0: a folder of its own and path rules, as one OS user per account. No boundary.
    Workspace,
    /// Level 1: an OS user of its own on the machine's read-only system.
    Process,
    /// Level 2: namespaces.
    Container,
}

impl Level {
    /// All levels that can be made, the weakest first.
    pub const ALL: [Self; 3] = [Self::Workspace, Self::Process, Self::Container];

    /// The name on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Workspace => "workspace",
            Self::Process => "process",
            Self::Container => "container",
        }
    }

    /// Its number on the ladder.
    pub fn number(self) -> u8 {
        match self {
            Self::Workspace => 0,
            Self::Process => 1,
            Self::Container => 2,
        }
    }

    /// Whether an agent has an image's files around it. Others see the machine's own system.
    pub fn has_image(self) -> bool {
        self >= Self::Container
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A process to start: the agent's main process, or an exec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Program and arguments; the program is looked up in `PATH` inside the agent.
    pub argv: Vec<String>,
    /// Added to the agent's own environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Absolute; default is the image's own, or the home directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Default is the agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<RunAs>,
}

/// Everything about an agent that is frozen at its creation. Control stores it, node acts on it.
///
/// It cannot express a host path, a host command or a hook: a control that was taken over is not root on
/// its nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentSpec {
    /// The agent.
    pub id: AgentId,
    /// Also its host name inside.
    pub name: Name,
    /// The account that owns it.
    pub account: crate::id::AccountId,
    /// How it is isolated.
    pub level: Level,
    /// Who makes its boundary; the node's own choice without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<crate::driver::Driver>,
    /// The image's row in control. There is one from [`Level::Container`] up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageId>,
    /// The image's content: lowercase hex of the SHA-256 of the EROFS file. There is one where there is an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// Its disk.
    pub volume: VolumeId,
    /// What its disk begins as a copy of; an empty one without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<crate::clone::Origin>,
    /// Who its processes are.
    pub run_as: RunAs,
    /// The main process; without one the agent is a place to exec in.
    pub main: Option<Command>,
    /// Environment of every process in it; the image's is part of it.
    pub env: BTreeMap<String, String>,
    /// What else the image, and whoever made the agent, say of programs in it.
    #[serde(default)]
    pub image_config: ImageConfig,
    /// Secrets that it is given itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<crate::secret::SecretUse>,
    /// Whether its owner wants no policy to limit it.
    #[serde(default)]
    pub unrestricted: bool,
    /// Limits.
    pub resources: Resources,
    /// Whether the scratch layer over the image survives a stop. The home always does.
    pub keep_scratch: bool,
    /// Seconds from creation after which control destroys it.
    pub ttl: Option<Span>,
    /// Seconds without any use of its workspace API after which control stops it.
    pub idle_timeout: Option<Span>,
}

impl Policy {
    /// What holds for a new agent whose maker did not say: it reaches what programs commonly need, and without limits everything
    /// public.
    pub fn default_of(unrestricted: bool) -> Self {
        let egress = match unrestricted {
            true => Egress { preset: Preset::Open, ..Egress::default() },
            false => Egress {
                preset: Preset::Allowlist,
                bundles: vec!["common".to_owned()],
                unknown: Unknown::Hold,
                ..Egress::default()
            },
        };
        Self { version: 1, egress }
    }

    /// Lets nothing pass: what holds where there is no policy.
    pub fn nothing() -> Self {
        Self { version: 1, egress: Egress::default() }
    }
}
