//! `member …`: who belongs to the account.

use crate::cli::Global;
use crate::output::{self, Format};
use crate::{confirm, context, resolve};
use clap::Subcommand;
use model::people::{Member, Role};

/// What `member` has.
#[derive(Subcommand)]
pub enum Command {
    /// List the members of the account
    Ls,
    Role(SetRole),
    Rm(Remove),
}

/// Make a member something else
///
/// A member uses the account; an admin also looks after its secrets and its people; an owner also decides who else is one. Owners alone
/// make owners, and change what owners are. The last owner stays one.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam member role ada@example.com admin")]
pub struct SetRole {
    /// Member, by address or id
    #[arg(value_parser = resolve::person)]
    member: String,
    /// member, admin or owner
    role: Role,
}

/// Remove members, with the keys that they made
///
/// From then on nothing is answered to them in this account. What they made stays: agents, images, secrets.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam member rm ada@example.com")]
pub struct Remove {
    /// Members, by address or id
    #[arg(required = true, value_parser = resolve::person)]
    members: Vec<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Command {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        match self {
            Self::Ls => {
                let members = control.members().await?;
                match global.output {
                    Format::Json => output::json(&members)?,
                    Format::Table => {
                        let rows = members.iter().map(|member| {
                            let Member { user, email, role, since } = member;
                            [email.to_string(), role.to_string(), output::time(*since), user.to_string()]
                        });
                        output::table(["ADDRESS", "ROLE", "SINCE", "ID"], rows)?;
                    }
                }
            }
            Self::Role(SetRole { member, role }) => {
                let member = control.set_role(&member, role).await?;
                match global.output {
                    Format::Json => output::json(&member)?,
                    Format::Table => output::line(format_args!("{} is {} now", member.email, member.role))?,
                }
            }
            Self::Rm(Remove { members, yes }) => {
                if !yes {
                    let who = members.join(", ");
                    let about = format!("Removes {who} from the account, and the keys that they made.");
                    confirm::word("remove", &about)?;
                }
                for member in members {
                    control.remove_member(&member).await?;
                    if global.output == Format::Table {
                        output::line(format_args!("{member} is no member any more"))?;
                    }
                }
            }
        }
        Ok(0)
    }
}
