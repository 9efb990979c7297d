//! The services, hidden from people: each is started by another process of the installation.

use crate::failure::fail_with;
use crate::paths::Paths;
use crate::{telemetry, up};
use anyhow::{Context as _, anyhow};
use clap::Subcommand;
use model::config::Checked;
use model::{Code, Name};
use rustix::net::{AddressFamily, SocketType};
use serde::Serialize;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// How a node leaves that was told to end all of its agents and itself: nobody may start another one for it.
pub const SHUT_DOWN: u8 = 10;

/// The services.
#[derive(Subcommand)]
pub enum Command {
    /// Serve the control plane
    #[command(hide = true)]
    Control(ControlArgs),
    /// Run agents on this machine
    #[command(hide = true)]
    Node(NodeArgs),
    /// Serve the workspaces of one account; started by node, with its sockets as LISTEN_FDS
    #[command(hide = true)]
    Gate {
        /// Where the agents' channels are
        #[arg(long)]
        sockets: PathBuf,
    },
    /// Parse an archive, confined; started by `image`
    #[command(hide = true, name = "image-worker")]
    ImageWorker {
        /// What to do, as JSON
        job: String,
    },
    /// Keep control and node running; started by `up`
    #[command(hide = true)]
    Supervise,
}

/// What control can be started for.
#[derive(clap::Args)]
pub struct ControlArgs {
    /// Make the database and the first account, print what was made as JSON, and end
    #[arg(long)]
    init: bool,
    /// Print a new key of the first account as JSON, and end
    #[arg(long, value_name = "NAME")]
    issue_key: Option<Name>,
    /// Print a token that enrols the node of this name as JSON, and end
    #[arg(long, value_name = "NAME")]
    bootstrap: Option<Name>,
    /// Write a backup of the database to standard output, and end
    #[arg(long)]
    backup: bool,
    /// Put the backup that standard input is into the database, and end
    #[arg(long)]
    restore: bool,
    /// With `--restore`: in place of what the same installation has
    #[arg(long, requires = "restore")]
    replace: bool,
}

/// What the node can be started for.
#[derive(clap::Args)]
pub struct NodeArgs {
    /// Have the node that runs end all of its agents and itself, and end
    #[arg(long)]
    shut_down: bool,
    /// Load the AppArmor profile of containers, where the kernel has AppArmor, and end
    #[arg(long)]
    load_profile: bool,
}

/// What a one-shot start of control prints, for `up` to read.
#[derive(Debug, Default, Serialize, serde::Deserialize)]
pub struct Printed {
    /// The first account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<model::AccountId>,
    /// A key of it. Shown here and never again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    /// For the node's enrolment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap_token: Option<String>,
}

impl Command {
    pub fn run(self) -> anyhow::Result<u8> {
        match self {
            Self::Control(args) => {
                end_with_supervisor()?;
                telemetry::init();
                runtime()?.block_on(args.run())
            }
            Self::Node(NodeArgs { shut_down: true, .. }) => {
                let socket = Paths::from_env()?.node_socket();
                if !runtime()?.block_on(super::down::end_agents(&socket))? {
                    eprintln!("cofferdam: no node runs that could end agents");
                }
                Ok(0)
            }
            Self::Node(NodeArgs { load_profile: true, .. }) => match sandbox::apparmor::load() {
                sandbox::apparmor::Offer::Refused(why) => Err(anyhow!(why)),
                _ => Ok(0),
            },
            Self::Node(_) => {
                end_with_supervisor()?;
                telemetry::init();
                let paths = Paths::from_env()?;
                up::neighbours::refuse(&paths)?;
                let config = node_config(&paths)?;
                Ok(match runtime()?.block_on(node::run(config))? {
                    node::Ended::Signalled => 0,
                    node::Ended::ShutDown => SHUT_DOWN,
                })
            }
            Self::Gate { sockets } => {
                telemetry::init();
                gate(&sockets)
            }
            // It speaks a protocol on its descriptors, and logs nothing.
            Self::ImageWorker { job } => {
                Ok(if image::worker::main(&job) == std::process::ExitCode::SUCCESS { 0 } else { 1 })
            }
            Self::Supervise => up::supervise::detached(),
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Asks the kernel to end this service when its supervisor dies, which would otherwise leave it without anybody
/// who would restart or stop it. Agents live on.
fn end_with_supervisor() -> anyhow::Result<()> {
    let Some(supervisor) = std::env::var("COFFERDAM_SUPERVISOR").ok().and_then(|pid| pid.parse::<i32>().ok())
    else {
        return Ok(());
    };
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    // It may have died before the request was made.
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if parent == Some(supervisor) { Ok(()) } else { Err(anyhow!("the supervisor is gone")) }
}

impl ControlArgs {
    async fn run(self) -> anyhow::Result<u8> {
        // Control needs no program that would give it more rights than its user has.
        rustix::thread::set_no_new_privs(true).context("cannot give up privileges")?;
        let config = control_config(&Paths::from_env()?)?;
        if self.backup {
            control::backup(&config, &mut std::io::BufWriter::new(std::io::stdout())).await?;
            return Ok(0);
        }
        if self.restore {
            return self.put_back(&config).await;
        }
        let mut printed = Printed::default();
        if self.init {
            if let Some(first) = control::initialise(&config).await? {
                printed.account = Some(first.account);
                printed.api_key = Some(first.api_key);
            }
        } else if let Some(name) = &self.issue_key {
            let issued = control::issue_key(&config, name).await?;
            printed.account = Some(issued.account);
            printed.api_key = Some(issued.api_key);
        } else if self.bootstrap.is_none() {
            control::serve(config, control_socket()?).await?;
            return Ok(0);
        }
        if let Some(node) = &self.bootstrap {
            printed.bootstrap_token = Some(control::bootstrap_token(&config, node).await?);
        }
        crate::output::line(serde_json::to_string(&printed)?)?;
        Ok(0)
    }
}

impl ControlArgs {
    async fn put_back(&self, config: &control::Config) -> anyhow::Result<u8> {
        use std::os::fd::AsFd;
        let from = std::io::stdin().as_fd().try_clone_to_owned().context("cannot read the backup")?;
        let done = control::restore(config, from.into(), self.replace).await?;
        if let Some(error) = &done.keys {
            eprintln!("cofferdam: the secrets of the backup cannot be read: {error}");
        }
        let control::Restored { restored, .. } = done;
        crate::output::json(&serde_json::json!({
            "made_at": restored.header.made_at,
            "installation": restored.header.installation,
            "rows": restored.rows,
            "database_epoch": restored.database_epoch,
        }))?;
        Ok(0)
    }
}

/// The socket of the supervisor, which makes it where control may not write.
fn control_socket() -> anyhow::Result<Option<UnixListener>> {
    Ok(listenfd::ListenFd::from_env().take_unix_listener(0)?)
}

fn gate(sockets: &Path) -> anyhow::Result<u8> {
    let mut fds = listenfd::ListenFd::from_env();
    let missing = || anyhow!("gate is started by node, with its sockets; it cannot be started by hand");
    let family = AddressFamily::UNIX.as_raw().into();
    let kind = |kind: SocketType| kind.as_raw() as i32;
    let control: Option<UnixStream> =
        fds.take_custom(0, family, kind(SocketType::STREAM), "unix stream socket")?;
    let control = control.ok_or_else(missing)?;
    let guard = fds.take_tcp_listener(1)?.ok_or_else(missing)?;
    let connects: Option<OwnedFd> =
        fds.take_custom(2, family, kind(SocketType::SEQPACKET), "unix seqpacket socket")?;
    gate::main(control, guard, connects.ok_or_else(missing)?, sockets)?;
    Ok(0)
}

fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// A configuration, over what is this installation's own where the file says nothing of it.
fn configured<T: Checked>(path: &Path, own: &[(&str, String)]) -> anyhow::Result<T> {
    let text = read(path)?.unwrap_or_default();
    let own =
        own.iter().map(|(key, value)| ((*key).to_owned(), toml::Value::String(value.clone()))).collect();
    T::read(&text, own).map_err(|error| {
        fail_with(
            Code::Validation,
            format!("The configuration {} is not valid: {error}.", path.display()),
            "correct what is named; docs/guides/operating.md says what each key means",
        )
    })
}

/// Control's configuration; its defaults where there is no file.
pub fn control_config(paths: &Paths) -> anyhow::Result<control::Config> {
    configured(&paths.control_toml(), &[("data", text(&paths.data.join("control")))])
}

/// The node's configuration; its defaults where there is no file.
pub fn node_config(paths: &Paths) -> anyhow::Result<node::Config> {
    let control = up::setup::local_url(paths);
    configured(
        &paths.node_toml(),
        &[
            ("data", text(&paths.data)),
            ("run", text(&paths.run)),
            ("bundles", text(&paths.bundles_toml())),
            ("control", control),
        ],
    )
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Where the sandbox has its things, for those who look at them without being the node.
pub fn sandbox_config(node: &node::Config) -> anyhow::Result<sandbox::Config> {
    let jail = match &node.jail {
        Some(jail) => jail.clone(),
        None => std::env::current_exe().context("cannot find this program")?.with_file_name("cofferdam-jail"),
    };
    Ok(node::directories(node, jail))
}
