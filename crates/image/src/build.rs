//! Builds an image from the distribution's packages. mmdebstrap runs as `cofferdam-image` in a user namespace of its
//! own, so no package's script is ever root on this machine, and its tarball goes straight through the same import
//! as anybody's.

use crate::Progress;
use crate::apt::{Apt, host_suite};
use crate::import::{ImportError, Imported, Limits, Running, Worker};
use crate::job::Job;
use crate::store::{Staging, Store, StoreError};
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// What is in an image beside the distribution's minimum.
const PACKAGES: [&str; 9] = [
    "ca-certificates",
    "curl",
    "git",
    "iproute2",
    "less",
    "procps",
    "python3",
    "python3-pip",
    "python3-venv",
];

/// Run in the finished root, `$1`. What is installed inside is the agent's own, so pip may install beside packages
/// (PEP 668 lets a distributor decide). Credentials in addresses of mirrors stay out.
const FINISH: &str = r#"set -eu
chroot "$1" useradd --uid 1000 --user-group --create-home --shell /bin/bash agent
rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED "$1"/etc/apt/apt.conf.d/99mmdebstrap
find "$1"/etc/apt -name '*.list' -o -name '*.sources' | while read -r file; do
    sed -i 's#://[^/@ ]*@#://#' "$file"
done
find "$1"/var/log "$1"/var/cache/apt "$1"/var/cache/debconf -type f -delete"#;

/// Documents and translations: a third of a minimal root, and never read by programs.
const WITHOUT: [&str; 5] = [
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
];

/// What a build takes on the disk at most: packages, the tree, the image. Asked for ahead, because apt does not end when
/// its disk runs full, it waits.
const ROOM: u64 = 2 << 30;

/// What mmdebstrap says, the share of the whole that is then done, and how we say it.
const STAGES: [(&str, u8, &str); 8] = [
    ("running apt-get update", 2, "reading package lists"),
    ("downloading packages", 10, "downloading packages"),
    ("extracting archives", 20, "unpacking essential packages"),
    ("installing essential packages", 25, "installing essential packages"),
    ("installing remaining packages", 45, "installing packages"),
    ("running --customize-hook", 85, "finishing the root file system"),
    ("cleaning package lists", 88, "clearing caches"),
    ("creating tarball", 90, "writing the image"),
];

/// What to build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildOptions {
    /// The distribution's release, such as `bookworm`; the machine's own when absent. The machine's apt sources have to
    /// have it.
    pub suite: Option<String>,
    /// Packages besides the usual ones.
    pub packages: Vec<String>,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Not a package.
    #[error(
        "{name:?} is not a package name: those are lowercase letters, digits and + - . (Debian policy 5.6.1)"
    )]
    PackageName {
        /// As given.
        name: String,
    },
    /// Not a suite.
    #[error("{name:?} is not the name of a release, such as bookworm")]
    SuiteName {
        /// As given.
        name: String,
    },
    /// os-release names none.
    #[error("this system names no release (VERSION_CODENAME in /etc/os-release); say which with a suite")]
    NoSuite,
    /// apt's configuration cannot be read.
    #[error("cannot read the apt configuration of this machine")]
    Apt(#[source] io::Error),
    /// There are no sources for the suite.
    #[error("the apt sources of this machine have nothing for {suite}; add it to /etc/apt/sources.list.d")]
    NoSources {
        /// The release.
        suite: String,
    },
    /// The disk is too full to begin.
    #[error(
        "a build needs {} MiB on the disk of {}, and {} MiB are free; make room or remove images (cofferdam image rm)",
        ROOM >> 20, .dir.display(), .free >> 20
    )]
    NoRoom {
        /// The store.
        dir: std::path::PathBuf,
        /// Bytes.
        free: u64,
    },
    /// mmdebstrap is not there.
    #[error("cannot run mmdebstrap; install the packages mmdebstrap and uidmap")]
    Start(#[source] io::Error),
    /// A package that the sources have not got.
    #[error(
        "the apt sources of this machine have no package {name} for {suite}; `apt-cache search` finds names, and another \
         --suite or another source in /etc/apt/sources.list.d may have it"
    )]
    NoPackage {
        /// As given.
        name: String,
        /// The release.
        suite: String,
    },
    /// mmdebstrap failed.
    #[error("mmdebstrap could not make the root file system ({status}): {said}")]
    Failed {
        /// Its exit status.
        status: String,
        /// Its errors.
        said: String,
    },
    /// Files for it could not be written.
    #[error("cannot prepare the staging folder")]
    Prepare(#[source] io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The import of what was built.
    #[error(transparent)]
    Import(#[from] ImportError),
}

/// Builds an image and puts it into the store. Takes about a minute, most of it in package scripts.
pub fn build(
    options: &BuildOptions,
    store: &Store,
    worker: &Worker,
    limits: &Limits,
    progress: &mut dyn FnMut(Progress),
) -> Result<Imported, BuildError> {
    let suite = match &options.suite {
        Some(suite) => suite.clone(),
        None => host_suite().map_err(BuildError::Apt)?.ok_or(BuildError::NoSuite)?,
    };
    let word = |text: &str| {
        text.len() > 1
            && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
    };
    if let Some(name) = options.packages.iter().find(|name| !word(name)) {
        return Err(BuildError::PackageName { name: name.clone() });
    }
    if !word(&suite) {
        return Err(BuildError::SuiteName { name: suite });
    }
    let apt = Apt::of_host(&suite).map_err(BuildError::Apt)?;
    if apt.stanzas.is_empty() && apt.lines.is_empty() {
        return Err(BuildError::NoSources { suite });
    }
    let free = store.free()?;
    if free < ROOM {
        return Err(BuildError::NoRoom { dir: store.dir().to_owned(), free });
    }
    let staging = store.staging()?;
    let mut command =
        prepare(&suite, &options.packages, &apt, &staging, worker).map_err(BuildError::Prepare)?;
    let mut maker = command.spawn().map_err(BuildError::Start)?;
    let (Some(tarball), Some(stderr)) = (maker.stdout.take(), maker.stderr.take()) else {
        return Err(BuildError::Start(io::ErrorKind::BrokenPipe.into()));
    };
    let mut running = match Running::start(&Job::Root { limits: *limits }, &tarball, &[], store, worker) {
        Ok(running) => running,
        Err(error) => {
            // Nobody will read its tarball, and it cleans up by itself when told to end.
            let _ = rustix::process::kill_process(pid(&maker), rustix::process::Signal::TERM);
            let _ = maker.wait();
            return Err(error.into());
        }
    };
    // The worker's alone now: should it end early, mmdebstrap must notice.
    drop(tarball);
    let (counts, said) = std::thread::scope(|scope| {
        // The worker may talk at any time, and must not wait for us to have heard mmdebstrap out.
        let waiting = scope.spawn(|| running.wait(&mut |_| {}));
        let said = follow(stderr, progress);
        (waiting.join(), said)
    });
    let status = maker.wait().map_err(BuildError::Start)?;
    if !status.success() {
        return Err(match missing(&said) {
            Some(name) => BuildError::NoPackage { name, suite },
            None => BuildError::Failed { status: status.to_string(), said },
        });
    }
    let counts = counts.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    progress(Progress { stage: "naming the image".to_owned(), percent: Some(99) });
    let imported = running.commit(store, counts)?;
    progress(Progress { stage: "built".to_owned(), percent: Some(100) });
    Ok(imported)
}

fn pid(child: &std::process::Child) -> rustix::process::Pid {
    rustix::process::Pid::from_child(child)
}

fn prepare(
    suite: &str,
    packages: &[String],
    apt: &Apt,
    staging: &Staging,
    worker: &Worker,
) -> io::Result<Command> {
    let dir = staging.path();
    // The user namespace's root is another id than its owner, and has to pass through as well.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?;
    let root = dir.join("root");
    fs::create_dir(&root)?;
    chown(&root, Some(worker.user.uid), Some(worker.user.gid))?;
    let include =
        PACKAGES.iter().copied().chain(packages.iter().map(String::as_str)).collect::<Vec<_>>().join(",");
    let mut command = Command::new("mmdebstrap");
    command.args(["--mode=unshare", "--variant=minbase", "--format=tar", &format!("--include={include}")]);
    for option in WITHOUT {
        command.arg(format!("--dpkgopt={option}"));
    }
    command.arg(format!("--customize-hook={FINISH}"));
    if !apt.options.is_empty() {
        let path = dir.join("apt.conf");
        fs::write(&path, &apt.options)?;
        command.arg(format!("--aptopt={}", path.display()));
    }
    command.args([suite, "-"]);
    for (name, text) in [("host.sources", &apt.stanzas), ("host.list", &apt.lines)] {
        if !text.is_empty() {
            let path = dir.join(name);
            fs::write(&path, text)?;
            command.arg(path);
        }
    }
    command.env_clear();
    command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("TMPDIR", &root).env("HOME", "/nonexistent").env("LC_ALL", "C.UTF-8");
    // The same packages give the same image on the same day: no time of a file is later than today's midnight (UTC).
    // Earlier times are kept, because compiled Python is only valid with those of its sources.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    command.env("SOURCE_DATE_EPOCH", (now / 86_400 * 86_400).to_string());
    command.uid(worker.user.uid).gid(worker.user.gid).current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// The package that apt did not find, in its own words for that (`LC_ALL` is ours).
fn missing(said: &str) -> Option<String> {
    let name = match said.split_once("Unable to locate package ") {
        Some((_, rest)) => rest.split([' ', ';']).next(),
        // Known by name alone: another package asks for it.
        None => said
            .split_once("' has no installation candidate")
            .and_then(|(before, _)| before.rsplit('\'').next()),
    };
    name.map(str::to_owned).filter(|name| !name.is_empty())
}

/// Turns what mmdebstrap says into progress; its errors are what is returned.
fn follow(stderr: impl io::Read, progress: &mut dyn FnMut(Progress)) -> String {
    let mut percent = 0;
    let mut errors: Vec<String> = Vec::new();
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim().replace(char::is_control, " ");
        if let Some(said) = line.strip_prefix("E: ") {
            errors.push(said.chars().take(500).collect());
        }
        let Some(said) = line.strip_prefix("I: ") else { continue };
        let stage = STAGES.iter().find(|(start, _, _)| said.starts_with(start));
        if let Some((_, at, stage)) = stage
            && *at > percent
        {
            percent = *at;
            progress(Progress { stage: (*stage).to_owned(), percent: Some(percent) });
        }
    }
    errors.truncate(8);
    if errors.is_empty() { "it gave no reason".to_owned() } else { errors.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_that_is_missing_is_found_in_what_apt_says() {
        let said = "\
I: installing remaining packages inside the chroot...
E: Unable to locate package nosuchpkg
E: Package 'virtual-thing' has no installation candidate
E: setup failed: E: apt-get --yes install curl nosuchpkg failed";
        let said = follow(said.as_bytes(), &mut |_| {});
        assert_eq!(missing(&said).as_deref(), Some("nosuchpkg"));
        assert_eq!(
            missing("Package 'virtual-thing' has no installation candidate").as_deref(),
            Some("virtual-thing")
        );
        assert_eq!(missing("apt-get update failed"), None);
    }
}
