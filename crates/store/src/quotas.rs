//! Quotas: how much all agents of an account may have together, and how much they have.

use crate::batch::Batch;
use crate::change::{Actor, Change};
use crate::db::query;
use crate::rows::Row;
use crate::{Error, Store};
use model::AccountId;
use model::Resources;
use model::agent::AgentSpec;
use model::audit::EventKind;
use model::quantity::ByteSize;
use model::quota::{AccountQuota, Exceeded, Quota, Usage, thousandths};
use serde_json::json;

/// Numbers are kept as they fit: what is beyond that is no limit that anybody could reach.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn quota(row: &Row) -> Result<Quota, Error> {
    let number =
        |column| row.try_get::<Option<i64>, _>(column).map(|number| number.map(|number| number as u64));
    Ok(Quota {
        agents: number("agents")?,
        cpus: number("cpus")?.map(|thousandths| thousandths as f64 / 1000.0),
        memory: number("memory")?.map(ByteSize),
        disk: number("disk")?.map(ByteSize),
    })
}

fn usage(row: &Row) -> Result<Usage, Error> {
    Ok(Usage {
        agents: row.number("agents")?,
        cpus: row.number("cpus")? as f64 / 1000.0,
        memory: ByteSize(row.number("memory")?),
        disk: ByteSize(row.number("disk")?),
    })
}

/// Sums are of what is not destroyed: what is stopped can be started again at any time.
const USED: &str = "SELECT COUNT(*) AS agents, CAST(COALESCE(SUM(cpus), 0) AS BIGINT) AS cpus,
        CAST(COALESCE(SUM(memory), 0) AS BIGINT) AS memory, CAST(COALESCE(SUM(disk), 0) AS BIGINT) AS disk
    FROM agents WHERE account = $1 AND state <> 'destroyed'";

/// Asks what an account may have. Whoever asks has the row until their commit: nobody decides on the same sum beside them.
pub(crate) fn ask_limits(batch: &mut Batch, account: AccountId) {
    batch
        .add(
            "UPDATE quotas SET decisions = decisions + 1 WHERE account = $1
             RETURNING agents, cpus, memory, disk",
        )
        .bind(account.to_string());
}

impl Change {
    /// Refuses one more agent that its account may not have; `limits` is what [`ask_limits`] was answered.
    pub(crate) async fn within(&mut self, limits: &[Row], spec: &AgentSpec) -> Result<(), Error> {
        let exceeded = self.exceeds(limits, spec.account, &spec.resources).await?;
        exceeded.map_or(Ok(()), |exceeded| Err(exceeded.into()))
    }

    /// The limit of an account that one more agent with these resources would pass.
    pub(crate) async fn exceeds(
        &mut self,
        limits: &[Row],
        account: AccountId,
        more: &Resources,
    ) -> Result<Option<Exceeded>, Error> {
        let Some(row) = limits.first() else { return Ok(None) };
        let quota = quota(row)?;
        if quota.is_unlimited() {
            return Ok(None);
        }
        let row = query(USED).bind(account.to_string()).fetch_one(self.db().await?).await?;
        Ok(quota.refuses(&usage(&row)?, more))
    }

    pub(crate) fn put_quota(&mut self, account: AccountId, quota: &Quota) {
        self.deferred
            .add(
                "INSERT INTO quotas (account, agents, cpus, memory, disk) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (account) DO UPDATE SET agents = excluded.agents, cpus = excluded.cpus,
                    memory = excluded.memory, disk = excluded.disk",
            )
            .bind(account.to_string())
            .bind(quota.agents.map(stored))
            .bind(quota.cpus.map(|cpus| stored(thousandths(cpus))))
            .bind(quota.memory.map(|size| stored(size.0)))
            .bind(quota.disk.map(|size| stored(size.0)));
        self.event(Some(account), EventKind::AccountQuotaSet, account, json!({"limits": quota}));
    }
}

impl Store {
    /// What accounts may have that are made from now on. Said once.
    pub fn set_new_quota(&self, quota: Quota) {
        let _ = self.0.new_quota.set(quota);
    }

    /// Says what an account may have. What it has already stays.
    pub async fn set_quota(&self, actor: Actor, account: AccountId, quota: &Quota) -> Result<(), Error> {
        let mut change = self.change(actor).await?;
        let known = query("SELECT id FROM accounts WHERE id = $1")
            .bind(account.to_string())
            .fetch_optional(change.db().await?)
            .await?;
        if known.is_none() {
            return Err(Error::NotFound { what: "account" });
        }
        change.put_quota(account, quota);
        change.commit().await
    }

    /// What an account may have, and what it has.
    pub async fn quota(&self, account: AccountId) -> Result<AccountQuota, Error> {
        let row = query("SELECT agents, cpus, memory, disk FROM quotas WHERE account = $1")
            .bind(account.to_string())
            .fetch_optional(&self.0.reader)
            .await?;
        let limits = row.as_ref().map(quota).transpose()?.unwrap_or_default();
        let used = query(USED).bind(account.to_string()).fetch_one(&self.0.reader).await?;
        Ok(AccountQuota { limits, used: usage(&used)? })
    }
}
