//! A typed client for Cofferdam: the control API and the workspace API.
//!
//! [`Control`] speaks to the control plane, [`Workspace`] to the guard in front of one agent. What a server
//! refuses arrives as the [`model::Problem`] that it sent. Whatever comes from inside an agent is hostile:
//! [`extract`] unpacks its trees beneath one directory only. This crate never prints and never asks.

mod attach;
mod audit;
mod authorities;
mod control;
mod credential;
mod egress;
mod error;
pub mod extract;
mod http;
pub mod pack;
mod people;
mod pipe;
mod port;
mod secrets;
mod workspace;

pub use attach::{AttachReceiver, AttachSender, Attached, Incoming};
pub use audit::Chain;
pub use authorities::{Authorities, AuthoritiesError};
pub use control::{AgentFilter, Control};
pub use credential::{Credential, PersonSession, Prover};
pub use egress::EgressFilter;
pub use error::Error;
pub use extract::{Extracted, Limits, extract};
pub use http::ByteStream;
pub use pipe::{PipeReader, PipeWriter, pipe, reader_from};
pub use port::Relay;
pub use workspace::{LogOptions, Workspace};
