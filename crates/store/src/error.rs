//! Why the database did not do something: refusals, which are answers, and faults, which are not.

use model::Name;
use model::agent::{AgentState, IllegalVerb};
use model::policy::PolicyError;
use sqlx::postgres::PgDatabaseError;

/// Why nothing was stored, or nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such row, or it belongs to somebody else.
    #[error("there is no such {what}")]
    NotFound {
        /// What was looked for.
        what: &'static str,
    },
    /// Another row of this kind has the name.
    #[error("the name {name} is taken")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Somebody is known by this address already.
    #[error("there is a user {email} already")]
    EmailTaken {
        /// The address.
        email: model::people::Email,
    },
    /// The account may not have one more such agent.
    #[error(transparent)]
    Quota(#[from] model::quota::Exceeded),
    /// No node has a free slot for this account.
    #[error("no node has room for this agent")]
    NoCapacity,
    /// Something still uses it.
    #[error("{what}")]
    InUse {
        /// What it is used by.
        what: String,
    },
    /// An agent cannot go to another account.
    #[error("the agent cannot go to that account: {}", listed(obstacles))]
    Stays {
        /// All that is in the way.
        obstacles: Vec<model::transfer::Obstacle>,
    },
    /// Nobody else is let into a person's own account.
    #[error("a personal account has one member")]
    Personal,
    /// The verb makes no sense now.
    #[error(transparent)]
    IllegalVerb(#[from] IllegalVerb),
    /// The row is not at the generation that the caller read.
    #[error("the agent is at generation {generation}, not at the one named in If-Match")]
    Stale {
        /// Where it is.
        generation: u64,
    },
    /// The policy is not at the revision that the caller read.
    #[error("the agent's policy is at revision {revision}, not at the one named in If-Match")]
    StalePolicy {
        /// Where it is.
        revision: u64,
    },
    /// It is as a backup had it, and nobody knows whether it is so.
    #[error("the database was restored from a backup, and the agent's node has not said since how it is")]
    Restored,
    /// Nothing about the agent can change any more.
    #[error("the agent is {state}, and stays as it was")]
    Ended {
        /// Where it is.
        state: AgentState,
    },
    /// Somebody decided the question before.
    #[error("this question was decided already: {decision}")]
    Answered {
        /// How.
        decision: String,
    },
    /// A policy cannot have the rule that was decided on.
    #[error("the policy of the agent {agent} cannot have another rule: {fault}")]
    NoRule {
        /// Whose.
        agent: Name,
        /// What would be wrong with it.
        fault: PolicyError,
    },
    /// No more hosts can be remembered.
    #[error("{most} hosts are remembered already, which is as many as there may be")]
    TooManyRemembered {
        /// The limit.
        most: u64,
    },
    /// An agent cannot have a secret, or not for this.
    #[error("{message}")]
    Secret {
        /// Of the request.
        field: String,
        /// What is wrong.
        message: String,
        /// What to do.
        remedy: String,
    },
    /// No more secrets can be kept.
    #[error("the account has {most} secrets already, which is as many as there may be")]
    TooManySecrets {
        /// The limit.
        most: u64,
    },
    /// A person owns enough.
    #[error("you own {most} organisations already, which is as many as one makes for oneself")]
    TooManyOrganisations {
        /// The limit.
        most: u64,
    },
    /// What this began from is not so any more.
    #[error("something else changed this at the same time")]
    Overtaken,
    /// The idempotency key came with another request before.
    #[error("this idempotency key was used with another request")]
    IdempotencyMismatch,
    /// A token that is unknown, expired or used up.
    #[error("the token is unknown, expired or was redeemed already")]
    TokenRefused,
    /// The key or the session that somebody came with is not there any more, or over.
    #[error("what this request came with is not valid any more")]
    CredentialEnded,
    /// Whoever asked may less than when they asked.
    #[error("whoever asked may not do this any more")]
    RoleLowered,
    /// Whoever asked does not belong to the account any more.
    #[error("there is no such account")]
    MembershipEnded,
    /// An assertion that was traded before.
    #[error("this assertion was traded already")]
    Replayed,

    /// Another process holds the database.
    #[error("the database is locked by another process; nothing was changed")]
    Locked,
    /// Requests before this one take too long.
    #[error(
        "the database did not get to this request in time; it is slow or locked, and nothing was changed"
    )]
    Busy,
    /// The disk is full.
    #[error("the disk that holds the database is full; nothing was changed")]
    DiskFull,
    /// Another change failed in a way that undid all that were to be committed with it.
    #[error(
        "the database undid this with another change that failed; nothing was changed, and it can be tried again"
    )]
    Undone,
    /// The database did not answer, and nothing was committed.
    #[error("the database cannot be reached: {why}; nothing was changed")]
    Unreachable {
        /// What was tried, and what came back.
        why: String,
    },
    /// The database did not answer to the commit itself.
    #[error("the database did not answer to the commit: nobody knows whether this was made")]
    Unanswered,
    /// A text that the database cannot keep. PostgreSQL's have no NUL.
    #[error("a text holds a character that the database cannot keep")]
    Text,
    /// The database could not be opened.
    #[error("cannot open the database {place}: {source}")]
    Open {
        /// Which.
        place: String,
        /// Why.
        source: sqlx::Error,
    },
    /// The schema could not be brought up to date.
    #[error(
        "cannot bring the database {place} up to date: {source} (was it written by a newer version of cofferdam?)"
    )]
    Migrate {
        /// Which.
        place: String,
        /// Why.
        source: sqlx::migrate::MigrateError,
    },
    /// A row holds what this version cannot read.
    #[error("the column {column} holds a value that this version of cofferdam cannot read")]
    Corrupt {
        /// Where.
        column: &'static str,
    },
    /// A change without its event. A fault of this program; nothing was stored.
    #[error("a change came without its audit event and was not stored")]
    Unaudited,
    /// Anything else that the database said.
    #[error("the database failed: {0}")]
    Database(sqlx::Error),
}

fn listed(obstacles: &[model::transfer::Obstacle]) -> String {
    obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// SQLite's primary result codes (<https://sqlite.org/rescode.html>); the low byte of an extended one.
const BUSY: u32 = 5;
const LOCKED: u32 = 6;
const FULL: u32 = 13;
/// The shared memory beside the database cannot grow, which only a full disk explains: it has a few pages.
const IOERR_SHMSIZE: u32 = 4874;

/// PostgreSQL's codes (its manual, appendix A).
const LOCK_NOT_AVAILABLE: &str = "55P03";
const QUERY_CANCELED: &str = "57014";
const PG_DISK_FULL: &str = "53100";
const CHARACTER_NOT_IN_REPERTOIRE: &str = "22021";
/// The connection failed; too many of them; the server is ending, starting, or only a copy; or it put us out for standing still.
const UNREACHABLE: [&str; 5] = ["08", "53300", "57P0", "25006", "25P03"];

fn known(source: &sqlx::Error) -> Option<Error> {
    if matches!(source, sqlx::Error::PoolTimedOut) {
        return Some(Error::Busy);
    }
    let why = || source.to_string();
    let error = match source {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) => {
            return Some(Error::Unreachable { why: why() });
        }
        source => source.as_database_error()?,
    };
    if let Some(error) = error.try_downcast_ref::<PgDatabaseError>() {
        return match error.code() {
            LOCK_NOT_AVAILABLE => Some(Error::Locked),
            QUERY_CANCELED => Some(Error::Busy),
            PG_DISK_FULL => Some(Error::DiskFull),
            CHARACTER_NOT_IN_REPERTOIRE => Some(Error::Text),
            code if UNREACHABLE.iter().any(|class| code.starts_with(class)) => {
                Some(Error::Unreachable { why: why() })
            }
            _ => None,
        };
    }
    let code: u32 = error.code()?.parse().ok()?;
    match code & 0xff {
        BUSY | LOCKED => Some(Error::Locked),
        FULL => Some(Error::DiskFull),
        _ if code == IOERR_SHMSIZE => Some(Error::DiskFull),
        _ => None,
    }
}

impl From<sqlx::Error> for Error {
    fn from(source: sqlx::Error) -> Self {
        known(&source).unwrap_or(Self::Database(source))
    }
}

impl Error {
    pub(crate) fn opening(place: String, source: sqlx::Error) -> Self {
        known(&source).unwrap_or_else(|| Self::Open { place, source })
    }

    pub(crate) fn migrating(place: String, source: sqlx::migrate::MigrateError) -> Self {
        if let sqlx::migrate::MigrateError::Execute(inner) = &source
            && let Some(known) = known(inner)
        {
            return known;
        }
        Self::Migrate { place, source }
    }
}
