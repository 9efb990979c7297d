//! What an agent is given at its start beside what its spec says: secrets, and whom it is to trust. It is handed to init, and
//! written nowhere.

use model::secret::SecretValue;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use zeroize::Zeroizing;

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// Variables of every process, in place of those of the spec.
    pub env: BTreeMap<String, SecretValue>,
    /// Files in `/run/secrets`, by their names.
    pub files: BTreeMap<String, SecretValue>,
    /// The certificate (PEM) of an authority that it is to trust besides those that its system trusts.
    pub authority: Option<String>,
    /// Certificates (PEM) to trust with it where the system has none.
    pub roots: Option<String>,
}

/// JSON in memory that is overwritten when it is dropped. Of its full size from the beginning, so that no part of it was
/// anywhere else.
pub fn wiped_json<T: Serialize>(value: &T) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut size = Size(0);
    serde_json::to_writer(&mut size, value)?;
    let mut json = Zeroizing::new(Vec::with_capacity(size.0));
    serde_json::to_writer(&mut *json, value)?;
    Ok(json)
}

struct Size(usize);

impl Write for Size {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
