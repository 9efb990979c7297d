//! What other processes changed in the same database: each tells the others with its commit, and listens.

use crate::Error;
use crate::change::{Changed, OnCommit};
use crate::db::{Connection, query};
use crate::group::Made;
use crate::rows::to_json;
use model::{AccountId, AgentId, NodeId};
use sqlx::postgres::{PgListener, PgPool};
use std::collections::BTreeSet;
use std::time::Duration;

const CHANNEL: &str = "cofferdam";
/// Between two tries to listen again.
const AGAIN: Duration = Duration::from_secs(1);

/// One process among those that use a database.
#[derive(Debug, Clone)]
pub(crate) struct Origin(String);

impl Origin {
    pub(crate) fn new() -> Self {
        Self(uuid::Uuid::now_v7().simple().to_string())
    }
}

/// A change as others are told of it: by whom, in which commit, and of what.
fn words(origin: &Origin, number: u64, changed: &Changed) -> Option<String> {
    let what = match changed {
        Changed::Agent(agent) => {
            let deadline = agent.spec.ttl.is_some() || agent.spec.idle_timeout.is_some();
            format!("{} {}", if deadline { "due" } else { "agent" }, agent.spec.id)
        }
        Changed::Node(id) => format!("node {id}"),
        Changed::Questions(account) => format!("questions {account}"),
        Changed::EgressLog(account) => format!("egress {account}"),
        Changed::Events => "events -".to_owned(),
        Changed::Ledger(None) => "ledger -".to_owned(),
        Changed::Ledger(Some(account)) => format!("ledger {account}"),
        Changed::Keys => "keys -".to_owned(),
        // What was heard is not told on.
        Changed::AgentElsewhere { .. } | Changed::Anything => return None,
    };
    Some(format!("{} {number} {what}", origin.0))
}

/// The number and the change, unless they are this process's own. What a later version tells may be anything.
fn heard(origin: &Origin, text: &str) -> Option<(u64, Changed)> {
    let mut words = text.split(' ');
    if words.next() == Some(&origin.0) {
        return None;
    }
    let number = words.next().and_then(|number| number.parse().ok()).unwrap_or_default();
    let (kind, id) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let agent = |deadline| {
        let agent: Result<AgentId, _> = id.parse();
        agent.ok().map(|agent| Changed::AgentElsewhere { agent, deadline })
    };
    let account = || id.parse::<AccountId>().ok();
    let changed = match kind {
        "agent" => agent(false),
        "due" => agent(true),
        "node" => id.parse::<NodeId>().ok().map(Changed::Node),
        "questions" => account().map(Changed::Questions),
        "egress" => account().map(Changed::EgressLog),
        "events" => Some(Changed::Events),
        "ledger" if id == "-" => Some(Changed::Ledger(None)),
        "ledger" => account().map(|account| Changed::Ledger(Some(account))),
        "keys" => Some(Changed::Keys),
        _ => None,
    };
    Some((number, changed.unwrap_or(Changed::Anything)))
}

/// All that others are to be told, each once.
pub(crate) fn told(origin: &Origin, made: &[Made]) -> BTreeSet<String> {
    let of = |made: &Made| {
        made.changed.iter().filter_map(|changed| words(origin, made.number, changed)).collect::<Vec<_>>()
    };
    made.iter().flat_map(of).collect()
}

/// Tells others with the commit that follows.
pub(crate) async fn tell(db: Connection<'_>, told: &BTreeSet<String>) -> Result<(), Error> {
    if told.is_empty() {
        return Ok(());
    }
    let notify = query("SELECT pg_notify('cofferdam', value) FROM json_each($1)").bind(to_json(told));
    notify.execute(db).await.map(drop)
}

/// Begins to listen; nothing that is committed after this returned is missed.
pub(crate) async fn listen(pool: &PgPool) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

/// Hears of changes until the pool is closed.
pub(crate) async fn hear(mut listener: PgListener, pool: PgPool, origin: Origin, on_commit: OnCommit) {
    loop {
        while let Ok(Some(told)) = listener.try_recv().await {
            if let Some((number, changed)) = heard(&origin, told.payload()) {
                on_commit(number, changed);
            }
        }
        if pool.is_closed() {
            return;
        }
        tracing::warn!("nothing is heard of what other control processes change; listening again");
        listener = loop {
            match listen(&pool).await {
                Ok(listener) => break listener,
                Err(sqlx::Error::PoolClosed) => return,
                // Nobody can tell when a server is back but the server.
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        };
        // Whatever was told meanwhile was told to nobody.
        on_commit(0, Changed::Anything);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard_by_others_alone() {
        let (one, two) = (Origin::new(), Origin::new());
        let check = |changed: Changed, expected: &str| {
            let text = words(&one, 7, &changed).unwrap();
            assert!(heard(&one, &text).is_none(), "its own");
            let (number, changed) = heard(&two, &text).unwrap();
            assert_eq!((number, format!("{changed:?}").as_str()), (7, expected));
        };
        let (node, account) = (NodeId::new(), AccountId::new());
        check(Changed::Node(node), &format!("{:?}", Changed::Node(node)));
        check(Changed::Questions(account), &format!("{:?}", Changed::Questions(account)));
        check(Changed::EgressLog(account), &format!("{:?}", Changed::EgressLog(account)));
        check(Changed::Events, "Events");
        check(Changed::Ledger(None), "Ledger(None)");
        check(Changed::Ledger(Some(account)), &format!("{:?}", Changed::Ledger(Some(account))));
        check(Changed::Keys, "Keys");
        for odd in ["", "x", "x 1", "x 1 agent", "x 1 agent nobody", "x y sessions -"] {
            assert!(matches!(heard(&two, odd), Some((_, Changed::Anything))), "{odd}");
        }
    }
}
