//! What is found of one agent's boundary when somebody asks: read from the kernel and probed at that moment.
//!
//! It looks at the boundary by its record, beside the agent's worker, and changes nothing.

use crate::key::{KeyError, NodeKey};
use model::agent::Level;
use model::evidence::{Claim, Control, Evidence, Observation, claim, with_probe};
use model::probe::Tried;
use model::{AgentId, AgentSpec, BoundaryId, NodeId};
use sandbox::{BoundaryRecord, Sandbox};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use time::OffsetDateTime;

/// How long the attempts of one user may take. They take about a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Of which agent.
    pub agent: AgentId,
    /// Of which of its lives: every start makes a boundary of its own.
    pub boundary: BoundaryId,
    /// On which machine.
    pub node: Option<NodeId>,
    /// What level it is to have.
    pub level: Level,
    /// What may be said of it.
    pub claim: Claim,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The kernel's release.
    pub kernel: String,
    /// The version of this program.
    pub version: String,
    /// SHA-256 of the program that runs as the agent's init.
    pub init: String,
    /// Each control of the level.
    pub evidence: Vec<Evidence>,
    /// What was tried from inside. All of it or nothing.
    pub attempts: Vec<Tried>,
    /// Why nothing was tried.
    pub not_probed: Option<String>,
    /// How long it took to read the boundary from the kernel, in microseconds.
    pub inspect_us: u64,
    /// How long the attempts took, in microseconds.
    pub probe_us: u64,
}

/// The same with this machine's name under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// What was found.
    #[serde(flatten)]
    pub found: Verification,
    /// All of it again, signed (JWS with EdDSA).
    pub signed: String,
    /// The node's public key, as control got it when the node was enrolled.
    pub key: String,
}

pub(crate) fn sign(found: Verification, key: &NodeKey) -> Result<Signed, KeyError> {
    Ok(Signed { signed: key.sign_report(&found)?, key: key.public().to_owned(), found })
}

/// The circumstances of a look at a boundary now.
pub(crate) fn observation(record: &BoundaryRecord) -> Observation {
    Observation {
        at: OffsetDateTime::now_utc(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        init: record.init_digest.clone(),
    }
}

pub(crate) fn verify(
    sandbox: &Sandbox,
    spec: &AgentSpec,
    node: Option<NodeId>,
) -> Result<Verification, String> {
    let running = sandbox.find(spec.id).map(|record| sandbox.adopt(&record));
    let boundary = match running {
        Some(Ok(Some(boundary))) => boundary,
        Some(Err(error)) => return Err(crate::chain(&error)),
        Some(Ok(None)) | None => return Err("the agent does not run; start it first".to_owned()),
    };
    let began = Instant::now();
    let observed = boundary.inspect_whole();
    let inspect_us = began.elapsed().as_micros() as u64;
    let began = Instant::now();
    let (attempts, not_probed) = match boundary.probe(spec, PATIENCE) {
        Ok(attempts) => (attempts, None),
        // An agent can bring this about: it is no reason to say nothing of what the kernel says.
        Err(error) => (Vec::new(), Some(crate::chain(&error))),
    };
    let probe_us = began.elapsed().as_micros() as u64;
    let unlike: &[Control] = if boundary.runs_our_init() { &[] } else { &Control::BY_INIT };
    let evidence = with_probe(observed, &attempts, unlike);
    let Observation { at, kernel, version, init } = observation(boundary.record());
    Ok(Verification {
        agent: spec.id,
        boundary: boundary.record().boundary,
        node,
        level: spec.level,
        claim: claim(spec.level, &evidence),
        at,
        kernel,
        version,
        init,
        evidence,
        attempts,
        not_probed,
        inspect_us,
        probe_us,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};

    #[test]
    fn a_report_is_signed_whole() {
        let found = Verification {
            agent: AgentId::new(),
            boundary: BoundaryId::new(),
            node: Some(NodeId::new()),
            level: Level::Container,
            claim: Claim::None,
            at: OffsetDateTime::UNIX_EPOCH,
            kernel: "6.18".to_owned(),
            version: "0.1.0".to_owned(),
            init: "00".to_owned(),
            evidence: Vec::new(),
            attempts: Vec::new(),
            not_probed: Some("why".to_owned()),
            inspect_us: 500,
            probe_us: 300_000,
        };
        let dir = tempfile::tempdir().unwrap();
        let signed = sign(found.clone(), &NodeKey::load_or_make(dir.path()).unwrap()).unwrap();
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.required_spec_claims.clear();
        rules.validate_exp = false;
        let key = DecodingKey::from_ed_components(&signed.key).unwrap();
        let read = |text: &str| jsonwebtoken::decode::<Verification>(text, &key, &rules);
        let token = read(&signed.signed).unwrap();
        assert_eq!((token.claims, token.header.typ.as_deref()), (found, Some("cofferdam-report")));
        // Another machine's name is not this one's.
        let other = tempfile::tempdir().unwrap();
        let other = sign(signed.found, &NodeKey::load_or_make(other.path()).unwrap()).unwrap();
        assert!(read(&other.signed).is_err());
    }
}
