//! Who belongs to the caller's account, and as what.

use crate::app::App;
use crate::auth::Caller;
use crate::problems::Fault;
use model::people::{Member, Role};
use model::{Code, Problem};

async fn find(app: &App, caller: &Caller, key: &str) -> Result<Member, Fault> {
    Fault::or_missing(app.store.member(caller.account, key).await, "member", key)
}

/// Refuses a key that ends: whom it raises would be that for longer.
pub(super) fn lasting(caller: &Caller) -> Result<(), Fault> {
    if caller.until.is_none() {
        return Ok(());
    }
    let problem = Problem::new(Code::Forbidden, "a key that ends raises nobody and makes no owner");
    Err(problem.remedy("log in, or use a key that does not end").into())
}

/// Makes a member something else.
pub(crate) async fn set_role(app: &App, caller: &Caller, key: &str, role: Role) -> Result<Member, Fault> {
    let member = find(app, caller, key).await?;
    caller.manages(member.role, Some(role), app.store.now())?;
    if member.role == role {
        return Ok(member);
    }
    if role > member.role {
        lasting(caller)?;
    }
    app.store.set_role(caller.actor(), caller.account, &member, role).await?;
    Ok(Member { role, ..member })
}

/// Removes a member, with the keys that they made.
pub(crate) async fn remove(app: &App, caller: &Caller, key: &str) -> Result<(), Fault> {
    let member = find(app, caller, key).await?;
    caller.manages(member.role, None, app.store.now())?;
    Ok(app.store.remove_member(caller.actor(), caller.account, &member).await?)
}

/// Leaves the account.
pub(crate) async fn leave(app: &App, caller: &Caller) -> Result<(), Fault> {
    let nobody = || Problem::new(Code::Forbidden, "this key is nobody's");
    let person = caller.person.ok_or_else(nobody)?.to_string();
    let member = find(app, caller, &person).await?;
    Ok(app.store.remove_member(caller.actor(), caller.account, &member).await?)
}
