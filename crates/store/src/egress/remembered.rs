//! What agents of an account may reach that ask, also those to come.

use super::questions::port;
use crate::change::{Actor, Change};
use crate::db::query;
use crate::rows::Row;
use crate::{Error, PageOf, Store};
use model::audit::EventKind;
use model::egress::{OpenQuestion, Remembered};
use model::{AccountId, RememberedId};
use serde_json::json;

/// Hosts that are remembered for one account: each is a rule of every policy to come.
const MOST: u64 = 1000;

fn remembered(row: &Row) -> Result<Remembered, Error> {
    Ok(Remembered {
        id: row.parsed("id")?,
        host: row.text("host")?,
        port: port(row)?,
        actor: row.text("actor")?,
        at: row.at("at")?,
    })
}

/// The host and port of each row.
pub(crate) fn hosts(rows: &[Row]) -> Result<Vec<(String, u16)>, Error> {
    rows.iter().map(|row| Ok((row.text("host")?, port(row)?))).collect()
}

impl Change {
    /// Remembers what was asked about, unless it is already.
    pub(super) async fn remember_host(
        &mut self,
        account: AccountId,
        question: &OpenQuestion,
    ) -> Result<(), Error> {
        let row = query(
            "SELECT count(*) AS count, count(*) FILTER (WHERE host = $2 AND port = $3) AS same
             FROM egress_remembered WHERE account = $1",
        )
        .bind(account.to_string())
        .bind(question.host.clone())
        .bind(i64::from(question.port))
        .fetch_one(self.db().await?)
        .await?;
        if row.number("same")? > 0 {
            return Ok(());
        }
        if row.number("count")? >= MOST {
            return Err(Error::TooManyRemembered { most: MOST });
        }
        let (now, actor) = (self.now, self.actor.to_string());
        self.deferred
            .add("INSERT INTO egress_remembered (id, account, host, port, actor, at) VALUES ($1, $2, $3, $4, $5, $6)")
            .bind(RememberedId::new().to_string())
            .bind(account.to_string())
            .bind(question.host.clone())
            .bind(i64::from(question.port))
            .bind(actor)
            .bind(now);
        Ok(())
    }
}

impl Store {
    /// What is remembered for an account, newest first.
    pub async fn remembered(
        &self,
        account: AccountId,
        before: Option<&str>,
        limit: u32,
    ) -> Result<PageOf<Remembered>, Error> {
        let rows = query(
            "SELECT * FROM egress_remembered WHERE account = $1 AND ($2 IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
        )
        .bind(account.to_string())
        .bind(before)
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.0.reader)
        .await?;
        Ok(PageOf::of(rows.iter().map(remembered).collect::<Result<_, _>>()?, limit))
    }

    /// Forgets one. Policies that have the rule keep it.
    pub async fn forget_remembered(
        &self,
        actor: Actor,
        account: AccountId,
        id: RememberedId,
    ) -> Result<(), Error> {
        let mut change = self.change(actor).await?;
        let gone = query("DELETE FROM egress_remembered WHERE id = $1 AND account = $2 RETURNING host, port")
            .bind(id.to_string())
            .bind(account.to_string())
            .fetch_optional(change.db().await?)
            .await?;
        let gone = gone.ok_or(Error::NotFound { what: "remembered host" })?;
        let detail = json!({"host": gone.text("host")?, "port": port(&gone)?});
        change.event(Some(account), EventKind::EgressForgotten, id, detail);
        change.commit().await
    }
}
