//! Signatures by whom an authority has given a certificate: a team's own authority, or one such as Sigstore's that gives
//! certificates for minutes to whoever proves a name (`cosign sign` without a key).
//!
//! A certificate counts when it leads to one of the operator's roots (RFC 5280), is for signing code, was valid when the
//! signature was made, and is in a name that the operator trusts. When that was, only a transparency log can tell: with its
//! key, its signed entry for this very signature is required, and gives the time. Without it, the time is now.

use super::{PublicKey, Signed};
use crate::store::Digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::time::Duration;
use webpki::aws_lc_rs::{
    ECDSA_P256_SHA256, ECDSA_P256_SHA384, ECDSA_P384_SHA256, ECDSA_P384_SHA384, ED25519,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_cert::der::asn1::Utf8StringRef;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, SubjectAltName};

/// What certificates, and what is signed with them, may be signed with.
const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    ECDSA_P256_SHA256,
    ECDSA_P256_SHA384,
    ECDSA_P384_SHA256,
    ECDSA_P384_SHA384,
    ED25519,
    RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384,
];

/// id-kp-codeSigning (RFC 5280, 4.2.1.12), without tag and length.
const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];

/// Who vouched for the name, in certificates of Sigstore's authority: its extension "Issuer (V2)", a UTF8String.
const ISSUER: &str = "1.3.6.1.4.1.57264.1.8";

/// Certificates of one chain that are looked at.
const MAX_CHAIN: usize = 8;

/// An authority, and in which names its certificates count.
#[derive(Debug, Clone)]
pub struct Authority {
    roots: Vec<TrustAnchor<'static>>,
    names: Vec<String>,
    issuer: Option<String>,
    log: Option<PublicKey>,
}

/// Why an authority cannot be used, or a signature by its certificate does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The operator's file.
    #[error("this is not PEM with certificates of an authority")]
    Roots,
    /// Anybody can get a certificate of a public authority.
    #[error("an authority signs for many: name those who count in registry.signed_as of node.toml")]
    Nobody,
    /// There is none with it.
    #[error("it comes without a certificate")]
    NoCertificate,
    /// Not readable.
    #[error("its certificate cannot be read")]
    Certificate,
    /// Not by the authority, not for signing, not valid then.
    #[error("its certificate does not count ({0})")]
    Chain(String),
    /// In another name.
    #[error("its certificate is in the name of {0}, which registry.signed_as does not list")]
    Name(String),
    /// Somebody else vouched for the name.
    #[error("its certificate does not say that registry.signed_issuer vouched for the name")]
    Issuer,
    /// The key of the certificate did not sign this.
    #[error("it is not by the key of its certificate")]
    Signature,
    /// The log does not say so.
    #[error("it comes without an entry of the log whose key registry.signed_log has ({0})")]
    Log(&'static str),
}

/// What a transparency log hands out for an entry: cosign keeps it with the signature.
#[derive(Deserialize)]
struct Bundle {
    #[serde(rename = "SignedEntryTimestamp")]
    promise: String,
    #[serde(rename = "Payload")]
    entry: Entry,
}

/// What the log signs: this, as JSON with the keys in this order and nothing between them (RFC 8785).
#[derive(Serialize, Deserialize)]
struct Entry {
    body: String,
    #[serde(rename = "integratedTime")]
    time: u64,
    #[serde(rename = "logID")]
    log: String,
    #[serde(rename = "logIndex")]
    index: u64,
}

/// An entry's body, as far as it matters: its kind is `hashedrekord`.
#[derive(Deserialize)]
struct Body {
    kind: String,
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    data: Data,
    signature: EntrySignature,
}

#[derive(Deserialize)]
struct Data {
    hash: Hash,
}

#[derive(Deserialize)]
struct Hash {
    algorithm: String,
    value: String,
}

#[derive(Deserialize)]
struct EntrySignature {
    content: String,
    #[serde(rename = "publicKey")]
    key: Content,
}

#[derive(Deserialize)]
struct Content {
    content: String,
}

impl Authority {
    /// An authority by its certificates. `names` are e-mail addresses, URIs or host names as certificates have them;
    /// `issuer` is who has to have vouched for the name, where certificates say so; `log` is the key of the log that has
    /// to have seen a signature.
    pub fn new(
        roots: &str,
        names: Vec<String>,
        issuer: Option<String>,
        log: Option<PublicKey>,
    ) -> Result<Self, AuthorityError> {
        let roots: Vec<_> = CertificateDer::pem_slice_iter(roots.as_bytes())
            .map(|found| {
                let found = found.map_err(|_| AuthorityError::Roots)?;
                // An anchor may issue, whatever it says of itself: one that may not is none.
                if !is_authority(&found) {
                    return Err(AuthorityError::Roots);
                }
                anchor_from_trusted_cert(&found)
                    .map(|anchor| anchor.to_owned())
                    .map_err(|_| AuthorityError::Roots)
            })
            .collect::<Result<_, _>>()?;
        if roots.is_empty() {
            return Err(AuthorityError::Roots);
        }
        if names.is_empty() {
            return Err(AuthorityError::Nobody);
        }
        Ok(Self { roots, names, issuer, log })
    }

    /// Whether this payload was signed by whom the operator trusts.
    pub(super) fn verify(
        &self,
        payload: &[u8],
        signature: &[u8],
        signed: &Signed,
        now: UnixTime,
    ) -> Result<(), AuthorityError> {
        let pem = signed.certificate.as_deref().ok_or(AuthorityError::NoCertificate)?;
        let certificate =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| AuthorityError::Certificate)?;
        let leaf = EndEntityCert::try_from(&certificate).map_err(|_| AuthorityError::Certificate)?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(signed.chain.as_deref().unwrap_or("").as_bytes())
            .take(MAX_CHAIN)
            .collect::<Result<_, _>>()
            .map_err(|_| AuthorityError::Certificate)?;
        let time = match &self.log {
            Some(log) => logged(log, payload, signature, &certificate, signed)?,
            None => now,
        };
        let usage = KeyUsage::required(CODE_SIGNING);
        leaf.verify_for_usage(ALGORITHMS, &self.roots, &chain, time, usage, None, None)
            .map_err(|error| AuthorityError::Chain(error.to_string()))?;
        // It is the authority's: from here on it is believed.
        self.check_name(&certificate)?;
        let by_its_key = |algorithm: &&&dyn SignatureVerificationAlgorithm| {
            leaf.verify_signature(**algorithm, payload, signature).is_ok()
        };
        ALGORITHMS.iter().find(by_its_key).map(|_| ()).ok_or(AuthorityError::Signature)
    }

    fn check_name(&self, certificate: &CertificateDer<'_>) -> Result<(), AuthorityError> {
        let unreadable = |_| AuthorityError::Certificate;
        let certificate = x509_cert::Certificate::from_der(certificate).map_err(unreadable)?;
        let fields = certificate.tbs_certificate();
        let alternative = fields.get_extension::<SubjectAltName>().map_err(unreadable)?;
        let names: Vec<String> = alternative
            .iter()
            .flat_map(|(_, names)| &names.0)
            .filter_map(|name| match name {
                GeneralName::Rfc822Name(text) | GeneralName::DnsName(text) => Some(text.to_string()),
                GeneralName::UniformResourceIdentifier(text) => Some(text.to_string()),
                _ => None,
            })
            .collect();
        if !names.iter().any(|name| self.names.contains(name)) {
            let names = names.join(", ");
            return Err(AuthorityError::Name(names.chars().filter(|c| !c.is_control()).take(200).collect()));
        }
        let Some(issuer) = &self.issuer else { return Ok(()) };
        let wanted = Utf8StringRef::new(issuer).and_then(|text| text.to_der()).map_err(unreadable)?;
        let extensions = fields.extensions().into_iter().flatten();
        let mut said = extensions.filter(|found| found.extn_id.to_string() == ISSUER);
        match (said.next(), said.next()) {
            (Some(found), None) if found.extn_value.as_bytes() == wanted => Ok(()),
            _ => Err(AuthorityError::Issuer),
        }
    }
}

fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    let constraints = |certificate: x509_cert::Certificate| {
        certificate.tbs_certificate().get_extension::<BasicConstraints>().ok().flatten()
    };
    let found = x509_cert::Certificate::from_der(certificate).ok().and_then(constraints);
    found.is_some_and(|(_, constraints)| constraints.ca)
}

/// When the log saw this payload signed with this certificate's key.
fn logged(
    log: &PublicKey,
    payload: &[u8],
    signature: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &Signed,
) -> Result<UnixTime, AuthorityError> {
    let refused = AuthorityError::Log;
    let bundle = signed.bundle.as_deref().ok_or(refused("there is none"))?;
    let Bundle { promise, entry } = serde_json::from_str(bundle).map_err(|_| refused("it cannot be read"))?;
    let canonical = serde_json::to_vec(&entry).map_err(|_| refused("it cannot be read"))?;
    if !log.verifies(&canonical, &STANDARD.decode(promise).unwrap_or_default()) {
        return Err(refused("it is not signed by that key"));
    }
    // The log vouches for the entry; is it about this signature?
    let body = STANDARD.decode(&entry.body).unwrap_or_default();
    let Body { kind, spec } = serde_json::from_slice(&body).map_err(|_| refused("it is of another kind"))?;
    let Spec { data: Data { hash }, signature: entered } = spec;
    let pem = STANDARD.decode(&entered.key.content).unwrap_or_default();
    let same = kind == "hashedrekord"
        && hash.algorithm == "sha256"
        && hash.value == Digest::of(&Sha256::digest(payload)).as_str()
        && STANDARD.decode(&entered.content).is_ok_and(|content| content == signature)
        && CertificateDer::from_pem_slice(&pem).is_ok_and(|entered| entered == *certificate);
    match same {
        true => Ok(UnixTime::since_unix_epoch(Duration::from_secs(entry.time))),
        false => Err(refused("it is about another signature")),
    }
}

#[cfg(test)]
mod tests;
