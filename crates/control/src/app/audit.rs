//! The ledger as those see it whom it is about: the chain of their account, and that of the installation for its operator.

use crate::app::App;
use crate::auth::Caller;
use crate::auth::access::Action;
use crate::problems::Fault;
use ledger::{Checkpoint, Entry, Hash, INSTALLATION, Receipt, genesis};
use model::AccountId;
use std::time::Duration;

/// Which chain is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chain {
    /// That of the caller's account.
    Account,
    /// That of the installation.
    Installation,
}

fn of(caller: &Caller, chain: Chain) -> Result<Option<AccountId>, Fault> {
    match chain {
        Chain::Account => Ok(Some(caller.account)),
        Chain::Installation => {
            caller.check(Action::Operate)?;
            Ok(None)
        }
    }
}

/// Entries behind a number: now if there are any, else with the first, else after `wait`.
pub(crate) async fn entries(
    app: &App,
    caller: &Caller,
    chain: Chain,
    after: u64,
    limit: u32,
    wait: Duration,
) -> Result<Vec<Entry>, Fault> {
    let account = of(caller, chain)?;
    let deadline = tokio::time::Instant::now() + wait;
    let mut changes = app.notify.ledger(account);
    loop {
        let entries = app.store.ledger_entries(account, after, limit).await?;
        if !entries.is_empty() {
            return Ok(entries);
        }
        tokio::select! {
            () = changes.changed() => {}
            () = tokio::time::sleep_until(deadline) => return Ok(entries),
            () = app.ending.cancelled() => return Ok(entries),
        }
    }
}

/// Where a chain stands, signed.
pub(crate) async fn receipt(app: &App, caller: &Caller, chain: Chain) -> Result<Receipt, Fault> {
    let account = of(caller, chain)?;
    let chain = account.map_or_else(|| INSTALLATION.to_owned(), |account| account.to_string());
    let installation = app.installation.id.clone();
    let before: (u64, Hash) = (0, genesis(&installation, &chain));
    let (seq, hash) = app.store.ledger_head(account).await?.unwrap_or(before);
    let at = (app.store.now().unix_timestamp_nanos() / 1_000_000) as i64;
    Ok(app.ledger.sign(Checkpoint { installation, chain, seq, hash, at }))
}
