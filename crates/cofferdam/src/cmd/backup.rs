//! `backup`: the database of this machine's control, in one file.

use crate::cli::Global;
use crate::failure::{fail, fail_with};
use crate::output::{self, Format};
use crate::paths::Paths;
use crate::up::setup;
use anyhow::Context as _;
use model::Code;
use serde_json::json;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Write the database into a file, while everything goes on
///
/// The file is as secret as the database. The key that its secrets open with (`secrets.key`) is not in it: keep that apart. Neither are sessions,
/// API keys and tokens. It is restored into SQLite or PostgreSQL, whichever it came from.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:
  cofferdam backup /root/cofferdam.backup")]
pub struct Args {
    /// The file; there must be none yet
    file: PathBuf,
}

impl Args {
    pub fn run(self, global: &Global) -> anyhow::Result<u8> {
        setup::require_root("backup")?;
        let paths = Paths::from_env()?;
        let user = setup::find_user(setup::CONTROL_USER)?.context("the control user is gone")?;
        let file = File::options().write(true).create_new(true).mode(0o600).open(&self.file);
        let file = match file {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let detail = format!("{} is there already.", self.file.display());
                return Err(fail_with(Code::InUse, detail, "choose another name"));
            }
            Err(error) => return Err(error).with_context(|| format!("cannot write {}", self.file.display())),
        };
        let written = write(&paths, user, &file);
        if written.is_err() {
            let _ = std::fs::remove_file(&self.file);
        }
        written?;
        match global.output {
            Format::Json => output::json(&json!({ "file": self.file, "bytes": file.metadata()?.len() }))?,
            Format::Table => output::line(format_args!("{} holds the database.", self.file.display()))?,
        }
        Ok(0)
    }
}

fn write(paths: &Paths, user: setup::User, file: &File) -> anyhow::Result<()> {
    let mut service = setup::service_command("control", paths, Some(user))?;
    service.command.arg("--backup").env("RUST_LOG", "warn").stdout(file.try_clone()?);
    let output = service.command.stderr(std::process::Stdio::piped()).spawn()?.wait_with_output()?;
    if !output.status.success() {
        return Err(fail(Code::Internal, format!("No backup was made: {}.", setup::said(&output.stderr))));
    }
    file.sync_all().context("cannot write the file to disk")
}
