//! The control plane: the REST API for people and programs, the API that nodes call, and what follows from time.
//!
//! Control owns the truth, in its database, and runs without privilege. It never touches an agent's data, holds no
//! connection to a node (nodes pull), and knows neither kernel nor paths of the machines that agents run on.

mod acme;
mod api;
mod app;
mod auth;
mod config;
mod database;
mod decode;
mod limits;
mod notify;
mod peer;
mod problems;
mod server;
mod shown;
mod tasks;
#[cfg(test)]
mod tests;
mod tls;
mod vault;

pub use auth::secret::NoRandomness;
pub use auth::signing::SigningError;
pub use config::Config;
pub use database::Database;
pub use tls::TlsError;
pub use vault::KeyError;

use app::App;
use auth::passwords::Passwords;
use auth::seats::Seats;
use auth::secret;
use auth::signing::SigningKey;
use limits::Limits;
use model::clock::{Clock, SystemClock};
use model::{AccountId, Name};
use notify::Notify;
use peer::Proxies;
use rustix::process::DumpableBehavior;
use server::Entry;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use store::{Actor, NewAccount, NewKey, OnCommit, Store};
use tls::Tls;
use tokio_util::sync::CancellationToken;
use vault::Vault;

const BOOTSTRAP_LIFE: time::Duration = time::Duration::minutes(15);

/// A new API key of the first account. The key is shown once and stored hashed.
#[derive(Clone)]
pub struct FirstStart {
    /// The first account; it operates the installation.
    pub account: AccountId,
    /// Its API key.
    pub api_key: String,
}

impl std::fmt::Debug for FirstStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FirstStart").field("account", &self.account).finish_non_exhaustive()
    }
}

/// Why control could not do what it was started for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory could not be made.
    #[error("cannot use the data directory {}: {source}", path.display())]
    Data {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its memory could not be kept out of cores.
    #[error("cannot keep its memory to itself: {0}")]
    Memory(std::io::Error),
    /// The database refused.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Nothing was backed up or restored.
    #[error(transparent)]
    Backup(#[from] store::BackupError),
    /// The database cannot be used now.
    #[error("{source}: {}; end the process that holds it (`fuser` shows it), or free some space", path.display())]
    Database {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<store::Error>,
    },
    /// The password of the database cannot be read.
    #[error("cannot read a password from {}: {source}; see `database` and `limits` in control.toml", path.display())]
    Password {
        /// From where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The URL names no database.
    #[error("`database.url` in control.toml {0}")]
    DatabaseUrl(String),
    /// Other control processes have a key that this one lacks.
    #[error(
        "{} is missing, and the database belongs to an installation that has one; copy it from another machine that runs control",
        path.display()
    )]
    KeyElsewhere {
        /// Where it should be.
        path: PathBuf,
    },
    /// There is no signing key.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// There are no keys that wrap those of secrets, or not the right ones.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The certificate cannot be shown.
    #[error("{0}; see `serve` in control.toml")]
    Tls(#[from] TlsError),
    /// No secrets can be made.
    #[error(transparent)]
    Random(#[from] NoRandomness),
    /// The database is empty.
    #[error("the database in {} belongs to no installation yet; `cofferdam up` makes one", path.display())]
    NotInitialised {
        /// The data directory.
        path: PathBuf,
    },
    /// Another program listens there.
    #[error(
        "cannot listen on {address}: the port is taken; end the other program, or set `listen` in control.toml"
    )]
    PortTaken {
        /// Where.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}; see `listen` in control.toml")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Signals or the supervisor's socket do not work.
    #[error("cannot talk to the system: {0}")]
    System(#[from] std::io::Error),
}

async fn open_alone(config: &Config) -> Result<Store, Error> {
    database::open(config, Arc::new(SystemClock), Arc::new(|_, _| {})).await
}

fn name(text: &str) -> Name {
    text.parse().expect("a lowercase word is a name")
}

/// Makes the database and the first account; `None` if there is one already.
pub async fn initialise(config: &Config) -> Result<Option<FirstStart>, Error> {
    let store = open_alone(config).await?;
    database::check_keys(config, &store).await?;
    SigningKey::open(&config.signing_key())?;
    if config.secrets.provider == config::Provider::File {
        // Made now, so that what is in the way is told at once. A credential is handed to whoever serves.
        Vault::open(config, &store.wrapped_by().await?)?;
    }
    let api_key = secret::generate(secret::API_KEY)?;
    let founding = NewAccount { name: name("default"), key: name("first"), hash: secret::hash(&api_key) };
    let account = store.found(&founding).await?;
    store.close().await;
    Ok(account.map(|account| FirstStart { account, api_key }))
}

/// A token that enrols the node of this name, once, within 15 minutes. Makes the node known if it is not.
pub async fn bootstrap_token(config: &Config, node: &Name) -> Result<String, Error> {
    let store = open_alone(config).await?;
    let token = secret::generate(secret::BOOTSTRAP)?;
    store.add_bootstrap_token(node, &secret::hash(&token), BOOTSTRAP_LIFE).await?;
    store.close().await;
    Ok(token)
}

/// Another API key for the first account, for whoever may write to the data directory: the way back in when all
/// keys were lost.
pub async fn issue_key(config: &Config, key: &Name) -> Result<FirstStart, Error> {
    let store = open_alone(config).await?;
    let missing = || Error::NotInitialised { path: config.data.clone() };
    let account = store.operator().await?.ok_or_else(missing)?;
    let api_key = secret::generate(secret::API_KEY)?;
    let hash = secret::hash(&api_key);
    store.create_key(Actor::System, &NewKey::of_account(account, key, &hash), None).await?;
    store.close().await;
    Ok(FirstStart { account, api_key })
}

/// Writes a backup of the database.
pub async fn backup(config: &Config, to: &mut (dyn std::io::Write + Send)) -> Result<store::Ending, Error> {
    let store = database::open_aside(config).await?;
    let ending = store.backup(to).await;
    store.close().await;
    Ok(ending?)
}

/// What was restored, and whether its secrets can be read.
#[derive(Debug)]
pub struct Restored {
    /// What was.
    pub restored: store::Restored,
    /// Why not: the key that wraps them is not here.
    pub keys: Option<KeyError>,
}

/// Puts a backup into the database, while no control serves on it.
pub async fn restore(config: &Config, from: std::fs::File, replace: bool) -> Result<Restored, Error> {
    let archive = store::Archive::check(from)?;
    let store = database::open_aside(config).await?;
    store.alone().await?;
    let restored = store.restore(archive, replace).await?;
    // A key is not made here: a new one would open nothing.
    let needed = store.wrapped_by().await?;
    let keys = if needed.is_empty() { None } else { Vault::open(config, &needed).err() };
    store.close().await;
    Ok(Restored { restored, keys })
}

/// The OpenAPI document that this version serves, as JSON.
pub fn openapi() -> String {
    api::document().to_pretty_json().expect("the document is plain data")
}

async fn assemble(
    config: &Config,
    clock: Arc<dyn Clock>,
    own: SocketAddr,
    ending: CancellationToken,
) -> Result<Arc<App>, Error> {
    let notify = Notify::default();
    let waker = notify.clone();
    let password = config.limits.redis_password_file.as_deref();
    let password = password.map(|path| database::password(path, database::Kept::Here)).transpose()?;
    let counted_by = clock.clone();
    let on_commit: OnCommit = Arc::new(move |number, changed| waker.changed(number, changed));
    let store = database::open(config, clock, on_commit).await?;
    store.set_new_quota(config.quota);
    let missing = || Error::NotInitialised { path: config.data.clone() };
    let installation = store.installation().await?.ok_or_else(missing)?;
    database::check_keys(config, &store).await?;
    let limits = Limits::new(counted_by, &config.limits, password, &installation.id);
    let vault = Vault::open(config, &store.wrapped_by().await?)?;
    let key = SigningKey::open(&config.signing_key())?;
    let ledger = SigningKey::open_ledger(&config.ledger_key())?;
    store.use_ledger_key(&ledger.x()).await?;
    let kid = store.use_signing_key(&key.x).await?;
    let keys = store.verifying_keys().await?;
    let hosts = api::hosts(own, &config.all_hosts());
    let (signer, seats) = (key.named(kid), Seats::default());
    Ok(Arc::new(App {
        store,
        notify,
        signer,
        keys,
        ledger,
        vault,
        passwords: Passwords::new(&config.passwords)?,
        limits,
        proxies: Proxies { networks: config.serve.proxies.clone(), by: config.serve.forwarded },
        seats,
        shown: shown::Shown::default(),
        installation,
        database: config.database.url.is_none().then(|| config.database()),
        mode: config.mode,
        quota: config.quota,
        invited: config.people.invited,
        image: config.image.clone(),
        keep_egress: time::Duration::seconds(config.egress.keep.0.cast_signed()),
        hosts,
        ending,
    }))
}

/// Serves the API until SIGTERM or SIGINT, at the address of the configuration and at a socket that somebody listens on
/// already.
pub async fn serve(config: Config, socket: Option<UnixListener>) -> Result<(), Error> {
    // Its memory holds secrets: it goes into no core.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| Error::Memory(error.into()))?;
    let ending = CancellationToken::new();
    server::end_on_signals(ending.clone())?;
    let acme = config.serve.acme.clone().map(|settings| {
        let files = acme::Files::new(config.data.join("acme"));
        let tls = Arc::new(Tls::expect(files.certificate(), files.key()));
        (settings, files, tls)
    });
    let entry = match (&acme, &config.serve.certificate, &config.serve.key) {
        (Some((_, _, tls)), _, _) => Entry::Tls(tls.clone()),
        (_, Some(certificate), Some(key)) => {
            Entry::Tls(Arc::new(Tls::open(certificate.clone(), key.clone())?))
        }
        _ => Entry::Plain(config.serve.proxies.clone()),
    };
    let doors = server::Doors::new(server::listen(config.listen).await?, entry, socket)?;
    let own = doors.tcp.local_addr()?;
    let clock = Arc::new(SystemClock);
    let app = assemble(&config, clock.clone(), own, ending.clone()).await?;
    let mut tasks = vec![
        tokio::spawn(tasks::deadlines::run(app.clone())),
        tokio::spawn(tasks::cleanup::run(app.clone())),
        tokio::spawn(tasks::keys::run(app.clone())),
        tokio::spawn(tasks::uses::run(app.clone())),
        tokio::spawn(tasks::ledger::run(app.clone())),
        tokio::spawn(tasks::usage::run(app.clone())),
    ];
    if let Some((settings, files, tls)) = acme {
        tasks.push(tokio::spawn(acme::keep(settings, files, tls, clock, ending.clone())));
    }
    server::notify_ready()?;
    tracing::info!(listen = %own, installation = app.installation.id, "control is ready");
    server::serve(doors, api::router(app.clone()), ending).await;
    for task in tasks {
        // A task that panicked has logged it; the others are let finish.
        let _ = task.await;
    }
    app.store.close().await;
    Ok(())
}
