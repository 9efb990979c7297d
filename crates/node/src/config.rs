//! `node.toml`.

use model::agent::Level;
use model::config::{Checked, Fault};
use model::{ByteSize, Driver, Network, Resolver, Span};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What a node is told by its owner. Every key has a default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where control is: its socket on this machine, or an origin. A port of loopback is anybody's who takes it while
    /// control is away; the socket is root's.
    pub control: String,
    /// A file (PEM) with the certificates of the authorities that control's certificate has to come from: without it those that this
    /// machine trusts. It is read when the node starts.
    pub control_ca: Option<PathBuf>,
    /// Directory beneath which `node/`, `images/`, `volumes/` and `init/` lie.
    pub data: PathBuf,
    /// Directory for sockets and exit records; gone after a reboot.
    pub run: PathBuf,
    /// File with the hosts of the bundles that are read from this machine's tools; without it they are empty.
    pub bundles: PathBuf,
    /// Where the first gate listens. Gates of more accounts get a free port of the same address.
    pub guard: SocketAddr,
    /// The cgroup that agents are below: a name is made in each hierarchy; a path leads to one that is delegated to us.
    pub cgroup: String,
    /// First uid of the ranges that agents get.
    pub uid_first: u32,
    /// How many ranges of 65,536 ids there are.
    pub uid_ranges: u32,
    /// First uid of the gates; each account with agents here takes one.
    pub gate_uid_first: u32,
    /// Agents that the node may hold at once.
    pub slots: u32,
    /// The levels that agents here may have; the machine has to be able to make them as well.
    pub levels: Vec<Level>,
    /// Boundaries that are kept ready for new agents, at most; 0 is none. How many there are follows demand.
    pub blanks: u32,
    /// How often the boundary of each agent is looked at again while it runs.
    pub inspect_every: Span,
    /// The jail binary; by default the `cofferdam-jail` beside this executable.
    pub jail: Option<PathBuf>,
    /// Who makes the boundaries of agents that do not say, of the levels that it makes. Without it that is systemd at level 1,
    /// where it runs the machine, and else node itself.
    pub driver: Option<Driver>,
    /// Who may make them at all. Runtimes are looked for in the directories of the system's programs.
    pub drivers: Vec<Driver>,
    /// What any agent may have at most, whatever control says.
    pub limits: Limits,
    /// What one image may hold.
    pub images: Images,
    /// Where images may come from.
    pub registry: Registry,
    /// Whom node connects to for agents.
    pub egress: Egress,
}

/// Whom node connects to for agents, beyond what the public internet has and as far as their policies allow it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// Networks in CIDR notation, or addresses, that agents may reach although they are not public. The machine itself is only
    /// meant by one that lies within `127.0.0.0/8`, or by `::1`.
    pub open: Vec<String>,
    /// Who resolves names: by DNS over TCP, over TLS, or over HTTPS.
    pub resolver: Resolver,
    /// A file (PEM) with the certificates of authorities by which gates verify the servers whose requests they look at: the
    /// machine's own.
    pub roots: PathBuf,
}

impl Default for Egress {
    fn default() -> Self {
        Self {
            open: Vec::new(),
            resolver: Resolver::plain(SocketAddr::from(([1, 1, 1, 1], 53))),
            roots: "/etc/ssl/certs/ca-certificates.crt".into(),
        }
    }
}

impl Egress {
    /// Of a configuration that was checked.
    pub(crate) fn networks(&self) -> Vec<Network> {
        self.open.iter().filter_map(|network| network.parse().ok()).collect()
    }

    /// What is wrong with the first entry that is wrong, as in "KEY must …".
    fn fault(&self) -> Option<String> {
        self.open.iter().find_map(|network| network.parse::<Network>().err())
    }
}

/// What one image may hold; more is refused while it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Images {
    /// All its layers together, unpacked.
    pub bytes: ByteSize,
    /// Files, directories and links of all its layers together.
    pub files: u64,
}

impl Default for Images {
    fn default() -> Self {
        Self { bytes: ByteSize(8 << 30), files: 2_000_000 }
    }
}

/// What is allowed of registries beyond the public internet and the authorities that this machine trusts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registry {
    /// Hosts, as `HOST` or `HOST:PORT`, that may be at private addresses: registries, and what gives tokens for them.
    pub open: Vec<String>,
    /// Hosts that are spoken to without TLS. They may be at private addresses as well.
    pub plain: Vec<String>,
    /// A file (PEM) with certificates of authorities to trust besides the machine's.
    pub ca: Option<PathBuf>,
    /// A file (PEM) with the public key that has to have signed every image that is pulled, or with the certificates of
    /// an authority that has to have certified who did.
    pub signed_by: Option<PathBuf>,
    /// In whose names an authority's certificates count: e-mail addresses, URIs, host names.
    pub signed_as: Vec<String>,
    /// Who has to have vouched for the name, where certificates say so.
    pub signed_issuer: Option<String>,
    /// A file (PEM) with the public key of the transparency log that has to have seen a signature by certificate.
    pub signed_log: Option<PathBuf>,
}

/// Caps on what a desired state may ask for one agent.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Processor cores.
    pub cpus: f64,
    /// Memory.
    pub memory: ByteSize,
    /// Processes and threads.
    pub pids: u32,
    /// Size of the volume.
    pub disk: ByteSize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            control: "unix:///run/cofferdam/control.sock".into(),
            control_ca: None,
            data: "/var/lib/cofferdam".into(),
            run: "/run/cofferdam".into(),
            bundles: "/etc/cofferdam/bundles.toml".into(),
            guard: SocketAddr::from(([127, 0, 0, 1], 7701)),
            cgroup: "cofferdam".into(),
            uid_first: 0x7000_0000,
            uid_ranges: 4095,
            gate_uid_first: 0x7fff_0000,
            slots: 200,
            levels: Level::ALL.to_vec(),
            blanks: 8,
            inspect_every: Span(60),
            jail: None,
            driver: None,
            drivers: vec![Driver::Builtin, Driver::Systemd],
            limits: Limits::default(),
            images: Images::default(),
            registry: Registry::default(),
            egress: Egress::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { cpus: 512.0, memory: ByteSize(1 << 46), pids: 1_000_000, disk: ByteSize(1 << 46) }
    }
}

/// How many ids one agent has.
pub const RANGE_SIZE: u64 = 65_536;
/// How many gates there may be.
pub const GATE_UIDS: u32 = 4096;

impl Checked for Config {
    const FILE: &'static str = "node.toml";
    const TABLES: &'static [&'static str] = &["limits", "images", "registry", "egress"];

    fn faults(&self) -> Vec<Fault> {
        let agents =
            u64::from(self.uid_first)..u64::from(self.uid_first) + u64::from(self.uid_ranges) * RANGE_SIZE;
        let gates = u64::from(self.gate_uid_first)..u64::from(self.gate_uid_first) + u64::from(GATE_UIDS);
        let checks = [
            (
                is_origin(&self.control),
                "control",
                "must be unix:// and the path of control's socket, or an origin such as https://control.example.com",
            ),
            (
                self.control_ca.as_deref().is_none_or(is_plain),
                "control_ca",
                "must be an absolute path without `..`",
            ),
            (
                self.control_ca.is_none() || self.control.starts_with("https://"),
                "control_ca",
                "is for a control that is reached by https://",
            ),
            (is_plain(&self.data), "data", "must be an absolute path without `..`"),
            (is_plain(&self.run), "run", "must be an absolute path without `..`"),
            (is_plain(&self.bundles), "bundles", "must be an absolute path without `..`"),
            // A socket's path may have 107 bytes: the agent's socket beneath `run` takes 72 of them.
            (
                self.run.as_os_str().len() <= 40,
                "run",
                "must have at most 40 bytes, or socket paths do not fit",
            ),
            (
                sandbox::is_cgroup_path(&self.cgroup),
                "cgroup",
                "must have 1 to 64 characters of a-z, A-Z, 0-9, '-', '_' or '.', and not start with '.'; or be up to 8 \
                 such names with '/' between them",
            ),
            (
                (65_536..1 << 31).contains(&self.uid_first),
                "uid_first",
                "must be at least 65536, for ids below belong to the machine, and below 2147483648, for kernels up to 6.1 \
                 make no terminals for ids from there on",
            ),
            (
                self.uid_first >= 1 << 31 || self.uid_ranges > 0 && agents.end <= 1 << 31,
                "uid_ranges",
                "must be at least 1, and the last id must be below 2147483648",
            ),
            (
                self.gate_uid_first >= 65_536 && gates.end <= u64::from(u32::MAX),
                "gate_uid_first",
                "must be between 65536 and 4294963199",
            ),
            (
                gates.end <= agents.start || gates.start >= agents.end,
                "gate_uid_first",
                "must lie outside of the ids that agents get",
            ),
            ((1..=10_000).contains(&self.slots), "slots", "must be between 1 and 10000"),
            (!self.levels.is_empty(), "levels", "must name at least one of workspace, process and container"),
            (self.slots <= self.uid_ranges, "slots", "must not exceed uid_ranges: each agent takes a range"),
            (self.blanks <= 1000, "blanks", "must be at most 1000"),
            ((1..=3600).contains(&self.inspect_every.0), "inspect_every", "must be between 1s and 1h"),
            (
                self.driver.is_none_or(|driver| self.drivers.contains(&driver)),
                "driver",
                "must be one of drivers",
            ),
            (self.jail.as_deref().is_none_or(is_plain), "jail", "must be an absolute path without `..`"),
            (
                self.limits.cpus.is_finite() && self.limits.cpus >= 0.05,
                "limits.cpus",
                "must be a number of at least 0.05",
            ),
            (self.limits.memory.0 >= 32 << 20, "limits.memory", "must be at least 32MiB"),
            (self.limits.pids >= 16, "limits.pids", "must be at least 16"),
            (self.limits.disk.0 >= 64 << 20, "limits.disk", "must be at least 64MiB"),
            (
                (1 << 20..=1 << 40).contains(&self.images.bytes.0),
                "images.bytes",
                "must be between 1MiB and 1TiB",
            ),
            ((1..=8_000_000).contains(&self.images.files), "images.files", "must be between 1 and 8000000"),
            (
                self.registry.open.iter().all(|host| is_host(host)),
                "registry.open",
                "must be hosts such as a.example:5000",
            ),
            (
                self.registry.plain.iter().all(|host| is_host(host)),
                "registry.plain",
                "must be hosts such as a.example:5000",
            ),
            (
                self.registry.ca.as_deref().is_none_or(is_plain),
                "registry.ca",
                "must be an absolute path without `..`",
            ),
            (
                self.registry.signed_by.as_deref().is_none_or(is_plain),
                "registry.signed_by",
                "must be an absolute path without `..`",
            ),
            (
                self.registry.signed_log.as_deref().is_none_or(is_plain),
                "registry.signed_log",
                "must be an absolute path without `..`",
            ),
            (
                self.registry.signed_by.is_some()
                    || (self.registry.signed_as.is_empty()
                        && self.registry.signed_issuer.is_none()
                        && self.registry.signed_log.is_none()),
                "registry.signed_by",
                "must name the authority whose certificates signed_as, signed_issuer and signed_log are about",
            ),
            (is_plain(&self.egress.roots), "egress.roots", "must be an absolute path without `..`"),
        ];
        let open = self.egress.fault().map(|detail| Fault { key: "egress.open".into(), detail });
        checks
            .into_iter()
            .filter(|(holds, ..)| !holds)
            .map(|(_, key, detail)| Fault { key: key.into(), detail: detail.into() })
            .chain(open)
            .collect()
    }
}

fn is_origin(text: &str) -> bool {
    if let Some(path) = text.strip_prefix("unix://") {
        return is_plain(Path::new(path));
    }
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        !rest.is_empty()
            && rest.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'?' | b'#' | b'@'))
    })
}

/// As strict as it takes to find a slip of the pen; whoever connects reads it again.
fn is_host(text: &str) -> bool {
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    !text.is_empty() && text.bytes().all(plain)
}

fn is_plain(path: &Path) -> bool {
    path.is_absolute() && !path.components().any(|part| matches!(part, std::path::Component::ParentDir))
}
