//! What an agent is shown in place of a server: a certificate for the name, made when it is first asked for, under an authority
//! that no one but this agent trusts.

use super::{Tls, Version};
use crate::limits;
use model::gate_api;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use time::OffsetDateTime;

/// An agent's authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    leaves: Mutex<HashMap<Box<str>, Leaf>>,
}

/// The key of all leaves: it never leaves this process.
pub struct Key {
    pair: KeyPair,
    signing: Arc<dyn SigningKey>,
}

struct Leaf {
    /// By version of HTTP.
    configs: Vec<(Version, Arc<ServerConfig>)>,
    /// From when on another one is made.
    renewed: OffsetDateTime,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The authority, or what it should sign, is not usable.
    #[error("the certificate cannot be made")]
    Certificate(#[from] rcgen::Error),
    /// The key is not usable.
    #[error("the certificate cannot be used")]
    Use(#[from] rustls::Error),
}

impl Key {
    fn new() -> Result<Self, AuthorityError> {
        let pair = KeyPair::generate()?;
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        Ok(Self { signing: any_ecdsa_type(&der)?, pair })
    }
}

impl Authority {
    /// What node made for the agent.
    pub fn new(authority: &gate_api::Authority) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(authority.key.expose())?;
        let issuer = Issuer::from_ca_cert_pem(&authority.certificate, key)?;
        Ok(Self { issuer, leaves: Mutex::default() })
    }

    /// How this name is shown to a client with which this version was agreed on.
    pub fn config(
        &self,
        tls: &Tls,
        name: &str,
        version: Version,
    ) -> Result<Arc<ServerConfig>, AuthorityError> {
        let now = OffsetDateTime::now_utc();
        let known = |leaf: &Leaf| {
            let config = leaf.configs.iter().find(|(own, _)| *own == version);
            config.filter(|_| now < leaf.renewed).map(|(_, config)| config.clone())
        };
        if let Some(config) = self.leaves().get(name).and_then(known) {
            return Ok(config);
        }
        let leaf = self.make(tls, name, now)?;
        let config = known(&leaf);
        let mut leaves = self.leaves();
        if leaves.len() >= limits::LEAVES && !leaves.contains_key(name) {
            let oldest = leaves.iter().min_by_key(|(_, leaf)| leaf.renewed).map(|(name, _)| name.clone());
            oldest.map(|oldest| leaves.remove(&oldest));
        }
        leaves.insert(name.into(), leaf);
        config.ok_or(AuthorityError::Use(rustls::Error::NoApplicationProtocol))
    }

    fn make(&self, tls: &Tls, name: &str, now: OffsetDateTime) -> Result<Leaf, AuthorityError> {
        let key = match tls.key.get() {
            Some(key) => key,
            None => {
                let key = Key::new()?;
                tls.key.get_or_init(|| key)
            }
        };
        let mut params = CertificateParams::new([name.to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        // The agent's clock is this one, but not every program's is read at the same moment.
        params.not_before = now - limits::LEAF_LIFE;
        params.not_after = now + limits::LEAF_LIFE;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key.pair, &self.issuer)?;
        let shown = CertifiedKey::new(vec![certificate.der().clone()], key.signing.clone());
        let shown = Arc::new(SingleCertAndKey::from(shown));
        let mut configs = Vec::new();
        for version in Version::ALL {
            let config = ServerConfig::builder_with_provider(tls.provider.clone());
            let config = config.with_safe_default_protocol_versions()?.with_no_client_auth();
            let mut config = config.with_cert_resolver(shown.clone());
            config.alpn_protocols = vec![version.alpn().to_vec()];
            // Nothing is kept of a conversation: another one costs a signature.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            configs.push((version, Arc::new(config)));
        }
        Ok(Leaf { configs, renewed: now + limits::LEAF_LIFE / 2 })
    }

    fn leaves(&self) -> MutexGuard<'_, HashMap<Box<str>, Leaf>> {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
