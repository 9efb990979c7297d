//! `cofferdam`: the command line, and the services as subcommands.
//!
//! This file parses and reports. Each command is a file in `cmd`; what they share lies beside it. Nothing
//! here decides anything that control or a node should decide.

mod asking;
mod clean;
mod cli;
mod cmd;
mod confirm;
mod context;
mod credentials;
mod failure;
mod keyboard;
mod learn;
mod output;
mod paths;
mod policies;
mod progress;
mod proof;
mod recipes;
mod resolve;
mod server;
mod session;
mod telemetry;
mod terminal;
mod tools;
mod up;

use clap::Parser;

fn main() -> std::process::ExitCode {
    let cli = cli::Cli::parse();
    let json = cli.global.output == output::Format::Json;
    let outcome = cmd::run(cli);
    terminal::restore();
    let code = match outcome {
        Ok(code) => code,
        Err(error) => failure::report(&error, json),
    };
    std::process::ExitCode::from(code)
}
