//! Giving an agent to another account: the request, what is in the way of it, and what becomes of its state. Pure.
//!
//! What was used until then stays with the account that used it. What goes along is the agent with its disk; what the account before
//! gave it, its secrets and the tokens of its workspace, ends.

use crate::agent::{AgentState, Desired, Level};
use crate::api::Agent;
use crate::id::AccountId;
use crate::name::Name;
use crate::quota::Exceeded;
use serde::{Deserialize, Serialize};

/// `POST /v1/agents/ID/transfer`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TransferAgent {
    /// The account that it goes to, by id or name. The caller belongs to it.
    pub account: String,
}

/// The answer: the agent as it is the other account's, on its way to run there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TransferredAgent {
    /// The agent.
    pub agent: Agent,
    /// The account that it was of.
    pub from: AccountId,
    /// Secrets that it was given itself and has no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unbound: Vec<Name>,
}

/// All that decides whether an agent may go.
#[derive(Debug, Clone, PartialEq)]
pub struct Situation {
    /// Where it is in its life.
    pub state: AgentState,
    /// Where it is told to be.
    pub desired: Desired,
    /// Whether its node has acted on all that it was told.
    pub acted: bool,
    /// How it is isolated.
    pub level: Level,
    /// Whether an agent of the other account has its name.
    pub name_taken: Option<Name>,
    /// The name of its image, if it has one that the other account has not.
    pub image_missing: Option<Name>,
    /// Secrets that its policy puts into its requests.
    pub injected: Vec<Name>,
    /// Whether its node is the account's own.
    pub dedicated: bool,
    /// The limit of the other account that it would pass.
    pub quota: Option<Exceeded>,
    /// Whether it is being copied.
    pub copied: bool,
}

/// What keeps an agent in its account.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// It does not rest.
    #[error("it is {0}, on its way elsewhere")]
    Moving(AgentState),
    /// There is nothing to give.
    #[error("it is {0}")]
    Gone(AgentState),
    /// Its node has something to do first.
    #[error("its node has not yet acted on the last order")]
    Busy,
    /// Its files belong to an OS user that it shares with others of the account.
    #[error("its files are of the OS user that all workspaces of the account share")]
    Workspace,
    /// The name is taken.
    #[error("an agent of that account is called {0}")]
    Name(Name),
    /// The image is not there.
    #[error("that account does not have the content of its image {0}")]
    Image(Name),
    /// Its policy uses what stays.
    #[error("its policy puts secrets of this account into requests: {}", listed(.0))]
    Secrets(Vec<Name>),
    /// Its node is not for others.
    #[error("its node is dedicated to this account")]
    Dedicated,
    /// There may be no more.
    #[error("{0}")]
    Quota(Exceeded),
    /// A copy of it is being made.
    #[error("it is being cloned")]
    Copied,
}

fn listed(names: &[Name]) -> String {
    names.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

impl Obstacle {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Moving(_) | Self::Busy => "wait until it rests: GET it with ?wait=settled",
            Self::Gone(_) => "create another agent",
            Self::Workspace => "make an agent of level `process` or `container` there, and copy the files",
            Self::Name(_) => "remove that agent, or clone this one under another name first",
            Self::Image(_) => {
                "have that account pull the same image, or the operator grant it: POST /v1/images/ID/grant"
            }
            Self::Secrets(_) => "take `egress.inject` out of its policy first",
            Self::Dedicated => "make an agent on a node of that account, and copy the files",
            Self::Quota(_) => "destroy an agent of that account, or have the operator raise its quota",
            Self::Copied => "wait until its clone is there, or destroy that",
        }
    }
}

/// All that is in the way.
pub fn obstacles(at: &Situation) -> Vec<Obstacle> {
    use AgentState as S;
    let mut all = Vec::new();
    match at.state {
        S::Destroying | S::Destroyed => all.push(Obstacle::Gone(at.state)),
        S::Provisioning | S::Starting | S::Stopping => all.push(Obstacle::Moving(at.state)),
        S::Running | S::Paused | S::Stopped | S::Failed if !at.acted => all.push(Obstacle::Busy),
        // Told to pause, and not there yet, or the other way round.
        S::Running | S::Paused if at.desired.fulfilled() != at.state => all.push(Obstacle::Busy),
        S::Running | S::Paused | S::Stopped | S::Failed => {}
    }
    if at.level == Level::Workspace {
        all.push(Obstacle::Workspace);
    }
    all.extend(at.name_taken.clone().map(Obstacle::Name));
    all.extend(at.image_missing.clone().map(Obstacle::Image));
    if !at.injected.is_empty() {
        all.push(Obstacle::Secrets(at.injected.clone()));
    }
    if at.dedicated {
        all.push(Obstacle::Dedicated);
    }
    all.extend(at.quota.clone().map(Obstacle::Quota));
    if at.copied {
        all.push(Obstacle::Copied);
    }
    all
}

/// Where an agent is once it is another account's: what ran is started again there, and what was paused is paused there.
pub fn state_after(state: AgentState) -> AgentState {
    match state {
        AgentState::Running | AgentState::Paused => AgentState::Starting,
        state => state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::{Quota, Usage};
    use crate::resources::Resources;

    fn at(state: AgentState, desired: Desired) -> Situation {
        Situation {
            state,
            desired,
            acted: true,
            level: Level::Container,
            name_taken: None,
            image_missing: None,
            injected: Vec::new(),
            dedicated: false,
            quota: None,
            copied: false,
        }
    }

    #[test]
    fn what_rests_may_go() {
        use AgentState as S;
        let check = |state, desired, expected: &[Obstacle]| {
            assert_eq!(obstacles(&at(state, desired)), expected, "{state} {desired:?}");
        };
        check(S::Running, Desired::Running, &[]);
        check(S::Paused, Desired::Paused, &[]);
        check(S::Stopped, Desired::Stopped, &[]);
        check(S::Failed, Desired::Stopped, &[]);
        check(S::Running, Desired::Paused, &[Obstacle::Busy]);
        check(S::Paused, Desired::Running, &[Obstacle::Busy]);
        for state in [S::Provisioning, S::Starting] {
            check(state, Desired::Running, &[Obstacle::Moving(state)]);
        }
        check(S::Stopping, Desired::Stopped, &[Obstacle::Moving(S::Stopping)]);
        for state in [S::Destroying, S::Destroyed] {
            check(state, Desired::Destroyed, &[Obstacle::Gone(state)]);
        }
    }

    #[test]
    fn all_that_is_in_the_way_is_told_at_once() {
        let quota = Quota { agents: Some(0), ..Quota::default() };
        let exceeded = quota.refuses(&Usage::default(), &Resources::default());
        let all = obstacles(&Situation {
            acted: false,
            level: Level::Workspace,
            name_taken: Some("a".parse().unwrap()),
            image_missing: Some("debian".parse().unwrap()),
            injected: vec!["one".parse().unwrap(), "two".parse().unwrap()],
            dedicated: true,
            quota: exceeded,
            copied: true,
            ..at(AgentState::Running, Desired::Running)
        });
        assert_eq!(all.len(), 8, "{all:?}");
        assert!(all.iter().any(|obstacle| obstacle.to_string().ends_with("one, two")));
        assert!(all.iter().all(|obstacle| !obstacle.remedy().is_empty()));
    }

    #[test]
    fn what_ran_starts_again_and_nothing_else_does() {
        for state in AgentState::ALL {
            let starts = matches!(state, AgentState::Running | AgentState::Paused);
            assert_eq!(state_after(state) == AgentState::Starting, starts || state == AgentState::Starting);
        }
    }
}
