//! `whoami`: whose key is used.

use crate::cli::Global;
use crate::context;
use crate::output::{self, Format};

/// Show the account and the key that are used
///
/// The account's id is what an operator gives to `image grant`.
#[derive(clap::Args)]
pub struct Args {}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        let who = control.whoami().await?;
        match global.output {
            Format::Json => output::json(&who)?,
            Format::Table => output::fields(&[
                ("account", who.account.to_string()),
                ("name", who.account_name.to_string()),
                ("role", who.role.to_string()),
                ("key", who.key.map_or("-".to_owned(), |key| key.to_string())),
                ("server", control.origin().to_string()),
            ])?,
        }
        Ok(0)
    }
}
