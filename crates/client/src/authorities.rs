//! Whom a server's certificate has to come from, where that is not one of those that the system trusts.

use reqwest::{Certificate, Client};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The largest file that is read.
const MAX_FILE: u64 = 1 << 20;

/// The certificates of a file, in place of the system's.
#[derive(Clone)]
pub struct Authorities(Arc<[Certificate]>);

/// Why a file tells none.
#[derive(Debug, thiserror::Error)]
pub enum AuthoritiesError {
    /// It could not be read.
    #[error("cannot read the certificates of authorities in {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{} holds no certificate of an authority in PEM", path.display())]
    None {
        /// Which.
        path: PathBuf,
    },
}

impl Authorities {
    /// Reads a file in PEM. All that is in it has to be of use.
    pub fn read(path: &Path) -> Result<Self, AuthoritiesError> {
        let failed = |source| AuthoritiesError::Read { path: path.to_owned(), source };
        let mut pem = Vec::new();
        File::open(path).map_err(failed)?.take(MAX_FILE).read_to_end(&mut pem).map_err(failed)?;
        let none = || AuthoritiesError::None { path: path.to_owned() };
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|_| none())?;
        let these = Self(certificates.into());
        // Whether they can be read at all shows when they are used.
        if these.0.is_empty() || Client::builder().tls_certs_only(these.certificates()).build().is_err() {
            return Err(none());
        }
        Ok(these)
    }

    pub(crate) fn certificates(&self) -> impl Iterator<Item = Certificate> {
        self.0.iter().cloned().collect::<Vec<_>>().into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_authorities_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let missing = Authorities::read(&path).err().unwrap();
        assert!(matches!(&missing, AuthoritiesError::Read { .. }), "{missing}");
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
        for text in ["", "nonsense", damaged, key] {
            std::fs::write(&path, text).unwrap();
            let error = Authorities::read(&path).err().unwrap();
            let said = error.to_string();
            assert!(matches!(error, AuthoritiesError::None { .. }), "{text}: {said}");
            assert!(said.contains("ca.pem") && !said.contains("c2Vj"), "{said}");
        }
        let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
        std::fs::write(&path, format!("{certificate}{certificate}")).unwrap();
        assert_eq!(Authorities::read(&path).unwrap().0.len(), 2);
    }
}
