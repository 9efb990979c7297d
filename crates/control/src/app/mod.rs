//! What control does, free of HTTP: each operation decides here, once, whether its caller may.

pub(crate) mod agents;
pub(crate) mod audit;
pub(crate) mod clones;
pub(crate) mod egress;
pub(crate) mod factors;
pub(crate) mod images;
pub(crate) mod invitations;
pub(crate) mod keys;
pub(crate) mod members;
mod names;
pub(crate) mod node_calls;
pub(crate) mod placement;
pub(crate) mod policies;
pub(crate) mod secrets;
pub(crate) mod sessions;
pub(crate) mod transfers;
pub(crate) mod usage;
pub(crate) mod users;
pub(crate) mod validate;

use crate::auth::passwords::Passwords;
use crate::auth::seats::Seats;
use crate::auth::signing::Signer;
use crate::config::Invited;
use crate::limits::Limits;
use crate::notify::Notify;
use crate::peer::Proxies;
use crate::shown::Shown;
use crate::vault::Vault;
use model::Name;
use model::mode::Mode;
use model::quota::Quota;
use model::token::VerifyingKey;
use store::{Installation, Store};
use tokio_util::sync::CancellationToken;

/// All that operations need.
pub(crate) struct App {
    pub(crate) store: Store,
    pub(crate) notify: Notify,
    pub(crate) signer: Signer,
    /// What verifies its tokens: of one key, the one that this process signs with.
    pub(crate) keys: Vec<VerifyingKey>,
    /// Signs checkpoints of the ledger.
    pub(crate) ledger: ledger::Signer,
    /// The keys of secrets.
    pub(crate) vault: Vault,
    pub(crate) passwords: Passwords,
    /// How often sensitive things are asked for.
    pub(crate) limits: Limits,
    /// Whose word is taken for whom they speak for.
    pub(crate) proxies: Proxies,
    pub(crate) seats: Seats,
    /// Agents as they were shown.
    pub(crate) shown: Shown,
    pub(crate) installation: Installation,
    /// Where the database lies, for those who have to look after it; `None` on a server.
    pub(crate) database: Option<std::path::PathBuf>,
    /// What kind of installation this is.
    pub(crate) mode: Mode,
    /// What accounts may have that are made from now on.
    pub(crate) quota: Quota,
    /// Whose invitations make somebody known.
    pub(crate) invited: Invited,
    /// The image of agents that are created without one.
    pub(crate) image: Name,
    /// How long records of connections are kept.
    pub(crate) keep_egress: time::Duration,
    /// Values of `Host` that are answered.
    pub(crate) hosts: Vec<String>,
    /// Cancelled when control is to end: whoever waits gets an answer now.
    pub(crate) ending: CancellationToken,
}
