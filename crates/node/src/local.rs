//! What the node knows of one agent: the record that the journal keeps, and its only transitions.
//!
//! Pure data. Nothing here does IO; `plan` reads it, `execute` moves it.

use model::agent::Observed;
use model::gate_api::Authority;
use model::node_api::DesiredAgent;
use model::{AccountId, AgentSpec, Desired, ExitReason};
use sandbox::{BoundaryRecord, UidRange};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// One agent, as it is journaled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Local {
    /// The wish that was last acted on. Its spec is the first one that was ever seen, but for what a transfer changes.
    pub desired: DesiredAgent,
    /// The database epoch in which the wish was made.
    pub database_epoch: u64,
    /// The newest generation that has had its boundary, or its one attempt at one.
    pub served: Option<u64>,
    /// The ids that its processes have. Journaled before they are used, and until nothing has them any more; those of an OS
    /// user until it is destroyed.
    pub lease: Option<UidRange>,
    /// Where its boundary is in its life.
    pub phase: Phase,
    /// How to find the boundary again.
    pub boundary: Option<BoundaryRecord>,
    /// Why there is no boundary.
    pub reason: Option<ExitReason>,
    /// Its volume began as a copy, and is there: should it be lost, it is not copied again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub copied: bool,
    /// It was given to another account, and is not yet ended in this one, whose gate has forgotten it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaves: bool,
    /// Under what its gate shows itself as other servers, since its last start. What runs in it trusts that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<Authority>,
    /// When its workspace API was last used, or it was started.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_activity: Option<OffsetDateTime>,
}

/// Where a boundary is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// There never was one.
    Idle,
    /// One is being made. Found in a journal it means that the node died over it.
    Launching,
    /// Its init lived when last seen.
    Live(Motion),
    /// Its init is gone; cgroups, sockets or mounts may be left.
    Ending(After),
    /// Ended by the node or by a reboot, with nothing left; it starts again by itself.
    Parked,
    /// Ended, with nothing left; only a newer generation starts it again.
    Ended,
    /// Nothing of it is left, the volume included.
    Destroyed,
}

/// Whether a live boundary's processes may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Motion {
    /// They run.
    Running,
    /// They are frozen.
    Frozen,
    /// An earlier node may have been in the middle of a change.
    Unknown,
}

/// What a boundary that is gone leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum After {
    /// [`Phase::Parked`].
    Parked,
    /// [`Phase::Ended`].
    Ended,
}

/// Why a wish is not acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// A newer one was acted on before.
    #[error("generation {offered} is older than {known}, which was acted on before")]
    Stale {
        /// What came.
        offered: u64,
        /// What is known.
        known: u64,
    },
    /// One generation stands for one wish.
    #[error("generation {generation} came before with another wish")]
    Contradiction {
        /// Which.
        generation: u64,
    },
    /// A tombstone is final.
    #[error("it was destroyed, and that is final")]
    Destroyed,
    /// What is here is another account's by now, whatever a backup says.
    #[error("it was given to another account since; destroy it, or give it to that account again")]
    GivenSince,
}

/// Whose an agent is, and for the how-manieth time it was given away: a restored database may count anew.
pub(crate) type Owner = (u64, AccountId);

/// Whose it is by this wish.
pub(crate) fn owner(wish: &DesiredAgent) -> Owner {
    (wish.transfers, wish.spec.account)
}

impl Local {
    /// The record of an agent that was never heard of.
    pub(crate) fn new(desired: DesiredAgent, database_epoch: u64) -> Self {
        Self {
            desired,
            database_epoch,
            served: None,
            lease: None,
            phase: Phase::Idle,
            boundary: None,
            reason: None,
            copied: false,
            leaves: false,
            authority: None,
            last_activity: None,
        }
    }

    /// Whether a wish may be acted on. Equal wishes may.
    pub(crate) fn check(&self, offered: &DesiredAgent) -> Result<(), Refusal> {
        let known = &self.desired;
        if offered.generation < known.generation {
            return Err(Refusal::Stale { offered: offered.generation, known: known.generation });
        }
        if offered.generation == known.generation && offered.desired != known.desired {
            return Err(Refusal::Contradiction { generation: offered.generation });
        }
        if known.desired == Desired::Destroyed && offered.desired != Desired::Destroyed {
            return Err(Refusal::Destroyed);
        }
        // Within one database the number grows with each transfer.
        let back = offered.transfers < known.transfers
            || offered.transfers == known.transfers && offered.spec.account != known.spec.account;
        if back && offered.desired != Desired::Destroyed {
            return Err(Refusal::GivenSince);
        }
        Ok(())
    }

    /// Whether a wish is of another account than what is here was made for.
    pub(crate) fn moves(&self, offered: &DesiredAgent) -> bool {
        self.desired.transfers != offered.transfers
    }

    /// Whether the agent of a wish is what is known, but for what a transfer changes.
    pub(crate) fn is_still(&self, offered: &DesiredAgent) -> bool {
        let mut known = self.desired.spec.clone();
        if self.moves(offered) {
            transfer(&mut known, &offered.spec);
        }
        known == offered.spec
    }

    /// Takes a wish over; one of another account once nothing is left of what was made for this one. A boundary that lives serves it, so that its end later does not start another.
    pub(crate) fn accept(&mut self, offered: &DesiredAgent) {
        self.desired.desired = offered.desired;
        self.desired.generation = offered.generation;
        if self.moves(offered) {
            transfer(&mut self.desired.spec, &offered.spec);
            self.desired.transfers = offered.transfers;
            self.leaves = false;
        }
        self.desired.token_epoch = self.desired.token_epoch.max(offered.token_epoch);
        self.desired.secrets_revision = offered.secrets_revision;
        if offered.policy_revision > self.desired.policy_revision {
            self.take_policy(offered);
        }
        if matches!(self.phase, Phase::Live(_) | Phase::Launching) {
            self.served = Some(offered.generation);
        }
    }

    fn take_policy(&mut self, offered: &DesiredAgent) {
        self.desired.policy = offered.policy.clone();
        self.desired.policy_revision = offered.policy_revision;
    }

    /// Moves to the numbering of a restored database, where generations may be lower. What was used up stays
    /// so: a restore starts nothing and ends nothing by itself, and brings nothing back that was destroyed. What somebody ordered
    /// since the restore is done.
    pub(crate) fn rebase(&mut self, database_epoch: u64, offered: &DesiredAgent) {
        if database_epoch <= self.database_epoch {
            return;
        }
        self.database_epoch = database_epoch;
        self.desired.token_epoch = offered.token_epoch;
        self.desired.secrets_revision = offered.secrets_revision;
        self.take_policy(offered);
        if offered.generation > self.desired.generation {
            return;
        }
        if self.desired.desired == Desired::Destroyed {
            self.desired.generation = offered.generation;
            return;
        }
        let used_up = self.served.is_some_and(|served| served >= self.desired.generation);
        self.served = if used_up { Some(offered.generation) } else { offered.generation.checked_sub(1) };
        self.desired.generation = offered.generation;
        if !offered.restored || offered.desired == Desired::Destroyed {
            self.desired.desired = offered.desired;
        }
    }

    /// Whether this is the wish of a backup, which control takes back for what is so.
    pub(crate) fn outlived(&self, offered: &DesiredAgent) -> bool {
        offered.restored
            && offered.generation == self.desired.generation
            && offered.desired != Desired::Destroyed
    }

    /// The record of an agent that a backup had, and of which nothing is left: nothing is made.
    pub(crate) fn lost(desired: DesiredAgent, database_epoch: u64) -> Self {
        let detail =
            "it was destroyed after the backup that was restored: its node has nothing left of it".to_owned();
        Self {
            phase: Phase::Destroyed,
            served: Some(desired.generation),
            reason: Some(ExitReason::Lost { detail }),
            ..Self::new(desired, database_epoch)
        }
    }

    /// Whether the wish calls for a boundary that does not exist yet.
    pub(crate) fn wants_start(&self) -> bool {
        !self.leaves
            && matches!(self.desired.desired, Desired::Running | Desired::Paused)
            && match self.phase {
                Phase::Parked | Phase::Launching | Phase::Ending(After::Parked) => true,
                Phase::Idle | Phase::Ended | Phase::Ending(After::Ended) => {
                    self.served.is_none_or(|served| served < self.desired.generation)
                }
                Phase::Live(_) | Phase::Destroyed => false,
            }
    }

    /// A boundary is about to be made, for an agent that trusts this authority: this uses the generation up.
    pub(crate) fn launching(&mut self, authority: Option<Authority>) {
        self.authority = authority;
        self.phase = Phase::Launching;
        self.served = Some(self.desired.generation);
        self.boundary = None;
        self.reason = None;
    }

    /// The boundary could not be made, and nothing of it is left.
    pub(crate) fn failed(&mut self, reason: ExitReason) {
        self.phase = Phase::Ending(After::Ended);
        self.served = Some(self.desired.generation);
        self.reason = Some(reason);
    }

    /// The boundary's init is gone.
    pub(crate) fn ended(&mut self, after: After, reason: ExitReason) {
        self.phase = Phase::Ending(after);
        self.reason = Some(reason);
    }

    /// Whether the agent is the same OS user for life: its ids are then the machine's too.
    pub(crate) fn keeps_ids(&self) -> bool {
        !self.desired.spec.level.has_image()
    }

    /// Nothing of the boundary is left, so nothing uses its ids. An OS user stays who it is.
    pub(crate) fn cleaned(&mut self) {
        self.phase = match self.phase {
            Phase::Ending(After::Ended) => Phase::Ended,
            Phase::Ending(After::Parked) | Phase::Launching => Phase::Parked,
            phase => phase,
        };
        (self.boundary, self.authority) = (None, None);
        if !self.keeps_ids() {
            self.lease = None;
        }
    }

    /// What to tell control, if there is something that it should know.
    pub(crate) fn observed(&self) -> Option<Observed> {
        if self.phase == Phase::Destroyed {
            return Some(Observed::Destroyed);
        }
        // What it is for the account before, control does not ask any more.
        if self.wants_start() || self.leaves {
            return None;
        }
        match self.phase {
            Phase::Live(Motion::Running) => Some(Observed::Running),
            Phase::Live(Motion::Frozen) => Some(Observed::Paused),
            Phase::Ended | Phase::Ending(_) => Some(match (&self.reason, self.desired.desired) {
                (_, Desired::Stopped) => Observed::Stopped,
                (Some(ExitReason::Lost { .. } | ExitReason::Boundary { .. }), _) => Observed::Failed,
                _ => Observed::Stopped,
            }),
            _ => None,
        }
    }
}

/// What a transfer changes of a spec, and nothing else, whatever control says.
fn transfer(known: &mut AgentSpec, spec: &AgentSpec) {
    (known.account, known.image) = (spec.account, spec.image);
    known.secrets.clone_from(&spec.secrets);
}
