//! `user …`: people, as an operator and as oneself.

mod own;

use crate::cli::Global;
use crate::output::{self, Format};
use crate::server::{Server, public};
use crate::{clean, context, proof, resolve};
use clap::Subcommand;
use client::{Control, Credential};
use model::people::{CreateUser, Email, RedeemReset, Reset, User};

/// What `user` has.
#[derive(Subcommand)]
pub enum Command {
    Create(Create),
    /// List people; for operators
    Ls,
    Reset(ResetArgs),
    Redeem(Redeem),
    Password(own::Password),
    /// See and end your sessions
    #[command(subcommand)]
    Sessions(own::Sessions),
    /// Your second factor: codes of six digits that an authenticator shows (TOTP)
    #[command(subcommand)]
    Totp(own::Totp),
}

/// Make a person known, with an account of their own; for operators
///
/// The answer has a token, this once, by which they choose a password: hand it to them in a way that nobody else reads. It is good for an hour,
/// and for one use.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam user create ada@example.com")]
pub struct Create {
    /// Their address
    email: Email,
}

/// Make a token that sets another password for somebody; for operators
///
/// It is good for an hour, and for one use: once it was used, all of their sessions are over. Their second factor stays; `cofferdam user totp
/// remove ADDRESS` takes it from somebody who lost it.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam user reset ada@example.com")]
pub struct ResetArgs {
    /// User, by address or id
    #[arg(value_parser = resolve::person)]
    user: String,
}

/// Choose a password by a token that an operator made
///
/// The token is asked for without echo, or read from stdin, and the password on the line behind it: never from the command line. All sessions
/// of its person end.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam user redeem https://cofferdam.example.com")]
pub struct Redeem {
    #[command(flatten)]
    server: Server,
}

impl Command {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = || context::control(global.context.as_ref());
        let own = || context::own_control(global.context.as_ref());
        match self {
            Self::Create(Create { email }) => {
                let control = control()?;
                print(&control.create_user(&CreateUser { email }).await?, &control, global)?;
            }
            Self::Ls => list(&control()?.users().await?, global)?,
            Self::Reset(ResetArgs { user }) => {
                let control = control()?;
                print(&control.reset_password(&user).await?, &control, global)?;
            }
            Self::Redeem(args) => redeem(args, global).await?,
            Self::Password(args) => args.run(&own()?, global).await?,
            Self::Sessions(command) => command.run(&own()?, global).await?,
            // What an operator does is done in the account that operates.
            Self::Totp(command) if command.is_of_another() => command.run(&control()?, global).await?,
            Self::Totp(command) => command.run(&own()?, global).await?,
        }
        Ok(0)
    }
}

fn print(reset: &Reset, control: &Control, global: &Global) -> anyhow::Result<()> {
    if global.output == Format::Json {
        return output::json(reset);
    }
    output::fields(&[
        ("id", reset.user.id.to_string()),
        ("address", reset.user.email.to_string()),
        ("until", output::time(reset.expires_at)),
        ("token", reset.token.expose().to_owned()),
    ])?;
    let url = public(control.origin());
    output::line(format_args!(
        "\nThe token is shown this once. {} chooses a password with `cofferdam user redeem {url}`.",
        reset.user.email
    ))
}

fn list(users: &[User], global: &Global) -> anyhow::Result<()> {
    if global.output == Format::Json {
        return output::json(&users);
    }
    let word = |is: bool| if is { "yes" } else { "no" }.to_owned();
    let rows = users.iter().map(|user| {
        let (password, factor) = (word(user.has_password), word(user.second_factor));
        [user.email.to_string(), password, factor, output::age(user.created_at), user.id.to_string()]
    });
    output::table(["ADDRESS", "PASSWORD", "SECOND FACTOR", "AGE", "ID"], rows)
}

async fn redeem(args: Redeem, global: &Global) -> anyhow::Result<()> {
    let told = args.server.told(global.context.as_ref())?;
    let control = told.control(Credential::Nobody)?;
    let token = proof::token("Token: ", "token")?;
    let password = proof::new_password()?;
    let user = control.redeem_reset(&RedeemReset { token, password }).await?;
    match global.output {
        Format::Json => output::json(&user),
        Format::Table => {
            let url = clean::text(&told.url);
            output::line(format_args!(
                "The password of {} is set, and all of its sessions are over.",
                user.email
            ))?;
            output::line(format_args!("`cofferdam login {url} --email {}` logs in.", user.email))
        }
    }
}
