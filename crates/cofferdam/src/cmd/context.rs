//! `context ls|use|rm`: which servers are known here.

use crate::cli::Global;
use crate::context::Contexts;
use crate::output::{self, Format};
use clap::Subcommand;
use model::Name;
use serde_json::json;

/// What `context` has.
#[derive(Subcommand)]
pub enum Command {
    /// List the servers that are known here
    Ls,
    /// Use this server from now on
    Use {
        /// Context
        name: Name,
    },
    /// Forget a server and its key
    Rm {
        /// Context
        name: Name,
    },
}

impl Command {
    pub fn run(self, global: &Global) -> anyhow::Result<u8> {
        let mut contexts = Contexts::load()?;
        match self {
            Self::Ls => list(&contexts, global)?,
            Self::Use { name } => {
                contexts.get(&name)?;
                contexts.current = Some(name);
                contexts.save()?;
            }
            Self::Rm { name } => {
                contexts.forget(&name)?;
                contexts.save()?;
            }
        }
        Ok(0)
    }
}

/// Keys are never shown.
fn list(contexts: &Contexts, global: &Global) -> anyhow::Result<()> {
    let current = |name: &Name| contexts.current.as_ref() == Some(name);
    let all = contexts.contexts.iter();
    match global.output {
        Format::Json => {
            let list: Vec<_> = all
                .map(|(name, context)| json!({ "name": name, "url": context.url, "current": current(name) }))
                .collect();
            output::json(&list)
        }
        Format::Table => {
            let rows = all.map(|(name, context)| {
                let mark = if current(name) { "*" } else { "" };
                [mark.to_owned(), name.to_string(), context.url.clone()]
            });
            output::table(["", "NAME", "URL"], rows)
        }
    }
}
