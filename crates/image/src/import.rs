//! Brings an archive into the store: starts the confined worker, hands it the archive and an unnamed file, and names the
//! file once the worker is content. Nothing is left behind if anything goes wrong, not even a file to remove.

use crate::Progress;
use crate::archive::Counts;
use crate::job::{self, Job};
use crate::store::{Digest, Store, StoreError};
use crate::user::{User, UserError, ensure_user};
use crate::worker::{Message, Parsed};
use model::image::ImageConfig;
use model::packages::Packages;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The longest line that a worker may say: an image's defaults are as long as a command line may be.
const MAX_LINE: u64 = 1 << 20;
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
    fn command(&self, job: &Job) -> Command {
        self.confined(job, |_| ())
    }

    /// The same with `more` places or rights.
    pub(crate) fn confined(&self, job: &Job, more: impl FnOnce(&mut Command)) -> Command {
        let mut command = Command::new(&self.jail);
        command.arg("confine");
        more(&mut command);
        command.args(["--uid", &self.user.uid.to_string(), "--gid", &self.user.gid.to_string()]);
        // Shared libraries. Where these are symbolic links into /usr, the dynamic linker still asks for them.
        for dir in ["/usr", "/lib", "/lib64"] {
            if Path::new(dir).exists() {
                command.args(["--ro", dir]);
            }
        }
        command.arg("--ro").arg(&self.program).arg("--").arg(&self.program).arg("image-worker");
        command.arg(serde_json::to_string(job).unwrap_or_default());
        command.env_clear();
        command
    }

    /// Starts a worker and hands it its files.
    pub(crate) fn start(&self, job: &Job, files: &[BorrowedFd<'_>]) -> Result<Child, ImportError> {
        let start = || -> io::Result<Child> {
            let (own, other) = job::pair()?;
            // Before it runs: the message waits for it, and cannot be lost by it.
            job::send(&own, files)?;
            self.command(job).stdin(other).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
        };
        start().map_err(|error| self.not_started(error))
    }

    fn not_started(&self, source: io::Error) -> ImportError {
        ImportError::Start { jail: self.jail.clone(), source }
    }
}

/// Where an archive comes from: a file, a pipe, standard input, or a folder with an OCI layout.
#[derive(Debug)]
pub struct Source {
    file: File,
    layout: Option<PathBuf>,
}

impl Source {
    /// Opens an archive. The caller's rights decide, not the worker's.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let opened = File::open(path).and_then(|file| match file.metadata()?.is_dir() {
            true if !path.join("oci-layout").is_file() => Err(io::ErrorKind::IsADirectory.into()),
            true => Ok(Self { file, layout: Some(path.to_owned()) }),
            false => Ok(Self { file, layout: None }),
        });
        opened.map_err(|source| ImportError::Open { path: path.to_owned(), source })
    }

    /// Bytes, where they can be known ahead.
    fn size(&self) -> Option<u64> {
        self.file.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len())
    }
}

impl From<OwnedFd> for Source {
    fn from(fd: OwnedFd) -> Self {
        Self { file: fd.into(), layout: None }
    }
}

/// Writes a folder with an OCI layout as a tar. Only what a layout consists of is looked at, and no link is followed.
fn pack(layout: &Path, to: impl io::Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(to);
    let mut add = |name: &str| -> io::Result<()> {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
        let opened = rustix::fs::open(layout.join(name), flags, rustix::fs::Mode::empty());
        let mut file = File::from(opened?);
        if file.metadata()?.is_file() { tar.append_file(name, &mut file) } else { Ok(()) }
    };
    add("oci-layout")?;
    add("index.json")?;
    for entry in std::fs::read_dir(layout.join("blobs/sha256"))? {
        let name = entry?.file_name();
        if let Some(name) = name.to_str().filter(|name| name.parse::<Digest>().is_ok()) {
            add(&format!("blobs/sha256/{name}"))?;
        }
    }
    tar.finish()
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
    /// What it says of programs in it.
    pub config: ImageConfig,
    /// What is installed in it, if that could be read. It comes from inside of the image, like its configuration.
    pub packages: Option<Packages>,
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
    /// What it is to read could not be handed to it.
    #[error("cannot hand a document to the process that reads it")]
    Handing(#[source] io::Error),
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

/// Imports what is in a file: a tar of a root file system, an OCI layout, or what `docker save` wrote; plain, or packed
/// with gzip or zstd. Of several images `tag` says which.
pub fn import(
    source: Source,
    tag: Option<&str>,
    store: &Store,
    worker: &Worker,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Imported, ImportError> {
    let total = source.size();
    let mut percent = None;
    let mut read = |bytes: u64| {
        let now = total.map(|total| (bytes.min(total) * 99 / total.max(1)) as u8).max(percent);
        if now != percent || total.is_none() {
            percent = now;
            let stage = format!("reading the archive ({} MiB)", bytes >> 20);
            progress(Progress { stage, percent });
        }
    };
    read(0);
    let job = Job::Archive { limits: *limits, tag: tag.map(str::to_owned) };
    let scratch = store.unnamed()?;
    let imported = match source.layout {
        None => {
            let mut running = Running::start(&job, &source.file, &[scratch.as_fd()], store, worker)?;
            let done = running.wait(&mut read);
            running.commit(store, done?)?
        }
        Some(layout) => {
            let (from, to) = io::pipe().map_err(|error| worker.not_started(error))?;
            let mut running = Running::start(&job, &from, &[scratch.as_fd()], store, worker)?;
            drop(from);
            let (packed, done) = std::thread::scope(|scope| {
                let packing = scope.spawn(|| pack(&layout, to));
                let done = running.wait(&mut read);
                (packing.join(), done)
            });
            let packed = packed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // A worker that refused closes its end; what it said is the reason then.
            let done = done?;
            packed.map_err(|source| ImportError::Open { path: layout, source })?;
            running.commit(store, done)?
        }
    };
    progress(Progress { stage: "imported".to_owned(), percent: Some(100) });
    Ok(imported)
}

/// What a worker said at its end.
pub(crate) type Outcome = (Counts, ImageConfig);

/// A worker at work.
pub(crate) struct Running {
    child: Child,
    image: File,
}

impl Running {
    /// Starts a worker that turns what comes `from` a descriptor into an image; `more` are its further files.
    pub(crate) fn start(
        job: &Job,
        from: &impl AsFd,
        more: &[BorrowedFd<'_>],
        store: &Store,
        worker: &Worker,
    ) -> Result<Self, ImportError> {
        let image = store.unnamed()?;
        let files = [&[from.as_fd(), image.as_fd()], more].concat();
        let child = worker.start(job, &files)?;
        Ok(Self { child, image })
    }

    /// The same for a job whose first file is the image itself.
    pub(crate) fn start_into(
        job: &Job,
        files: &[BorrowedFd<'_>],
        store: &Store,
        worker: &Worker,
    ) -> Result<Self, ImportError> {
        let image = store.unnamed()?;
        let files = [&[image.as_fd()], files].concat();
        let child = worker.start(job, &files)?;
        Ok(Self { child, image })
    }

    /// Has a document read.
    pub(crate) fn parse(job: &Job, document: &File, worker: &Worker) -> Result<Parsed, ImportError> {
        let mut child = worker.start(job, &[document.as_fd()])?;
        let mut parsed = None;
        end(&mut child, &mut |message| {
            if let Message::Parsed { parsed: what } = message {
                parsed = Some(what);
            }
        })?;
        parsed.ok_or_else(silent)
    }

    /// Waits for the worker's end.
    pub(crate) fn wait(&mut self, read: &mut dyn FnMut(u64)) -> Result<Outcome, ImportError> {
        let mut done = None;
        end(&mut self.child, &mut |message| match message {
            Message::Read { bytes } => read(bytes),
            Message::Done { counts, config } => done = Some((counts, *config)),
            _ => {}
        })?;
        done.ok_or_else(silent)
    }

    /// Names the image, once the worker is content.
    pub(crate) fn commit(self, store: &Store, done: Outcome) -> Result<Imported, ImportError> {
        let (digest, size) = store.commit(self.image)?;
        let (Counts { entries, skipped_nodes, dropped_xattrs, packages }, config) = done;
        // The worker read what a stranger wrote: what could not be a list of packages is none.
        let packages = packages.filter(|packages| packages.fault().is_none());
        Ok(Imported { digest, size, entries, skipped_nodes, dropped_xattrs, config, packages })
    }
}

fn silent() -> ImportError {
    ImportError::Worker { status: "it did not say how it went".to_owned(), said: String::new() }
}

/// Hears a worker out, to its end.
fn end(child: &mut Child, hear: &mut dyn FnMut(Message)) -> Result<(), ImportError> {
    let mut refused = None;
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        let mut lines = BufReader::new(stderr);
        while let Some(line) = bounded_line(&mut lines) {
            match serde_json::from_str(&line) {
                Ok(Message::Refused { why }) => refused = Some(printable(&why)),
                Ok(message) => hear(message),
                // A panic, the dynamic linker, or the jail before it started the worker.
                Err(_) => said = printable(&line),
            }
        }
    }
    let waited = child.wait();
    if let Some(why) = refused {
        return Err(ImportError::Refused(why));
    }
    match waited {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(ImportError::Worker { status: status.to_string(), said }),
        Err(error) => Err(ImportError::Worker { status: error.to_string(), said }),
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
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_WHY).collect()
}
