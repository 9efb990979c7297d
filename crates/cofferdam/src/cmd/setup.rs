//! `setup`: what the services need, for those who start them otherwise than with `up`: systemd's units do.

use crate::cli::Global;
use crate::failure::fail_with;
use crate::output::{self, Format};
use crate::paths::Paths;
use crate::up::pidfile::{self, Owner};
use crate::up::{neighbours, setup};
use model::Code;
use serde_json::json;

const AFTER: &str = "\
Makes what is missing, and keeps what is there: the users, the directories, default configuration, the database with \
the first account and its API key (kept in this user's context `local`), and the token with which the node enrols. \
`cofferdam up` does the same before it starts the services.

--key makes another key, when the context `local` was lost or its key is not valid any more.

Examples:
  cofferdam setup
  cofferdam setup --key";

/// Make what the services need, and start nothing
#[derive(clap::Args)]
#[command(after_long_help = AFTER)]
pub struct Args {
    /// Make a new API key for the context `local`
    #[arg(long)]
    key: bool,
}

impl Args {
    pub fn run(self, global: &Global) -> anyhow::Result<u8> {
        setup::require_root("setup")?;
        let paths = Paths::from_env()?;
        neighbours::refuse(&paths)?;
        setup::run_directory(&paths)?;
        let _held = match pidfile::take(&paths.up_pid())? {
            Owner::Us(held) => held,
            Owner::Running(_) | Owner::Unclear => {
                return Err(fail_with(
                    Code::InUse,
                    "A `cofferdam up` has this installation.",
                    "cofferdam down; then try again",
                ));
            }
        };
        let user = setup::prepare(&paths)?;
        if let Some(api_key) = setup::first_start(&paths, user)? {
            setup::keep_key(&paths, api_key)?;
        }
        if self.key {
            setup::new_key(&paths, user)?;
        }
        match global.output {
            Format::Json => output::json(&json!({ "control_url": setup::control_url(&paths)? }))?,
            Format::Table => output::line("Cofferdam is set up.")?,
        }
        Ok(0)
    }
}
