//! `/v1/audit`

use super::query::Query;
use crate::app::App;
use crate::app::audit as app;
use crate::auth::Caller;
use crate::problems::Fault;
use axum::extract::State;
use ledger::{Entry, Receipt};
use model::Problem;
use std::sync::Arc;
use std::time::Duration;

const MAX_WAIT: u64 = 60;
const MAX_SEQ: u64 = i64::MAX.unsigned_abs();
/// A chain is read as a whole by whoever verifies it.
const MAX_ENTRIES: u64 = 1000;

fn chain(query: &Query) -> Result<app::Chain, Fault> {
    match query.text("chain")? {
        None | Some("account") => Ok(app::Chain::Account),
        Some("installation") => Ok(app::Chain::Installation),
        Some(_) => Err(Problem::invalid("chain", "expected one of account, installation").into()),
    }
}

/// Lists entries of a chain, oldest first: each with its event to the letter, and its hash over all before it.
///
/// An event is in its chain within a second. To follow a chain, ask with `after`, the `seq` of the last entry that is known, and with
/// `wait`: no event is left out, in whatever order they were committed.
#[utoipa::path(get, path = "/v1/audit/entries", tag = "events", operation_id = "list_ledger_entries",
    params(
        ("chain" = Option<String>, Query, description = "`account`, or `installation` for its operator; `account` unless told"),
        ("after" = Option<u64>, Query, description = "Only those behind this number; 0 unless told"),
        ("wait" = Option<u64>, Query, description = "How many seconds to wait for the first, at most 60; 0 unless told"),
        ("entries" = Option<u64>, Query, description = "1 to 1000; 1000 unless told"),
    ),
    responses((status = 200, description = "Entries", body = Vec<Entry>)))]
pub(super) async fn entries(
    State(state): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<axum::Json<Vec<Entry>>, Fault> {
    query.only(&["chain", "after", "wait", "entries"])?;
    let after = query.number("after", 0, MAX_SEQ)?.unwrap_or(0);
    let limit = query.number("entries", 1, MAX_ENTRIES)?.unwrap_or(MAX_ENTRIES);
    let wait = Duration::from_secs(query.number("wait", 0, MAX_WAIT)?.unwrap_or(0));
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    Ok(axum::Json(app::entries(&state, &caller, chain(&query)?, after, limit, wait).await?))
}

/// Tells where a chain stands, signed: a receipt.
///
/// Kept where the installation's operator does not reach, it shows later that the chain up to there is still the one that there was.
#[utoipa::path(get, path = "/v1/audit/receipt", tag = "events", operation_id = "get_ledger_receipt",
    params(("chain" = Option<String>, Query, description = "`account`, or `installation` for its operator; `account` unless told")),
    responses((status = 200, description = "The receipt", body = Receipt)))]
pub(super) async fn receipt(
    State(state): State<Arc<App>>,
    caller: Caller,
    query: Query,
) -> Result<axum::Json<Receipt>, Fault> {
    query.only(&["chain"])?;
    Ok(axum::Json(app::receipt(&state, &caller, chain(&query)?).await?))
}
