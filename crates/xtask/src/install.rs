//! `install` and `deb`: puts what was built in place, with units, users and directories for systemd.
//!
//! There is one list of files. The Debian package is made of an installation into an empty directory, so both put the
//! same things in the same places.

use crate::shell::{self, step};
use crate::{binaries, setup};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What units say in the repository.
const PACKAGE_PREFIX: &str = "/usr";
const CARGO_DEB: &str = "3.8.0";

/// Where an installation goes.
struct Place {
    /// `DESTDIR`: the root of the file system that is installed into.
    root: PathBuf,
    /// `PREFIX`.
    prefix: String,
}

/// What a file is made of.
enum Content {
    /// A file as it is.
    Copy(PathBuf),
    /// A text that names places beneath the prefix.
    Text(PathBuf),
    /// What the built program prints.
    Completions(&'static str),
}

/// One file, and where it goes: beneath the root.
struct File {
    content: Content,
    to: String,
    mode: u32,
    /// An administrator may have changed it, and it is kept.
    is_config: bool,
}

/// Where systemd looks for what is not its own: it knows no other prefixes.
fn lib(prefix: &str) -> String {
    let prefix = if prefix == PACKAGE_PREFIX { prefix } else { "/usr/local" };
    format!("{prefix}/lib")
}

fn files(prefix: &str) -> Vec<File> {
    let deploy = shell::root().join("deploy");
    let lib = lib(prefix);
    let share = format!("{prefix}/share");
    let mut files = Vec::new();
    let mut add = |content, to: String, mode| files.push(File { content, to, mode, is_config: false });
    for program in ["cofferdam", "cofferdam-jail"] {
        add(Content::Copy(shell::release_dir().join(program)), format!("{prefix}/bin/{program}"), 0o755);
    }
    for unit in UNITS {
        let text = Content::Text(deploy.join("systemd").join(unit));
        add(text, format!("{lib}/systemd/system/{unit}"), 0o644);
    }
    for (from, directory) in
        [("sysusers", "sysusers.d"), ("tmpfiles", "tmpfiles.d"), ("modules", "modules-load.d")]
    {
        let text = Content::Text(deploy.join(format!("{from}.conf")));
        add(text, format!("{lib}/{directory}/cofferdam.conf"), 0o644);
    }
    // Debian keeps what packages bring apart from what administrators add.
    let zsh = if prefix == PACKAGE_PREFIX { "vendor-completions" } else { "site-functions" };
    for (shell, to) in [
        ("bash", "bash-completion/completions/cofferdam".to_owned()),
        ("zsh", format!("zsh/{zsh}/_cofferdam")),
        ("fish", "fish/vendor_completions.d/cofferdam.fish".to_owned()),
    ] {
        add(Content::Completions(shell), format!("{share}/{to}"), 0o644);
    }
    for document in DOCUMENTS {
        let copy = Content::Copy(shell::root().join(document));
        add(copy, format!("{share}/doc/cofferdam/{document}"), 0o644);
    }
    for config in ["control.toml", "node.toml"] {
        let copy = Content::Copy(deploy.join("etc").join(config));
        files.push(File {
            content: copy,
            to: format!("/etc/cofferdam/{config}"),
            mode: 0o644,
            is_config: true,
        });
    }
    files
}

/// What people read, as it lies in the sources, so that links lead from one to another.
const DOCUMENTS: [&str; 33] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "docs/errors.md",
    "docs/threat-model.md",
    "docs/tokens.md",
    "docs/levels/workspace.md",
    "docs/levels/process.md",
    "docs/levels/container.md",
    "docs/guides/agents.md",
    "docs/guides/audit.md",
    "docs/guides/egress.md",
    "docs/guides/secrets.md",
    "docs/guides/people.md",
    "docs/guides/recipes.md",
    "docs/guides/images.md",
    "docs/guides/operating.md",
    "docs/guides/usage.md",
    "docs/decisions/0001-detached-mounts.md",
    "docs/decisions/0002-one-connection-per-operation.md",
    "docs/decisions/0003-own-erofs-writer.md",
    "docs/decisions/0004-one-listener-per-gate.md",
    "docs/decisions/0005-sqlite-first.md",
    "docs/decisions/0006-blanks.md",
    "docs/decisions/0007-a-delegated-unit.md",
    "docs/decisions/0008-a-kernel-as-a-runtime.md",
    "docs/decisions/0009-systemd-unit.md",
    "docs/decisions/0010-credentials-stay-outside.md",
    "docs/decisions/0011-people-and-roles.md",
    "docs/decisions/0012-ledger.md",
];

/// All that `deploy/systemd` holds. The first starts and stops the others.
pub const UNITS: [&str; 6] = [
    "cofferdam.service",
    "cofferdam-agents.service",
    "cofferdam-control.service",
    "cofferdam-control.socket",
    "cofferdam-node.service",
    "cofferdam-setup.service",
];

impl Place {
    /// What `make install` was told.
    fn from_env() -> Result<Self> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let prefix = set("PREFIX").unwrap_or_else(|| "/usr/local".into());
        let place = Self { root: set("DESTDIR").unwrap_or_else(|| "/".into()).into(), prefix };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.+".contains(&byte);
        if !place.prefix.starts_with('/') || !place.prefix.bytes().all(plain) {
            bail!(
                "PREFIX must be an absolute path without spaces, such as /usr/local, not {:?}",
                place.prefix
            );
        }
        Ok(Place { prefix: place.prefix.trim_end_matches('/').to_owned(), ..place })
    }

    /// Whether this is the machine itself and not an image of one.
    fn is_here(&self) -> bool {
        self.root == Path::new("/")
    }

    fn path(&self, to: &str) -> PathBuf {
        self.root.join(to.trim_start_matches('/'))
    }

    /// Puts every file in place. A program that runs is replaced, not written to.
    fn fill(&self) -> Result<()> {
        for file in files(&self.prefix) {
            let path = self.path(&file.to);
            if file.is_config && path.exists() {
                continue;
            }
            let failed = || format!("cannot install {}", path.display());
            let directory = path.parent().context("a file lies in a directory")?;
            fs::create_dir_all(directory).with_context(failed)?;
            let draft = path.with_file_name(".cofferdam-install");
            fs::write(&draft, self.content(&file.content)?).with_context(failed)?;
            fs::set_permissions(&draft, fs::Permissions::from_mode(file.mode)).with_context(failed)?;
            fs::rename(&draft, &path).with_context(failed)?;
        }
        Ok(())
    }

    fn content(&self, content: &Content) -> Result<Vec<u8>> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        match content {
            Content::Copy(path) => read(path),
            Content::Text(path) => {
                let text = String::from_utf8(read(path)?).context("a unit is text")?;
                Ok(relocate(&text, &self.prefix).into_bytes())
            }
            Content::Completions(shell) => {
                let mut program = Command::new(shell::release_dir().join("cofferdam"));
                shell::output(program.args(["completions", shell])).map(String::into_bytes)
            }
        }
    }
}

/// The text with our own places beneath another prefix.
fn relocate(text: &str, prefix: &str) -> String {
    ["/bin/cofferdam", "/share/doc/cofferdam"].iter().fold(text.to_owned(), |text, place| {
        text.replace(&format!("{PACKAGE_PREFIX}{place}"), &format!("{prefix}{place}"))
    })
}

fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The chore `install`. With `DESTDIR` nothing but files is made.
pub fn run() -> Result<()> {
    let place = Place::from_env()?;
    binaries::build()?;
    step(&format!("installing to {} below {}", place.prefix, place.root.display()));
    place.fill()?;
    if !place.is_here() {
        return Ok(());
    }
    if !systemd_runs() {
        println!("Installed. systemd does not run this machine: `cofferdam up --detach` starts Cofferdam.");
        return Ok(());
    }
    shell::run(&mut Command::new("systemd-sysusers"))?;
    shell::run(Command::new("systemd-tmpfiles").arg("--create").arg("cofferdam.conf"))?;
    // Fails for what is built into the kernel; what is missing, `cofferdam doctor` says.
    let _ = shell::succeeds(Command::new("systemctl").args(["restart", "systemd-modules-load.service"]));
    shell::run(Command::new("systemctl").arg("daemon-reload"))?;
    // Those that run go on with what is installed now. Agents run on as they are.
    let services = ["cofferdam-setup.service", "cofferdam-control.service", "cofferdam-node.service"];
    shell::run(Command::new("systemctl").arg("try-restart").args(services))?;
    println!("Installed. Next: systemctl enable --now cofferdam");
    Ok(())
}

/// The chore `uninstall`: configuration, users and data stay.
pub fn remove() -> Result<()> {
    let place = Place::from_env()?;
    let here = place.is_here() && systemd_runs();
    if here && place.path(&format!("{}/systemd/system/{}", lib(&place.prefix), UNITS[0])).exists() {
        step("ending agents, control and node");
        // All by name: of those that end with the first, nobody would wait for the last.
        shell::run(Command::new("systemctl").arg("stop").args(UNITS))?;
        shell::run(Command::new("systemctl").args(["disable", UNITS[0]]))?;
    }
    for file in files(&place.prefix).iter().filter(|file| !file.is_config) {
        let path = place.path(&file.to);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    // Empty by now, unless somebody else put something there.
    for directory in ["/docs/decisions", "/docs/guides", "/docs", ""] {
        let _ = fs::remove_dir(place.path(&format!("{}/share/doc/cofferdam{directory}", place.prefix)));
    }
    if here {
        shell::run(Command::new("systemctl").arg("daemon-reload"))?;
    }
    println!(
        "Removed. What is left: /etc/cofferdam, /var/lib/cofferdam, the users cofferdam-control and cofferdam-image."
    );
    Ok(())
}

/// A package to be made.
pub struct Package<'a> {
    /// Its version; that of the workspace where there is none.
    pub version: Option<&'a str>,
    /// Added to the jail's file, so that it is another init by content and the same by behaviour.
    pub mark: &'a [u8],
    /// What cargo-deb is told about compressing it.
    pub compression: &'a [&'a str],
}

/// The chore `deb`.
pub fn deb() -> Result<()> {
    binaries::build()?;
    let path = package(&Package { version: None, mark: b"", compression: &["--compress-type", "xz"] })?;
    println!("{}", path.display());
    Ok(())
}

/// Makes a Debian package of the binaries that lie in `target/release`, and says where it is.
pub fn package(package: &Package<'_>) -> Result<PathBuf> {
    if !shell::succeeds(shell::cargo().args(["deb", "--version"])) {
        step("installing cargo-deb");
        shell::run(shell::cargo().args(["install", "--locked", "cargo-deb", "--version", CARGO_DEB]))?;
    }
    setup::install(&["dpkg-dev"])?;
    // Named in crates/cofferdam/Cargo.toml, so it does not follow CARGO_TARGET_DIR.
    let made = shell::root().join("target/deb");
    let root = made.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).context("cannot clear target/deb/root")?;
    }
    let place = Place { root: root.clone(), prefix: PACKAGE_PREFIX.into() };
    place.fill()?;
    // Debian has the licence's text once for all: deploy/debian/copyright says where.
    fs::remove_file(place.path("/usr/share/doc/cofferdam/LICENSE"))?;
    let jail = place.path("/usr/bin/cofferdam-jail");
    shell::run(Command::new("strip").arg(place.path("/usr/bin/cofferdam")).arg(&jail))?;
    let mut content = fs::read(&jail)?;
    content.extend_from_slice(package.mark);
    fs::write(&jail, content)?;
    fs::write(made.join("changelog"), changelog(package.version)?)?;
    let mut command = shell::cargo();
    command.args(["deb", "--package", "cofferdam", "--no-build", "--no-strip", "--quiet"]);
    command.args(package.compression);
    if let Some(version) = package.version {
        command.args(["--deb-version", version]);
    }
    let said = shell::output(command.arg("--output").arg(made.join("")))?;
    Ok(PathBuf::from(said.trim()))
}

/// In the form that Debian's tools read: deb-changelog(5).
fn changelog(version: Option<&str>) -> Result<String> {
    let date =
        shell::output(Command::new("git").args(["log", "-1", "--format=%cD"]).current_dir(shell::root()))
            .unwrap_or_else(|_| "Thu, 01 Jan 1970 00:00:00 +0000".to_owned());
    let version = match version {
        Some(version) => version.to_owned(),
        None => format!("{}-1", env!("CARGO_PKG_VERSION")),
    };
    Ok(format!(
        "cofferdam ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md in the sources.\n\n \
         -- The Cofferdam authors <maintainers@cofferdam.invalid>  {}\n",
        date.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_installed_and_every_installed_one_is_there() {
        let entries = fs::read_dir(shell::root().join("deploy/systemd")).unwrap();
        let mut found: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        found.sort();
        let mut installed = UNITS;
        installed.sort_unstable();
        assert_eq!(found, installed);
    }

    #[test]
    fn every_link_of_an_installed_document_leads_to_one() {
        for document in DOCUMENTS {
            let text = fs::read_to_string(shell::root().join(document)).unwrap();
            let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
            for link in links.filter(|link| !link.is_empty() && !link.contains("://")) {
                let directory = Path::new(document).parent().unwrap();
                let mut target = PathBuf::new();
                for part in directory.join(link).components() {
                    match part {
                        std::path::Component::ParentDir => assert!(target.pop(), "{document}: {link}"),
                        part => target.push(part),
                    }
                }
                let installed = DOCUMENTS.iter().any(|other| Path::new(other).starts_with(&target));
                assert!(installed, "{document} links to {link}, which is not installed");
            }
        }
        let decisions = fs::read_dir(shell::root().join("docs/decisions")).unwrap().count();
        let installed = DOCUMENTS.iter().filter(|name| name.starts_with("docs/decisions/")).count();
        assert_eq!(decisions, installed);
    }

    #[test]
    fn only_our_own_places_move() {
        let unit = "ExecStart=/usr/bin/cofferdam node\nExecStart=/usr/bin/true\n# /usr/share/doc/cofferdam/x";
        let moved =
            "ExecStart=/opt/c/bin/cofferdam node\nExecStart=/usr/bin/true\n# /opt/c/share/doc/cofferdam/x";
        assert_eq!(relocate(unit, "/opt/c"), moved);
        assert_eq!(relocate(unit, "/usr"), unit);
    }
}
