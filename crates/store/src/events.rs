//! Reading the audit events. Writing them is part of every change, and of nothing else.

use crate::db::query;
use crate::rows::Row;
use crate::{Error, PageOf, Store};
use model::AccountId;
use model::api::Event;

fn event(row: &Row) -> Result<Event, Error> {
    Ok(Event {
        id: row.parsed("id")?,
        at: row.at("at")?,
        kind: row.text("kind")?,
        actor: row.text("actor")?,
        subject: row.text("subject")?,
        detail: row.json("detail")?,
    })
}

impl Store {
    /// Events of an account, and those of the installation for its operator.
    pub async fn events(
        &self,
        account: AccountId,
        operator: bool,
        subject: Option<&str>,
        before: Option<&str>,
        limit: u32,
    ) -> Result<PageOf<Event>, Error> {
        let rows = query(
            "SELECT * FROM events WHERE (account = $1 OR (account IS NULL AND $2 = 1))
                AND ($3 IS NULL OR subject = $3) AND ($4 IS NULL OR id < $4)
             ORDER BY id DESC LIMIT $5",
        )
        .bind(account.to_string())
        .bind(i64::from(operator))
        .bind(subject)
        .bind(before)
        .bind(i64::from(limit) + 1)
        .fetch_all(&self.0.reader)
        .await?;
        Ok(PageOf::of(rows.iter().map(event).collect::<Result<_, _>>()?, limit))
    }
}
