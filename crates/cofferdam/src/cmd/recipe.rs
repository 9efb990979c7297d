//! `recipe ls|show`: what `run` knows how to start.

use crate::cli::Global;
use crate::output::{self, Format};
use crate::recipes;
use clap::Subcommand;

/// What `recipe` has.
#[derive(Subcommand)]
pub enum Command {
    /// List recipes: those that are built in, and those of ~/.config/cofferdam/recipes
    Ls,
    /// Show a recipe, as a file that can be changed and put into ~/.config/cofferdam/recipes
    Show {
        /// Recipe: a name, a file, or a folder that holds a recipe.toml
        name: String,
    },
}

impl Command {
    pub fn run(self, global: &Global) -> anyhow::Result<u8> {
        match self {
            Self::Ls => {
                let all = recipes::all()?;
                match global.output {
                    Format::Json => output::json(&all)?,
                    Format::Table => {
                        let row = |each: &recipes::Named| {
                            [each.name.clone(), each.recipe.description.clone(), each.from.clone()]
                        };
                        output::table(["NAME", "STARTS", "FROM"], all.iter().map(row))?;
                    }
                }
            }
            Self::Show { name } => {
                let found = recipes::find(&name)?;
                match global.output {
                    Format::Json => output::json(&found)?,
                    Format::Table => output::line(toml::to_string(&found.recipe)?.trim_end())?,
                }
            }
        }
        Ok(0)
    }
}
