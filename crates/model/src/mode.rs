//! What kind of installation this is, and what it refuses because of that.

use crate::agent::Level;
use serde::{Deserialize, Serialize};

/// Whose agents an installation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// One owner's own agents: every level is allowed.
    #[default]
    Indie,
    /// Agents of several accounts: nothing below a container, and unrestricted agents on nodes of their own only.
    Managed,
}

/// A rule of a mode that is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The level is too low.
    #[error("level `{0}` is no boundary between accounts, and mode `managed` refuses it")]
    Level(Level),
    /// The node is everybody's.
    #[error("mode `managed` puts no unrestricted agent on a node that accounts share")]
    SharedNode,
}

impl Refusal {
    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Level(_) => {
                "ask for level `container`; an owner whose installation runs nobody else's agents can set mode = \"indie\" in control.toml"
            }
            Self::SharedNode => {
                "ask the operator for a node of the account's own, or leave the agent restricted"
            }
        }
    }

    /// The field of a request that it is about.
    pub fn field(self) -> &'static str {
        match self {
            Self::Level(_) => "level",
            Self::SharedNode => "unrestricted",
        }
    }
}

impl Mode {
    /// Whether agents of this level may run.
    pub fn check_level(self, level: Level) -> Result<(), Refusal> {
        match self {
            Self::Managed if level < Level::Container => Err(Refusal::Level(level)),
            _ => Ok(()),
        }
    }

    /// Whether an agent may run on a node.
    pub fn check_node(self, unrestricted: bool, shared: bool) -> Result<(), Refusal> {
        match self {
            Self::Managed if unrestricted && shared => Err(Refusal::SharedNode),
            _ => Ok(()),
        }
    }

    /// The level of agents that do not say, of those that can be made: never one without a boundary of its own, and in mode
    /// `managed` nothing but a container.
    pub fn default_level(self, available: impl IntoIterator<Item = Level>) -> Level {
        let strongest = available.into_iter().filter(|level| *level >= Level::Process).max();
        match self {
            Self::Indie => strongest.unwrap_or(Level::Container),
            Self::Managed => Level::Container,
        }
    }
}

/// What everybody who sees such an agent is to know.
pub fn warnings(level: Level, unrestricted: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if level == Level::Workspace {
        warnings.push("no boundary: a workspace keeps accidents apart, not attackers".to_owned());
    }
    if unrestricted {
        warnings.push(
            "unrestricted: nothing it does is limited by a policy; run it on a node that holds nothing else"
                .to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_by_mode() {
        use Level::{Container, Process, Workspace};
        let check = |mode: Mode, level, allowed| assert_eq!(mode.check_level(level).is_ok(), allowed);
        for level in Level::ALL {
            check(Mode::Indie, level, true);
            check(Mode::Managed, level, level == Container);
        }
        for (unrestricted, shared) in [(true, true), (true, false), (false, true), (false, false)] {
            assert_eq!(Mode::Indie.check_node(unrestricted, shared), Ok(()));
            assert_eq!(Mode::Managed.check_node(unrestricted, shared).is_ok(), !(unrestricted && shared));
        }
        assert_eq!(Mode::Indie.default_level(Level::ALL), Container);
        assert_eq!(Mode::Indie.default_level([Workspace, Process]), Process);
        // Never one without a boundary, even where there is nothing else: then there is none.
        assert_eq!(Mode::Indie.default_level([Workspace]), Container);
        assert_eq!(Mode::Managed.default_level([Workspace, Process]), Container);
    }

    #[test]
    fn what_has_no_boundary_or_no_limits_is_warned_of() {
        assert!(warnings(Level::Container, false).is_empty() && warnings(Level::Process, false).is_empty());
        assert_eq!(warnings(Level::Workspace, true).len(), 2);
    }
}
