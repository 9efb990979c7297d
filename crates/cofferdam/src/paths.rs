//! Where an installation lies: `COFFERDAM_ETC`, `COFFERDAM_RUN`, `COFFERDAM_DATA`, or the system's places.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

const ETC: &str = "/etc/cofferdam";
const RUN: &str = "/run/cofferdam";

/// The directories of one installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Configuration.
    pub etc: PathBuf,
    /// Sockets, pid file; gone after a reboot.
    pub run: PathBuf,
    /// Everything that must last.
    pub data: PathBuf,
}

impl Paths {
    /// Reads the environment. Relative paths are taken from the current directory, once.
    pub fn from_env() -> std::io::Result<Self> {
        Self::from_variables(|name| std::env::var_os(name))
    }

    /// Reads an environment.
    pub fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> std::io::Result<Self> {
        let path = |name: &str, default: &str| {
            let set = variable(name).filter(|value| !value.is_empty());
            std::path::absolute(set.map_or_else(|| default.into(), PathBuf::from))
        };
        Ok(Self {
            etc: path("COFFERDAM_ETC", ETC)?,
            run: path("COFFERDAM_RUN", RUN)?,
            data: path("COFFERDAM_DATA", "/var/lib/cofferdam")?,
        })
    }

    /// Whether this is the machine's own installation. Others on the same machine use its system users.
    pub fn is_the_machines(&self) -> bool {
        self.etc == Path::new(ETC) && self.run == Path::new(RUN)
    }

    /// Control's configuration.
    pub fn control_toml(&self) -> PathBuf {
        self.etc.join("control.toml")
    }

    /// The node's configuration.
    pub fn node_toml(&self) -> PathBuf {
        self.etc.join("node.toml")
    }

    /// The hosts of the bundles that are read from this machine's tools.
    pub fn bundles_toml(&self) -> PathBuf {
        self.etc.join("bundles.toml")
    }

    /// The supervisor's pid and start time; locked while it lives.
    pub fn up_pid(&self) -> PathBuf {
        self.run.join("up.pid")
    }

    /// A service's pid and start time.
    pub fn service_pid(&self, name: &str) -> PathBuf {
        self.run.join(format!("{name}.pid"))
    }

    /// Where the node takes local orders.
    pub fn node_socket(&self) -> PathBuf {
        self.run.join("node.sock")
    }

    /// Where control answers, besides its port.
    pub fn control_socket(&self) -> PathBuf {
        self.run.join("control.sock")
    }

    /// Logs of the services when they run detached.
    pub fn logs(&self) -> PathBuf {
        self.data.join("log")
    }
}
