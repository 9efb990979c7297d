//! `invite …`: who is asked into the account.

use crate::cli::Global;
use crate::output::{self, Format};
use crate::server::{Server, public};
use crate::{clean, context, proof, resolve};
use clap::Subcommand;
use client::{Control, Credential, Error};
use model::Code;
use model::people::{AcceptInvitation, Account, CreateInvitation, Email, Invitation, Role};
use model::secret::SecretValue;

/// What `invite` has.
#[derive(Subcommand)]
pub enum Command {
    Create(Create),
    /// List invitations that nobody has taken yet
    Ls,
    /// Take invitations back
    Revoke {
        /// Invitations, by id
        #[arg(required = true, value_parser = resolve::reference)]
        ids: Vec<String>,
    },
    Accept(Accept),
}

/// Invite somebody into the account
///
/// The answer has a token, this once: hand it to them in a way that nobody else reads. It is good for seven days, and for one use, by whoever
/// logs in with that address, or by somebody who is new here.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam invite create ada@example.com
  cofferdam invite create ada@example.com --role admin")]
pub struct Create {
    /// Their address
    email: Email,
    /// What they are to be: member, admin or owner
    #[arg(long, default_value = "member")]
    role: Role,
}

/// Take an invitation
///
/// Somebody who is known there logs in first, and takes it without a URL. Somebody who is new names the server, and chooses a password, if
/// the operator invited them or lets everybody's invitations make people known. The token is asked for without echo, or read from stdin:
/// never from the command line. The password follows on a line of its own.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam invite accept https://cofferdam.example.com       somebody who is new there
  cofferdam invite accept                                     whoever is logged in")]
pub struct Accept {
    #[command(flatten)]
    server: Server,
}

impl Command {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = || context::control(global.context.as_ref());
        match self {
            Self::Create(args) => create(&control()?, args, global).await?,
            Self::Ls => list(&control()?.invitations().await?, global)?,
            Self::Revoke { ids } => {
                let control = control()?;
                for id in ids {
                    control.revoke_invitation(&id).await?;
                    if global.output == Format::Table {
                        output::line(format_args!("{id} is good for nothing any more"))?;
                    }
                }
            }
            Self::Accept(args) => accept(args, global).await?,
        }
        Ok(0)
    }
}

async fn create(control: &Control, args: Create, global: &Global) -> anyhow::Result<()> {
    let made = control.invite(&CreateInvitation { email: args.email, role: args.role }).await?;
    if global.output == Format::Json {
        return output::json(&made);
    }
    output::fields(&[
        ("id", made.id.to_string()),
        ("for", made.email.to_string()),
        ("role", made.role.to_string()),
        ("until", output::time(made.expires_at)),
        ("token", made.token.as_ref().map_or("-", SecretValue::expose).to_owned()),
    ])?;
    output::line(format_args!(
        "\nThe token is shown this once. {} logs in at {}, and takes it with `cofferdam invite accept`. Who is not known there \
         yet is made known by the operator first (`cofferdam user create`).",
        made.email,
        public(control.origin())
    ))
}

fn list(invitations: &[Invitation], global: &Global) -> anyhow::Result<()> {
    if global.output == Format::Json {
        return output::json(&invitations);
    }
    let rows = invitations.iter().map(|invitation| {
        let Invitation { id, email, role, expires_at, .. } = invitation;
        [id.to_string(), email.to_string(), role.to_string(), output::time(*expires_at)]
    });
    output::table(["ID", "FOR", "ROLE", "UNTIL"], rows)
}

async fn accept(args: Accept, global: &Global) -> anyhow::Result<()> {
    let is_new = args.server.is_named();
    let told = args.server.told(global.context.as_ref())?;
    let control = match &told.known {
        Some((_, context)) => context.own().control()?,
        None => told.control(Credential::Nobody)?,
    };
    let token = proof::token("Token of the invitation: ", "token")?;
    let account = take(&control, token, is_new).await?;
    match global.output {
        Format::Json => output::json(&account),
        Format::Table => {
            let Account { name, role, .. } = &account;
            output::line(format_args!("You belong to {name} now: its role {role} is yours."))?;
            let url = clean::text(&told.url);
            match is_new {
                true => output::line(format_args!("`cofferdam login {url} --email ADDRESS` logs in.")),
                false => output::line(format_args!("`cofferdam account use {name}` acts in it.")),
            }
        }
    }
}

/// Whether a password is wanted shows when the token is: nobody chooses one in vain.
async fn take(control: &Control, token: SecretValue, is_new: bool) -> anyhow::Result<Account> {
    let mut accept = AcceptInvitation { token, password: None };
    match control.accept_invitation(&accept).await {
        Err(Error::Problem(problem))
            if is_new && problem.code == Code::Validation && problem.field.as_deref() == Some("password") =>
        {
            accept.password = Some(proof::new_password()?);
            Ok(control.accept_invitation(&accept).await?)
        }
        answer => Ok(answer?),
    }
}
