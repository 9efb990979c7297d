//! TLS at the door: a certificate and its key, from files that are looked at again with every connection, so that new ones are used
//! from then on and nobody is cut off. What is in the files and cannot be used leaves the ones before in use.

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ClientHello;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use zeroize::Zeroizing;

/// The largest file that is read.
const MAX_FILE: u64 = 1 << 20;
/// What is spoken on a connection that is to prove a name (RFC 8737, section 3).
pub(crate) const CHALLENGE: &[u8] = b"acme-tls/1";
/// Who may have a key's file: its owner, and a group that reads it, such as Debian's `ssl-cert`.
const FORBIDDEN: u32 = 0o037;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read or change the key.
    #[error("the key {} can be read or changed by others; `chmod 640` keeps them out", path.display())]
    Loose {
        /// Which.
        path: PathBuf,
    },
    /// The file holds something else.
    #[error("{} holds no {what} in PEM", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// They do not belong together, or are of a kind that is not spoken.
    #[error("the certificate {} cannot be used with the key {}: {source}", certificate.display(), key.display())]
    Unfit {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// What tells a file from the one that was there before.
type Mark = (u64, u64, u64, i64, i64, i64, i64);

fn mark(metadata: &Metadata) -> Mark {
    let (m, c) = ((metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec()));
    (metadata.dev(), metadata.ino(), metadata.size(), m.0, m.1, c.0, c.1)
}

struct Loaded {
    /// Of the files that were read last, whether they could be used or not.
    marks: [Option<Mark>; 2],
    /// Nothing before there is a first certificate.
    config: Option<Arc<ServerConfig>>,
}

/// The certificate that control shows.
pub(crate) struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    loaded: Mutex<Loaded>,
    /// With what each name is proved that is being proved.
    proofs: Mutex<BTreeMap<String, Arc<ServerConfig>>>,
}

impl Tls {
    /// Reads them for the first time.
    pub(crate) fn open(certificate: PathBuf, key: PathBuf) -> Result<Self, TlsError> {
        let marks = marks(&certificate, &key);
        let config = Some(Arc::new(load(&certificate, &key)?));
        Ok(Self { certificate, key, loaded: Mutex::new(Loaded { marks, config }), proofs: Mutex::default() })
    }

    /// For files that are still to come.
    pub(crate) fn expect(certificate: PathBuf, key: PathBuf) -> Self {
        let loaded = Mutex::new(Loaded { marks: [None; 2], config: None });
        Self { certificate, key, loaded, proofs: Mutex::default() }
    }

    /// Shows this to whoever asks for the proof of this name.
    pub(crate) fn prove(&self, name: String, proof: ServerConfig) {
        self.proofs.lock().unwrap_or_else(PoisonError::into_inner).insert(name, Arc::new(proof));
    }

    /// Nothing is being proved any more.
    pub(crate) fn prove_nothing(&self) {
        self.proofs.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What a connection is served with that begins like this.
    pub(crate) fn answer(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        let proves = hello.alpn().is_some_and(|mut spoken| spoken.any(|it| it == CHALLENGE));
        if !proves {
            return self.config();
        }
        self.proofs.lock().unwrap_or_else(PoisonError::into_inner).get(hello.server_name()?).cloned()
    }

    fn config(&self) -> Option<Arc<ServerConfig>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let marks = marks(&self.certificate, &self.key);
        if marks != loaded.marks {
            loaded.marks = marks;
            match load(&self.certificate, &self.key) {
                Ok(config) => {
                    tracing::info!(certificate = %self.certificate.display(), "shows another certificate from now on");
                    loaded.config = Some(Arc::new(config));
                }
                // The key may come a moment after its certificate: then the marks are others again.
                Err(error) => tracing::error!(%error, "keeps to the certificate that it has"),
            }
        }
        loaded.config.clone()
    }
}

fn marks(certificate: &Path, key: &Path) -> [Option<Mark>; 2] {
    [certificate, key].map(|path| std::fs::metadata(path).ok().as_ref().map(mark))
}

fn read(path: &Path, forbidden: u32) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.mode() & forbidden != 0 {
        return Err(TlsError::Loose { path: path.to_owned() });
    }
    let mut bytes =
        Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len().min(MAX_FILE)).unwrap_or(0) + 1));
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn load(certificate: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let not = |path: &Path, what| TlsError::Content { path: path.to_owned(), what };
    let chain = read(certificate, 0)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<_, _>>()
        .map_err(|_| not(certificate, "certificate"))?;
    if chain.is_empty() {
        return Err(not(certificate, "certificate"));
    }
    let private = read(key, FORBIDDEN)?;
    let private = PrivateKeyDer::from_pem_slice(&private).map_err(|_| not(key, "private key"))?;
    let unfit = |source| TlsError::Unfit { certificate: certificate.to_owned(), key: key.to_owned(), source };
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unfit)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(unfit)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A server that shows this certificate, whose proof only an authority understands, to whoever asks for that.
pub(crate) fn prover(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = default_provider();
    // Not held against each other: the extension is critical, and rustls does not know it.
    let shown = CertifiedKey::new(vec![certificate], provider.key_provider.load_private_key(key)?);
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    config.alpn_protocols = vec![CHALLENGE.to_vec()];
    Ok(config)
}
