//! `setup`: what the services need, for those who start them otherwise than with `up`: systemd's units do.

use crate::cli::Global;
use crate::cmd::service;
use crate::failure::fail_with;
use crate::output::{self, Format};
use crate::paths::Paths;
use crate::tools;
use crate::up::pidfile::{self, Owner};
use crate::up::{neighbours, setup};
use model::Code;
use serde_json::json;

const AFTER: &str = "\
Makes what is missing, and keeps what is there: the users, the directories, default configuration, the database with \
the first account and its API key (kept in this user's context `local`), and the token with which the node enrols. \
`cofferdam up` does the same before it starts the services.

--bundles does none of that: it asks the tools of this machine (pip, npm, cargo, apt) which registries they are set up with, \
and writes their hosts into bundles.toml, for the bundles python, node, rust and debian. A first start of this machine's installation \
does so too. Node reads the file when it starts.

--key makes another key, when the context `local` was lost or its key is not valid any more.

Examples:
  cofferdam setup
  cofferdam setup --key
  cofferdam setup --bundles";

/// Make what the services need, and start nothing
#[derive(clap::Args)]
#[command(after_long_help = AFTER)]
pub struct Args {
    /// Make a new API key for the context `local`
    #[arg(long)]
    key: bool,
    /// Ask this machine's tools for the hosts of their bundles again, and do nothing else
    #[arg(long, conflicts_with = "key")]
    bundles: bool,
}

impl Args {
    pub fn run(self, global: &Global) -> anyhow::Result<u8> {
        setup::require_root("setup")?;
        let paths = Paths::from_env()?;
        if self.bundles {
            return bundles(&paths, global);
        }
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

/// Asks the tools, and says what they said.
fn bundles(paths: &Paths, global: &Global) -> anyhow::Result<u8> {
    let file = service::node_config(paths)?.bundles;
    setup::configuration_directory(paths)?;
    let found = tools::refresh(&file)?;
    let read = node::read_bundles(&file)?;
    match global.output {
        Format::Json => output::json(&read)?,
        Format::Table => {
            let rows = found.iter().flat_map(|(bundle, found)| {
                found.hosts.iter().map(|(host, from)| [(*bundle).to_owned(), host.clone(), from.clone()])
            });
            output::table(["BUNDLE", "HOST:PORT", "FROM"], rows)?;
        }
    }
    for bundle in found.keys().filter(|bundle| read.get(**bundle).is_none_or(Vec::is_empty)) {
        eprintln!("cofferdam: {bundle} has no host: {}", tools::remedy(bundle));
    }
    eprintln!("cofferdam: wrote {}; node reads it when it starts", file.display());
    Ok(0)
}
