//! The chains over committed events: one of each account, one of the installation.
//!
//! No change waits for another because of them. Each event is in `ledger_waiting` with its own transaction; the process that has the lease
//! reads what waits there, computes outside of the writer's turn, and appends what it found in one change. The keys of `ledger` refuse
//! whatever another process appended meanwhile, so that the lease saves work and keeps nothing right.

use crate::change::{Actor, Changed};
use crate::db::query;
use crate::rows::{Row, millis, to_json};
use crate::{Error, Store};
use ::ledger::{Entry, Hash, INSTALLATION, Record, genesis, link};
use model::audit::EventKind;
use model::{AccountId, KeyId};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use time::Duration;

/// Events that are chained at once.
const STEP: i64 = 2000;
/// Bytes of details that are read at once: some events hold a policy of a mebibyte.
const BYTES: u64 = 4 << 20;
/// How long a process does it for all that said nothing since.
const LEASE: Duration = Duration::seconds(10);

/// What became of an attempt to chain what waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chaining {
    /// So many events were chained; there may be more if they were many.
    Done {
        /// How many.
        events: usize,
        /// Whether more waited.
        more: bool,
    },
    /// Another process does it.
    Elsewhere,
}

#[derive(Serialize)]
struct Link<'r> {
    chain: &'r str,
    /// As text: PostgreSQL's JSON knows no other way to a number here.
    seq: String,
    event: &'r str,
    hash: Hash,
}

const RECORD: &str = "e.id, e.account, e.at, e.kind, e.actor, e.subject, e.source, e.request, e.detail";

fn record(row: &Row) -> Result<Record, Error> {
    Ok(Record {
        id: row.text("id")?,
        account: row.try_get("account")?,
        at: row.try_get("at")?,
        kind: row.text("kind")?,
        actor: row.text("actor")?,
        subject: row.text("subject")?,
        source: row.try_get("source")?,
        request: row.try_get("request")?,
        detail: row.text("detail")?,
    })
}

fn entry(row: &Row) -> Result<Entry, Error> {
    let id: Option<String> = row.try_get("id")?;
    Ok(Entry {
        seq: row.number("seq")?,
        hash: row.parsed("hash")?,
        event: row.text("event")?,
        record: id.map(|_| record(row)).transpose()?,
    })
}

/// How many of these rows are read at once, by the sizes that they say: one at least.
fn fitting(rows: &[Row]) -> Result<i64, Error> {
    let (mut count, mut bytes) = (0, 0_u64);
    for row in rows {
        bytes += row.number("size")?;
        if count > 0 && bytes > BYTES {
            break;
        }
        count += 1;
    }
    Ok(count)
}

fn chain_of(account: Option<AccountId>) -> String {
    account.map_or_else(|| INSTALLATION.to_owned(), |account| account.to_string())
}

impl Store {
    /// Appends what waits to the chains, a step of it, unless another process does so.
    pub async fn chain_events(&self, holder: &str) -> Result<Chaining, Error> {
        let now = millis(self.now());
        let lease = query("SELECT holder, until FROM leases WHERE name = 'ledger'")
            .fetch_optional(&self.0.reader)
            .await?;
        if let Some(lease) = lease
            && lease.text("holder")? != holder
            && lease.try_get::<i64, _>("until")? > now
        {
            return Ok(Chaining::Elsewhere);
        }
        let sizes = query(
            "SELECT CAST(length(e.detail) AS BIGINT) AS size
             FROM ledger_waiting w JOIN events e ON e.id = w.event ORDER BY w.ordinal LIMIT $1",
        )
        .bind(STEP)
        .fetch_all(&self.0.reader)
        .await?;
        let step = fitting(&sizes)?;
        let waiting = query(
            "SELECT e.id, e.account, e.at, e.kind, e.actor, e.subject, e.source, e.request, e.detail
             FROM ledger_waiting w JOIN events e ON e.id = w.event ORDER BY w.ordinal LIMIT $1",
        )
        .bind(step)
        .fetch_all(&self.0.reader)
        .await?;
        let Some(installation) = self.installation().await?.filter(|_| !waiting.is_empty()) else {
            return Ok(Chaining::Done { events: 0, more: false });
        };
        let records = waiting.iter().map(record).collect::<Result<Vec<_>, _>>()?;
        let mut heads: BTreeMap<String, (u64, Hash)> = BTreeMap::new();
        let mut links = Vec::with_capacity(records.len());
        for record in &records {
            let chain = record.account.as_deref().unwrap_or(INSTALLATION);
            let (seq, hash) = match heads.get(chain) {
                Some(head) => *head,
                None => {
                    let head = self.head(chain).await?;
                    head.unwrap_or_else(|| (0, genesis(&installation.id, chain)))
                }
            };
            let head = (seq + 1, link(&hash, &record.hash()));
            heads.insert(chain.to_owned(), head);
            links.push(Link { chain, seq: head.0.to_string(), event: &record.id, hash: head.1 });
        }
        let events: Vec<&str> = links.iter().map(|link| link.event).collect();
        let mut change = self.change(Actor::System).await?;
        change
            .deferred
            .add(
                "INSERT INTO leases (name, holder, until) VALUES ('ledger', $1, $2)
                 ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
                 WHERE leases.holder = excluded.holder OR leases.until <= $3",
            )
            .bind(holder.to_owned())
            .bind(now + LEASE.whole_milliseconds() as i64)
            .bind(now)
            .or(Error::Overtaken)
            .add(
                "INSERT INTO ledger (chain, seq, event, hash)
                 SELECT value ->> 'chain', CAST(value ->> 'seq' AS BIGINT), value ->> 'event', value ->> 'hash'
                 FROM json_each($1)",
            )
            .bind(to_json(&links))
            .add("DELETE FROM ledger_waiting WHERE event IN (SELECT value FROM json_each($1))")
            .bind(to_json(&events));
        for chain in heads.keys() {
            change.touch(Changed::Ledger(chain.parse().ok()));
        }
        change.commit_bookkeeping().await?;
        Ok(Chaining::Done { events: records.len(), more: step == STEP || step < sizes.len() as i64 })
    }

    async fn head(&self, chain: &str) -> Result<Option<(u64, Hash)>, Error> {
        let row = query("SELECT seq, hash FROM ledger WHERE chain = $1 ORDER BY seq DESC LIMIT 1")
            .bind(chain)
            .fetch_optional(&self.0.reader)
            .await?;
        row.map(|row| Ok((row.number("seq")?, row.parsed("hash")?))).transpose()
    }

    /// Where the chain of an account, or of the installation, stands; nothing before its first event is chained.
    pub async fn ledger_head(&self, account: Option<AccountId>) -> Result<Option<(u64, Hash)>, Error> {
        self.head(&chain_of(account)).await
    }

    /// Entries of a chain behind this number, in their order; fewer than `limit` where they are large, none only at the end.
    pub async fn ledger_entries(
        &self,
        account: Option<AccountId>,
        after: u64,
        limit: u32,
    ) -> Result<Vec<Entry>, Error> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let sizes = query(
            "SELECT CAST(coalesce(length(e.detail), 0) AS BIGINT) AS size
             FROM ledger l LEFT JOIN events e ON e.id = l.event WHERE l.chain = $1 AND l.seq > $2 ORDER BY l.seq LIMIT $3",
        )
        .bind(chain_of(account))
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.0.reader)
        .await?;
        let mut select = crate::db::Builder::new("SELECT l.seq, l.hash, l.event, ");
        select.push(RECORD).push(" FROM ledger l LEFT JOIN events e ON e.id = l.event WHERE l.chain = ");
        select.push_bind(chain_of(account)).push(" AND l.seq > ");
        select.push_bind(after).push(" ORDER BY l.seq LIMIT ");
        select.push_bind(fitting(&sizes)?);
        let rows = select.build().fetch_all(&self.0.reader).await?;
        rows.iter().map(entry).collect()
    }

    /// Makes this public key known as one that signs checkpoints.
    pub async fn use_ledger_key(&self, x: &str) -> Result<(), Error> {
        let known =
            query("SELECT id FROM ledger_keys WHERE x = $1").bind(x).fetch_optional(&self.0.reader).await?;
        if known.is_some() {
            return Ok(());
        }
        let mut change = self.change(Actor::System).await?;
        let (id, now) = (KeyId::new(), change.now);
        change
            .deferred
            .add("INSERT INTO ledger_keys (id, x, created_at) VALUES ($1, $2, $3)")
            .bind(id.to_string())
            .bind(x.to_owned())
            .bind(now);
        change.event(None, EventKind::LedgerKeyUsed, id, json!({"x": x}));
        change.commit().await
    }
}
