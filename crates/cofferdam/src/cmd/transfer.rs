//! `agent transfer`: to another account of the same person.

use crate::cli::Global;
use crate::failure::fail_with;
use crate::output::{self, Format};
use crate::{context, resolve};
use model::Code;
use model::transfer::{TransferAgent, TransferredAgent};

/// Give an agent to another account that you belong to
///
/// That is for people who are logged in, and are admins of the account that has it. The agent ends here and starts there, on the same
/// node, with its disk and its image. Tokens of its workspace end, and secrets that it was given stay here. What was used until then
/// stays with this account. If something keeps it here, all of that is listed, and nothing changes.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam agent transfer worker --to research")]
pub struct Args {
    /// Agent, by name or id
    #[arg(value_parser = resolve::reference)]
    agent: String,
    /// Account that it goes to, by name or id
    #[arg(long, value_name = "ACCOUNT", value_parser = resolve::reference)]
    to: String,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let Self { agent, to } = self;
        let control = context::control(global.context.as_ref())?;
        if !control.is_person() {
            let detail = "The context in use has a key, and a key is for one account.";
            let remedy = "`cofferdam login URL --email ADDRESS` logs in";
            return Err(fail_with(Code::WrongState, detail, remedy));
        }
        let moved = control.transfer_agent(&agent, &TransferAgent { account: to.clone() }).await?;
        match global.output {
            Format::Json => output::json(&moved)?,
            Format::Table => {
                let TransferredAgent { agent, unbound, .. } = &moved;
                output::line(format_args!(
                    "{} is {to}'s now, and {} there: `cofferdam account use {to}` acts in it.",
                    agent.name, agent.state
                ))?;
                if !unbound.is_empty() {
                    let names: Vec<&str> = unbound.iter().map(model::Name::as_str).collect();
                    output::line(format_args!("It has these secrets no more: {}", names.join(", ")))?;
                }
            }
        }
        Ok(0)
    }
}
