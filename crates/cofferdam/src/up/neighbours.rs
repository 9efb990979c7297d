//! Other installations that run on this machine. Each has ports, a cgroup, user ids and directories to itself: two that
//! shared any would end each other's agents and gates, so the second is refused before it does anything.
//!
//! They are found among the processes that run, so nothing is written down that could be stale. Only root's count:
//! anybody may call a program of theirs what they like.

use crate::cmd::service;
use crate::failure::fail_with;
use crate::paths::Paths;
use model::Code;
use node::GATE_UIDS;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// An installation that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// A process of it: its node or its supervisor.
    pub pid: i32,
    /// Where it lies.
    pub paths: Paths,
}

/// Keys of our configuration, each with its value.
pub type Shared = Vec<(&'static str, String)>;

/// What one installation has to itself.
#[derive(Debug, Clone, PartialEq)]
struct Claims {
    paths: Paths,
    control: control::Config,
    node: node::Config,
}

impl Claims {
    fn of(paths: &Paths) -> anyhow::Result<Self> {
        let (control, node) = (service::control_config(paths)?, service::node_config(paths)?);
        Ok(Self { paths: paths.clone(), control, node })
    }

    /// Directories, each with what says where it is. All of them are removed by a purge.
    fn places(&self) -> [(&'static str, &Path); 5] {
        [
            ("data", &self.node.data),
            ("data", &self.control.data),
            ("COFFERDAM_DATA", &self.paths.data),
            ("COFFERDAM_ETC", &self.paths.etc),
            ("COFFERDAM_RUN", &self.paths.run),
        ]
    }

    fn ports(&self) -> [(&'static str, SocketAddr); 2] {
        [("listen", self.control.listen), ("guard", self.node.guard)]
    }

    fn ids(&self) -> [(&'static str, u64, u64); 2] {
        let (agents, gates) = (u64::from(self.node.uid_first), u64::from(self.node.gate_uid_first));
        let ranges = u64::from(self.node.uid_ranges) * node::RANGE_SIZE;
        [("uid_first", agents, agents + ranges), ("gate_uid_first", gates, gates + u64::from(GATE_UIDS))]
    }

    /// All keys of ours: what is shared with one of whom nothing is known.
    fn all(&self) -> Shared {
        self.shared(self)
    }

    /// The keys of ours whose values are theirs as well.
    fn shared(&self, theirs: &Self) -> Shared {
        let mut shared = Vec::new();
        for (key, port) in self.ports() {
            if theirs.ports().iter().any(|(_, other)| meet(port, *other)) {
                shared.push((key, port.to_string()));
            }
        }
        if self.node.cgroup == theirs.node.cgroup {
            shared.push(("cgroup", self.node.cgroup.clone()));
        }
        for (key, first, end) in self.ids() {
            if theirs.ids().iter().any(|(_, other, other_end)| first < *other_end && *other < end) {
                shared.push((key, format!("user ids {first} to {}", end - 1)));
            }
        }
        let within = |a: &Path, b: &Path| a.starts_with(b) || b.starts_with(a);
        for (key, place) in self.places() {
            if theirs.places().iter().any(|(_, other)| within(place, other)) {
                shared.push((key, place.display().to_string()));
            }
        }
        shared
    }
}

/// Whether two listeners would want the same port.
fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (one.ip(), other.ip());
    one.port() != 0 && one.port() == other.port() && (a == b || a.is_unspecified() || b.is_unspecified())
}

/// All that run here besides this one.
pub fn all(paths: &Paths) -> Vec<Neighbour> {
    let mut found: Vec<Neighbour> = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that ends just now is not there.
        let Some(other) = installation(&entry.path()) else { continue };
        let known = |neighbour: &Neighbour| neighbour.paths.run == other.run;
        if other.run != paths.run && !found.iter().any(known) {
            found.push(Neighbour { pid, paths: other });
        }
    }
    found
}

/// The installation of which a process is the node or the supervisor.
fn installation(process: &Path) -> Option<Paths> {
    let arguments = fs::read(process.join("cmdline")).ok()?;
    let mut arguments = arguments.split(|byte| *byte == 0).skip(1);
    let command = arguments.next()?;
    // Nothing but the command: `node --shut-down` is none.
    if !matches!(command, b"node" | b"supervise") || arguments.any(|rest| !rest.is_empty()) {
        return None;
    }
    let status = fs::read_to_string(process.join("status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let program = fs::read_link(process.join("exe")).ok()?;
    let ours = program.file_name()?.to_string_lossy().starts_with("cofferdam");
    if !ours || ids.split_ascii_whitespace().any(|id| id != "0") {
        return None;
    }
    let environment = fs::read(process.join("environ")).ok()?;
    let value = |name: &str| {
        let set = environment
            .split(|byte| *byte == 0)
            .find_map(|line| line.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"=")));
        set.map(|value| OsString::from_vec(value.to_vec()))
    };
    Paths::from_variables(value).ok()
}

/// What this installation would share with another, as keys of its own configuration; nothing where it is alone.
pub fn shared(paths: &Paths) -> anyhow::Result<Vec<(Neighbour, Shared)>> {
    let ours = Claims::of(paths)?;
    let conflicts = all(paths).into_iter().filter_map(|neighbour| {
        let shared = match Claims::of(&neighbour.paths) {
            Ok(theirs) => ours.shared(&theirs),
            // It was valid when that was started; until it is again, anything of ours could be theirs.
            Err(_) => ours.all(),
        };
        (!shared.is_empty()).then_some((neighbour, shared))
    });
    Ok(conflicts.collect())
}

/// Refuses to start what another installation would be harmed by.
pub fn refuse(paths: &Paths) -> anyhow::Result<()> {
    let Some((neighbour, shared)) = shared(paths)?.into_iter().next() else { return Ok(()) };
    let what: Vec<String> = shared.iter().map(|(key, value)| format!("{key} ({value})")).collect();
    let mut names: Vec<&str> = shared.iter().map(|(key, _)| *key).collect();
    names.dedup();
    let (ours, theirs): (Vec<_>, Vec<_>) = names.into_iter().partition(|key| *key == "listen");
    let mut keys = Vec::new();
    let (variables, theirs): (Vec<_>, Vec<_>) =
        theirs.into_iter().partition(|key| key.starts_with("COFFERDAM_"));
    for (keys_there, file) in [(ours, paths.control_toml()), (theirs, paths.node_toml())] {
        if !keys_there.is_empty() {
            keys.push(format!("{} in {}", keys_there.join(", "), file.display()));
        }
    }
    if !variables.is_empty() {
        keys.push(format!("{} in the environment", variables.join(", ")));
    }
    Err(fail_with(
        Code::InUse,
        format!(
            "Another installation runs on this machine (process {}, {}), and this one would share with it: {}.",
            neighbour.pid,
            neighbour.paths.run.display(),
            what.join(", ")
        ),
        format!(
            "set others for this one: {}; \"A second installation\" in docs/guides/operating.md shows how",
            keys.join(", and ")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(change: impl FnOnce(&mut Claims)) -> Claims {
        let paths = Paths::from_variables(|_| None).expect("defaults");
        let mut claims = Claims { paths, control: Default::default(), node: Default::default() };
        change(&mut claims);
        claims
    }

    fn keys(ours: &Claims) -> Vec<&'static str> {
        ours.shared(&claims(|_| {})).into_iter().map(|(key, _)| key).collect()
    }

    fn apart(claims: &mut Claims) {
        claims.control.listen.set_port(7710);
        claims.control.data = "/srv/two/control".into();
        claims.node.guard.set_port(7711);
        claims.node.cgroup = "two".into();
        claims.node.uid_first = 0x6000_0000;
        claims.node.gate_uid_first = 0x5fff_0000;
        claims.node.data = "/srv/two".into();
        claims.paths = Paths { etc: "/srv/two/etc".into(), run: "/run/two".into(), data: "/srv/two".into() };
    }

    #[test]
    fn installations_share_nothing() {
        let all = ["listen", "guard", "cgroup", "uid_first", "gate_uid_first", "data", "data"];
        let places = ["COFFERDAM_DATA", "COFFERDAM_ETC", "COFFERDAM_RUN"];
        assert_eq!(keys(&claims(|_| {})), [&all[..], &places].concat());
        assert_eq!(keys(&claims(apart)), [""; 0]);
        let but = |change: fn(&mut Claims)| {
            keys(&claims(|claims| {
                apart(claims);
                change(claims);
            }))
        };
        // Their guard is on our control's port, at any address.
        assert_eq!(but(|claims| claims.control.listen = "0.0.0.0:7701".parse().unwrap()), ["listen"]);
        assert_eq!(but(|claims| claims.control.listen = "127.0.0.2:7700".parse().unwrap()), [""; 0]);
        // The last of our agents' ids would be their first.
        assert_eq!(but(|claims| claims.node.uid_first = 0x6001_0001), ["uid_first"]);
        assert_eq!(but(|claims| claims.node.gate_uid_first = 0x7000_0000), ["gate_uid_first"]);
        assert_eq!(but(|claims| claims.node.data = "/var/lib/cofferdam/two".into()), ["data"]);
        // What the files say is not all that a purge removes.
        assert_eq!(but(|claims| claims.paths.data = "/var/lib/cofferdam".into()), ["COFFERDAM_DATA"]);
        assert_eq!(but(|claims| claims.paths.etc = "/etc".into()), ["COFFERDAM_ETC"]);
        // Of one whose configuration cannot be read, everything may be.
        let two = claims(apart);
        assert_eq!(two.all().len(), keys(&claims(|_| {})).len());
    }

    #[test]
    fn a_process_with_another_command_is_no_installation() {
        assert_eq!(installation(Path::new("/proc/self")), None);
        assert_eq!(installation(Path::new("/proc/1")), None);
    }
}
