//! What has to be there before anything is started: users, directories, configuration, the first account.
//!
//! Everything here can be done again; what is there already is kept.

use crate::cmd::service::{self, Printed};
use crate::context::{Context, Contexts};
use crate::failure::{fail, fail_with};
use crate::paths::Paths;
use crate::tools;
use crate::up::units;
use anyhow::Context as _;
use model::{Code, EventId, Name, Problem};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The user that control runs as.
pub const CONTROL_USER: &str = "cofferdam-control";

/// A user of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Its own group.
    pub gid: u32,
}

/// Refuses anybody but root.
pub fn require_root(command: &str) -> anyhow::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(fail_with(
        Code::Forbidden,
        format!("`cofferdam {command}` needs root."),
        format!("sudo cofferdam {command}"),
    ))
}

/// Refuses a machine on which not even boundaries of level 1 can be made, with every reason at once.
pub fn check_machine(paths: &Paths) -> anyhow::Result<()> {
    let config = service::sandbox_config(&service::node_config(paths)?)?;
    let checks = sandbox::doctor::checks(&config);
    let least = model::agent::Level::Process.number();
    if sandbox::doctor::passes(&checks, least) {
        return Ok(());
    }
    let missing = checks
        .iter()
        .filter(|check| !check.ok && check.level <= least && check.need == sandbox::doctor::Need::Required);
    let (mut what, mut remedies) = (Vec::new(), Vec::new());
    for check in missing {
        what.push(format!("{}: {}", check.control, check.detail));
        remedies.extend(check.remedy.clone());
    }
    remedies.dedup();
    Err(fail_with(
        Code::Unavailable,
        format!("This machine cannot make boundaries of level {least} or more yet ({}).", what.join("; ")),
        remedies.join("; "),
    ))
}

/// The user, if there is one of that name.
pub fn find_user(name: &str) -> anyhow::Result<Option<User>> {
    // getent(1) asks what the machine asks, not only /etc/passwd.
    let output = Command::new("getent").args(["passwd", name]).stderr(Stdio::null()).output();
    let output = output.context("cannot run getent")?;
    let line = String::from_utf8_lossy(&output.stdout);
    let mut fields = line.trim_end().split(':').skip(2).map(str::parse);
    Ok(match (fields.next(), fields.next()) {
        (Some(Ok(uid)), Some(Ok(gid))) => Some(User { uid, gid }),
        _ => None,
    })
}

/// The user, made if need be: no shell, no home, no password.
fn ensure_user(name: &str) -> anyhow::Result<User> {
    if let Some(user) = find_user(name)? {
        if user.uid == 0 {
            return Err(fail(Code::Forbidden, format!("The user {name} is root here, and must not be.")));
        }
        return Ok(user);
    }
    let output = Command::new("useradd")
        .args(["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"])
        .args(["--shell", "/usr/sbin/nologin", "--comment", "Cofferdam control plane", name])
        .output()
        .context("cannot run useradd; install the package passwd")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(fail(Code::Internal, format!("The user {name} could not be made: {}.", said.trim())));
    }
    find_user(name)?.with_context(|| format!("the user {name} was made and is not there"))
}

/// Makes a directory what it has to be. A symbolic link in its place is refused: it is not ours.
fn directory(path: &Path, mode: u32, owner: User) -> anyhow::Result<()> {
    let attempt = || format!("cannot prepare the directory {}", path.display());
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent).with_context(attempt)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(attempt);
        }
        _ => {}
    }
    let metadata = fs::symlink_metadata(path).with_context(attempt)?;
    if !metadata.is_dir() {
        return Err(fail(
            Code::WrongState,
            format!("{} is in the way: it is not a directory.", path.display()),
        ));
    }
    if metadata.uid() != owner.uid || metadata.gid() != owner.gid {
        chown(path, Some(owner.uid), Some(owner.gid)).with_context(attempt)?;
    }
    fs::set_permissions(path, Permissions::from_mode(mode)).with_context(attempt)
}

const ROOT: User = User { uid: 0, gid: 0 };

/// Makes the runtime directory, which also holds the lock.
pub fn run_directory(paths: &Paths) -> anyhow::Result<()> {
    directory(&paths.run, 0o711, ROOT)
}

/// Makes the directory of configuration.
pub fn configuration_directory(paths: &Paths) -> anyhow::Result<()> {
    directory(&paths.etc, 0o755, ROOT)
}

/// Users, directories, configuration.
pub fn prepare(paths: &Paths) -> anyhow::Result<User> {
    let control = ensure_user(CONTROL_USER)?;
    configuration_directory(paths)?;
    directory(&paths.data, 0o711, ROOT)?;
    directory(&paths.data.join("node"), 0o700, ROOT)?;
    directory(&paths.logs(), 0o750, ROOT)?;
    configuration(&paths.control_toml(), &control_template(paths))?;
    let cgroup = units::own(paths).then(|| quoted_text(units::AGENTS_CGROUP));
    configuration(&paths.node_toml(), &node_template(paths, cgroup.as_deref()))?;
    // Others on the same machine are for trying things out, and ask when they are told to.
    if paths.is_the_machines() {
        tools::write_first(&service::node_config(paths)?.bundles);
    }
    let config = service::control_config(paths)?;
    directory(&config.data, 0o700, control)?;
    passable(&config.data)?;
    Ok(control)
}

/// Control's user has to get to its directory.
fn passable(path: &Path) -> anyhow::Result<()> {
    for ancestor in path.ancestors().skip(1) {
        let mode = fs::metadata(ancestor)?.permissions().mode();
        if mode & 0o001 == 0 {
            return Err(fail_with(
                Code::WrongState,
                format!(
                    "The user {CONTROL_USER} cannot pass through {} to {}.",
                    ancestor.display(),
                    path.display()
                ),
                format!("chmod o+x {}, or choose another directory with COFFERDAM_DATA", ancestor.display()),
            ));
        }
    }
    Ok(())
}

/// Writes a file of defaults where there is none.
fn configuration(path: &Path, text: &str) -> anyhow::Result<()> {
    let attempt = || format!("cannot write {}", path.display());
    match File::options().write(true).create_new(true).mode(0o644).open(path) {
        Ok(mut file) => file.write_all(text.as_bytes()).with_context(attempt),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).with_context(attempt),
    }
}

fn quoted(path: &Path) -> String {
    quoted_text(&path.to_string_lossy())
}

fn quoted_text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// What is installed where systemd runs the machine. Elsewhere it differs in places, and has no unit of the agents.
const CONTROL_TOML: &str = include_str!("../../../../deploy/etc/control.toml");
const NODE_TOML: &str = include_str!("../../../../deploy/etc/node.toml");

fn control_template(paths: &Paths) -> String {
    with_line(CONTROL_TOML, "data", Some(&quoted(&paths.data.join("control"))))
}

fn node_template(paths: &Paths, cgroup: Option<&str>) -> String {
    let text = with_line(NODE_TOML, "data", Some(&quoted(&paths.data)));
    let text = with_line(&text, "control", Some(&quoted_text(&local_url(paths))));
    let text = with_line(&text, "run", Some(&quoted(&paths.run)));
    let text = with_line(&text, "bundles", Some(&quoted(&paths.bundles_toml())));
    with_line(&text, "cgroup", cgroup)
}

/// The text with another value for a key; without one, without the key and what is said about it.
fn with_line(text: &str, key: &str, value: Option<&str>) -> String {
    let paragraphs = text.split("\n\n").filter_map(|paragraph| {
        let is_it = |line: &str| line.split_once(" = ").is_some_and(|(name, _)| name == key);
        if !paragraph.lines().any(is_it) {
            return Some(paragraph.to_owned());
        }
        let value = value?;
        let lines = paragraph.lines().map(|line| match is_it(line) {
            true => format!("{key} = {value}"),
            false => line.to_owned(),
        });
        Some(lines.collect::<Vec<_>>().join("\n"))
    });
    let text = paragraphs.collect::<Vec<_>>().join("\n\n");
    if text.ends_with('\n') { text } else { text + "\n" }
}

/// This program's file, as it lies on disk now. After an upgrade the running one has no name any more, and what a
/// service starts in turn (node its gates) has to be found by name.
fn program() -> anyhow::Result<PathBuf> {
    let running = std::env::current_exe().context("cannot find this program")?;
    if running.exists() {
        return Ok(running);
    }
    let text = running.to_string_lossy();
    let replaced = PathBuf::from(text.strip_suffix(" (deleted)").unwrap_or(&text));
    if replaced.exists() {
        return Ok(replaced);
    }
    Err(fail_with(
        Code::NotFound,
        format!("{} was removed while it ran.", replaced.display()),
        "install it there again, then `cofferdam down` and `cofferdam up`",
    ))
}

/// A command of this program that is yet to be started.
pub struct ServiceCommand {
    /// What to start.
    pub command: Command,
    /// Open until it is started: see [`service_command`].
    pub file: File,
}

/// A command of this program, with nothing of the environment but what services read. In a list of processes it
/// names the installation by its runtime directory.
///
/// A user who cannot get to where the program lies, such as beneath root's home, still can execute the descriptor
/// that root opened: proc_pid_fd(5).
pub fn service_command(name: &str, paths: &Paths, user: Option<User>) -> anyhow::Result<ServiceCommand> {
    let path = program()?;
    let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut command = match user {
        None => Command::new(&path),
        Some(_) => Command::new(format!("/proc/self/fd/{}", file.as_raw_fd())),
    };
    command.arg0(format!("cofferdam[{}]", paths.run.display()));
    command.arg(name).env_clear().current_dir("/").stdin(Stdio::null());
    for variable in ["PATH", "RUST_LOG", "RUST_BACKTRACE", "COFFERDAM_LOG"] {
        if let Some(value) = std::env::var_os(variable) {
            command.env(variable, value);
        }
    }
    command
        .env("COFFERDAM_ETC", &paths.etc)
        .env("COFFERDAM_RUN", &paths.run)
        .env("COFFERDAM_DATA", &paths.data);
    if let Some(user) = user {
        // std drops supplementary groups and capabilities with the uid: setuid(2) away from 0 clears them.
        command.uid(user.uid).gid(user.gid);
    }
    Ok(ServiceCommand { command, file })
}

/// Runs control once, as its user, for what it prints.
fn control_once(paths: &Paths, user: User, args: &[&str]) -> anyhow::Result<Printed> {
    let output = service_command("control", paths, Some(user))?
        .command
        .args(args)
        .env("RUST_LOG", "warn")
        .output()
        .context("cannot start control")?;
    if !output.status.success() {
        return Err(fail(Code::Internal, format!("Control could not be prepared: {}", said(&output.stderr))));
    }
    serde_json::from_slice(&output.stdout).context("control answered something else than was asked")
}

/// The failure that a service reported last, without this program's own framing; empty if it reported none.
pub fn said(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let start = lines.iter().rposition(|line| line.starts_with("cofferdam: ")).unwrap_or(lines.len());
    let words = lines[start..].join("; ");
    words.strip_prefix("cofferdam: ").unwrap_or(&words).chars().take(2000).collect()
}

/// The database with the first account, and a bootstrap token for the node where it is not enrolled. The account's key,
/// if it was made just now: there is no other copy of it.
pub fn first_start(paths: &Paths, control: User) -> anyhow::Result<Option<String>> {
    let node = paths.data.join("node");
    let hostname = node_name();
    let enrolled = node.join("enrolled.json").exists();
    let mut args = vec!["--init"];
    if !enrolled {
        args.extend(["--bootstrap", hostname.as_str()]);
    }
    let printed = control_once(paths, control, &args)?;
    if let Some(token) = printed.bootstrap_token {
        secret_file(&node.join("bootstrap-token"), &token)?;
    }
    Ok(printed.api_key)
}

/// Another key, for a machine whose context was lost. Root may read the database anyway.
pub fn new_key(paths: &Paths, control: User) -> anyhow::Result<()> {
    // Those that were lost before are still there.
    let id = EventId::new().base32();
    let name = format!("cli-{}", &id[id.len() - 8..]);
    let printed = control_once(paths, control, &["--issue-key", &name])?;
    let api_key = printed.api_key.context("control issued no key")?;
    keep_key(paths, api_key)
}

/// Writes the context of this machine's installation, and makes it the one in use.
pub fn keep_key(paths: &Paths, api_key: String) -> anyhow::Result<()> {
    let url = local_url(paths);
    let mut contexts = Contexts::load()?;
    contexts.keep(contexts.local(&url), Context::by_key(url, api_key));
    contexts.save()?;
    Ok(())
}

/// Where root finds control of this machine. While control is away its port is anybody's who takes it; this is not.
pub fn local_url(paths: &Paths) -> String {
    format!("unix://{}", paths.control_socket().display())
}

/// Where control of this machine answers, for somebody on this machine.
pub fn control_url(paths: &Paths) -> anyhow::Result<String> {
    let config = service::control_config(paths)?;
    let mut listen = config.listen;
    if listen.ip().is_unspecified() {
        listen.set_ip(if listen.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    let scheme = if config.serve.certificate.is_some() { "https" } else { "http" };
    Ok(format!("{scheme}://{listen}"))
}

fn secret_file(path: &Path, text: &str) -> anyhow::Result<()> {
    let attempt = || format!("cannot write {}", path.display());
    let draft = path.with_extension("new");
    let _ = fs::remove_file(&draft);
    let mut file =
        File::options().write(true).create_new(true).mode(0o600).open(&draft).with_context(attempt)?;
    file.write_all(text.as_bytes()).with_context(attempt)?;
    fs::rename(&draft, path).with_context(attempt)
}

/// The machine's name as far as it can be a name.
fn node_name() -> Name {
    let uname = rustix::system::uname();
    let host: String = uname
        .nodename()
        .to_string_lossy()
        .split('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' })
        .skip_while(|c| !c.is_ascii_lowercase())
        .take(40)
        .collect();
    host.parse().unwrap_or_else(|_| "node".parse().unwrap_or_else(|_| unreachable!("a constant name")))
}

/// A failure of a service, in one sentence and a place to look.
pub fn service_failed(name: &str, how: &str, log: Option<&Path>, stderr: &[u8]) -> Problem {
    let said = said(stderr);
    let why = if said.is_empty() { String::new() } else { format!(": {said}") };
    let problem = Problem::new(Code::Unavailable, format!("The {name} service {how}{why}"));
    match log {
        Some(log) => problem.remedy(format!("its log is {}", log.display())),
        None => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::config::Checked;

    #[test]
    fn templates_hold_the_defaults() {
        let paths = Paths { etc: "/etc/x".into(), run: "/run/x".into(), data: "/srv/a \"b\"".into() };
        let control = control::Config::read(&control_template(&paths), Default::default()).unwrap();
        assert_eq!(
            control,
            control::Config { data: paths.data.join("control"), ..control::Config::default() }
        );
        let text = node_template(&paths, None);
        assert!(!text.contains("cgroup") && text.ends_with("\"20GiB\"\n"), "{text}");
        let node = node::Config::read(&text, Default::default()).unwrap();
        let control = "unix:///run/x/control.sock".into();
        let (data, run, bundles) = (paths.data.clone(), paths.run.clone(), paths.bundles_toml());
        let ours = node::Config { control, data, run, bundles, ..node::Config::default() };
        assert_eq!(node, ours);
    }

    #[test]
    fn what_is_installed_differs_from_the_defaults_in_the_agents_unit_alone() {
        let control = control::Config::read(CONTROL_TOML, Default::default()).unwrap();
        assert_eq!(control, control::Config::default());
        let node = node::Config::read(NODE_TOML, Default::default()).unwrap();
        assert_eq!(node, node::Config { cgroup: units::AGENTS_CGROUP.into(), ..node::Config::default() });
    }
}
