//! The words of Cofferdam as types: ids, names, sizes, agent states, wire types, problems and claims.
//!
//! Everything here is plain data and pure functions. This crate never does IO, never reads a clock, and
//! knows neither async nor SQL nor the kernel.

pub mod address;
pub mod agent;
pub mod api;
pub mod audit;
pub mod clock;
pub mod clone;
pub mod config;
pub mod crowd;
pub mod driver;
pub mod egress;
pub mod evidence;
pub mod gate_api;
pub mod id;
pub mod image;
pub mod mode;
pub mod name;
pub mod network;
pub mod node_api;
pub mod packages;
pub mod people;
pub mod policy;
pub mod probe;
pub mod problem;
pub mod quantity;
pub mod quota;
pub mod resolver;
pub mod resources;
pub mod secret;
pub mod token;
pub mod transfer;
pub mod usage;
pub mod usage_api;
pub mod workspace;

#[cfg(test)]
mod tests;

pub use agent::{AgentSpec, AgentState, Desired, ExitReason, Verb};
pub use driver::Driver;
pub use id::{
    AccountId, AgentId, BoundaryId, EventId, ExecId, ImageId, InvitationId, KeyId, NodeId, QuestionId,
    RememberedId, SecretId, SessionId, UserId, VolumeId,
};
pub use name::Name;
pub use network::Network;
pub use problem::{Code, Problem};
pub use quantity::{ByteSize, Span};
pub use resolver::{Resolver, ResolvesBy};
pub use resources::Resources;
