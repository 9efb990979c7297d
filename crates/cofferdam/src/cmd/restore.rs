//! `restore`: a backup becomes the database of this machine's control. Agents go on.

use crate::cli::Global;
use crate::failure::fail;
use crate::output;
use crate::paths::Paths;
use crate::up::{pidfile, setup, units};
use anyhow::Context as _;
use model::Code;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long control may take to end.
const WITHIN: Duration = Duration::from_secs(20);

/// Make a backup the database
///
/// The database must be empty, or with `--replace` be of the same installation. All of it is restored or nothing. Every session, API key,
/// token and invitation ends; people log in with their passwords, and root has a new key. No agent ends: each is as its node says. Control
/// starts anew; where several use one PostgreSQL database, stop the others first.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam restore /root/cofferdam.backup --replace")]
pub struct Args {
    /// The file
    file: PathBuf,
    /// Replace what the same installation has now
    #[arg(long)]
    replace: bool,
}

impl Args {
    pub async fn run(self, _global: &Global) -> anyhow::Result<u8> {
        setup::require_root("restore")?;
        let paths = Paths::from_env()?;
        let service = Path::new("/run/systemd/system").exists() && pidfile::find(&paths.up_pid()).is_none();
        if service {
            units::refuse(
                &paths,
                "restore",
                "systemctl stop cofferdam-control, and run control --restore as its user",
            )?;
        }
        let file = File::open(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?;
        let user = setup::find_user(setup::CONTROL_USER)?.context("the control user is gone")?;
        let mut service = setup::service_command("control", &paths, Some(user))?;
        service.command.arg("--restore").env("RUST_LOG", "warn").stdin(file);
        if self.replace {
            service.command.arg("--replace");
        }
        // A process that serves from before knows another epoch: it ends before and after, and its supervisor starts it again.
        end_control(&paths).await?;
        let done =
            tokio::process::Command::from(service.command).output().await.context("cannot start control")?;
        let told = setup::said(&done.stderr);
        if !done.status.success() {
            return Err(fail(Code::WrongState, format!("Nothing was restored: {told}.")));
        }
        end_control(&paths).await?;
        setup::new_key(&paths, user)?;
        if !told.is_empty() {
            eprintln!("cofferdam: {told}");
        }
        output::line(String::from_utf8_lossy(&done.stdout).trim_end())?;
        Ok(0)
    }
}

async fn end_control(paths: &Paths) -> anyhow::Result<()> {
    match pidfile::find(&paths.service_pid("control")) {
        Some(control) if !control.end(WITHIN).await? => {
            Err(fail(Code::Timeout, format!("Control (process {}) does not end.", control.pid)))
        }
        _ => Ok(()),
    }
}
