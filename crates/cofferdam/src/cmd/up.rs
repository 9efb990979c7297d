//! `up`: an installation on this machine, from nothing to ready.

use super::service;
use crate::cli::Global;
use crate::context::Contexts;
use crate::failure::{self, Failure, fail, fail_with};
use crate::output::{self, Format};
use crate::paths::Paths;
use crate::progress::Progress;
use crate::up::neighbours;
use crate::up::pidfile::{self, Held, Owner};
use crate::up::setup::{self, User};
use crate::up::supervise::{self, Event};
use crate::up::units;
use anyhow::Context as _;
use model::Code;
use serde_json::json;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;

const AFTER: &str = "\
Makes what is missing: the user cofferdam-control, the directories, default configuration, the first account with \
its API key. Then starts control (as cofferdam-control) and node (as root) and keeps them running, and keeps the key \
in the context `local`. Doing it again changes nothing.

Without --detach it stays in the foreground, logs on stderr, and Ctrl-C ends control and node; agents go on until \
`cofferdam down`.

Files:
  /etc/cofferdam/{control,node}.toml   configuration
  /var/lib/cofferdam                   images, volumes, database, log/
  /run/cofferdam                       sockets, up.pid

Examples:
  cofferdam up --detach
  COFFERDAM_ETC=/srv/two/etc COFFERDAM_RUN=/run/two COFFERDAM_DATA=/srv/two cofferdam up --detach";

/// Start Cofferdam on this machine
#[derive(clap::Args)]
#[command(after_long_help = AFTER)]
pub struct Args {
    /// Return once everything is ready
    #[arg(short = 'd', long)]
    detach: bool,
}

impl Args {
    pub fn run(self, global: &Global) -> anyhow::Result<u8> {
        setup::require_root("up")?;
        let paths = Paths::from_env()?;
        units::refuse(&paths, "up", "systemctl start cofferdam")?;
        setup::run_directory(&paths)?;
        let held = match pidfile::take(&paths.up_pid())? {
            Owner::Us(held) => held,
            Owner::Running(supervisor) => {
                let user = setup::find_user(setup::CONTROL_USER)?.context("the control user is gone")?;
                ensure_key(&paths, user, None)?;
                summary(&paths, global, Some(supervisor.pid))?;
                return Ok(0);
            }
            Owner::Unclear => {
                return Err(fail_with(
                    Code::InUse,
                    "Another `cofferdam up` or `cofferdam down` is at work here just now.",
                    "wait for it; then `cofferdam up` says whether Cofferdam is up",
                ));
            }
        };
        let progress = Progress::start("checking this machine");
        if let Err(error) = neighbours::refuse(&paths).and_then(|()| setup::check_machine(&paths)) {
            // Nothing was begun, and nothing is left of it.
            held.abandon(&paths.up_pid());
            return Err(error);
        }
        progress.stage("preparing users, directories and the database");
        let user = setup::prepare(&paths)?;
        let api_key = setup::first_start(&paths, user)?;
        if self.detach {
            detach(&paths, held, &progress)?;
            progress.stage("looking for the API key");
            ensure_key(&paths, user, api_key)?;
            progress.done();
            summary(&paths, global, None)?;
        } else {
            foreground(&paths, held, user, api_key, progress, global)?;
        }
        Ok(0)
    }
}

/// Starts the supervisor in a session of its own, and waits until it says that all is ready.
fn detach(paths: &Paths, held: Held, progress: &Progress) -> anyhow::Result<()> {
    let log = paths.logs().join("up.log");
    let stderr = File::options().append(true).create(true).mode(0o640).open(&log);
    let stderr = stderr.with_context(|| format!("cannot write {}", log.display()))?;
    let mut supervisor = setup::service_command("supervise", paths, None)?
        .command
        .stdin(held.into_stdin())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .context("cannot start the supervisor")?;
    let told = supervisor.stdout.take().context("the supervisor has no stdout")?;
    for line in BufReader::new(told).lines() {
        match serde_json::from_str(&line?)? {
            Event::Stage { text } => progress.stage(&text),
            Event::Ready => return Ok(()),
            Event::Failed { problem } => {
                // It has said its last, and gives up the lock: whoever tries again finds nothing of it.
                let _ = supervisor.wait();
                return Err(Failure::from(problem).into());
            }
        }
    }
    Err(fail(Code::Internal, format!("The supervisor ended; its log is {}.", log.display())))
}

fn foreground(
    paths: &Paths,
    held: Held,
    user: User,
    api_key: Option<String>,
    progress: Progress,
    global: &Global,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // What the services log goes to the same terminal.
    progress.hide();
    drop(progress);
    let tell = |event| match event {
        Event::Stage { text } => eprintln!("cofferdam: {text}"),
        Event::Ready => {
            // On a thread of its own: it waits for control, and the supervisor must not.
            let (paths, json, api_key) = (paths.clone(), global.output, api_key.clone());
            std::thread::spawn(move || {
                let global = Global { context: None, output: json };
                if let Err(error) =
                    ensure_key(&paths, user, api_key).and_then(|()| summary(&paths, &global, None))
                {
                    failure::report(&error, false);
                }
            });
        }
        Event::Failed { .. } => {}
    };
    runtime.block_on(supervise::run(paths, held, false, tell))
}

/// Makes sure that this user's context works, now that there is something for it to work with. The one that an earlier
/// start wrote may be another user's, or lost.
fn ensure_key(paths: &Paths, user: User, first: Option<String>) -> anyhow::Result<()> {
    if let Some(api_key) = first {
        return setup::keep_key(paths, api_key);
    }
    let url = setup::local_url(paths);
    let contexts = Contexts::load()?;
    if let Some(context) = contexts.contexts.get(&contexts.local(&url)).filter(|context| context.url == url) {
        let control = context.control()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match runtime.block_on(control.whoami()) {
            Ok(_) => return Ok(()),
            Err(error) if error.code() == Some(Code::Unauthenticated) => {}
            Err(error) => return Err(error.into()),
        }
    }
    setup::new_key(paths, user)
}

/// What there is now, and what to type next.
fn summary(paths: &Paths, global: &Global, already: Option<i32>) -> anyhow::Result<()> {
    let url = setup::control_url(paths)?;
    let guard = service::node_config(paths)?.guard;
    if global.output == Format::Json {
        return output::json(&json!({
            "control_url": url,
            "guard": guard,
            "data": paths.data,
            "context": Contexts::load()?.local(&setup::local_url(paths)),
            "already_up": already.is_some(),
        }));
    }
    match already {
        Some(pid) => output::line(format_args!("Cofferdam is up already (process {pid}).\n"))?,
        None => output::line("Cofferdam is up.\n")?,
    }
    output::fields(&[
        ("  control", url.clone()),
        ("  guard", format!("http://{guard}")),
        ("  data", paths.data.display().to_string()),
        ("  logs", paths.logs().display().to_string()),
        (
            "  context",
            format!(
                "{}, in {}",
                Contexts::load()?.local(&setup::local_url(paths)),
                crate::context::file()?.display()
            ),
        ),
    ])?;
    output::line("\nNext:")?;
    if !has_image(paths) {
        output::line("  cofferdam image build debian      make a base image, once")?;
    }
    output::line(
        "  cofferdam run -it -- bash         a shell in an agent of its own\n  \
         cofferdam create --name worker    an agent that stays\n  \
         cofferdam down                    stop it all; data stays",
    )
}

/// Whether there is an image to make agents from. A hint hangs on it and nothing else, so an error is a no.
fn has_image(paths: &Paths) -> bool {
    let images = || -> anyhow::Result<bool> {
        let url = setup::local_url(paths);
        let contexts = Contexts::load()?;
        let control = contexts.get(&contexts.local(&url))?.control()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(!runtime.block_on(control.images())?.is_empty())
    };
    images().unwrap_or(false)
}
