//! `account …`: personal accounts and organisations, and in which of them is acted.

use crate::cli::Global;
use crate::context::{self, Contexts};
use crate::failure::{fail, fail_with};
use crate::output::{self, Format};
use crate::{confirm, resolve};
use clap::Subcommand;
use model::people::{Account, CreateAccount, Email};
use model::quota::Quota;
use model::{AccountId, ByteSize, Code, Name};

/// What `account` has.
#[derive(Subcommand)]
pub enum Command {
    /// List the accounts that you belong to
    Ls {
        /// Names only
        #[arg(short = 'q', long)]
        quiet: bool,
    },
    Create(Create),
    /// Show an account that you belong to
    Show {
        /// Account, by name or id; without it the one that is acted in
        #[arg(value_parser = resolve::reference)]
        account: Option<String>,
    },
    Use(Use),
    Quota(SetQuota),
    Leave(Leave),
}

/// Make an organisation, whose first owner you are
///
/// It begins without agents, secrets and other members: `cofferdam account use NAME` acts in it, `cofferdam invite create` invites others.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam account create research
  cofferdam account create research --owner ada@example.com      for operators")]
pub struct Create {
    /// Its name, unique in the installation
    name: Name,
    /// Who owns it in your place; for operators
    #[arg(long, value_name = "ADDRESS")]
    owner: Option<Email>,
}

/// Act in this account from now on, in the context in use
///
/// That is for people who are logged in: an API key is for one account.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam account use research
  cofferdam account use --own")]
pub struct Use {
    /// Account, by name
    #[arg(required_unless_present = "own")]
    name: Option<Name>,
    /// Your own
    #[arg(long, conflicts_with = "name")]
    own: bool,
}

/// Show what all agents of the account may have together, and what they have; or, as an operator, set it for an account
///
/// What is left out when it is set is unlimited. Agents that are there stay, whatever it is.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam account quota
  cofferdam account quota acc_\u{2026} --agents 20 --cpus 16 --memory 64GiB --disk 500GiB      for operators")]
pub struct SetQuota {
    /// Account to set it for, by id; for operators
    #[arg(value_name = "ID")]
    account: Option<AccountId>,
    /// Agents
    #[arg(long, requires = "account", value_name = "COUNT")]
    agents: Option<u64>,
    /// Their processor cores
    #[arg(long, requires = "account", value_name = "CORES")]
    cpus: Option<f64>,
    /// Their memory
    #[arg(long, requires = "account", value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Their volumes
    #[arg(long, requires = "account", value_name = "SIZE")]
    disk: Option<ByteSize>,
}

/// Leave the account that is acted in
///
/// The keys that you made there are deleted. Its last owner cannot leave.
#[derive(clap::Args)]
pub struct Leave {
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

impl Command {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        match self {
            Self::Ls { quiet } => {
                let accounts = context::own_control(global.context.as_ref())?.accounts().await?;
                list(&accounts, quiet, global)?;
            }
            Self::Create(Create { name, owner }) => {
                let control = context::control(global.context.as_ref())?;
                print(&control.create_account(&CreateAccount { name, owner }).await?, global)?;
            }
            Self::Show { account } => show(account, global).await?,
            Self::Use(Use { name, own: _ }) => switch(name, global).await?,
            Self::Quota(args) => quota(args, global).await?,
            Self::Leave(args) => leave(&args, global).await?,
        }
        Ok(0)
    }
}

fn print(account: &Account, global: &Global) -> anyhow::Result<()> {
    match global.output {
        Format::Json => output::json(account),
        Format::Table => output::fields(&[
            ("name", account.name.to_string()),
            ("id", account.id.to_string()),
            ("kind", account.kind.to_string()),
            ("role", account.role.to_string()),
            ("created", output::time(account.created_at)),
        ]),
    }
}

fn list(accounts: &[Account], quiet: bool, global: &Global) -> anyhow::Result<()> {
    let names = || accounts.iter().map(|account| &account.name);
    match global.output {
        Format::Json if quiet => output::json(&names().collect::<Vec<_>>()),
        Format::Json => output::json(&accounts),
        Format::Table if quiet => names().try_for_each(output::line),
        Format::Table => {
            let rows = accounts.iter().map(|account| {
                let age = output::age(account.created_at);
                let Account { name, kind, role, id, .. } = account;
                [name.to_string(), kind.to_string(), role.to_string(), age, id.to_string()]
            });
            output::table(["NAME", "KIND", "ROLE", "AGE", "ID"], rows)
        }
    }
}

async fn show(wanted: Option<String>, global: &Global) -> anyhow::Result<()> {
    let wanted = match wanted {
        Some(wanted) => wanted,
        None => context::control(global.context.as_ref())?.whoami().await?.account.to_string(),
    };
    let accounts = context::own_control(global.context.as_ref())?.accounts().await?;
    let is_it = |account: &&Account| account.name.as_str() == wanted || account.id.to_string() == wanted;
    print(accounts.iter().find(is_it).ok_or_else(|| missing(&wanted))?, global)
}

fn missing(name: &str) -> anyhow::Error {
    let detail = format!("You belong to no account {name}.");
    fail_with(Code::NotFound, detail, "`cofferdam account ls` shows those there are")
}

async fn switch(account: Option<Name>, global: &Global) -> anyhow::Result<()> {
    let mut contexts = Contexts::load()?;
    let name = context::chosen(&contexts, global.context.as_ref())?.clone();
    let own = contexts.get(&name)?.own();
    if own.person().is_none() {
        let detail = "The context in use has a key, and a key is for one account.";
        return Err(fail_with(Code::WrongState, detail, "`cofferdam login URL --email ADDRESS` logs in"));
    }
    if let Some(wanted) = &account
        && !own.control()?.accounts().await?.iter().any(|account| account.name == *wanted)
    {
        return Err(missing(wanted.as_str()));
    }
    contexts.act_in(&name, account.clone());
    contexts.save()?;
    match account {
        _ if global.output == Format::Json => Ok(()),
        Some(account) => output::line(format_args!("Acts in {account} from now on.")),
        None => output::line("Acts in your own account from now on."),
    }
}

async fn quota(args: SetQuota, global: &Global) -> anyhow::Result<()> {
    let SetQuota { account, agents, cpus, memory, disk } = args;
    let control = context::control(global.context.as_ref())?;
    let (limits, used) = match account {
        Some(account) => (control.set_quota(account, &Quota { agents, cpus, memory, disk }).await?, None),
        None => {
            let quota = control.quota().await?;
            if global.output == Format::Json {
                return output::json(&quota);
            }
            (quota.limits, Some(quota.used))
        }
    };
    if global.output == Format::Json {
        return output::json(&limits);
    }
    let limit = |limit: Option<String>| limit.unwrap_or_else(|| "unlimited".to_owned());
    let size = |size: ByteSize| output::size(size.0);
    let rows = [
        ("agents", used.map(|used| used.agents.to_string()), limits.agents.map(|count| count.to_string())),
        ("cpus", used.map(|used| used.cpus.to_string()), limits.cpus.map(|cores| cores.to_string())),
        ("memory", used.map(|used| size(used.memory)), limits.memory.map(size)),
        ("disk", used.map(|used| size(used.disk)), limits.disk.map(size)),
    ];
    let rows =
        rows.map(|(what, used, most)| [what.to_owned(), used.unwrap_or_else(|| "-".to_owned()), limit(most)]);
    output::table(["", "USED", "LIMIT"], rows)
}

async fn leave(args: &Leave, global: &Global) -> anyhow::Result<()> {
    let control = context::control(global.context.as_ref())?;
    let who = control.whoami().await?;
    let Some(own) = control.accounts().await?.into_iter().find(|account| account.id == who.account) else {
        return Err(fail(Code::NotFound, "You do not belong to this account."));
    };
    if !args.yes {
        let about = format!("You leave {}, and the keys that you made there are deleted.", own.name);
        confirm::word("leave", &about)?;
    }
    control.leave_account().await?;
    if global.output == Format::Table {
        output::line(format_args!("You are no member of {} any more.", own.name))?;
    }
    let mut contexts = Contexts::load()?;
    // What is asked next is asked in one's own.
    if let Ok(name) = context::chosen(&contexts, global.context.as_ref()).cloned()
        && contexts.get(&name)?.person().is_some_and(|person| person.account.as_ref() == Some(&own.name))
    {
        contexts.act_in(&name, None);
        contexts.save()?;
    }
    Ok(())
}
