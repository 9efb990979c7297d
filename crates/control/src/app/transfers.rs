//! Giving an agent to another account. Whoever does it may give it away here, and may have agents there; both are theirs to show, so
//! that neither account is given anything, or loses anything, by somebody who belongs to one of them alone.

use crate::app::{App, agents};
use crate::auth::Caller;
use crate::auth::access::{Action, Standing, Verdict, decide};
use crate::problems::Fault;
use model::people::{Account, Role};
use model::transfer::TransferAgent;
use model::{Code, Problem};
use store::{Idempotency, Moved, Transfer};

/// What somebody has to be in the account that an agent goes to: what makes agents there.
const LEAST: Role = Role::Member;

/// The account that is named, if the caller may have agents there. That there is another of this name, nobody learns here.
async fn destination(app: &App, caller: &Caller, key: &str) -> Result<Account, Fault> {
    let nobody = || Problem::new(Code::Forbidden, "this key is nobody's");
    let mine = app.store.accounts_of(caller.person.ok_or_else(nobody)?).await?;
    let named = |account: &Account| account.name.as_str() == key || account.id.to_string() == key;
    let found = mine.into_iter().find(named).ok_or_else(|| Fault::missing("account", key))?;
    let there = Standing { role: found.role, ..caller.standing.clone() };
    match decide(&there, Action::Agents) {
        Verdict::Allow => Ok(found),
        Verdict::Missing => Err(Fault::missing("account", key)),
        Verdict::Forbid(detail, remedy) => Err(Problem::new(Code::Forbidden, detail).remedy(remedy).into()),
    }
}

pub(crate) async fn transfer(
    app: &App,
    caller: &Caller,
    key: &str,
    request: &TransferAgent,
    if_match: Option<u64>,
    idempotency: Option<Idempotency>,
) -> Result<Moved, Fault> {
    caller.proved(app.store.now())?;
    let to = destination(app, caller, &request.account).await?;
    if to.id == caller.account {
        let problem = Problem::invalid("account", "the agent is of this account already");
        return Err(problem.remedy("name the account that it is to go to").into());
    }
    let agent = match agents::find(app, caller, key).await {
        Ok(agent) => agent,
        Err(missing) => {
            // Whoever asks again under the same key asks about an agent that is the other account's by now.
            let before = match &idempotency {
                Some(idempotency) => app.store.answered(idempotency).await?,
                None => None,
            };
            return before.ok_or(missing);
        }
    };
    // It starts there, and the installation may have had another mode when it was made.
    app.mode.check_level(agent.spec.level).map_err(agents::refused)?;
    let shared = app.store.node_is_shared(agent.node).await?;
    app.mode.check_node(agent.spec.unrestricted, shared).map_err(agents::refused)?;
    let nobody = || Problem::new(Code::Forbidden, "this key is nobody's");
    let transfer = Transfer {
        agent: agent.spec.id,
        from: caller.account,
        to: to.id,
        person: caller.person.ok_or_else(nobody)?,
        least: LEAST,
        if_match,
        idempotency,
    };
    Fault::or_missing(app.store.transfer(caller.actor(), &transfer).await, "agent", key)
}
