//! `/v1/egress`

use super::extract::{Empty, Guards, Id, Json};
use super::query::{Query, page};
use crate::app::App;
use crate::app::egress as app;
use crate::auth::Caller;
use crate::problems::Fault;
use axum::extract::State;
use axum::http::StatusCode;
use model::Problem;
use model::api::Page;
use model::egress::{AnswerQuestion, Answered, LogEntry, Outcome, Questions, Remembered};
use std::sync::Arc;
use std::time::Duration;

const MAX_WAIT: u64 = 60;
const MAX_ID: u64 = i64::MAX.unsigned_abs();

fn outcome(query: &Query) -> Result<Option<Outcome>, Fault> {
    let known = [Outcome::Passed, Outcome::Denied, Outcome::Failed];
    let Some(text) = query.text("outcome")? else { return Ok(None) };
    let outcome = known.into_iter().find(|outcome| outcome.to_string() == text);
    let wrong = || Problem::invalid("outcome", "expected one of passed, denied, failed");
    Ok(Some(outcome.ok_or_else(wrong)?))
}

fn wait(query: &Query) -> Result<Duration, Fault> {
    Ok(Duration::from_secs(query.number("wait", 0, MAX_WAIT)?.unwrap_or(0)))
}

/// Lists connections that left agents or were refused, newest first; with `after`, oldest first.
///
/// A record is made when a connection is over. To follow the log, ask with `after`, the `id` of the last record that is known (0 is
/// before all), and with `wait`: the answer comes with the first record behind it, or empty when the time is over. Such a page has
/// no `next`: its last `id` is the next `after`. Records are kept for a time (30 days unless control.toml says otherwise), and 20,000 of
/// one agent at most.
#[utoipa::path(get, path = "/v1/egress/log", tag = "egress", operation_id = "list_egress_log",
    params(
        ("agent" = Option<String>, Query, description = "Only those of this agent: its id or name; of one that is destroyed, its id"),
        ("outcome" = Option<Outcome>, Query, description = "Only those that ended like this"),
        ("cursor" = Option<String>, Query, description = "The `next` of an earlier page"),
        ("after" = Option<u64>, Query, description = "Only those behind this record, oldest first"),
        ("wait" = Option<u64>, Query, description = "With `after`: how many seconds to wait for the first, at most 60; 0 unless told"),
        ("limit" = Option<u32>, Query, description = "1 to 200; 50 unless told"),
    ),
    responses((status = 200, description = "A page", body = Page<LogEntry>)))]
pub(super) async fn log(
    State(state): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<axum::Json<Page<LogEntry>>, Fault> {
    query.only(&["agent", "outcome", "cursor", "after", "wait", "limit"])?;
    let paging = query.paging_by(|id| id.parse::<u64>().ok())?;
    let (after, wait) = (query.number("after", 0, MAX_ID)?, wait(&query)?);
    if after.is_some() && paging.before.is_some() {
        let problem = Problem::invalid("cursor", "`cursor` goes back in the log, and `after` forth");
        return Err(problem.remedy("give one of them").into());
    }
    if after.is_none() && query.text("wait")?.is_some() {
        let problem = Problem::invalid("wait", "there is nothing to wait for without `after`");
        return Err(problem.remedy("give `after`, the id of the last record that is known").into());
    }
    let filter = app::filter(&state, &caller, query.text("agent")?, outcome(&query)?).await?;
    let page = match after {
        Some(after) => app::follow(&state, &filter, after, paging.limit, wait).await?,
        None => {
            let rows = app::log(&state, &filter, paging.before, paging.limit).await?;
            page(rows, |entry| entry.id.to_string(), |entry| entry)
        }
    };
    Ok(axum::Json(page))
}

/// Tells what waits for a decision, oldest first, and that somebody is there to decide.
///
/// An agent whose policy says `unknown = "hold"` waits when it connects to a host that nothing names, as long as somebody looks: for 90
/// seconds from each such request on, for `agent` or, without it, for all agents of the account. With `since`, the answer comes when
/// something else waits than at that revision, or when the time is over.
#[utoipa::path(get, path = "/v1/egress/questions", tag = "egress", operation_id = "list_egress_questions",
    params(
        ("agent" = Option<String>, Query, description = "Only those of this agent: its id or name"),
        ("since" = Option<u64>, Query, description = "The `revision` of an earlier answer"),
        ("wait" = Option<u64>, Query, description = "With `since`: how many seconds to wait for a change, at most 60; 0 unless told"),
    ),
    responses((status = 200, description = "What waits", body = Questions)))]
pub(super) async fn questions(
    State(state): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<axum::Json<Questions>, Fault> {
    query.only(&["agent", "since", "wait"])?;
    let (since, wait) = (query.number("since", 0, MAX_ID)?, wait(&query)?);
    Ok(axum::Json(app::questions(&state, &caller, query.text("agent")?, since, wait).await?))
}

/// Decides what waits.
///
/// `once` lets the connections through that wait, and no other. `agent` puts a rule in front of the agent's policy. `always` does so
/// for every agent of the account that would ask as well, and for those that are made from now on. `deny` refuses them, and for ten
/// minutes those to come.
#[utoipa::path(post, path = "/v1/egress/questions/{id}/answer", tag = "egress", operation_id = "answer_egress_question",
    params(
        ("id" = String, Path, description = "The question's id"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and request act once, for 24 hours")),
    request_body = AnswerQuestion,
    responses((status = 200, description = "What was decided, and whose policies have a new rule", body = Answered)))]
pub(super) async fn answer(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    guards: Guards,
    Json(request): Json<AnswerQuestion>,
) -> Result<axum::Json<Answered>, Fault> {
    let idempotency = guards.idempotency(caller.account, "answer_egress_question", &(&id, &request))?;
    Ok(axum::Json(app::answer(&state, &caller, &id, request.decision, idempotency.as_ref()).await?))
}

/// Lists the hosts that were decided with `always`, newest first.
#[utoipa::path(get, path = "/v1/egress/remembered", tag = "egress", operation_id = "list_remembered_hosts",
    params(
        ("cursor" = Option<String>, Query, description = "The `next` of an earlier page"),
        ("limit" = Option<u32>, Query, description = "1 to 200; 50 unless told"),
    ),
    responses((status = 200, description = "A page", body = Page<Remembered>)))]
pub(super) async fn remembered(
    State(state): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<axum::Json<Page<Remembered>>, Fault> {
    query.only(&["cursor", "limit"])?;
    let paging = query.paging()?;
    let rows = app::remembered(&state, &caller, paging.before.as_deref(), paging.limit).await?;
    Ok(axum::Json(page(rows, |host| host.id.to_string(), |host| host)))
}

/// Forgets a host: agents that are made from now on have to ask. Policies that have the rule keep it.
#[utoipa::path(delete, path = "/v1/egress/remembered/{id}", tag = "egress", operation_id = "forget_remembered_host",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 204, description = "It is forgotten")))]
pub(super) async fn forget(
    State(state): State<Arc<App>>,
    caller: Caller,
    Id(id): Id,
    _: Empty,
) -> Result<StatusCode, Fault> {
    app::forget(&state, &caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
