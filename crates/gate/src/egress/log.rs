//! The record of each connection, and of each attempt that was refused. Never of content.

use model::AgentId;
use model::policy::{By, Protocol};
use std::net::SocketAddr;
use std::time::Duration;

/// A connection that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose.
    pub agent: AgentId,
    /// The name that it was made to; `None` for a literal address.
    pub name: Option<String>,
    /// The address that was connected to. `None`: there was no connection.
    pub address: Option<SocketAddr>,
    /// The port that the agent asked for.
    pub port: u16,
    /// What it spoke, if that was seen.
    pub protocol: Option<Protocol>,
    /// Who let it pass.
    pub by: Option<By>,
    /// Bytes out of the agent.
    pub sent: u64,
    /// Bytes into the agent.
    pub received: u64,
    /// How long it lasted.
    pub duration: Duration,
    /// How it ended.
    pub end: String,
}

/// An attempt that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Whose.
    pub agent: AgentId,
    /// The name, or the literal address, that it was for.
    pub host: String,
    /// The port; `None` for a question of DNS.
    pub port: Option<u16>,
    /// What it spoke, if that was seen.
    pub protocol: Option<Protocol>,
    /// Who refused it.
    pub by: String,
}

/// A connection is over.
pub fn ended(record: &Record) {
    let Record { agent, name, address, port, protocol, by, sent, received, duration, end } = record;
    let (name, by, duration) = (name.as_deref(), by.map(tracing::field::display), duration.as_millis());
    tracing::debug!(%agent, name, ?address, port, ?protocol, by, sent, received, duration, end, "a connection ended");
}

/// An attempt was refused.
pub fn denied(denial: &Denial) {
    let Denial { agent, host, port, protocol, by } = denial;
    tracing::debug!(%agent, host, ?port, ?protocol, by, "a connection was refused");
}
