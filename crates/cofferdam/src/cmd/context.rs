//! `context ls|use|rm`: which servers are known here.

use crate::cli::Global;
use crate::context::{Contexts, Person};
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
    /// Forget a server, and its key or session, which `logout` would end
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

/// Keys and sessions are never shown.
fn list(contexts: &Contexts, global: &Global) -> anyhow::Result<()> {
    let current = |name: &Name| contexts.current.as_ref() == Some(name);
    let all = contexts.contexts.iter();
    match global.output {
        Format::Json => {
            let list: Vec<_> = all
                .map(|(name, context)| {
                    let person = context.person();
                    json!({
                        "name": name,
                        "url": context.url,
                        "current": current(name),
                        "person": person.map(|person| &person.email),
                        "account": person.and_then(|person| person.account.as_ref()),
                        "ca": context.ca,
                    })
                })
                .collect();
            output::json(&list)
        }
        Format::Table => {
            let rows = all.map(|(name, context)| {
                let mark = if current(name) { "*" } else { "" };
                let caller = match context.person() {
                    None => "a key".to_owned(),
                    Some(Person { email, account: None, .. }) => email.to_string(),
                    Some(Person { email, account: Some(account), .. }) => format!("{email} in {account}"),
                };
                [mark.to_owned(), name.to_string(), caller, context.url.clone()]
            });
            output::table(["", "NAME", "AS", "URL"], rows)
        }
    }
}
