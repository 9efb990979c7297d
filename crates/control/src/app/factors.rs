//! Second factors of people: begun, confirmed with a first code, and removed.

use crate::app::App;
use crate::auth::{Caller, totp};
use crate::limits::Kind;
use crate::peer::Client;
use crate::problems::Fault;
use model::people::{ConfirmFactor, NewFactor};
use model::secret::SecretValue;
use model::{Code, Problem};

/// Makes a seed, which is shown this once. It asks for nothing before a code of it was seen.
pub(crate) async fn begin(app: &App, caller: &Caller) -> Result<NewFactor, Fault> {
    caller.proved(app.store.now())?;
    let person = caller.sitting()?.person;
    let who = app.store.credentials_of(person).await?;
    let seed = {
        let _turning = app.vault.turning.read().await;
        let (wrapped, seed) = app.vault.make_seed(who.personal)?;
        app.store.begin_factor(caller.actor(), person, &wrapped).await?;
        seed
    };
    let secret = SecretValue::new(totp::base32(&seed));
    let uri = totp::uri(&who.user.email, &secret);
    Ok(NewFactor { secret, uri })
}

/// Has logins ask for it from here on.
pub(crate) async fn confirm(
    app: &App,
    caller: &Caller,
    from: Client,
    request: &ConfirmFactor,
) -> Result<(), Fault> {
    caller.proved(app.store.now())?;
    let sitting = caller.sitting()?;
    let begun = app.store.factor(sitting.person).await?.filter(|factor| !factor.confirmed);
    let begun = begun.ok_or_else(|| {
        let problem = Problem::new(Code::WrongState, "no second factor waits for its first code");
        problem.remedy("POST /v1/second-factor makes one")
    })?;
    app.limits.check(Kind::SecondFactor, from.address, Some(&sitting.person)).await?;
    let seed = app.vault.open_seed(&begun.seed)?;
    let now = app.store.now().unix_timestamp();
    let step = totp::verify(&seed, request.code.expose(), now, begun.last_step).ok_or_else(|| {
        let remedy = "look at the time of the device, and send the code that it shows now";
        Problem::invalid("code", "this is not its code").remedy(remedy)
    })?;
    Ok(app.store.confirm_factor(sitting.person, &begun.seed, step, sitting.session).await?)
}

/// Logs in without one from here on.
pub(crate) async fn remove(app: &App, caller: &Caller) -> Result<(), Fault> {
    caller.proved(app.store.now())?;
    let person = caller.sitting()?.person;
    match app.store.remove_factor(caller.actor(), person).await {
        Err(store::Error::NotFound { .. }) => {
            Err(Problem::new(Code::WrongState, "there is no second factor").into())
        }
        removed => Ok(removed?),
    }
}
