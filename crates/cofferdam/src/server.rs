//! A server that a command line names, for whoever has no context with it yet.

use crate::clean;
use crate::context::{self, Context, Contexts};
use crate::failure::fail_with;
use client::{Control, Credential};
use model::{Code, Name};
use std::path::PathBuf;

/// What tells a server.
#[derive(clap::Args)]
pub struct Server {
    /// The server's URL; without it that of the context in use
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// File (PEM) with the authorities that its certificate has to come from, in place of the system's
    #[arg(long, env = "COFFERDAM_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// A server that was told, and the context with it, if there is one.
pub struct Told {
    pub url: String,
    pub ca: Option<PathBuf>,
    pub known: Option<(Name, Context)>,
}

impl Server {
    /// Whether it is named.
    pub fn is_named(&self) -> bool {
        self.url.is_some()
    }

    /// Looks at what is named, or else at the context in use.
    pub fn told(self, named: Option<&Name>) -> anyhow::Result<Told> {
        let contexts = Contexts::load()?;
        // Another directory may be the current one when it is read again.
        let ca = self.ca.map(std::path::absolute).transpose()?;
        let Some(url) = self.url else {
            let name = context::chosen(&contexts, named)?.clone();
            let context = contexts.get(&name)?.clone();
            let (url, ca) = (context.url.clone(), ca.or_else(|| context.ca.clone()));
            return Ok(Told { url, ca, known: Some((name, context)) });
        };
        let url = url.trim_end_matches('/').to_owned();
        check(&url)?;
        Ok(Told { url, ca, known: None })
    }
}

impl Told {
    /// A client for it.
    pub fn control(&self, credential: Credential) -> anyhow::Result<Control> {
        let authorities = self.ca.as_deref().map(context::authorities).transpose()?;
        Ok(Control::to(&self.url, credential, authorities)?)
    }
}

/// A server's URL as others reach it, for showing a command; a placeholder where this machine alone does.
pub fn public(url: &str) -> String {
    if url.starts_with("unix://") || is_loopback(url) { "URL".to_owned() } else { clean::text(url) }
}

/// Refuses what is no URL, and what would show a credential to a network.
fn check(url: &str) -> anyhow::Result<()> {
    if !["http://", "https://", "unix://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(fail_with(
            Code::Validation,
            format!("{} is not a URL.", clean::text(url)),
            "begin with https://, or with http:// for a server on this machine",
        ));
    }
    // Of what stands before an @ nothing is the host's name, however it looks.
    if url.contains(['@', '\\']) {
        return Err(fail_with(
            Code::Validation,
            "A server's URL has no user in it.",
            "give its host alone, such as https://cofferdam.example.com",
        ));
    }
    if url.starts_with("http://") && !is_loopback(url) {
        return Err(fail_with(
            Code::Validation,
            "A credential must not cross a network without TLS.",
            "use the server's https:// URL",
        ));
    }
    Ok(())
}

/// The host in a URL.
pub fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.starts_with('[') {
        // Behind the bracket only a port may stand.
        let end = authority.find(']').map_or(authority.len(), |at| at + 1);
        let port = authority[end..].is_empty() || authority[end..].starts_with(':');
        return if port { &authority[..end] } else { authority };
    }
    authority.split(':').next().unwrap_or_default()
}

/// Whether it is this machine.
pub fn is_loopback(url: &str) -> bool {
    matches!(host_of(url), "127.0.0.1" | "localhost" | "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_told_of_what_they_can_reach() {
        assert_eq!(public("https://a.example"), "https://a.example");
        for url in ["unix:///run/x", "http://127.0.0.1:7700"] {
            assert_eq!(public(url), "URL");
        }
    }

    #[test]
    fn no_credential_crosses_a_network_in_the_clear() {
        for url in ["https://a.example", "http://127.0.0.1:7700", "http://[::1]:1", "unix:///run/x"] {
            assert!(check(url).is_ok(), "{url}");
        }
        for url in [
            "a.example",
            "ftp://a.example",
            "http://a.example",
            "http://127.0.0.1.example.com",
            "http://localhost@example.com",
            "http://127.0.0.1:80@example.com",
            "https://a@example.com",
            "http://[::1].example.com",
        ] {
            assert!(check(url).is_err(), "{url}");
        }
    }
}
