//! What people do for themselves: their password, their sessions, their second factor.

use crate::cli::Global;
use crate::output::{self, Format};
use crate::{confirm, proof, resolve};
use clap::Subcommand;
use client::Control;
use model::people::{ChangePassword, ConfirmFactor, Session};
use std::io::IsTerminal;

/// Change your password
///
/// The one before and the new one are asked for without echo, or read from stdin, a line each. Your other sessions end; keys stay.
#[derive(clap::Args)]
pub struct Password {}

/// What `user sessions` has.
#[derive(Subcommand)]
pub enum Sessions {
    /// List your sessions
    Ls,
    End(End),
}

/// End sessions of yours
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam user sessions end --others")]
pub struct End {
    /// Sessions, by id
    #[arg(required_unless_present = "others", value_parser = resolve::reference)]
    ids: Vec<String>,
    /// All but the one that asks
    #[arg(long, conflicts_with = "ids")]
    others: bool,
}

/// What `user totp` has.
#[derive(Subcommand)]
pub enum Totp {
    /// Make a second factor, which waits for its first code
    ///
    /// What an authenticator needs is shown this once. At a terminal its first code is asked for at once; else `confirm` takes it.
    Enrol,
    /// Log in with the second factor from now on; its code is asked for, or read from stdin
    Confirm,
    Remove(Remove),
}

/// Remove your second factor, or, as an operator, that of somebody who lost it
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam user totp remove
  cofferdam user totp remove ada@example.com      for operators")]
pub struct Remove {
    /// User, by address or id; for operators
    #[arg(value_parser = resolve::person)]
    user: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

fn say(global: &Global, what: &str) -> anyhow::Result<()> {
    if global.output == Format::Table { output::line(what) } else { Ok(()) }
}

impl Password {
    pub async fn run(self, control: &Control, global: &Global) -> anyhow::Result<()> {
        let current = proof::password("Password until now: ")?;
        let password = proof::new_password()?;
        control.change_password(&ChangePassword { current, password }).await?;
        say(global, "The password is changed, and your other sessions are over.")
    }
}

impl Sessions {
    pub async fn run(self, control: &Control, global: &Global) -> anyhow::Result<()> {
        let sessions = control.sessions().await?;
        let End { ids, others } = match self {
            Self::Ls => return list(&sessions, global),
            Self::End(args) => args,
        };
        let of_others = sessions.iter().filter(|session| others && !session.current);
        for id in ids.into_iter().chain(of_others.map(|session| session.id.to_string())) {
            control.end_session(&id).await?;
            say(global, &format!("{id} is over"))?;
        }
        Ok(())
    }
}

fn list(sessions: &[Session], global: &Global) -> anyhow::Result<()> {
    if global.output == Format::Json {
        return output::json(&sessions);
    }
    let rows = sessions.iter().map(|session| {
        let mark = if session.current { "*" } else { "" }.to_owned();
        let times = [session.created_at, session.seen_at, session.expires_at].map(output::time);
        let [created, seen, expires] = times;
        [mark, session.id.to_string(), created, seen, expires]
    });
    output::table(["", "ID", "BEGUN", "LAST SEEN", "UNTIL"], rows)
}

impl Totp {
    /// Whether it is about somebody else.
    pub fn is_of_another(&self) -> bool {
        matches!(self, Self::Remove(Remove { user: Some(_), .. }))
    }

    pub async fn run(self, control: &Control, global: &Global) -> anyhow::Result<()> {
        match self {
            Self::Enrol => enrol(control, global).await,
            Self::Confirm => confirm(control, global).await,
            Self::Remove(args) => remove(args, control, global).await,
        }
    }
}

async fn enrol(control: &Control, global: &Global) -> anyhow::Result<()> {
    let made = control.begin_factor().await?;
    if global.output == Format::Json {
        return output::json(&made);
    }
    output::fields(&[("secret", made.secret.expose().to_owned()), ("uri", made.uri.expose().to_owned())])?;
    output::line("\nThey are shown this once. Put one of them into an authenticator.")?;
    if std::io::stdin().is_terminal() {
        return confirm(control, global).await;
    }
    output::line("`cofferdam user totp confirm` takes its first code; until then nothing asks for it.")
}

async fn confirm(control: &Control, global: &Global) -> anyhow::Result<()> {
    let code = proof::token("The code that it shows: ", "code")?;
    control.confirm_factor(&ConfirmFactor { code }).await?;
    say(global, "Every login asks for a code from now on.")
}

async fn remove(args: Remove, control: &Control, global: &Global) -> anyhow::Result<()> {
    let Remove { user, yes } = args;
    if !yes {
        let whose =
            user.as_deref().map_or("your account".to_owned(), |user| format!("the account of {user}"));
        confirm::word("remove", &format!("A password alone opens {whose} from now on."))?;
    }
    match user {
        Some(user) => control.remove_factor_of(&user).await?,
        None => control.remove_factor().await?,
    }
    say(global, "No login asks for a code any more.")
}
