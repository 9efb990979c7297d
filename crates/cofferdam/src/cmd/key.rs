//! `key …`: API keys, for programs.

use crate::cli::Global;
use crate::cmd::whoami::words;
use crate::output::{self, Format};
use crate::{context, resolve};
use clap::Subcommand;
use model::people::{ApiKey, CreateKey, KeyScope};
use model::{Name, Span};
use time::{Duration, OffsetDateTime};

/// What `key` has.
#[derive(Subcommand)]
pub enum Command {
    Create(Create),
    /// List keys: your own, and those of others if you are an admin
    Ls,
    /// Revoke keys, at once
    Rm {
        /// Keys, by id
        #[arg(required = true, value_parser = resolve::reference)]
        ids: Vec<String>,
    },
}

/// Make an API key
///
/// It is shown this once. It is for the account that is acted in, does no more than you may there, and ends when you are no member any more.
/// Every key may read; what else it is for, its scopes say: `agents` makes, uses and removes agents and images, `secrets` sets, rotates and
/// deletes secrets, `admin` is for everything.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam key create ci --scope agents --expires 90d
  cofferdam key create dashboard --scope read")]
pub struct Create {
    /// What it is for
    name: Name,
    /// read, agents, secrets or admin; may be repeated. Without it everything that you may
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',')]
    scopes: Vec<KeyScope>,
    /// When it ends, such as 90d; never without it
    #[arg(long, value_name = "SPAN")]
    expires: Option<Span>,
}

impl Command {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        match self {
            Self::Create(Create { name, scopes, expires }) => {
                let scopes = (!scopes.is_empty()).then_some(scopes);
                let create = CreateKey { name, scopes, expires_at: expires.map(end) };
                print(&control.create_key(&create).await?, global)?;
            }
            Self::Ls => list(&control.keys().await?, global)?,
            Self::Rm { ids } => {
                for id in ids {
                    control.remove_key(&id).await?;
                    if global.output == Format::Table {
                        output::line(format_args!("{id} is revoked"))?;
                    }
                }
            }
        }
        Ok(0)
    }
}

/// A span from now on; one without an end in time is none.
fn end(span: Span) -> OffsetDateTime {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or_else(|_| OffsetDateTime::now_utc());
    let span = i64::try_from(span.0).unwrap_or(i64::MAX);
    // RFC 3339 has years of four digits.
    let last = time::macros::datetime!(9999-12-31 23:59:59 UTC);
    now.checked_add(Duration::seconds(span)).map_or(last, |end| end.min(last))
}

fn at(time: Option<OffsetDateTime>) -> String {
    time.map_or("never".to_owned(), output::time)
}

fn print(key: &ApiKey, global: &Global) -> anyhow::Result<()> {
    if global.output == Format::Json {
        return output::json(key);
    }
    output::fields(&[
        ("id", key.id.to_string()),
        ("name", key.name.to_string()),
        ("role", key.role.to_string()),
        ("scopes", words(&key.scopes)),
        ("ends", at(key.expires_at)),
        ("key", key.secret.clone().unwrap_or_else(|| "-".to_owned())),
    ])?;
    output::line("\nThe key is shown this once.")
}

fn list(keys: &[ApiKey], global: &Global) -> anyhow::Result<()> {
    if global.output == Format::Json {
        return output::json(&keys);
    }
    let rows = keys.iter().map(|key| {
        let ApiKey { id, name, role, scopes, expires_at, last_used, .. } = key;
        let (id, name, role) = (id.to_string(), name.to_string(), role.to_string());
        [id, name, role, words(scopes), at(*expires_at), at(*last_used)]
    });
    output::table(["ID", "NAME", "ROLE", "SCOPES", "ENDS", "LAST USED"], rows)
}
