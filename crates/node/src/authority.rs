//! The authority under which an agent's gate shows itself as the servers whose requests it looks at: made for one start of
//! one agent, which is all that trusts it.

use model::AgentId;
use model::gate_api::Authority;
use model::secret::SecretValue;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use time::{Duration, OffsetDateTime};

/// Clocks inside differ little from this one, or not at all.
const BEFORE: Duration = Duration::hours(1);
/// Longer than an agent runs without a start.
const AFTER: Duration = Duration::days(3650);

/// Makes one. It is bound to no names: those that its gate needs come with the agent's policy, which changes.
pub(crate) fn make(agent: AgentId, now: OffsetDateTime) -> Result<Authority, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, format!("Cofferdam {agent}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (now - BEFORE, now + AFTER);
    let certificate = params.self_signed(&key)?.pem();
    Ok(Authority { certificate, key: SecretValue::new(key.serialize_pem()) })
}
