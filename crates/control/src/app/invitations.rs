//! Invitations to the caller's account, and taking one.

use crate::app::App;
use crate::app::members::lasting;
use crate::app::users::{acceptable, generated, names_for, unasked};
use crate::auth::access::{self, Action};
use crate::auth::passwords::Asks;
use crate::auth::{Caller, secret};
use crate::config::Invited as Whose;
use crate::limits::Kind;
use crate::peer::Client;
use crate::problems::Fault;
use model::people::{AcceptInvitation, Account, CreateInvitation, Invitation, Role};
use model::{Code, InvitationId, Problem};
use store::{Invited, NewInvitation};
use time::Duration;

const LIFE: Duration = Duration::days(7);

/// Invites somebody. The token is in this answer alone.
pub(crate) async fn create(
    app: &App,
    caller: &Caller,
    from: Client,
    request: &CreateInvitation,
) -> Result<Invitation, Fault> {
    let CreateInvitation { email, role } = request;
    let now = app.store.now();
    caller.check(access::manages(Role::Member, Some(*role)))?;
    caller.proved(now)?;
    if *role == Role::Owner {
        lasting(caller)?;
    }
    app.limits.check(Kind::Invitations, from.address, Some(&caller.account)).await?;
    let token = generated(secret::INVITATION)?;
    let hash = secret::hash(token.expose());
    let new = NewInvitation {
        account: caller.account,
        email,
        role: *role,
        person: caller.person,
        hash: &hash,
        // What a key makes does not outlast it.
        life: caller.until.map_or(LIFE, |until| LIFE.min(until - now)),
    };
    let made = app.store.invite(caller.actor(), &new).await?;
    Ok(Invitation { token: Some(token), ..made })
}

pub(crate) async fn revoke(app: &App, caller: &Caller, id: &str) -> Result<(), Fault> {
    let invitation: InvitationId = id.parse().map_err(|_| Fault::missing("invitation", id))?;
    let revoked = app.store.revoke_invitation(caller.actor(), caller.account, invitation).await;
    Fault::or_missing(revoked, "invitation", id)
}

fn refused() -> Fault {
    let problem =
        Problem::new(Code::Unauthenticated, "the invitation is unknown, expired or was taken already");
    problem.remedy("ask for another one").into()
}

/// In one sentence for who is known and who is not.
fn log_in() -> Fault {
    let detail = "this invitation is taken by whoever is logged in with the address that it is for";
    let remedy =
        "log in, and take the invitation then; who is not known here asks whoever operates this installation";
    Problem::new(Code::Unauthenticated, detail).remedy(remedy).into()
}

/// Takes an invitation: by the person whose address it is for, or, where that is allowed, by somebody who is not known yet and chooses a
/// password. Control sends no mail: whoever has the token may be the one who asked for it, and proves nothing of the address.
pub(crate) async fn accept(
    app: &App,
    caller: Option<&Caller>,
    from: Client,
    request: &AcceptInvitation,
) -> Result<Account, Fault> {
    let hash = secret::hash(request.token.expose());
    app.limits.check(Kind::Redemption, from.address, Some(&hash)).await?;
    let invited = app.store.invited(&hash).await?.ok_or_else(refused)?;
    let taken = match caller {
        Some(caller) => {
            caller.check(Action::Person)?;
            let known = app.store.credentials(&invited.email).await?;
            let theirs = known.map(|known| known.user.id).filter(|known| Some(*known) == caller.person);
            let other = || {
                let problem = Problem::new(Code::Forbidden, "this invitation is for another address");
                Fault::from(problem.remedy("log in with that address, or log out if it is new here"))
            };
            app.store.join(caller.actor(), &invited, &hash, theirs.ok_or_else(other)?).await
        }
        None if invited.operator || app.invited == Whose::Anyone => {
            join_anew(app, &invited, &hash, request).await?
        }
        None => return Err(log_in()),
    };
    match taken {
        Err(store::Error::TokenRefused) => Err(refused()),
        Err(store::Error::EmailTaken { .. }) => Err(log_in()),
        taken => {
            taken?;
            Ok(app.store.account(invited.account, invited.role).await?)
        }
    }
}

async fn join_anew(
    app: &App,
    invited: &Invited,
    hash: &str,
    request: &AcceptInvitation,
) -> Result<Result<(), store::Error>, Fault> {
    // What is asked of the password is asked before it shows whether they are known.
    let missing = || Problem::invalid("password", "this field is required for somebody who is new here");
    let password = request.password.as_ref().ok_or_else(missing)?;
    acceptable(password, &invited.email)?;
    let password = app.passwords.hash(Asks::Stranger, password).await?;
    let (mut taken, quota) = (Err(store::Error::Overtaken), unasked(app).filter(|_| !invited.operator));
    for name in names_for(&invited.email)? {
        taken = app.store.join_anew(invited, hash, &name, &password, quota).await.map(drop);
        if !matches!(taken, Err(store::Error::NameTaken { .. })) {
            break;
        }
    }
    Ok(taken)
}
