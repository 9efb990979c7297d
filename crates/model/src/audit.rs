//! The kinds of audit events: a closed list. What is not listed here cannot be written, and a kind that was written once is never
//! renamed, for events are kept for as long as the installation says.

use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::str::FromStr;

/// What is not the name of a kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a kind of event such as agent.created, or the first part of several such as agent")]
pub struct UnknownKind;

macro_rules! kinds {
    ($($(#[$doc:meta])+ $kind:ident = $name:literal,)+) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        pub enum EventKind {
            $($(#[$doc])+ #[serde(rename = $name)] $kind,)+
        }

        impl EventKind {
            /// All that there are.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// Its name, as it is stored and shown.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)+
                }
            }
        }
    };
}

kinds! {
    /// An account was made.
    AccountCreated = "account.created",
    /// What all agents of an account may have together was set.
    AccountQuotaSet = "account.quota_set",
    /// Every workspace token of an account was ended.
    AccountTokensRevoked = "account.tokens_revoked",
    /// An agent was made as a copy of another.
    AgentCloned = "agent.cloned",
    /// An agent was made: its provisioning begins.
    AgentCreated = "agent.created",
    /// A control of a running agent was lost, or came back.
    AgentDrift = "agent.drift",
    /// A node told something new of an agent whose state is the same.
    AgentObserved = "agent.observed",
    /// An agent was told to start, pause, resume, stop or end; the verb is in the detail, and why, where nobody asked.
    AgentOrdered = "agent.ordered",
    /// A node has an agent that control does not know there.
    AgentOrphan = "agent.orphan",
    /// What an agent may do was changed.
    AgentPolicyChanged = "agent.policy_changed",
    /// A node told that an agent is in another state, also that it failed.
    AgentState = "agent.state",
    /// A workspace token was handed out.
    AgentTokenIssued = "agent.token_issued",
    /// An agent went from one account to another; both have the event.
    AgentTransferred = "agent.transferred",
    /// A key of an account's secrets was made.
    DataKeyCreated = "data_key.created",
    /// A key of an account's secrets took the place of another.
    DataKeyRotated = "data_key.rotated",
    /// A person decided what waited.
    EgressAnswered = "egress.answered",
    /// An agent waits for a person to decide.
    EgressAsked = "egress.asked",
    /// A connection was refused. Of each agent, a few in ten minutes.
    EgressDenied = "egress.denied",
    /// A host is remembered no more.
    EgressForgotten = "egress.forgotten",
    /// Records of connections were lost on their way.
    EgressLogLost = "egress.log_lost",
    /// An exec ended. Of each agent, bursts are told as one.
    ExecEnded = "exec.ended",
    /// An exec was started: who, and what program; never arguments or content. Of each agent, bursts are told as one.
    ExecStarted = "exec.started",
    /// An image was deleted.
    ImageDeleted = "image.deleted",
    /// An image was made known.
    ImageRegistered = "image.registered",
    /// The installation was founded.
    InstallationFounded = "installation.founded",
    /// The installation goes on from a backup.
    InstallationRestored = "installation.restored",
    /// Somebody took an invitation.
    InvitationAccepted = "invitation.accepted",
    /// Somebody was invited.
    InvitationCreated = "invitation.created",
    /// An invitation ended.
    InvitationRevoked = "invitation.revoked",
    /// An API key was made.
    KeyCreated = "key.created",
    /// An API key was deleted.
    KeyDeleted = "key.deleted",
    /// Events were written to a file, and leave the database.
    LedgerArchived = "ledger.archived",
    /// A key signs checkpoints of the ledger.
    LedgerKeyUsed = "ledger.key_used",
    /// Somebody became a member.
    MemberAdded = "member.added",
    /// Somebody is no member any more.
    MemberRemoved = "member.removed",
    /// A member is something else now.
    MemberRoleChanged = "member.role_changed",
    /// A token that enrols a node was made.
    NodeBootstrapTokenIssued = "node.bootstrap_token_issued",
    /// A node was made known.
    NodeCreated = "node.created",
    /// A node enrolled: its bootstrap token was redeemed.
    NodeEnrolled = "node.enrolled",
    /// A node makes other levels than before.
    NodeLevels = "node.levels",
    /// A node got a callback token.
    NodeTokenIssued = "node.token_issued",
    /// Somebody put a second factor in front of their login.
    SecondFactorEnabled = "second_factor.enabled",
    /// Somebody began with it.
    SecondFactorBegun = "second_factor.begun",
    /// A second factor was removed.
    SecondFactorRemoved = "second_factor.removed",
    /// Other hosts may have a secret.
    SecretChanged = "secret.changed",
    /// A secret was set.
    SecretCreated = "secret.created",
    /// A secret was deleted.
    SecretDeleted = "secret.deleted",
    /// A node fetched the secrets of an agent.
    SecretDelivered = "secret.delivered",
    /// A secret has another value.
    SecretRotated = "secret.rotated",
    /// A secret was put into requests of an agent. Of each agent, a few in ten minutes.
    SecretUsed = "secret.used",
    /// Somebody logged in.
    SessionBegun = "session.begun",
    /// What was shown behind a password, or in place of one, was wrong.
    SessionCodeRefused = "session.code_refused",
    /// A session ended.
    SessionEnded = "session.ended",
    /// Somebody showed again that they are there.
    SessionProved = "session.proved",
    /// A key signs workspace tokens.
    SigningKeyUsed = "signing_key.used",
    /// A person was made known.
    UserCreated = "user.created",
    /// A person has another password.
    UserPasswordSet = "user.password_set",
    /// A token that sets a password was made.
    UserResetIssued = "user.reset_issued",
    /// Another key wraps those of accounts.
    WrappingKeyRotated = "wrapping_key.rotated",
}

impl Display for EventKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for EventKind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text).ok_or(UnknownKind)
    }
}

/// The kinds that a word means: one of this name, or all whose name begins with it and a dot.
pub fn kinds(text: &str) -> Result<Vec<EventKind>, UnknownKind> {
    let within = |kind: &EventKind| kind.as_str().split_once('.').is_some_and(|(of, _)| of == text);
    match text.parse() {
        Ok(kind) => Ok(vec![kind]),
        Err(UnknownKind) => {
            let kinds: Vec<_> = EventKind::ALL.iter().copied().filter(within).collect();
            if kinds.is_empty() { Err(UnknownKind) } else { Ok(kinds) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_of_one_form_and_each_is_there_once() {
        let mut seen = BTreeSet::new();
        for kind in EventKind::ALL {
            let name = kind.as_str();
            let (of, what) = name.split_once('.').expect("of what, and what");
            let plain = |word: &str| {
                !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            };
            assert!(plain(of) && plain(what), "{name}");
            assert!(seen.insert(name), "{name} is there twice");
            assert_eq!(name.parse(), Ok(*kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
        }
    }

    #[test]
    fn a_word_means_one_kind_or_a_family() {
        assert_eq!(kinds("agent.created"), Ok(vec![EventKind::AgentCreated]));
        assert_eq!(kinds("exec"), Ok(vec![EventKind::ExecEnded, EventKind::ExecStarted]));
        for wrong in ["", "agent.", "agents", "agent.create", ".created"] {
            assert_eq!(kinds(wrong), Err(UnknownKind), "{wrong}");
        }
    }
}
