//! Invitations to the caller's account, and taking one.

use crate::app::App;
use crate::app::members::lasting;
use crate::app::users::{acceptable, generated, names_for, unasked};
use crate::auth::access::Action;
use crate::auth::{Caller, secret};
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
    caller.manages(Role::Member, Some(*role), now)?;
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

/// Takes an invitation: by the person whose address it is for, or by somebody who is not known yet and chooses a password.
pub(crate) async fn accept(
    app: &App,
    caller: Option<&Caller>,
    from: Client,
    request: &AcceptInvitation,
) -> Result<Account, Fault> {
    let hash = secret::hash(request.token.expose());
    app.limits.check(Kind::Redemption, from.address, Some(&hash)).await?;
    let invited = app.store.invited(&hash).await?.ok_or_else(refused)?;
    let known = app.store.credentials(&invited.email).await?;
    let taken = match (caller, known) {
        (Some(caller), known) => {
            caller.check(Action::Person)?;
            let theirs = known.map(|known| known.user.id).filter(|known| Some(*known) == caller.person);
            let other = || {
                let problem = Problem::new(Code::Forbidden, "this invitation is for another address");
                Fault::from(problem.remedy("log in with that address, or log out if it is new here"))
            };
            app.store.join(&invited, &hash, theirs.ok_or_else(other)?).await
        }
        (None, Some(_)) => {
            let problem = Problem::new(Code::Unauthenticated, "whoever is invited is known here already");
            return Err(problem.remedy("log in, and take the invitation then").into());
        }
        (None, None) => join_anew(app, &invited, &hash, request).await?,
    };
    match taken {
        Err(store::Error::TokenRefused) => Err(refused()),
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
    let missing = || Problem::invalid("password", "this field is required for somebody who is new here");
    let password = request.password.as_ref().ok_or_else(missing)?;
    acceptable(password, &invited.email)?;
    let password = app.passwords.hash(password).await?;
    let (mut taken, quota) = (Err(store::Error::Overtaken), unasked(app));
    for name in names_for(&invited.email)? {
        taken = app.store.join_anew(invited, hash, &name, &password, quota).await.map(drop);
        if !matches!(taken, Err(store::Error::NameTaken { .. })) {
            break;
        }
    }
    Ok(taken)
}
