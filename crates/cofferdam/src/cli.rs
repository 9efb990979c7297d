//! The command line's shape. What each command takes stands in its own file.

use crate::cmd::{
    account, agent, audit, backup, bundle, completions, context, doctor, down, egress, events, image,
    inspect, invite, key, list, login, member, policy, processes, recipe, restore, run, secret, service,
    setup, timeline, up, usage, user, verify, whoami,
};
use crate::output::Format;
use clap::{Parser, Subcommand};
use model::Name;

const AFTER: &str = "\
Exit codes:
  0    done
  1    failure
  2    the command line or a value is not valid
  3    there is no such agent, image, file, …
  4    refused: the credential, or the state that something is in
  5    not now: a server does not answer, has no room, or a wait ran out
  run and exec leave with the command's own code (128 + N if signal N ended it), and with
  125 when Cofferdam failed, 126 when the command cannot be executed, 127 when there is none.

Environment:
  COFFERDAM_URL, COFFERDAM_API_KEY   the server and its key, in place of a context
  COFFERDAM_CA                       a file (PEM) with the authorities that the server's certificate
                                     has to come from, where its context has none
  COFFERDAM_CONTEXT                  the context to use
  COFFERDAM_ETC, _RUN, _DATA         where this machine's installation lies (up, down, setup,
                                     doctor, image)

Examples:
  cofferdam up --detach
  cofferdam run -it --image debian -- bash
  cofferdam run claude --folder ./project
  cofferdam create --name worker --memory 512MiB --ttl 2h
  cofferdam egress allow worker api.example.com
  cofferdam secret set anthropic --host api.anthropic.com
  cofferdam exec worker -- python3 -c 'print(1)'
  cofferdam cp ./project worker:/home/agent/
  cofferdam show worker";

/// Gives every AI agent a boundary of its own, and says what was observed of it.
#[derive(Parser)]
#[command(name = "cofferdam", version, after_long_help = AFTER, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// What every command takes.
#[derive(clap::Args)]
pub struct Global {
    /// The context to use; see `cofferdam context ls`
    #[arg(long, global = true, env = "COFFERDAM_CONTEXT", value_name = "NAME")]
    pub context: Option<Name>,
    /// The form of the output; errors follow it too
    #[arg(short = 'o', long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

#[derive(Subcommand)]
pub enum Command {
    Up(up::Args),
    Down(down::Args),
    Setup(setup::Args),
    Doctor(doctor::Args),
    Backup(backup::Args),
    Restore(restore::Args),
    Login(login::Args),
    Logout(login::Logout),
    Whoami(whoami::Args),
    /// Which servers are known here, and which one is used
    #[command(subcommand)]
    Context(context::Command),
    /// People: make them known, their passwords, sessions and second factors
    #[command(subcommand)]
    User(user::Command),
    /// Accounts of one person and of organisations
    #[command(subcommand)]
    Account(account::Command),
    /// See and change who belongs to the account
    #[command(subcommand)]
    Member(member::Command),
    /// Invite people into the account, and take an invitation
    #[command(subcommand)]
    Invite(invite::Command),
    /// Make and revoke API keys, for programs
    #[command(subcommand)]
    Key(key::Command),
    Run(Box<run::Args>),
    /// Make, use and remove agents
    #[command(subcommand)]
    Agent(agent::Command),
    /// Make, list and remove images
    #[command(subcommand)]
    Image(image::Command),
    /// Show, check, explain and change what may leave an agent
    #[command(subcommand)]
    Policy(policy::Command),
    /// See what leaves agents, decide on hosts, answer their questions
    #[command(subcommand)]
    Egress(egress::Command),
    /// Keep values that agents use and nobody reads back
    #[command(subcommand)]
    Secret(secret::Command),
    /// Show lists of hosts that policies name
    #[command(subcommand)]
    Bundle(bundle::Command),
    /// Show what `run` knows how to start
    #[command(subcommand)]
    Recipe(recipe::Command),
    #[command(visible_alias = "ps")]
    Ls(list::Args),
    #[command(flatten)]
    Short(agent::Common),
    Top(processes::Args),
    Events(events::Args),
    Timeline(timeline::Args),
    Usage(usage::Args),
    /// Verify, export and follow the ledger of audit events
    #[command(subcommand)]
    Audit(audit::Command),
    Inspect(inspect::Args),
    Verify(verify::Args),
    Completions(completions::Args),
    #[command(flatten)]
    Service(service::Command),
}
