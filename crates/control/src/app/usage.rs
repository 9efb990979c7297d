//! What the caller's account used.

use crate::app::App;
use crate::auth::Caller;
use crate::problems::Fault;
use model::Problem;
use model::usage::{Amounts, month_of};
use model::usage_api::{Day, UsageBy, UsageItem, UsagePage};
use std::ops::Bound;

/// The most days that are told at once: ten years.
const LONGEST: i64 = 3653;

/// Which usage is asked for; the month until now unless told.
pub(crate) struct Asked {
    pub(crate) from: Option<Day>,
    /// The first day that is not asked for.
    pub(crate) to: Option<Day>,
    pub(crate) by: UsageBy,
    /// What the last page ended with.
    pub(crate) after: Option<String>,
    pub(crate) limit: u32,
}

/// A page of usage: whoever acts in an account sees what it used, and nothing of others.
pub(crate) async fn usage(app: &App, caller: &Caller, asked: Asked) -> Result<UsagePage, Fault> {
    let today = app.store.today();
    let to = asked.to.unwrap_or(Day(today.0 + 1));
    let from = asked.from.unwrap_or_else(|| Day(month_of(today.0.min(to.0 - 1)).0.max(0)));
    if from >= to {
        return Err(
            Problem::invalid("to", "expected a day after `from`: it is the first that is not told").into()
        );
    }
    if to.0 - from.0 > LONGEST {
        return Err(Problem::invalid("from", format!("expected at most {LONGEST} days before `to`")).into());
    }
    let sums = app.store.usage(caller.account, from, to, asked.by).await?;
    let mut total = Amounts::default();
    for sum in sums.values() {
        total += sum.amounts;
    }
    let behind = asked.after.map_or(Bound::Unbounded, Bound::Excluded);
    let limit = asked.limit as usize;
    let mut items: Vec<UsageItem> = sums
        .range((behind, Bound::Unbounded))
        .take(limit + 1)
        .map(|(key, sum)| UsageItem {
            key: key.clone(),
            name: None,
            used: (&sum.amounts).into(),
            open: sum.open,
        })
        .collect();
    let more = items.len() > limit;
    items.truncate(limit);
    if let (UsageBy::Agent, Some(first), Some(last)) = (asked.by, items.first(), items.last()) {
        let mut names = app.store.agent_names(caller.account, &first.key, &last.key).await?;
        for item in &mut items {
            item.name = names.remove(&item.key);
        }
    }
    let next = items.last().filter(|_| more).map(|item| item.key.clone());
    Ok(UsagePage { from, to, by: asked.by, items, total: (&total).into(), next })
}
