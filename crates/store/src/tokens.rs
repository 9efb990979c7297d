//! Callback tokens of nodes, hashed. Several of a node are valid at once, so that a renewal whose answer is
//! lost leaves no healthy node dead.

use crate::change::Actor;
use crate::rows::{Columns, millis};
use crate::{Error, Store};
use model::NodeId;
use model::token::NodeAssertion;
use serde_json::json;
use time::Duration;

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
        let traded = sqlx::query(
            "INSERT INTO assertions (node, jti, expires_at) VALUES ($1, $2, $3) ON CONFLICT (node, jti) DO NOTHING",
        )
        .bind(node.to_string())
        .bind(&assertion.jti)
        // Remembered for longer than it is valid, so that no rounding or leeway opens a second chance.
        .bind(assertion.exp.saturating_mul(1000).saturating_add(600_000))
        .execute(change.db())
        .await?;
        if traded.rows_affected() == 0 {
            return Err(Error::Replayed);
        }
        sqlx::query("INSERT INTO callback_tokens (hash, node, expires_at) VALUES ($1, $2, $3)")
            .bind(hash)
            .bind(node.to_string())
            .bind(now + life.whole_milliseconds() as i64)
            .execute(change.db())
            .await?;
        change.event(None, "node.token_issued", node, json!({})).await?;
        change.commit().await
    }

    /// The node that holds the callback token with this hash.
    pub async fn callback(&self, hash: &str) -> Result<Option<NodeId>, Error> {
        let row = sqlx::query("SELECT node FROM callback_tokens WHERE hash = $1 AND expires_at > $2")
            .bind(hash)
            .bind(millis(self.now()))
            .fetch_optional(&self.0.reader)
            .await?;
        row.map(|row| row.parsed("node")).transpose()
    }
}
