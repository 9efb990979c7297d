//! The commands, one file each. Services run as they need; everything else in one small runtime.

pub mod account;
pub mod agent;
pub mod attach;
pub mod audit;
pub mod backup;
pub mod bundle;
pub mod clone;
pub mod completions;
pub mod context;
pub mod cp;
pub mod create;
pub mod doctor;
pub mod down;
pub mod egress;
pub mod events;
pub mod exec;
pub mod forward;
pub mod image;
pub mod inspect;
pub mod invite;
pub mod key;
pub mod list;
pub mod login;
pub mod logs;
pub mod member;
pub mod policy;
pub mod processes;
pub mod recipe;
pub mod restore;
pub mod run;
pub mod secret;
pub mod service;
pub mod setup;
pub mod show;
pub mod stats;
pub mod timeline;
pub mod transfer;
pub mod up;
pub mod usage;
pub mod user;
pub mod verbs;
pub mod verify;
pub mod whoami;

use crate::cli::{Cli, Command};

/// Runs what was asked for; the answer is the exit code.
pub fn run(cli: Cli) -> anyhow::Result<u8> {
    let Cli { global, command } = cli;
    match command {
        // These start threads, processes or runtimes of their own, in an order that matters to them.
        Command::Service(command) => command.run(),
        Command::Completions(args) => args.run(),
        Command::Up(args) => args.run(&global),
        Command::Setup(args) => args.run(&global),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let outcome = runtime.block_on(dispatch(command, &global));
            // A thread may sit in a read of stdin for ever.
            runtime.shutdown_background();
            outcome
        }
    }
}

async fn dispatch(command: Command, global: &crate::cli::Global) -> anyhow::Result<u8> {
    match command {
        Command::Down(args) => args.run(global).await,
        Command::Backup(args) => args.run(global),
        Command::Restore(args) => args.run(global).await,
        Command::Doctor(args) => args.run(global).await,
        Command::Login(args) => args.run(global).await,
        Command::Logout(args) => args.run(global).await,
        Command::User(command) => command.run(global).await,
        Command::Account(command) => command.run(global).await,
        Command::Member(command) => command.run(global).await,
        Command::Invite(command) => command.run(global).await,
        Command::Key(command) => command.run(global).await,
        Command::Whoami(args) => args.run(global).await,
        Command::Context(command) => command.run(global),
        Command::Run(args) => args.run(global).await,
        Command::Agent(command) => command.run(global).await,
        Command::Image(command) => command.run(global).await,
        Command::Policy(command) => command.run(global).await,
        Command::Egress(command) => command.run(global).await,
        Command::Secret(command) => command.run(global).await,
        Command::Bundle(command) => command.run(global),
        Command::Recipe(command) => command.run(global),
        Command::Ls(args) => args.run(global).await,
        Command::Short(command) => command.run(global).await,
        Command::Top(args) => args.run(global).await,
        Command::Events(args) => args.run(global).await,
        Command::Timeline(args) => args.run(global).await,
        Command::Usage(args) => args.run(global).await,
        Command::Audit(command) => command.run(global).await,
        Command::Inspect(args) => args.run(global).await,
        Command::Verify(args) => args.run(global).await,
        Command::Up(_) | Command::Setup(_) | Command::Completions(_) | Command::Service(_) => Ok(0),
    }
}
