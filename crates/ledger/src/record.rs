//! An event as it is hashed, and its place in a chain.

use crate::hash::{Hash, Hasher};
use serde::{Deserialize, Serialize};

/// An event, to the letter as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its id.
    pub id: String,
    /// Whose it is; absent for the installation's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// What.
    pub kind: String,
    /// Who.
    pub actor: String,
    /// On what.
    pub subject: String,
    /// From where: an address, or `local`. Absent of events from before this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The request that did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// What was and what is: the text of a JSON object.
    pub detail: String,
}

impl Record {
    /// The hash of it alone.
    pub fn hash(&self) -> Hash {
        let mut hasher = Hasher::event();
        hasher.text(&self.id);
        hasher.maybe(self.account.as_deref());
        hasher.number(self.at);
        hasher.text(&self.kind);
        hasher.text(&self.actor);
        hasher.text(&self.subject);
        hasher.maybe(self.source.as_deref());
        hasher.maybe(self.request.as_deref());
        hasher.text(&self.detail);
        hasher.finish()
    }
}

/// A place in a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Which, from 1.
    pub seq: u64,
    /// Of this entry, over all before it.
    pub hash: Hash,
    /// The id of the event that stands here.
    pub event: String,
    /// The event; absent if it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
}
