//! The node: makes boundaries match what control wants, and says what it saw.
//!
//! It is root and small. It pulls desired state, plans purely, executes idempotently, journals before it acts,
//! and supervises one gate per account. It never runs a command that control sent on the host, never opens a path
//! that control named, and never takes an agent's absence from a list for an order. Agents outlive it.

mod admin;
mod authority;
mod backoff;
mod blanks;
mod config;
mod control;
mod egress;
mod fleet;
mod gates;
mod images;
mod journal;
mod key;
mod lease;
mod local;
mod machine;
mod outbox;
mod plan;
mod recheck;
mod report;
mod secrets;
mod session;
mod terminate;
mod tools;
mod validate;
mod verify;
mod worker;

#[cfg(test)]
mod tests;

pub use config::{Config, Egress, GATE_UIDS, Images, Limits, RANGE_SIZE, Registry};
pub use control::{CallError, ClientError, EnrollError};
pub use gates::GateError;
pub use images::{ImagesError, images_in_use, vouch};
pub use journal::JournalError;
pub use key::KeyError;
pub use tools::{MAX_HOSTS, ToolsError, is_host as is_bundle_host, read as read_bundles};
pub use verify::{Signed, Verification};

use crate::fleet::{Fleet, Shared};
use crate::gates::Gates;
use crate::journal::Journal;
use crate::key::NodeKey;
use crate::lease::{Leases, Owner};
use crate::report::Reporter;
use crate::session::{ENROLLED, Session};
use model::Driver;
use model::agent::Level;
use model::config::{Checked, ConfigError};
use rustix::process::DumpableBehavior;
use sandbox::Sandbox;
use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

/// Removed volumes can be had back for this long.
const TRASH_KEPT: Duration = Duration::from_secs(7 * 86_400);
/// A gate without agents is kept for the next one.
const GATE_LINGER: Duration = Duration::from_secs(10);
/// How often the trash is looked at.
const TRASH_EVERY: Duration = Duration::from_secs(6 * 3600);

/// Why a node could not start or go on. Agents are left as they are.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is not usable.
    #[error("node.toml is not usable: {0}")]
    Config(#[from] ConfigError),
    /// The machine cannot make boundaries.
    #[error("this machine cannot make boundaries; `cofferdam doctor` says what is missing")]
    Sandbox(#[from] sandbox::StartError),
    /// The node's own records.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The node's key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The gates' address.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// No place in an installation.
    #[error(transparent)]
    Enroll(#[from] EnrollError),
    /// No way to call control.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Something of the machine that is always there was not.
    #[error("could not {action}")]
    Machine {
        /// What was attempted.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
}

fn machine(action: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Machine { action, source }
}

/// What a node ended for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// A signal. Agents live on.
    Signalled,
    /// A `shutdown`. Every agent was ended, and starts again with the next node.
    ShutDown,
}

/// Runs the node until SIGTERM or SIGINT, which leave agents alone, or a `shutdown` on its admin socket, which
/// ends them until a node runs again.
pub async fn run(mut config: Config) -> Result<Ended, RunError> {
    config.validate()?;
    // Its memory holds secrets: it goes into no core.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| machine("keep its memory to itself")(error.into()))?;
    let mut terminated = signal(SignalKind::terminate()).map_err(machine("watch for SIGTERM"))?;
    let mut interrupted = signal(SignalKind::interrupt()).map_err(machine("watch for SIGINT"))?;
    let journal = Arc::new(Journal::open(&config.data.join("node"), &config.run)?);
    let key = NodeKey::load_or_make(journal.root())?;
    let boot_id = machine::boot_id().map_err(machine("read the machine's boot id"))?;
    let (http, origin) = control::client(&config.control, config.control_ca.as_deref())?;
    let program = machine::program().map_err(machine("find this executable"))?;
    let jail = config.jail.clone().unwrap_or_else(|| program.with_file_name("cofferdam-jail"));

    let directories = directories(&config, jail.clone());
    let tried = directories.clone();
    let sandbox = blocking("start the sandbox", move || Sandbox::new(directories)).await??;
    // Not beside the other: whoever starts a program while init's is being stored keeps that from being executed.
    let can = blocking("see which levels there are", move || sandbox::doctor::levels(&tried)).await?;
    if config.drivers.contains(&Driver::Systemd) {
        let found = blocking("look for systemd", sandbox::systemd_version).await?;
        if let Err(error) = found {
            tracing::info!(reason = %chain(&error), "boundaries of level 1 are made without systemd");
            config.drivers.retain(|driver| *driver != Driver::Systemd);
        }
    }
    let records = journal.load()?;
    let (leases, strangers) = take_stock(&config, &sandbox, &records);
    let reporter = Arc::new(Reporter::new(levels(&config, can)));
    let settings = gates::Settings {
        directory: config.run.join("gates"),
        guard: config.guard,
        uid_first: config.gate_uid_first,
        jail,
        program,
        linger: GATE_LINGER,
        egress: config.egress.clone(),
        // A bundle whose hosts are not known lets nothing pass.
        tools: read_bundles(&config.bundles).unwrap_or_else(|error| {
            tracing::error!(error = %chain(&error), "the bundles of this machine's tools are empty");
            Default::default()
        }),
        sandbox: Some(sandbox.clone()),
    };
    let outbox = Arc::new(outbox::Outbox::new());
    let (opened, told, left) = (journal.clone(), reporter.clone(), outbox.clone());
    let gates = blocking("open the gates", move || Gates::open(settings, opened, told, left)).await??;
    // Nothing depends on it: what cannot be read is as good as nothing.
    let shapes = journal.read_own(blanks::RECORD).ok().flatten().unwrap_or_default();
    let standing: Option<control::Standing> = journal.read_own(ENROLLED)?;
    if let Some(standing) = &standing {
        gates.set_keys(&standing.installation, &standing.keys);
    }

    let mut kept = fleet::kept(&records);
    kept.extend(&strangers);
    let sweeper = sandbox.clone();
    for line in blocking("sweep", move || sweeper.sweep(&kept)).await? {
        tracing::info!(line, "swept");
    }
    let secrets = Arc::new(secrets::Secrets::default());
    let shared = Shared::new(
        config.clone(),
        sandbox.clone(),
        journal.clone(),
        leases,
        gates.clone(),
        reporter.clone(),
        secrets.clone(),
        boot_id,
        strangers,
        blanks::Blanks::new(config.blanks, machine::capacity(config.slots).memory, shapes),
    );
    let blanks = tokio::spawn(blanks::keep(shared.clone()));
    let fleet = Arc::new(Fleet::adopt(shared.clone(), records).await);
    let admin =
        admin::Admin::listen(&config.run.join("node.sock")).map_err(machine("listen on node.sock"))?;
    let (attempted, attempt) = oneshot::channel();
    let session = Session {
        journal,
        gates,
        reporter,
        outbox,
        secrets,
        apply: Box::new({
            let fleet = fleet.clone();
            move |state| fleet.apply(state)
        }),
        http,
        origin,
        capacity: machine::capacity(config.slots),
        attempted: Some(attempted),
    };
    tokio::spawn(async move {
        if attempt.await.is_ok() {
            machine::notify_ready();
        }
    });
    let trash = tokio::spawn(empty_trash(sandbox));
    let (shutdowns, mut shutdown) = mpsc::channel(1);
    // Whatever ends this ends the session: from then on nothing that control says is acted on.
    let ended = tokio::select! {
        _ = terminated.recv() => Ok(None),
        _ = interrupted.recv() => Ok(None),
        Some(asked) = shutdown.recv() => Ok(Some(asked)),
        () = admin.serve(fleet.clone(), shutdowns) => Ok(None),
        ended = session.run(key, standing) => ended.map(|()| None),
    };
    trash.abort();
    blanks.abort();
    let asked = ended?;
    let how = if asked.is_some() { Ended::ShutDown } else { Ended::Signalled };
    if let Some(asked) = asked {
        tracing::info!("shutting down: agents are ended, and start again with the next node");
        fleet.park().await;
        blanks::discard(&shared, shared.blanks.drain()).await;
        let _ = asked.parked.send(());
        let _ = tokio::time::timeout(Duration::from_secs(5), asked.answered).await;
    }
    tracing::info!("node ends");
    Ok(how)
}

/// The levels that this machine can make and that its owner allows.
fn levels(config: &Config, can: Vec<Level>) -> Vec<Level> {
    let levels: Vec<Level> = can.into_iter().filter(|level| config.levels.contains(level)).collect();
    tracing::info!(?levels, "agents of these levels can be made here");
    levels
}

/// Who has which ids, and who lives that the journal does not know.
fn take_stock(
    config: &Config,
    sandbox: &Sandbox,
    records: &std::collections::BTreeMap<model::AgentId, local::Local>,
) -> (Leases, BTreeSet<model::AgentId>) {
    let mut leases = Leases::new(config.uid_first, config.uid_ranges, config.slots);
    let strangers: BTreeSet<_> =
        sandbox.living().into_iter().filter(|agent| !records.contains_key(agent)).collect();
    let journaled = records
        .iter()
        .filter_map(|(agent, record)| Some((*agent, Owner::of(&record.desired.spec), record.lease?)));
    let mut sharing = std::collections::BTreeMap::new();
    let found = strangers.iter().filter_map(|agent| {
        tracing::warn!(%agent, "it lives, and the journal does not know it; left alone until control says what it is");
        let record = sandbox.find(*agent)?;
        let range = sandbox::UidRange { base: record.base_uid };
        // Workspaces of one account are one OS user; which account that is, control says.
        let first = match record.level {
            Level::Workspace => *sharing.entry(range.base).or_insert(*agent),
            _ => *agent,
        };
        Some((*agent, Owner::Agent(first), range))
    });
    for (agent, owner, range) in journaled.chain(found) {
        if let Err(error) = leases.restore(agent, owner, range) {
            tracing::error!(%error, "two agents have the same user ids");
        }
    }
    (leases, strangers)
}

/// Where the sandbox has its things.
pub fn directories(config: &Config, jail: PathBuf) -> sandbox::Config {
    sandbox::Config {
        run: config.run.clone(),
        images: config.data.join("images"),
        volumes: config.data.join("volumes"),
        init_store: config.data.join("init"),
        cgroup: config.cgroup.clone(),
        jail,
        hidden: vec![config.data.clone()],
        runtimes: sandbox::DIRECTORIES.map(PathBuf::from).to_vec(),
    }
}

async fn empty_trash(sandbox: Sandbox) {
    let mut ticks = tokio::time::interval(TRASH_EVERY);
    loop {
        ticks.tick().await;
        let sandbox = sandbox.clone();
        let emptied = blocking("empty the trash", move || sandbox.empty_trash(TRASH_KEPT)).await;
        for result in emptied.unwrap_or_default() {
            match result {
                Ok(volume) => tracing::info!(%volume, "deleted from the trash"),
                Err(error) => tracing::error!(error = %chain(&error), "could not delete from the trash"),
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    action: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RunError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| machine(action)(io::Error::other(error)))
}

/// An error with all that caused it, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
