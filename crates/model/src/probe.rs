//! What the probe tries inside a boundary, and what its results say of each control.
//!
//! The attempts themselves are `cofferdam-jail probe`; here is what each one tries, where it is known from, and why its
//! failure proves the control. Results that are not complete, in this order, and made as both users count as no probe.

mod catalogue;

pub use catalogue::ATTEMPTS;

use crate::agent::Level;
use crate::evidence::Control;
use serde::{Deserialize, Serialize};

/// One way out that is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Its name, as the probe says it.
    pub id: &'static str,
    /// What has to stop it.
    pub control: Control,
    /// What is tried.
    pub tries: &'static str,
    /// Where it is known from: a catalogue of attacks, a CVE, or the manual of the interface.
    pub source: &'static str,
    /// Why the expected answer proves the control.
    pub proves: &'static str,
}

/// As whom it was tried.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ProbeUser {
    /// The user that the agent's programs are.
    Agent,
    /// Root inside.
    Root,
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The boundary held.
    Held,
    /// It did not.
    Broken,
    /// This kernel or machine has nothing there that could be tried.
    Unsupported,
    /// It could not really be tried, for want of memory, descriptors or time. It proves nothing.
    Unclear,
}

/// The result of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Tried {
    /// Its name.
    pub id: String,
    /// As whom.
    pub user: ProbeUser,
    /// What came of it.
    pub outcome: Outcome,
    /// What the kernel answered.
    pub detail: String,
}

/// The attempts that count at a level: those against what it claims. In their order.
pub fn attempts_of(level: Level) -> impl Iterator<Item = &'static Attempt> {
    ATTEMPTS.iter().filter(move |attempt| Control::of(level).contains(&attempt.control))
}

/// The attempt of a name.
pub fn attempt(id: &str) -> Option<&'static Attempt> {
    ATTEMPTS.iter().find(|attempt| attempt.id == id)
}
