//! What is said of images in the node's name, by whoever is root on its machine: that an account may have one, and which
//! ones must not be removed. The node itself need not run for that.

use crate::config::Config;
use crate::control::{CallError, Caller, ClientError, Standing, client};
use crate::journal::{Journal, JournalError};
use crate::key::{KeyError, NodeKey};
use crate::local::Phase;
use crate::session::ENROLLED;
use model::AccountId;
use std::collections::BTreeSet;
use time::OffsetDateTime;

/// Why it cannot be said.
#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    /// There is no node here yet.
    #[error("this machine's node has not enrolled yet; `cofferdam up` starts it")]
    NotEnrolled,
    /// The node's own records.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The node's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Control.
    #[error("control does not say which images are in use")]
    Control(#[from] CallError),
    /// No way to call control.
    #[error(transparent)]
    Client(#[from] ClientError),
}

fn standing(config: &Config) -> Result<(NodeKey, Standing), ImagesError> {
    let root = config.data.join("node");
    let standing = Journal::peek::<Standing>(&root, ENROLLED)?.ok_or(ImagesError::NotEnrolled)?;
    Ok((NodeKey::load_or_make(&root)?, standing))
}

/// The node's word that an account may have an image ([`model::token::ImageVoucher`]). For whoever has just seen that it
/// lies in the store, and that the account proved to be allowed to have it.
pub fn vouch(config: &Config, account: AccountId, digest: &str, size: u64) -> Result<String, ImagesError> {
    let (key, standing) = standing(config)?;
    let now = OffsetDateTime::now_utc();
    Ok(key.voucher(standing.node, &standing.installation, account, digest, size, now)?)
}

/// The digests of all images that are registered, or that an agent was made from which is not destroyed, as control and
/// this node's journal have them.
pub async fn images_in_use(config: &Config) -> Result<BTreeSet<String>, ImagesError> {
    let (key, standing) = standing(config)?;
    let (http, origin) = client(&config.control, config.control_ca.as_deref())?;
    let mut digests: BTreeSet<String> =
        Caller::new(http, &origin, key, &standing).images().await?.digests.into_iter().collect();
    // What control has forgotten may live on here.
    let records = Journal::peek_agents(&config.data.join("node"), &config.run)?;
    let alive = records.into_values().filter(|record| record.phase != Phase::Destroyed);
    digests.extend(alive.filter_map(|record| record.desired.spec.image_digest));
    Ok(digests)
}
