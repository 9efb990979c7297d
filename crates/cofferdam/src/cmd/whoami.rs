//! `whoami`: who calls, and in which account.

use crate::cli::Global;
use crate::context;
use crate::output::{self, Format};
use std::fmt::Display;

/// Show the account that is acted in, and as whom
///
/// The account's id is what an operator gives to `image grant`.
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let context = context::choose(global.context.as_ref())?;
        let control = context.control()?;
        let who = control.whoami().await?;
        if global.output == Format::Json {
            output::json(&who)?;
            return Ok(0);
        }
        let mut fields = vec![
            ("account", who.account.to_string()),
            ("name", who.account_name.to_string()),
            ("role", who.role.to_string()),
        ];
        fields.extend(context.person().map(|person| ("person", person.email.to_string())));
        fields.extend(who.key.map(|key| ("key", key.to_string())));
        if !who.scopes.is_empty() {
            fields.push(("scopes", words(&who.scopes)));
        }
        fields.push(("server", control.origin().to_string()));
        output::fields(&fields)?;
        Ok(0)
    }
}

/// Words with commas between them.
pub fn words(words: &[impl Display]) -> String {
    words.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
