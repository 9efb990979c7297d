//! The way out: agents on one side, servers on the other, and a node that connects to them.

mod dns;
mod hold;
mod hostile;
mod http;
mod log;
mod node;
mod reload;
mod resolver;
mod shares;
mod tcp;
mod terminated;
mod tls;
mod usage;
pub mod world;
