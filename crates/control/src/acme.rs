//! Certificates from an authority that speaks ACME (RFC 8555), for names that lead to this control. It proves that they do
//! on the connection itself (`tls-alpn-01`, RFC 8737), so no other port has to be open. What it gets lies in files beside the
//! database, and is shown from there as every other certificate is.

use crate::config::Acme;
use crate::tls::Tls;
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Identifier, NewAccount, NewOrder,
    OrderStatus, RetryPolicy,
};
use model::clock::Clock;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// How long an attempt may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is looked whether a new one is due.
const EVERY: Duration = Duration::from_secs(3600);
/// After a first failure; twice as long after each that follows, so that no authority's limits are used up.
const BACKOFF: Duration = Duration::from_secs(60);
const MAX_BACKOFF: Duration = Duration::from_secs(6 * 3600);
const POLLS: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(120));

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AcmeError {
    #[error("the authority says: {0}")]
    Authority(#[from] instant_acme::Error),
    #[error("the authority does not offer to prove {0} by tls-alpn-01")]
    NoChallenge(String),
    #[error(
        "no certificate for {names}, whose port 443 has to lead to this control; the authority says: {why}"
    )]
    NotProved { names: String, why: String },
    #[error("the order ended as {0:?}")]
    Order(OrderStatus),
    #[error("cannot {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot make the certificate that proves a name: {0}")]
    Make(#[from] rcgen::Error),
    #[error("cannot show the certificate that proves a name: {0}")]
    Show(#[from] rustls::Error),
    #[error("{} holds no account", .0.display())]
    Account(PathBuf),
    #[error("it took longer than {} seconds", PATIENCE.as_secs())]
    Late,
}

/// Where it keeps what it has.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    directory: PathBuf,
}

impl Files {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.directory.join("certificate.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.directory.join("key.pem")
    }

    fn account(&self) -> PathBuf {
        self.directory.join("account.json")
    }
}

/// An account, and with whom.
#[derive(Serialize, Deserialize)]
struct Registered {
    directory: String,
    credentials: AccountCredentials,
}

/// Sees to it that there is a certificate, until `ending`.
pub(crate) async fn keep(
    settings: Acme,
    files: Files,
    tls: Arc<Tls>,
    clock: Arc<dyn Clock>,
    ending: CancellationToken,
) {
    let mut failures = 0;
    loop {
        let held = due(&files.certificate(), &settings.names).is_some_and(|due| due > clock.now());
        let tried = tokio::select! {
            tried = attempt(&settings, &files, &tls), if !held => tried,
            () = std::future::ready(()), if held => Ok(()),
            () = ending.cancelled() => return,
        };
        let wait = match tried {
            Ok(()) => {
                failures = 0;
                EVERY
            }
            Err(error) => {
                let wait = BACKOFF.saturating_mul(1 << u32::min(failures, 10)).min(MAX_BACKOFF);
                failures += 1;
                let seconds = wait.as_secs();
                tracing::error!(%error, again_in = seconds, "no new certificate; the one before is shown, if there is one");
                wait
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = ending.cancelled() => return,
        }
    }
}

/// When a new one is due: after two thirds of its time. `None` if there is none for these names.
pub(crate) fn due(certificate: &Path, names: &[String]) -> Option<OffsetDateTime> {
    let der = CertificateDer::from_pem_file(certificate).ok()?;
    let (_, parsed) = X509Certificate::from_der(&der).ok()?;
    let shown = parsed.subject_alternative_name().ok()??;
    let shows = |name: &String| {
        let mut all = shown.value.general_names.iter();
        all.any(|shown| matches!(shown, GeneralName::DNSName(shown) if shown.eq_ignore_ascii_case(name)))
    };
    let (from, to) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    let due = OffsetDateTime::from_unix_timestamp(from + (to - from) / 3 * 2).ok()?;
    names.iter().all(shows).then_some(due)
}

pub(crate) async fn attempt(settings: &Acme, files: &Files, tls: &Tls) -> Result<(), AcmeError> {
    tracing::info!(names = ?settings.names, directory = settings.directory, "asks for a certificate");
    let obtained = tokio::time::timeout(PATIENCE, obtain(settings, files, tls)).await;
    tls.prove_nothing();
    obtained.unwrap_or(Err(AcmeError::Late))
}

async fn obtain(settings: &Acme, files: &Files, tls: &Tls) -> Result<(), AcmeError> {
    let failed = |source| AcmeError::File { action: "make", path: files.directory.clone(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(&files.directory).map_err(failed)?;
    let account = account(settings, files).await?;
    let names: Vec<Identifier> = settings.names.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&names)).await?;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let mut challenge = authorization
            .challenge(ChallengeType::TlsAlpn01)
            .ok_or_else(|| AcmeError::NoChallenge(settings.names.join(", ")))?;
        let name = challenge.identifier().to_string();
        let proof = proof(&name, challenge.key_authorization().digest().as_ref())?;
        tls.prove(name, proof);
        challenge.set_ready().await?;
    }
    let not_proved =
        |why: &dyn Display| AcmeError::NotProved { names: settings.names.join(", "), why: why.to_string() };
    match order.poll_ready(&POLLS).await {
        Ok(OrderStatus::Ready) => {}
        Ok(OrderStatus::Invalid) => return Err(not_proved(&"nothing")),
        Ok(status) => return Err(AcmeError::Order(status)),
        Err(instant_acme::Error::Api(problem)) => return Err(not_proved(&problem)),
        Err(other) => return Err(other.into()),
    }
    let key = order.finalize().await?;
    let chain = order.poll_certificate(&POLLS).await?;
    // A key whose certificate has not come yet is not used.
    replace(&files.key(), key.as_bytes())?;
    replace(&files.certificate(), chain.as_bytes())?;
    tracing::info!(names = ?settings.names, "has a new certificate");
    Ok(())
}

async fn account(settings: &Acme, files: &Files) -> Result<Account, AcmeError> {
    let builder = || match &settings.roots {
        Some(roots) => Account::builder_with_root(roots),
        None => Account::builder(),
    };
    let path = files.account();
    match fs::read(&path) {
        Ok(bytes) => {
            let known: Registered =
                serde_json::from_slice(&bytes).map_err(|_| AcmeError::Account(path.clone()))?;
            if known.directory == settings.directory {
                return Ok(builder()?.from_credentials(known.credentials).await?);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(AcmeError::File { action: "read", path, source }),
    }
    let contact = settings.contact.as_ref().map(|address| format!("mailto:{address}"));
    let new = NewAccount {
        contact: &contact.as_deref().map_or_else(Vec::new, |contact| vec![contact]),
        terms_of_service_agreed: settings.agree,
        only_return_existing: false,
    };
    let (account, credentials) = builder()?.create(&new, settings.directory.clone(), None).await?;
    let known = Registered { directory: settings.directory.clone(), credentials };
    let text = serde_json::to_vec(&known).map_err(|_| AcmeError::Account(path.clone()))?;
    replace(&path, &text)?;
    Ok(account)
}

/// What proves a name (RFC 8737, section 3).
fn proof(name: &str, digest: &[u8]) -> Result<rustls::ServerConfig, AcmeError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Ok(crate::tls::prover(certificate.der().clone(), key)?)
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), AcmeError> {
    let beside = path.with_extension("new");
    let written = || {
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    written().map_err(|source| AcmeError::File { action: "write", path: path.to_owned(), source })
}
