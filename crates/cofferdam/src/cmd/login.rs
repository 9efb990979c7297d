//! `login`, `logout`: keeps the key of a server, or a person's session with it, and ends that.

use crate::cli::Global;
use crate::context::{self, Caller, Context, Contexts, LOCAL, Person};
use crate::failure::fail;
use crate::output::{self, Format};
use crate::server::{Server, Told, host_of, is_loopback};
use crate::{clean, proof, terminal};
use client::{Control, Credential, Error, PersonSession};
use model::people::{Email, LoggedIn, Login};
use model::secret::SecretValue;
use model::{Code, Name};
use serde_json::json;

/// Keep a server's API key or log in as a person, and use that server from now on
///
/// Without --email the server's API key is asked for, and tried before it is kept. With it the password is, and the code of the second factor
/// where there is one; what is kept is the session, which lasts for seven days. All of them are asked for without echo, or read from stdin, a
/// line each: never from the command line, where every process of the machine could read them.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam login https://cofferdam.example.com --email ada@example.com
  cofferdam login https://cofferdam.example.com --name work --ca /etc/ssl/own-authority.pem
  pass cofferdam | cofferdam login https://cofferdam.example.com")]
pub struct Args {
    #[command(flatten)]
    server: Server,
    /// Log in as the person with this address
    #[arg(long, value_name = "ADDRESS")]
    email: Option<Email>,
    /// Name of the context; by default made from the host's name
    #[arg(long)]
    name: Option<Name>,
}

/// End the session, and forget the server
///
/// A key is forgotten here alone: it is good for as long as `cofferdam key rm` has not revoked it.
#[derive(clap::Args)]
pub struct Logout {}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let told = self.server.told(global.context.as_ref())?;
        let name = self.name.or(told.known.as_ref().map(|(name, _)| name.clone()));
        let name = name.unwrap_or_else(|| name_of(&told.url));
        // Without any, somebody logs in again.
        let email = self.email.or_else(|| Some(told.known.as_ref()?.1.person()?.email.clone()));
        match email {
            Some(email) => as_person(told, name, email, global).await,
            None => by_key(told, name, global).await,
        }
    }
}

async fn by_key(told: Told, name: Name, global: &Global) -> anyhow::Result<u8> {
    let api_key = terminal::read_secret("API key: ")?;
    if api_key.is_empty() || api_key.len() > 512 || !api_key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(fail(Code::Validation, "That is not an API key."));
    }
    let who = told.control(Credential::Key(api_key.clone()))?.whoami().await?;
    let Told { url, ca, .. } = told;
    let mut contexts = Contexts::load()?;
    contexts.keep(name.clone(), Context { url: url.clone(), ca, caller: Caller::Key(api_key) });
    let file = contexts.save()?;
    match global.output {
        Format::Json => output::json(&json!({ "context": name, "url": url, "whoami": who }))?,
        Format::Table => output::line(format_args!(
            "Logged in to {} as {}; kept as context {name} in {}.",
            clean::text(&url),
            who.account_name,
            clean::path(&file)
        ))?,
    }
    Ok(0)
}

async fn as_person(told: Told, name: Name, email: Email, global: &Global) -> anyhow::Result<u8> {
    let mut contexts = Contexts::load()?;
    let before = contexts.contexts.get(&name).filter(|context| context.url == told.url);
    let before = before.and_then(Context::person).cloned();
    // The session that is replaced here ends there.
    let credential = before.as_ref().map_or(Credential::Nobody, |before| {
        Credential::Session(PersonSession { token: before.token.clone(), account: None })
    });
    let control = told.control(credential)?;
    let password = proof::password(&format!("Password of {email} at {}: ", clean::text(&told.url)))?;
    let (logged_in, token) = begin(&control, email, password).await?;
    let LoggedIn { user, session, accounts } = &logged_in;
    // Whoever logs in again goes on where they were.
    let account = before.filter(|before| before.email == user.email).and_then(|before| before.account);
    let account = account.filter(|name| accounts.iter().any(|account| account.name == *name));
    let Told { url, ca, .. } = told;
    let person = Person { email: user.email.clone(), token, account };
    contexts.keep(name.clone(), Context { url: url.clone(), ca, caller: Caller::Person(person) });
    let file = contexts.save()?;
    match global.output {
        Format::Json => output::json(&json!({ "context": name, "url": url, "session": logged_in }))?,
        Format::Table => {
            output::line(format_args!(
                "Logged in to {} as {} until {}; kept as context {name} in {}.",
                clean::text(&url),
                user.email,
                output::time(session.expires_at),
                clean::path(&file)
            ))?;
            if accounts.len() > 1 {
                let names: Vec<_> = accounts.iter().map(|account| account.name.as_str()).collect();
                let names = names.join(", ");
                output::line(format_args!(
                    "Accounts: {names}. `cofferdam account use NAME` acts in another."
                ))?;
            }
        }
    }
    Ok(0)
}

/// Logs in, with a code of the second factor where one is asked for.
async fn begin(
    control: &Control,
    email: Email,
    password: SecretValue,
) -> anyhow::Result<(LoggedIn, SecretValue)> {
    let mut login = Login { email, password, code: None };
    match control.login(&login).await {
        Err(Error::Problem(problem)) if problem.code == Code::SecondFactorRequired => {
            login.code = Some(proof::token("Code of the second factor: ", "code")?);
            Ok(control.login(&login).await?)
        }
        answer => Ok(answer?),
    }
}

impl Logout {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let mut contexts = Contexts::load()?;
        let name = context::chosen(&contexts, global.context.as_ref())?.clone();
        let context = contexts.get(&name)?;
        let is_person = context.person().is_some();
        if is_person {
            match context.own().control()?.logout().await {
                // It was over already.
                Err(error) if error.code() == Some(Code::Unauthenticated) => {}
                ended => ended?,
            }
        }
        let url = clean::text(&context.url);
        contexts.forget(&name)?;
        contexts.save()?;
        if global.output == Format::Table {
            let what = if is_person { "The session is over" } else { "The key stays valid" };
            output::line(format_args!("{what} at {url}; the context {name} is forgotten."))?;
        }
        Ok(0)
    }
}

/// The host's name as far as it can be a name.
fn name_of(url: &str) -> Name {
    if is_loopback(url) {
        return LOCAL.parse().unwrap_or_else(|_| unreachable!("a constant name"));
    }
    let host: String = host_of(url)
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .skip_while(|c| !c.is_ascii_lowercase())
        .take(40)
        .collect();
    host.parse().unwrap_or_else(|_| "remote".parse().unwrap_or_else(|_| unreachable!("a constant name")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_hosts() {
        for (url, expected) in [
            ("https://cofferdam.example.com/x", "cofferdam-example-com"),
            ("http://127.0.0.1:7700", "local"),
            ("https://[::1]:7700", "local"),
            ("https://10.0.0.1", "remote"),
        ] {
            assert_eq!(name_of(url).as_str(), expected, "{url}");
        }
    }
}
