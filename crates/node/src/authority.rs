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

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::RootCertStore;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    #[test]
    fn an_authority_of_one_agent() {
        let agent = AgentId::new();
        let made = make(agent, OffsetDateTime::now_utc()).unwrap();
        let der = CertificateDer::from_pem_slice(made.certificate.as_bytes()).unwrap();
        let name = format!("Cofferdam {agent}");
        // X.520: a common name has at most 64 characters.
        assert!(name.len() <= 64 && der.windows(name.len()).any(|part| part == name.as_bytes()));
        RootCertStore::empty().add(der).unwrap();
        assert!(KeyPair::from_pem(made.key.expose()).unwrap().is_compatible(&PKCS_ECDSA_P256_SHA256));
        assert!(!format!("{made:?}").contains("PRIVATE KEY"));
        assert_ne!(made, make(agent, OffsetDateTime::now_utc()).unwrap());
    }
}
