//! Brings an archive into the store: starts the confined worker, hands it the archive and an unnamed file, and names the
//! file once the worker is content. Nothing is left behind if anything goes wrong, not even a file to remove.

use crate::Progress;
use crate::archive::Counts;
use crate::store::{Digest, Store, StoreError};
use crate::user::{User, UserError, ensure_user};
use crate::worker::Message;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The longest line that a worker may say.
const MAX_LINE: u64 = 16 << 10;
/// The longest sentence of a worker that is shown.
const MAX_WHY: usize = 2000;

/// What an archive may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of the archive once it is unpacked, headers included.
    pub bytes: u64,
    /// Files, directories and links.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 16 << 30, entries: 2_000_000 }
    }
}

/// The programs and the user that an archive is parsed by.
#[derive(Debug, Clone)]
pub struct Worker {
    /// `cofferdam-jail`, whose `confine` makes the surroundings.
    pub jail: PathBuf,
    /// The program that has the hidden subcommand `image-worker`.
    pub program: PathBuf,
    /// Who it runs as.
    pub user: User,
}

impl Worker {
    /// The running program itself, the jail beside it, and the system user `cofferdam-image`, made if need be.
    pub fn installed() -> Result<Self, ImportError> {
        let program = std::env::current_exe().map_err(ImportError::OwnPath)?;
        Ok(Self { jail: program.with_file_name("cofferdam-jail"), program, user: ensure_user()? })
    }

    /// The command with everything but its three descriptors.
    fn command(&self, limits: &Limits) -> Command {
        let mut command = Command::new(&self.jail);
        command.arg("confine");
        command.args(["--uid", &self.user.uid.to_string(), "--gid", &self.user.gid.to_string()]);
        // Shared libraries. Where these are symbolic links into /usr, the dynamic linker still asks for them.
        for dir in ["/usr", "/lib", "/lib64"] {
            if Path::new(dir).exists() {
                command.args(["--ro", dir]);
            }
        }
        command.arg("--ro").arg(&self.program).arg("--").arg(&self.program).arg("image-worker");
        command.arg(serde_json::to_string(limits).unwrap_or_default());
        command.env_clear();
        command
    }
}

/// Where an archive comes from: a file, a pipe, standard input.
#[derive(Debug)]
pub struct Source {
    file: File,
}

impl Source {
    /// Opens an archive. The caller's rights decide, not the worker's.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let opened = File::open(path).and_then(|file| match file.metadata()?.is_dir() {
            true => Err(io::ErrorKind::IsADirectory.into()),
            false => Ok(file),
        });
        match opened {
            Ok(file) => Ok(Self { file }),
            Err(source) => Err(ImportError::Open { path: path.to_owned(), source }),
        }
    }

    /// Bytes, where they can be known ahead.
    fn size(&self) -> Option<u64> {
        self.file.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len())
    }
}

impl From<OwnedFd> for Source {
    fn from(fd: OwnedFd) -> Self {
        Self { file: fd.into() }
    }
}

/// An image that the store now has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Its name.
    pub digest: Digest,
    /// Bytes of the EROFS file.
    pub size: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Devices and FIFOs among them, which an image never has.
    pub skipped_nodes: u64,
    /// Extended attributes, which an image never has.
    pub dropped_xattrs: u64,
}

/// Why an archive is not in the store.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error("cannot open the archive {}", .path.display())]
    Open {
        /// As given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The archive itself is at fault; the sentence says how.
    #[error("{0}")]
    Refused(String),
    /// The worker could not be started.
    #[error("cannot start {} to read the archive; is it beside the cofferdam program?", .jail.display())]
    Start {
        /// The program.
        jail: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The worker ended without a word that could be used.
    #[error("the process that reads the archive ended unexpectedly ({status}): {said}")]
    Worker {
        /// How.
        status: String,
        /// Its last words.
        said: String,
    },
    /// There is no user for it.
    #[error(transparent)]
    User(#[from] UserError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Where are we?
    #[error("cannot find the path of the running program")]
    OwnPath(#[source] io::Error),
}

/// Imports a root tarball: plain, or packed with gzip or zstd.
pub fn import(
    source: Source,
    store: &Store,
    worker: &Worker,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Imported, ImportError> {
    let total = source.size();
    let mut percent = None;
    let mut read = |bytes: u64| {
        let now = total.map(|total| (bytes.min(total) * 99 / total.max(1)) as u8);
        if now != percent || total.is_none() {
            percent = now;
            let stage = format!("reading the archive ({} MiB)", bytes >> 20);
            progress(Progress { stage, percent });
        }
    };
    read(0);
    let mut running = Running::start(source.file.into(), store, worker, limits)?;
    let counts = running.wait(&mut read)?;
    let imported = running.commit(store, counts)?;
    progress(Progress { stage: "imported".to_owned(), percent: Some(100) });
    Ok(imported)
}

/// A worker at work.
pub(crate) struct Running {
    child: Child,
    image: File,
}

impl Running {
    pub(crate) fn start(
        archive: Stdio,
        store: &Store,
        worker: &Worker,
        limits: &Limits,
    ) -> Result<Self, ImportError> {
        let image = store.unnamed()?;
        let started = image.try_clone().and_then(|output| {
            worker.command(limits).stdin(archive).stdout(output).stderr(Stdio::piped()).spawn()
        });
        match started {
            Ok(child) => Ok(Self { child, image }),
            Err(source) => Err(ImportError::Start { jail: worker.jail.clone(), source }),
        }
    }

    /// Waits for the worker's end.
    pub(crate) fn wait(&mut self, read: &mut dyn FnMut(u64)) -> Result<Counts, ImportError> {
        let mut done = None;
        let mut refused = None;
        let mut said = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            let mut lines = BufReader::new(stderr);
            while let Some(line) = bounded_line(&mut lines) {
                match serde_json::from_str(&line) {
                    Ok(Message::Read { bytes }) => read(bytes),
                    Ok(Message::Done(counts)) => done = Some(counts),
                    Ok(Message::Refused { why }) => refused = Some(printable(&why)),
                    // A panic, the dynamic linker, or the jail before it started the worker.
                    Err(_) => said = printable(&line),
                }
            }
        }
        let waited = self.child.wait();
        if let Some(why) = refused {
            return Err(ImportError::Refused(why));
        }
        let succeeded = waited.as_ref().is_ok_and(std::process::ExitStatus::success);
        done.filter(|_| succeeded).ok_or_else(|| {
            let status = waited.map_or_else(|error| error.to_string(), |status| status.to_string());
            ImportError::Worker { status, said }
        })
    }

    /// Names the image, once the worker is content.
    pub(crate) fn commit(self, store: &Store, counts: Counts) -> Result<Imported, ImportError> {
        let (digest, size) = store.commit(self.image)?;
        let Counts { entries, skipped_nodes, dropped_xattrs } = counts;
        Ok(Imported { digest, size, entries, skipped_nodes, dropped_xattrs })
    }
}

/// The next line; one that is too long is cut. The worker is not trusted to write lines at all.
fn bounded_line(from: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    match from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
        Ok(count) if count > 0 => Some(String::from_utf8_lossy(&line).trim_end().to_owned()),
        _ => None,
    }
}

/// Text from the worker without anything that a terminal would act on.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WHY).collect()
}
