//! `cp`: files and trees, into an agent and out of it.

use crate::cli::Global;
use crate::failure::{fail, fail_with};
use crate::output::{self, Format};
use crate::progress::Progress;
use crate::{clean, context, resolve};
use anyhow::Context as _;
use client::extract::ExtractError;
use client::{Extracted, Limits, Workspace, extract, pack, pipe, reader_from};
use model::Code;
use model::agent::RunAs;
use model::token::Scope;
use model::workspace::FileKind;
use serde_json::json;
use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

/// Where relative paths inside begin.
pub const HOME: &str = "/home/agent";

const AFTER: &str = "\
One of the two is AGENT:PATH; a relative PATH is beneath the home directory. As with cp(1), a destination that \
is a directory gets the source beneath it, any other is what the source is called there. SOURCE/. is the content \
of a directory. A single - is a tar on stdin or stdout.

What comes out of an agent is not trusted: it is written beneath the destination only, links that lead out, \
devices and setuid bits are left out, and links that lie in the destination are not followed.

Examples:
  cofferdam cp ./project worker:
  cofferdam cp worker:/home/agent/project/report.html .
  tar -c src | cofferdam cp - worker:/home/agent/
  cofferdam cp worker:results - | tar -t";

/// Copy files between this machine and an agent
#[derive(clap::Args)]
#[command(after_long_help = AFTER)]
pub struct Args {
    /// User inside: agent or root
    #[arg(short = 'u', long, value_parser = resolve::user, value_name = "USER")]
    user: Option<RunAs>,
    /// PATH, AGENT:PATH or -
    source: OsString,
    /// PATH, AGENT:PATH or -
    destination: OsString,
}

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Stream,
    Here(PathBuf),
    Agent { reference: String, path: String },
}

impl End {
    fn parse(text: &OsStr) -> Self {
        if text == "-" {
            return Self::Stream;
        }
        // A colon that is not behind something like a name belongs to a file's name: `./a:b`.
        match text.to_str().and_then(|text| text.split_once(':')) {
            Some((reference, path)) if resolve::reference(reference).is_ok() => {
                Self::Agent { reference: reference.to_owned(), path: inside(path) }
            }
            _ => Self::Here(text.into()),
        }
    }
}

/// An absolute path inside.
fn inside(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("{HOME}/{path}") }
}

/// The directory that a path inside lies in, and what it is called there; `None` where it has no name of its own
/// (`/`, `x/.`, `x/..`).
fn split(path: &str) -> Option<(&str, &str)> {
    let (parent, name) = path.trim_end_matches('/').rsplit_once('/')?;
    let parent = if parent.is_empty() { "/" } else { parent };
    (!matches!(name, "" | "." | "..")).then_some((parent, name))
}

impl Args {
    pub async fn run(self, global: &Global) -> anyhow::Result<u8> {
        let ends = (End::parse(&self.source), End::parse(&self.destination));
        let (reference, inwards) = match &ends {
            (End::Agent { .. }, End::Agent { .. }) => {
                return Err(fail_with(
                    Code::Validation,
                    "A copy from agent to agent has to pass through this machine.",
                    "cofferdam cp A:PATH - | cofferdam cp - B:DIRECTORY",
                ));
            }
            (End::Agent { reference, .. }, _) => (reference.clone(), false),
            (_, End::Agent { reference, .. }) => (reference.clone(), true),
            _ => return Err(fail_with(Code::Validation, "Neither end is an agent's.", "AGENT:PATH")),
        };
        let control = context::control(global.context.as_ref())?;
        let (_, workspace) = resolve::workspace(&control, &reference, &[Scope::Files]).await?;
        let progress = Progress::brief("copying");
        let report = match ends {
            (End::Stream, End::Agent { path, .. }) => stream_in(&workspace, &path, self.user).await?,
            (End::Here(source), End::Agent { path, .. }) => {
                copy_in(&workspace, source, &path, self.user, &progress).await?
            }
            (End::Agent { path, .. }, End::Stream) => stream_out(&workspace, &path, self.user).await?,
            (End::Agent { path, .. }, End::Here(target)) => {
                copy_out(&workspace, &path, target, self.user, &progress).await?
            }
            _ => Report::default(),
        };
        progress.done();
        report.print(inwards, global)
    }
}

/// What was copied.
#[derive(Default)]
struct Report {
    /// `None` where a tar passed through unread.
    copied: Option<(u64, u64)>,
    /// What was left out, and why.
    skipped: Vec<(PathBuf, String)>,
}

impl Report {
    fn print(self, inwards: bool, global: &Global) -> anyhow::Result<u8> {
        for (path, why) in &self.skipped {
            eprintln!("cofferdam: left out {}: {why}", clean::path(path));
        }
        let Some((entries, bytes)) = self.copied else { return Ok(0) };
        match global.output {
            Format::Json => {
                let skipped: Vec<_> = self
                    .skipped
                    .iter()
                    .map(|(path, why)| json!({ "path": path.to_string_lossy(), "why": why }))
                    .collect();
                output::json(&json!({ "entries": entries, "bytes": bytes, "skipped": skipped }))?;
            }
            Format::Table if std::io::stderr().is_terminal() => {
                let way = if inwards { "in" } else { "out" };
                let things = if entries == 1 { "entry" } else { "entries" };
                eprintln!("Copied {way}: {entries} {things}, {}", output::size(bytes));
            }
            Format::Table => {}
        }
        Ok(0)
    }
}

/// Whether a path inside is a directory; `None` when there is nothing.
async fn directory_inside(
    workspace: &Workspace,
    path: &str,
    user: Option<RunAs>,
) -> anyhow::Result<Option<bool>> {
    match workspace.stat(path, user).await {
        Ok(info) if info.kind == FileKind::Directory => Ok(Some(true)),
        // A link is not followed by stat; whether it leads to a directory, listing it says.
        Ok(info) if info.kind == FileKind::Symlink => Ok(Some(workspace.list(path, user).await.is_ok())),
        Ok(_) => Ok(Some(false)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Copies a folder, whose content is `path` afterwards.
pub async fn folder_in(
    workspace: &Workspace,
    folder: &Path,
    path: &str,
    progress: &Progress,
) -> anyhow::Result<()> {
    let report = copy_in(workspace, folder.join("."), path, None, progress).await?;
    for (path, why) in &report.skipped {
        eprintln!("cofferdam: left out {}: {why}", clean::path(path));
    }
    Ok(())
}

async fn copy_in(
    workspace: &Workspace,
    source: PathBuf,
    path: &str,
    user: Option<RunAs>,
    progress: &Progress,
) -> anyhow::Result<Report> {
    std::fs::symlink_metadata(&source).map_err(|error| unreadable_here(&source, &error))?;
    let content_only = source.as_os_str().to_string_lossy().ends_with("/.") || source.as_os_str() == ".";
    // `..` and the like have no name; what they are has.
    let name = match source.file_name() {
        Some(name) => Some(name.to_owned()),
        None => source.canonicalize()?.file_name().map(ToOwned::to_owned),
    };
    let is_directory = directory_inside(workspace, path, user).await?;
    let (into, name) = match (is_directory, content_only) {
        (Some(true), true) => (path.to_owned(), None),
        (None, true) => {
            workspace.mkdir(path, user).await?;
            (path.to_owned(), None)
        }
        (Some(true), false) => (path.to_owned(), name),
        (None, false) if path.ends_with('/') => {
            return Err(fail(Code::NotFound, format!("There is no directory {path} in the agent.")));
        }
        (_, _) => match split(path) {
            Some((parent, name)) => (parent.to_owned(), Some(OsString::from(name))),
            None => return Err(fail(Code::Validation, format!("{path} is not a directory in the agent."))),
        },
    };
    let (mut writer, reader) = pipe();
    progress.bytes(None);
    let count = progress.counter();
    let packing = tokio::task::spawn_blocking(move || {
        match pack::pack(&source, name.as_deref(), &mut writer, count) {
            Ok(packed) => Ok(packed),
            Err(error) => {
                // Without this the other side would take the part that was sent for the whole.
                writer.fail(std::io::Error::other("packing failed"));
                Err(error)
            }
        }
    });
    let sent = workspace.tar_in(&into, user, reader).await;
    let packed = packing.await.context("packing failed")?;
    let packed = match (packed, sent) {
        (Ok(packed), Ok(())) => packed,
        // The agent's refusal is why packing could not go on; an unreadable file is why the agent got no end.
        (Err(pack::PackError::Write(_)) | Ok(_), Err(error)) => return Err(error.into()),
        (Err(pack::PackError::Read { path, source }), _) => return Err(unreadable_here(&path, &source)),
        (Err(error), _) => return Err(error.into()),
    };
    let skipped = packed.skipped.into_iter().map(|path| (path, "not a file, directory or link".to_owned()));
    Ok(Report { copied: Some((packed.entries, packed.bytes)), skipped: skipped.collect() })
}

async fn stream_in(workspace: &Workspace, path: &str, user: Option<RunAs>) -> anyhow::Result<Report> {
    if std::io::stdin().is_terminal() {
        return Err(fail(Code::Validation, "A tar is expected on stdin, and stdin is a terminal."));
    }
    let (mut writer, reader) = pipe();
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) if writer.write_all(&buffer[..length]).is_ok() => {}
                Ok(_) => return,
                Err(error) => return writer.fail(error),
            }
        }
        let _ = writer.flush();
    });
    workspace.tar_in(path, user, reader).await?;
    Ok(Report::default())
}

async fn stream_out(workspace: &Workspace, path: &str, user: Option<RunAs>) -> anyhow::Result<Report> {
    if std::io::stdout().is_terminal() {
        return Err(fail(Code::Validation, "A tar would be written to the terminal."));
    }
    let mut tar = tar_out(workspace, path, user).await?;
    let mut stdout = std::io::stdout();
    while let Some(piece) = tar.next().await? {
        stdout.write_all(&piece)?;
    }
    stdout.flush()?;
    Ok(Report::default())
}

async fn copy_out(
    workspace: &Workspace,
    path: &str,
    target: PathBuf,
    user: Option<RunAs>,
    progress: &Progress,
) -> anyhow::Result<Report> {
    let (into, rename) = place(path, &target)?;
    let tar = tar_out(workspace, path, user).await?;
    progress.bytes(tar.announced());
    let reader = reader_from(tar, progress.counter());
    let extracting = tokio::task::spawn_blocking(move || {
        if rename.is_none() {
            std::fs::create_dir_all(&into).map_err(|source| client::Error::Local {
                attempt: "cannot make the target".to_owned(),
                source,
            })?;
        }
        Ok::<_, client::Error>(extract(reader, &into, rename.as_deref(), Limits::default())?)
    });
    let copied = match extracting.await.context("copying failed")? {
        Ok(copied) => copied,
        // Once a tar is on its way, its end is the only thing that the agent can still refuse.
        Err(client::Error::Extract(ExtractError::Read(_))) => return Err(broken(workspace, path, user).await),
        Err(error) => return Err(error.into()),
    };
    let Extracted { files, directories, links, bytes, skipped } = copied;
    let skipped = skipped.into_iter().map(|(path, why)| (path, why.to_string())).collect();
    Ok(Report { copied: Some((files + directories + links, bytes)), skipped })
}

fn unreadable_here(path: &Path, error: &std::io::Error) -> anyhow::Error {
    let code = match error.kind() {
        std::io::ErrorKind::NotFound => Code::NotFound,
        std::io::ErrorKind::PermissionDenied => Code::Forbidden,
        _ => Code::Internal,
    };
    fail(code, format!("Cannot read {}: {error}.", clean::path(path)))
}

/// Why a copy out of the agent broke off.
async fn broken(workspace: &Workspace, path: &str, user: Option<RunAs>) -> anyhow::Error {
    match unreadable_inside(workspace, path, user).await {
        Some(path) => fail_with(
            Code::Forbidden,
            format!("Cannot read {} in the agent: permission denied.", clean::text(&path)),
            "-u root reads everything",
        ),
        None => fail_with(
            Code::Unavailable,
            format!("The agent broke the copy of {} off.", clean::text(path)),
            "`cofferdam show` says whether it runs; then try again",
        ),
    }
}

/// The beginning of a copy out of the agent; it may break off as early as that.
async fn tar_out(
    workspace: &Workspace,
    path: &str,
    user: Option<RunAs>,
) -> anyhow::Result<client::ByteStream> {
    match workspace.tar_out(path, user).await {
        Err(client::Error::Lost { .. }) => Err(broken(workspace, path, user).await),
        tar => Ok(tar?),
    }
}

/// What is looked at for why a copy broke off, at most.
const LOOKED_AT: usize = 2000;

/// The first file or directory at or beneath a path that the user may not read.
async fn unreadable_inside(workspace: &Workspace, path: &str, user: Option<RunAs>) -> Option<String> {
    let mut pending = vec![path.to_owned()];
    for _ in 0..LOOKED_AT {
        let path = pending.pop()?;
        // A directory is no file to read: that is another refusal.
        let refused = match workspace.read(&path, user).await {
            Ok(_) => continue,
            Err(error) => error.code(),
        };
        match workspace.list(&path, user).await {
            Ok(entries) => pending.extend(
                entries
                    .into_iter()
                    .filter(|entry| matches!(entry.kind, FileKind::File | FileKind::Directory))
                    .map(|entry| format!("{}/{}", path.trim_end_matches('/'), entry.name)),
            ),
            Err(error) if [refused, error.code()].contains(&Some(Code::Forbidden)) => return Some(path),
            Err(_) => {}
        }
    }
    None
}

/// Where a copy goes on this side: the directory that must be there, and what the copy is called in it (`None`:
/// only its content is copied).
fn place(path: &str, target: &Path) -> anyhow::Result<(PathBuf, Option<OsString>)> {
    let Some((_, name)) = split(path) else { return Ok((target.to_owned(), None)) };
    if target.is_dir() {
        return Ok((target.to_owned(), Some(name.into())));
    }
    let slash = target.as_os_str().to_string_lossy().ends_with('/');
    let parent =
        target.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    match (parent, target.file_name()) {
        (Some(parent), Some(name)) if !slash && parent.is_dir() => {
            Ok((parent.to_owned(), Some(name.to_owned())))
        }
        _ => Err(fail(Code::NotFound, format!("There is no directory for {}.", clean::path(target)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends() {
        let agent =
            |reference: &str, path: &str| End::Agent { reference: reference.into(), path: path.into() };
        for (text, expected) in [
            ("-", End::Stream),
            ("worker:/etc/x", agent("worker", "/etc/x")),
            ("worker:x", agent("worker", "/home/agent/x")),
            ("worker:", agent("worker", "/home/agent/")),
            ("./a:b", End::Here("./a:b".into())),
            ("/a:b", End::Here("/a:b".into())),
            ("file", End::Here("file".into())),
        ] {
            assert_eq!(End::parse(text.as_ref()), expected, "{text}");
        }
    }

    #[test]
    fn names() {
        for (path, expected) in [
            ("/a/b", Some(("/a", "b"))),
            ("/a/b/", Some(("/a", "b"))),
            ("/a", Some(("/", "a"))),
            ("/", None),
            ("/a/.", None),
            ("/a/..", None),
        ] {
            assert_eq!(split(path), expected, "{path}");
        }
    }

    #[test]
    fn places() {
        let directory = tempfile::tempdir().unwrap();
        let here = directory.path();
        assert_eq!(place("/x/src", here).unwrap(), (here.to_owned(), Some("src".into())));
        assert_eq!(place("/x/src", &here.join("new")).unwrap(), (here.to_owned(), Some("new".into())));
        assert_eq!(place("/x/src/.", &here.join("new")).unwrap(), (here.join("new"), None));
        assert!(place("/x/src", &here.join("new/")).is_err());
        assert!(place("/x/src", &here.join("no/new")).is_err());
    }
}
