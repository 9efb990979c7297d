//! What `control.toml` may say. Every key has a default, and unknown keys are refused.

use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// The configuration of the control process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the API answers.
    pub listen: SocketAddr,
    /// Holds the database and the signing key; made with mode 0700.
    pub data: PathBuf,
    /// Host names, with their port where it is not the default one, that requests may be addressed to besides
    /// loopback's.
    pub hosts: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7700)),
            data: PathBuf::from("/var/lib/cofferdam/control"),
            hosts: Vec::new(),
        }
    }
}

impl Config {
    pub(crate) fn database(&self) -> PathBuf {
        self.data.join("cofferdam.db")
    }

    pub(crate) fn signing_key(&self) -> PathBuf {
        self.data.join("signing.pem")
    }
}
