//! `login`: keeps the key of a server.

use crate::cli::Global;
use crate::context::{Context, Contexts, LOCAL};
use crate::failure::{fail, fail_with};
use crate::output::{self, Format};
use crate::{clean, terminal};
use client::Control;
use model::{Code, Name};
use serde_json::json;

/// Keep a server's API key, and use that server from now on
///
/// The key is read from stdin, or asked for without echo: never from the command line, where every process of
/// the machine could read it. It is tried before it is kept.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam login https://cofferdam.example.com --name work
  pass cofferdam | cofferdam login https://cofferdam.example.com")]
pub struct Args {
    /// The server's URL
    url: String,
    /// Name of the context; by default made from the host's name
    #[arg(long)]
    name: Option<Name>,
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let name = match self.name {
            Some(name) => name,
            None => name_of(&self.url),
        };
        if !["http://", "https://", "unix://"].iter().any(|scheme| self.url.starts_with(scheme)) {
            return Err(fail_with(
                Code::Validation,
                format!("{} is not a URL.", clean::text(&self.url)),
                "begin with https://, or with http:// for a server on this machine",
            ));
        }
        if self.url.starts_with("http://") && !is_loopback(&self.url) {
            return Err(fail_with(
                Code::Validation,
                "A key must not cross a network without TLS.",
                "use the server's https:// URL",
            ));
        }
        let api_key = terminal::read_secret("API key: ")?;
        if api_key.is_empty() || api_key.len() > 512 || !api_key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(fail(Code::Validation, "That is not an API key."));
        }
        let who = Control::new(&self.url, Some(api_key.clone()))?.whoami().await?;
        let mut contexts = Contexts::load()?;
        contexts.keep(name.clone(), Context { url: self.url.clone(), api_key });
        let file = contexts.save()?;
        match global.output {
            Format::Json => output::json(&json!({ "context": name, "url": self.url, "whoami": who }))?,
            Format::Table => output::line(format_args!(
                "Logged in to {} as {}; kept as context {name} in {}.",
                clean::text(&self.url),
                who.account_name,
                clean::path(&file)
            ))?,
        }
        Ok(0)
    }
}

fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.starts_with('[') {
        return authority.split_inclusive(']').next().unwrap_or(authority);
    }
    authority.split(':').next().unwrap_or_default()
}

fn is_loopback(url: &str) -> bool {
    matches!(host_of(url), "127.0.0.1" | "localhost" | "[::1]")
}

/// The host's name as far as it can be a name.
fn name_of(url: &str) -> Name {
    if is_loopback(url) {
        return LOCAL.parse().unwrap_or_else(|_| unreachable!("a constant name"));
    }
    let host: String = host_of(url)
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .skip_while(|c| !c.is_ascii_lowercase())
        .take(40)
        .collect();
    host.parse().unwrap_or_else(|_| "remote".parse().unwrap_or_else(|_| unreachable!("a constant name")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_hosts() {
        for (url, expected) in [
            ("https://cofferdam.example.com/x", "cofferdam-example-com"),
            ("http://127.0.0.1:7700", "local"),
            ("https://[::1]:7700", "local"),
            ("https://10.0.0.1", "remote"),
        ] {
            assert_eq!(name_of(url).as_str(), expected, "{url}");
        }
        assert!(!is_loopback("http://127.0.0.1.example.com"));
        assert!(!is_loopback("http://localhost@example.com"));
    }
}
