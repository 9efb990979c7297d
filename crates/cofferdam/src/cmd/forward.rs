//! `forward`: local ports that lead into an agent.

use crate::cli::Global;
use crate::failure::{self, fail_with};
use crate::session::Signals;
use crate::{context, output, resolve};
use client::{Control, Workspace};
use model::Code;
use model::api::Agent;
use model::token::Scope;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Make ports inside an agent reachable here, until Ctrl-C
///
/// A port is PORT, LOCAL:PORT or ADDRESS:LOCAL:PORT; LOCAL 0 takes any that is free. Without an address only
/// this machine can connect.
#[derive(clap::Args)]
pub struct Args {
    /// Agent, by name or id
    #[arg(value_parser = resolve::reference)]
    agent: String,
    /// Ports
    #[arg(required = true, value_name = "PORT")]
    ports: Vec<Forward>,
}

/// One port, as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Forward {
    local: SocketAddr,
    port: u16,
}

impl FromStr for Forward {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected PORT, LOCAL:PORT or ADDRESS:LOCAL:PORT";
        let port = |text: &str| text.parse::<u16>().map_err(|_| EXPECTED);
        let (local, inside) = text.rsplit_once(':').unwrap_or((text, text));
        let (address, local) = match local.rsplit_once(':') {
            Some((address, local)) => {
                let address = address.trim_start_matches('[').trim_end_matches(']');
                (address.parse::<IpAddr>().map_err(|_| EXPECTED)?, local)
            }
            None => (IpAddr::V4(Ipv4Addr::LOCALHOST), local),
        };
        let inside = port(inside)?;
        if inside == 0 {
            return Err("port 0 is no port");
        }
        Ok(Self { local: SocketAddr::new(address, port(local)?), port: inside })
    }
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let control = context::control(global.context.as_ref())?;
        let agent = control.agent(&self.agent).await?;
        // Asked once now, so that an agent that is not there is said at once.
        resolve::workspace_of(&control, &agent, &[Scope::Ports]).await?;
        let mut listeners = JoinSet::new();
        let way = Arc::new((control, agent));
        for forward in self.ports {
            let listener = TcpListener::bind(forward.local).await.map_err(|error| {
                fail_with(
                    Code::Unavailable,
                    format!("Cannot listen on {}: {error}.", forward.local),
                    "choose another local port, as LOCAL:PORT",
                )
            })?;
            // On stdout: with a local port of 0 this is what a script has to read.
            output::line(format_args!("{} → {} port {}", listener.local_addr()?, way.1.name, forward.port))?;
            listeners.spawn(accept(listener, forward.port, Arc::clone(&way)));
        }
        let mut signals = Signals::listen()?;
        signals.ending().await;
        Ok(0)
    }
}

async fn accept(listener: TcpListener, port: u16, way: Arc<(Control, Agent)>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(relay(stream, port, Arc::clone(&way)));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

/// One connection. Its token is its own: a forward may last longer than any token does.
async fn relay(stream: TcpStream, port: u16, way: Arc<(Control, Agent)>) {
    let connected = async {
        let token = way.0.workspace_token(&way.1.id.to_string(), &[Scope::Ports]).await?;
        Workspace::new(way.1.id, &token)?.port(port).await
    };
    let outcome = match connected.await {
        Ok(relay) => {
            let (read, write) = stream.into_split();
            relay.run(read, write).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = outcome {
        failure::report(&error.into(), false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        let cases = [
            ("80", Some(("127.0.0.1:80", 80))),
            ("8080:80", Some(("127.0.0.1:8080", 80))),
            ("0:80", Some(("127.0.0.1:0", 80))),
            ("0.0.0.0:8080:80", Some(("0.0.0.0:8080", 80))),
            ("[::1]:8080:80", Some(("[::1]:8080", 80))),
            ("", None),
            ("0", None),
            ("80:", None),
            (":80", None),
            ("65536", None),
            ("host:1:2", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(local, port)| Forward { local: local.parse().unwrap(), port });
            assert_eq!(text.parse::<Forward>().ok(), expected, "{text}");
        }
    }
}
