//! `bundle ls|show`: lists of hosts that policies name.

use crate::cli::Global;
use crate::failure::fail_with;
use crate::output::{self, Format};
use crate::paths::Paths;
use crate::tools::remedy;
use crate::{cmd::service, resolve};
use clap::Subcommand;
use model::Code;
use model::policy::{COMMON, TOOLS, bundle_contents, bundle_names};
use serde::Serialize;
use std::collections::BTreeMap;

/// What `bundle` has.
#[derive(Subcommand)]
pub enum Command {
    /// List bundles, with how many hosts each has
    ///
    /// Those of tools (python, node, rust, debian) hold what this machine's file says; agents on other machines have those of theirs.
    Ls,
    /// Show what a bundle lets pass
    Show {
        /// Bundle
        #[arg(value_parser = resolve::reference)]
        name: String,
    },
}

/// A bundle, as it is on this machine.
#[derive(Serialize)]
struct Bundle {
    name: &'static str,
    /// Where its hosts come from.
    from: &'static str,
    /// What it lets pass.
    hosts: Vec<String>,
    /// What to do, where there is nothing in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'static str>,
}

impl Bundle {
    fn of(name: &'static str, tools: &BTreeMap<String, Vec<String>>) -> Self {
        let hosts = bundle_contents(name, tools);
        let from = match name {
            COMMON => "all of them",
            name if TOOLS.contains(&name) => "this machine's tools",
            _ => "built in",
        };
        let remedy = hosts.is_empty().then(|| match tools.contains_key(name) {
            true => remedy(name),
            false => "`sudo cofferdam setup --bundles` asks this machine's tools",
        });
        Self { name, from, hosts, remedy }
    }
}

impl Command {
    pub fn run(self, global: &Global) -> anyhow::Result<u8> {
        let tools = node::read_bundles(&service::node_config(&Paths::from_env()?)?.bundles)?;
        match self {
            Self::Ls => {
                let bundles: Vec<Bundle> =
                    bundle_names().into_iter().map(|name| Bundle::of(name, &tools)).collect();
                match global.output {
                    Format::Json => output::json(&bundles)?,
                    Format::Table => list(bundles)?,
                }
            }
            Self::Show { name } => {
                let names = bundle_names();
                let Some(name) = names.iter().find(|known| **known == name) else {
                    return Err(fail_with(
                        Code::NotFound,
                        format!("There is no bundle {name}."),
                        format!("there are: {}", names.join(", ")),
                    ));
                };
                let bundle = Bundle::of(name, &tools);
                match global.output {
                    Format::Json => output::json(&bundle)?,
                    Format::Table => bundle.hosts.iter().try_for_each(output::line)?,
                }
                warn(&bundle);
            }
        }
        Ok(0)
    }
}

fn list(bundles: Vec<Bundle>) -> anyhow::Result<()> {
    let row =
        |bundle: &Bundle| [bundle.name.to_owned(), bundle.hosts.len().to_string(), bundle.from.to_owned()];
    output::table(["NAME", "HOSTS", "FROM"], bundles.iter().map(row))?;
    bundles.iter().for_each(warn);
    Ok(())
}

fn warn(bundle: &Bundle) {
    if let Some(remedy) = bundle.remedy {
        eprintln!("cofferdam: {} has no host: {remedy}", bundle.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_empty_says_what_to_do() {
        let tools = BTreeMap::from([
            ("python".to_owned(), vec!["mirror.example.org:443".to_owned()]),
            ("rust".to_owned(), Vec::new()),
        ]);
        let python = Bundle::of("python", &tools);
        assert_eq!(python.hosts, ["mirror.example.org at port 443 by tls"]);
        assert_eq!((python.from, python.remedy), ("this machine's tools", None));
        assert!(Bundle::of("rust", &tools).remedy.unwrap().contains("config.toml"));
        assert!(Bundle::of("node", &tools).remedy.unwrap().starts_with("`sudo cofferdam setup --bundles`"));
        let common = Bundle::of(COMMON, &tools);
        assert!(common.hosts.contains(&python.hosts[0]) && common.remedy.is_none());
        assert_eq!(Bundle::of("github", &tools).from, "built in");
    }
}
