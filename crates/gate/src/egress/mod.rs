//! What may leave agents.

pub mod dns;
pub mod hello;
pub mod names;
