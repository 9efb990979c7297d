//! What is put into requests of an agent, so that the agent never has it, and what keeps it from coming back: credentials are put
//! where the policy says ([`put`], [`body`]), placeholders pass nowhere else ([`placeholder`]), and a server that repeats what it
//! was asked gives nothing away ([`scrub`]), as far as its words are understood ([`forms`]).

pub mod body;
pub mod forms;
pub mod placeholder;
pub mod put;
pub mod scrub;

use crate::limits;
use model::Name;
use model::gate_api;
use model::secret::SecretValue;
use scrub::Needles;
use std::collections::HashMap;
use std::sync::Arc;

/// All that may be put into an agent's requests.
#[derive(Default)]
pub struct Credentials(HashMap<Name, Arc<Credential>>);

/// One of them.
pub struct Credential {
    /// Its name.
    pub secret: Name,
    /// What the agent has in place of it.
    pub placeholder: String,
    value: SecretValue,
    needles: Arc<Needles>,
}

/// Why a credential is not put into a request. Nothing of it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Node did not tell of it.
    #[error("it is not there")]
    Missing,
    /// It is part of too many texts to be kept out of answers.
    #[error("it has fewer than {} bytes, and could not be kept out of answers", scrub::SHORTEST)]
    Short,
    /// It is longer than anything that a request holds.
    #[error("it has more than {} bytes", limits::CREDENTIAL)]
    Long,
    /// Where it should stand, such characters cannot.
    #[error("it has characters that cannot stand there")]
    Characters,
}

impl Credential {
    /// Whether it is what the other one is.
    pub fn is_worth(&self, other: &Self) -> bool {
        self.value.expose() == other.value.expose()
    }
}

impl Credentials {
    /// These, each of which is there once.
    pub fn new(all: Vec<gate_api::Credential>) -> Self {
        let known = all.into_iter().map(|gate_api::Credential { secret, value, placeholder }| {
            let bytes = value.expose().as_bytes();
            let needles = if fits(bytes).is_ok() { Needles::of(bytes) } else { Needles::none() };
            (secret.clone(), Arc::new(Credential { secret, placeholder, value, needles: Arc::new(needles) }))
        });
        Self(known.collect())
    }

    /// One of them, if it can be put anywhere.
    pub fn get(&self, secret: &Name) -> Result<&Arc<Credential>, Unfit> {
        let credential = self.0.get(secret).ok_or(Unfit::Missing)?;
        fits(credential.value.expose().as_bytes()).map(|()| credential)
    }
}

fn fits(value: &[u8]) -> Result<(), Unfit> {
    match value.len() {
        0..scrub::SHORTEST => Err(Unfit::Short),
        scrub::SHORTEST..=limits::CREDENTIAL => Ok(()),
        _ => Err(Unfit::Long),
    }
}
