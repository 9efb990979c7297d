//! Logging in and out, and showing once more that it is still the same person.

use crate::app::App;
use crate::app::users::generated;
use crate::auth::passwords::{Asks, Verified};
use crate::auth::{Caller, cookie, secret, totp};
use crate::limits::Kind;
use crate::peer::Client;
use crate::problems::Fault;
use model::people::{LoggedIn, Login, Prove, Session};
use model::secret::SecretValue;
use model::{Code, Problem, SessionId, UserId};
use store::{Credentials, NewSession};

/// One sentence for all that may be wrong, so that it tells nobody who is known here.
fn wrong() -> Fault {
    let problem = Problem::new(Code::Unauthenticated, "the address, the password or the code is not right");
    problem.remedy("try again; whoever operates this installation can reset a password").into()
}

/// Begins a session. `before` is what the browser had as its cookie: whatever that was, it is good for nothing from here on.
pub(crate) async fn login(
    app: &App,
    from: Client,
    request: &Login,
    before: Option<&str>,
) -> Result<(LoggedIn, SecretValue), Fault> {
    // Counted by the address that was typed, known or not: a refusal tells nothing of who is.
    app.limits.check(Kind::Login, from.address, Some(&request.email)).await?;
    let known = app.store.credentials(&request.email).await?;
    let hash = known.as_ref().and_then(|who| who.hash.as_deref());
    let verified = app.passwords.verify(Asks::Stranger, &request.password, hash).await?;
    let Some(who) = known.filter(|_| verified != Verified::Wrong) else { return Err(wrong()) };
    // Only behind the right password: else this would tell who has a second factor.
    let step = match (&request.code, who.user.second_factor) {
        (Some(code), true) => Some(step(app, from, who.user.id, code).await?),
        (None, true) => {
            let problem = Problem::new(Code::SecondFactorRequired, "a code of the second factor is required");
            return Err(problem.remedy("send it as `code`").into());
        }
        (_, false) => None,
    };
    let rehashed = match verified {
        Verified::RightButOld => Some(app.passwords.hash(Asks::Known, &request.password).await?),
        _ => None,
    };
    let token = generated(secret::SESSION)?;
    let (hash, before) = (secret::hash(token.expose()), before.map(secret::hash));
    let new = NewSession {
        hash: &hash,
        life: cookie::LIFE,
        before: before.as_deref(),
        rehashed: rehashed.as_deref(),
        step,
    };
    let session = match app.store.begin_session(&who, &new).await {
        Err(store::Error::TokenRefused) => {
            app.store.note_refused(who.user.id, "code").await?;
            return Err(wrong());
        }
        Err(store::Error::Overtaken) => return Err(wrong()),
        begun => begun?,
    };
    Ok((told(app, who, session).await?, token))
}

async fn told(app: &App, who: Credentials, session: Session) -> Result<LoggedIn, Fault> {
    let accounts = app.store.accounts_of(who.user.id).await?;
    Ok(LoggedIn { user: who.user, session, accounts })
}

/// The step of a code, if it is right and was not taken before.
async fn step(app: &App, from: Client, person: UserId, code: &SecretValue) -> Result<i64, Fault> {
    app.limits.check(Kind::SecondFactor, from.address, Some(&person)).await?;
    let factor = app.store.factor(person).await?.filter(|factor| factor.confirmed).ok_or_else(wrong)?;
    let seed = app.vault.open_seed(&factor.seed)?;
    let now = app.store.now().unix_timestamp();
    let step = totp::verify(&seed, code.expose(), now, factor.last_step);
    if step.is_none() {
        app.store.note_refused(person, "code").await?;
    }
    step.ok_or_else(wrong)
}

/// Checks the password of somebody who is known.
pub(super) async fn verify(
    app: &App,
    from: Client,
    who: &Credentials,
    password: &SecretValue,
    field: &str,
) -> Result<(), Fault> {
    app.limits.check(Kind::Proof, from.address, Some(&who.user.id)).await?;
    match app.passwords.verify(Asks::Known, password, who.hash.as_deref()).await? {
        Verified::Wrong => {
            // Never more often than the limit above lets anybody try.
            app.store.note_refused(who.user.id, "password").await?;
            Err(Problem::invalid(field, "this is not the password").remedy("try again").into())
        }
        Verified::Right | Verified::RightButOld => Ok(()),
    }
}

/// Who is logged in, and where they belong.
pub(crate) async fn current(app: &App, caller: &Caller) -> Result<LoggedIn, Fault> {
    let sitting = caller.sitting()?;
    let sessions = app.store.sessions(sitting.person, sitting.session).await?;
    let over = || Problem::new(Code::Unauthenticated, "the session is over");
    let session = sessions.into_iter().find(|session| session.current).ok_or_else(over)?;
    told(app, app.store.credentials_of(sitting.person).await?, session).await
}

pub(crate) async fn list(app: &App, caller: &Caller) -> Result<Vec<Session>, Fault> {
    let sitting = caller.sitting()?;
    Ok(app.store.sessions(sitting.person, sitting.session).await?)
}

/// Logs out.
pub(crate) async fn logout(app: &App, caller: &Caller) -> Result<(), Fault> {
    let sitting = caller.sitting()?;
    Ok(app.store.end_session(sitting.actor(), sitting.person, sitting.session).await?)
}

pub(crate) async fn end(app: &App, caller: &Caller, id: &str) -> Result<(), Fault> {
    let sitting = caller.sitting()?;
    let session: SessionId = id.parse().map_err(|_| Fault::missing("session", id))?;
    Fault::or_missing(app.store.end_session(sitting.actor(), sitting.person, session).await, "session", id)
}

/// A fresh proof: the password, or a code of the second factor.
pub(crate) async fn prove(app: &App, caller: &Caller, from: Client, request: &Prove) -> Result<(), Fault> {
    let sitting = caller.sitting()?;
    let who = app.store.credentials_of(sitting.person).await?;
    let taken = match (&request.password, &request.code) {
        (Some(password), None) => {
            verify(app, from, &who, password, "password").await?;
            None
        }
        (None, Some(code)) => {
            let step = step(app, from, sitting.person, code).await;
            let wrong = |Fault(problem): &Fault| problem.code == Code::Unauthenticated;
            Some(step.map_err(|fault| if wrong(&fault) { not_the_code() } else { fault })?)
        }
        _ => return Err(Problem::invalid("password", "one of `password` and `code` is required").into()),
    };
    match app.store.prove(sitting, taken).await {
        Err(store::Error::TokenRefused) => {
            app.store.note_refused(sitting.person, "code").await?;
            Err(not_the_code())
        }
        proved => Ok(proved?),
    }
}

fn not_the_code() -> Fault {
    Problem::invalid("code", "this is not the code, or it was used already").into()
}
