//! Where the database is: in a file beside the keys, or on a server that several control processes use.

use crate::config::Provider;
use crate::{Config, Error};
use model::clock::Clock;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::{OnCommit, Server, Store};

/// No password is longer.
const MOST: u64 = 4096;

/// The table `[database]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Database {
    /// A database on a PostgreSQL server. Without one, the database is SQLite, in a file of the data directory.
    pub url: Option<String>,
    /// The file that holds the password of the URL's user, and that nobody else may read.
    pub password_file: Option<PathBuf>,
    /// The credential that holds it: see systemd.exec(5), `LoadCredentialEncrypted=`.
    pub credential: Option<String>,
}

impl Database {
    /// Each with its key.
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let Self { url, password_file, credential } = self;
        let mut faults = Vec::new();
        if let Some(url) = url {
            // Whoever shows the configuration shows what is in it.
            let user = url.split_once("://").and_then(|(_, rest)| rest.split_once('@')).map(|(user, _)| user);
            if user.is_some_and(|user| user.contains(':')) || url.contains("password=") {
                let detail = "holds a password; put that into a file of its own, database.password_file";
                faults.push(("database.url", detail.to_owned()));
            } else if let Err(fault) = Server::new(url, None) {
                faults.push(("database.url", fault.to_string()));
            }
        }
        if url.is_none() && (password_file.is_some() || credential.is_some()) {
            faults.push(("database.url", "is missing, and there is a password for it".to_owned()));
        }
        if password_file.is_some() && credential.is_some() {
            faults.push((
                "database.credential",
                "is there beside database.password_file; one will do".to_owned(),
            ));
        }
        if password_file.as_ref().is_some_and(|path| !path.is_absolute()) {
            faults.push(("database.password_file", "must be an absolute path".to_owned()));
        }
        if credential
            .as_ref()
            .is_some_and(|name| name.is_empty() || name.contains('/') || name.starts_with('.'))
        {
            let detail = "must be the name of a credential, without a dot in front";
            faults.push(("database.credential", detail.to_owned()));
        }
        faults
    }

    fn server(&self, url: &str) -> Result<Server, Error> {
        let password = match (&self.password_file, &self.credential) {
            (Some(path), _) => Some(password(path, Kept::Here)?),
            (None, Some(name)) => {
                let directory = std::env::var_os("CREDENTIALS_DIRECTORY").unwrap_or_default();
                Some(password(&Path::new(&directory).join(name), Kept::BySystemd)?)
            }
            (None, None) => None,
        };
        Server::new(url, password.as_deref()).map_err(|fault| Error::DatabaseUrl(fault.to_string()))
    }
}

/// Who sees to it that nobody else reads a password.
#[derive(PartialEq, Eq)]
pub(crate) enum Kept {
    Here,
    BySystemd,
}

pub(crate) fn password(path: &Path, kept: Kept) -> Result<String, Error> {
    let failed = |source| Error::Password { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    if kept == Kept::Here && file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
        return Err(failed(std::io::Error::other("others may read it; make it chmod 0600")));
    }
    let mut text = String::new();
    (&mut file).take(MOST).read_to_string(&mut text).map_err(failed)?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(failed(std::io::Error::other("it is empty"))),
    }
}

/// Opens what the configuration names; a file is made if it is not there.
pub(crate) async fn open(
    config: &Config,
    clock: Arc<dyn Clock>,
    on_commit: OnCommit,
) -> Result<Store, Error> {
    let failed = |source| Error::Data { path: config.data.clone(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.data).map_err(failed)?;
    if let Some(url) = &config.database.url {
        return Ok(Store::connect(&config.database.server(url)?, clock, on_commit).await?);
    }
    // SQLite gives its other files the mode of the database.
    let database = config.database();
    std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&database).map_err(failed)?;
    Store::open(&database, clock, on_commit).await.map_err(|source| match source {
        store::Error::Locked | store::Error::Busy | store::Error::DiskFull => {
            Error::Database { path: database, source: Box::new(source) }
        }
        source => source.into(),
    })
}

/// The same, for what is done while nobody serves.
pub(crate) async fn open_aside(config: &Config) -> Result<Store, Error> {
    let clock = Arc::new(model::clock::SystemClock);
    match &config.database.url {
        Some(url) => Ok(Store::connect_aside(&config.database.server(url)?, clock).await?),
        None => open(config, clock, Arc::new(|_, _| {})).await,
    }
}

/// Control processes that use one database have the same keys: one that made its own would put those of the others out of use.
pub(crate) async fn check_keys(config: &Config, store: &Store) -> Result<(), Error> {
    if config.database.url.is_none() || store.installation().await?.is_none() {
        return Ok(());
    }
    // Where the database holds keys that are wrapped, the vault itself misses what wraps them.
    let wraps = config.secrets.provider == Provider::File && store.wrapped_by().await?.is_empty();
    let own = wraps.then(|| config.secrets_key());
    match [Some(config.signing_key()), own].into_iter().flatten().find(|path| !path.exists()) {
        Some(path) => Err(Error::KeyElsewhere { path }),
        None => Ok(()),
    }
}
