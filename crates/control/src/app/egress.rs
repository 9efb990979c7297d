//! What leaves agents of the caller's account: the log, what waits for a decision, and decisions. Whoever may change an agent's
//! policy may decide.

use crate::app::{App, agents};
use crate::auth::Caller;
use crate::problems::Fault;
use model::api::Page;
use model::egress::{Answered, Decision, LogEntry, OpenQuestion, Outcome, Questions, Remembered};
use model::{AgentId, Code, Problem, QuestionId, RememberedId};
use sha2::{Digest, Sha256};
use std::time::Duration;
use store::{EgressFilter, Idempotency, PageOf, Watched};

/// The agent that is named, if one is.
async fn named(app: &App, caller: &Caller, agent: Option<&str>) -> Result<Option<AgentId>, Fault> {
    match agent {
        Some(key) => Ok(Some(agents::find(app, caller, key).await?.spec.id)),
        None => Ok(None),
    }
}

/// Which records are asked for.
pub(crate) async fn filter(
    app: &App,
    caller: &Caller,
    agent: Option<&str>,
    outcome: Option<Outcome>,
) -> Result<EgressFilter, Fault> {
    Ok(EgressFilter { account: caller.account, agent: named(app, caller, agent).await?, outcome })
}

/// The log, newest first.
pub(crate) async fn log(
    app: &App,
    filter: &EgressFilter,
    before: Option<u64>,
    limit: u32,
) -> Result<PageOf<LogEntry>, Fault> {
    Ok(app.store.egress_log(filter, before, limit).await?)
}

/// What came into the log after a record, oldest first: now if there is something, else with the first, else after `wait`.
pub(crate) async fn follow(
    app: &App,
    filter: &EgressFilter,
    after: u64,
    limit: u32,
    wait: Duration,
) -> Result<Page<LogEntry>, Fault> {
    let deadline = tokio::time::Instant::now() + wait;
    let mut changes = app.notify.egress_log(filter.account);
    loop {
        let items = app.store.egress_log_after(filter, after, limit).await?;
        if !items.is_empty() {
            return Ok(Page { items, next: None });
        }
        tokio::select! {
            () = changes.changed() => {}
            () = tokio::time::sleep_until(deadline) => return Ok(Page { items, next: None }),
            () = app.ending.cancelled() => return Ok(Page { items, next: None }),
        }
    }
}

/// A number that is another one when something else waits, whoever restarts in between.
fn revision(items: &[OpenQuestion]) -> u64 {
    let mut digest = Sha256::new();
    items.iter().for_each(|item| digest.update(item.id.to_string()));
    let first = digest.finalize().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    // What every reader of JSON takes for a whole number.
    first >> 11
}

/// What waits for a decision: now if that is not what it was at `since`, else when it changes, else after `wait`. Until then
/// somebody is there to decide, and nodes are told so.
pub(crate) async fn questions(
    app: &App,
    caller: &Caller,
    agent: Option<&str>,
    since: Option<u64>,
    wait: Duration,
) -> Result<Questions, Fault> {
    let deadline = tokio::time::Instant::now() + wait;
    let agent = named(app, caller, agent).await?;
    let watched = agent.map_or(Watched::Account(caller.account), Watched::Agent);
    let mut changes = app.notify.questions(caller.account);
    loop {
        let left = app.store.watch(watched).await?;
        let items = app.store.questions(caller.account, agent).await?;
        let questions = Questions { revision: revision(&items), items };
        if since != Some(questions.revision) {
            return Ok(questions);
        }
        tokio::select! {
            () = changes.changed() => {}
            () = tokio::time::sleep(left) => {}
            () = tokio::time::sleep_until(deadline) => return Ok(questions),
            () = app.ending.cancelled() => return Ok(questions),
        }
        // It may be another account's by now, whose questions nobody here looks after.
        if let Some(agent) = agent {
            agents::find(app, caller, &agent.to_string()).await?;
        }
    }
}

fn no_question(id: &str) -> Fault {
    let Fault(problem) = Fault::missing("question", id);
    let remedy = "it was settled, or its time is over; GET /v1/egress/questions lists what waits";
    problem.remedy(remedy).into()
}

/// Decides a question.
pub(crate) async fn answer(
    app: &App,
    caller: &Caller,
    id: &str,
    decision: Decision,
    idempotency: Option<&Idempotency>,
) -> Result<Answered, Fault> {
    let question: QuestionId = id.parse().map_err(|_| no_question(id))?;
    let answered =
        app.store.answer_question(caller.actor(), caller.account, question, decision, idempotency).await;
    match answered {
        Err(store::Error::NotFound { .. }) => Err(no_question(id)),
        answered => Ok(answered?),
    }
}

/// What is remembered for the account, newest first.
pub(crate) async fn remembered(
    app: &App,
    caller: &Caller,
    before: Option<&str>,
    limit: u32,
) -> Result<PageOf<Remembered>, Fault> {
    Ok(app.store.remembered(caller.account, before, limit).await?)
}

/// Forgets a host: agents that are made from now on have to ask.
pub(crate) async fn forget(app: &App, caller: &Caller, id: &str) -> Result<(), Fault> {
    let missing = || {
        let detail = format!("there is no remembered host {:?}", id.chars().take(80).collect::<String>());
        let remedy = "GET /v1/egress/remembered lists those that there are";
        Fault(Problem::new(Code::NotFound, detail).remedy(remedy))
    };
    let host: RememberedId = id.parse().map_err(|_| missing())?;
    match app.store.forget_remembered(caller.actor(), caller.account, host).await {
        Err(store::Error::NotFound { .. }) => Err(missing()),
        forgotten => Ok(forgotten?),
    }
}
