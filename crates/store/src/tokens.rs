//! Callback tokens of nodes, hashed. Several of a node are valid at once, so that a renewal whose answer is
//! lost leaves no healthy node dead.

use crate::change::{Actor, Change};
use crate::db::query;
use crate::rows::millis;
use crate::{Error, Store};
use model::NodeId;
use model::audit::EventKind;
use model::token::NodeAssertion;
use serde_json::json;
use time::Duration;

/// `last_seen` is written at most this often, so that reading costs no commit.
const SEEN_EVERY: Duration = Duration::seconds(5);

impl Change {
    /// Uses up an assertion of a node that is valid until `expires`, in seconds since 1970; `false` if it was used before.
    pub(crate) async fn first_use(&mut self, node: NodeId, jti: &str, expires: i64) -> Result<bool, Error> {
        let used = query(
            "INSERT INTO assertions (node, jti, expires_at) VALUES ($1, $2, $3) ON CONFLICT (node, jti) DO NOTHING",
        )
        .bind(node.to_string())
        .bind(jti)
        // Remembered for longer than it is valid, so that no rounding or leeway opens a second chance.
        .bind(expires.saturating_mul(1000).saturating_add(600_000))
        .execute(self.db().await?)
        .await?;
        Ok(used.rows_affected() > 0)
    }
}

impl Store {
    /// Trades a verified assertion, once, for the callback token with this hash.
    pub async fn trade_assertion(
        &self,
        assertion: &NodeAssertion,
        hash: &str,
        life: Duration,
    ) -> Result<(), Error> {
        let node = assertion.iss;
        let mut change = self.change(Actor::Node(node)).await?;
        let now = change.now;
        if !change.first_use(node, &assertion.jti, assertion.exp).await? {
            return Err(Error::Replayed);
        }
        query("INSERT INTO callback_tokens (hash, node, expires_at) VALUES ($1, $2, $3)")
            .bind(hash)
            .bind(node.to_string())
            .bind(now + life.whole_milliseconds() as i64)
            .execute(change.db().await?)
            .await?;
        change.event(None, EventKind::NodeTokenIssued, node, json!({}));
        change.commit().await
    }

    /// The node that holds the callback token with this hash, and whether it was not heard for a while.
    pub async fn callback(&self, hash: &str) -> Result<Option<(NodeId, bool)>, Error> {
        let now = self.now();
        let row = query(
            "SELECT t.node, n.last_seen FROM callback_tokens t JOIN nodes n ON n.id = t.node
             WHERE t.hash = $1 AND t.expires_at > $2",
        )
        .bind(hash)
        .bind(millis(now))
        .fetch_optional(&self.0.reader)
        .await?;
        row.map(|row| {
            let seen = row.at_opt("last_seen")?;
            Ok((row.parsed("node")?, seen.is_none_or(|seen| seen <= now - SEEN_EVERY)))
        })
        .transpose()
    }
}
