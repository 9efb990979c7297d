//! Ways to hosts: every name is resolved here, every address is judged, and the client that is made for a host connects
//! to those very addresses. So there is no second look-up that could answer otherwise.

use super::{Failed, FailedKind, Rules};
use crate::reference::Host;
use model::address;
use reqwest::{Certificate, Client, Url};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(15);
/// Without a byte for so long, a connection is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// Different hosts that one pull may lead to.
const MAX_WAYS: usize = 16;

pub(super) struct Ways {
    rules: Rules,
    clients: HashMap<String, Client>,
}

impl Ways {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules, clients: HashMap::new() }
    }

    /// A client that can reach this URL's origin and nothing else.
    pub(super) async fn to(&mut self, url: &Url) -> Result<&Client, Failed> {
        let refused = |why: String| Failed::new(FailedKind::Refused, why);
        let key = url.origin().ascii_serialization();
        if !self.clients.contains_key(&key) {
            if self.clients.len() >= MAX_WAYS {
                return Err(refused(format!("this pull leads to more than {MAX_WAYS} hosts")));
            }
            let client = self.open(url).await?;
            self.clients.insert(key.clone(), client);
        }
        self.clients.get(&key).ok_or_else(|| refused("there is no way".to_owned()))
    }

    async fn open(&self, url: &Url) -> Result<Client, Failed> {
        let refused = |why: String| Failed::new(FailedKind::Refused, why);
        let name = url.host_str().unwrap_or_default();
        // As `Host` has it: without brackets.
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let port = url.port_or_known_default().unwrap_or_default();
        let known = |hosts: &[Host]| {
            hosts
                .iter()
                .any(|host| host.name == name && host.port.map_or(url.port().is_none(), |own| own == port))
        };
        let (open, plain) = (known(&self.rules.open) || known(&self.rules.plain), known(&self.rules.plain));
        match url.scheme() {
            "https" => {}
            "http" if plain => {}
            "http" => {
                return Err(refused(format!(
                    "the way leads to {name}:{port} without TLS; an operator who wants that names it in registry.plain of node.toml"
                )));
            }
            scheme => return Err(refused(format!("the way leads to an address of the kind {scheme}:"))),
        }
        let addresses = resolve(name, port).await?;
        if !open
            && let Some((address, why)) =
                addresses.iter().find_map(|a| Some((a.ip(), address::refused(a.ip())?)))
        {
            return Err(refused(format!(
                "{name} is at {address}, an address that is {why}; an operator who wants that names {name}:{port} in registry.open of node.toml, or in registry.plain if it speaks no TLS"
            )));
        }
        let broken = |error: &reqwest::Error| {
            Failed::new(
                FailedKind::Broken,
                format!("the certificates in registry.ca cannot be used: {error}"),
            )
        };
        let mut builder = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("cofferdam/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .resolve_to_addrs(name, &addresses);
        if let Some(pem) = &self.rules.authorities {
            let certificates =
                Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| broken(&error))?;
            builder = builder.tls_certs_merge(certificates);
        }
        builder.build().map_err(|error| broken(&error))
    }
}

async fn resolve(name: &str, port: u16) -> Result<Vec<SocketAddr>, Failed> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let found = tokio::time::timeout(CONNECT, tokio::net::lookup_host((name, port))).await;
    let addresses: Vec<SocketAddr> = match found {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    if addresses.is_empty() {
        return Err(Failed::new(FailedKind::Passing, format!("the name {name} cannot be resolved")));
    }
    Ok(addresses)
}

/// A connection that failed, in words.
pub(super) fn no_way(url: &Url, error: &reqwest::Error) -> Failed {
    let host = url.host_str().unwrap_or_default();
    // The last of the causes is the one that says something.
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    // rustls' words for an answer that is none of TLS, as a server of plain HTTP gives it.
    if cause.to_string().contains("InvalidContentType") {
        let port = url.port_or_known_default().unwrap_or_default();
        let why = format!(
            "{host}:{port} does not speak TLS; an operator who wants that names it in registry.plain of node.toml"
        );
        return Failed::new(FailedKind::Refused, why);
    }
    let what = if error.is_timeout() {
        "does not answer in time".to_owned()
    } else {
        format!("cannot be reached: {cause}")
    };
    let kind =
        if cause.to_string().contains("certificate") { FailedKind::Broken } else { FailedKind::Passing };
    Failed::new(kind, format!("{host} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_registry_without_tls_is_told_from_one_that_is_away() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            assert!(client.read(&mut [0; 1024]).unwrap() > 0);
            client.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").unwrap();
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let open = vec![Host { name: "127.0.0.1".into(), port: Some(port) }];
        let mut ways = Ways::new(Rules { open, ..Rules::default() });
        let url: Url = format!("https://127.0.0.1:{port}/v2/").parse().unwrap();
        let mut ask = || {
            runtime.block_on(async {
                let client = ways.to(&url).await.map_err(|failed| failed.why).unwrap();
                no_way(&url, &client.get(url.clone()).send().await.unwrap_err())
            })
        };
        let failed = ask();
        assert!(
            failed.why.contains("registry.plain") && failed.kind == FailedKind::Refused,
            "{}",
            failed.why
        );
        server.join().unwrap();
        let failed = ask();
        assert!(
            !failed.why.contains("registry.plain") && failed.kind == FailedKind::Passing,
            "{}",
            failed.why
        );
    }
}
