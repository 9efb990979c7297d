//! Control groups, v2 and v1: where the hierarchies are, and which one limits what.
//!
//! A controller is used from v2 where v2 has it, else from v1 (a hybrid host). Freezing, killing and waiting
//! for emptiness happen in v2 only, whose files do it for a whole tree at once; v2 needs no controller for
//! that. Nothing here mounts, unmounts or moves a controller between hierarchies: the machine's layout is
//! its owner's.

mod events;
mod group;

pub(crate) use group::Group;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why limits could not be set or read.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The mount table could not be read.
    #[error("cannot read the mount table /proc/self/mountinfo")]
    Mounts(#[source] io::Error),
    /// A controller is nowhere.
    #[error(
        "this host has no usable cgroup controller `{controller}`; mount cgroup v2 at /sys/fs/cgroup, or start the \
         kernel without cgroup_disable={controller}"
    )]
    Missing {
        /// Its name.
        controller: &'static str,
    },
    /// A cgroup that somebody else makes and hands to us is not there.
    #[error(
        "the cgroup {path} is not there; start the unit that it belongs to (`systemctl start cofferdam-agents.service`), \
         or take `cgroup` out of node.toml"
    )]
    NotDelegated {
        /// Which.
        path: PathBuf,
    },
    /// A controller of v2 cannot be handed down.
    #[error(
        "cannot enable the cgroup controllers `{controllers}` below {path}; move the processes in {path} to a cgroup \
         of their own, or run Cofferdam as a service with Delegate=yes"
    )]
    Delegate {
        /// Which, as written.
        controllers: String,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Any file operation.
    #[error("cannot {what} {path}")]
    File {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Waiting took too long.
    #[error("the cgroup {path} still had `{key}` not at {value} after {seconds} s")]
    Timeout {
        /// Which cgroup.
        path: PathBuf,
        /// The key of `cgroup.events`.
        key: &'static str,
        /// The value that was waited for.
        value: u8,
        /// How long.
        seconds: u64,
    },
}

impl CgroupError {
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }
}

/// What an agent is limited by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Controller {
    Memory,
    Cpu,
    Pids,
}

impl Controller {
    pub(crate) const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    /// The kernel's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    /// Which of its directories is mounted there: `/`, but for hosts that are containers themselves.
    pub(crate) root: String,
}

/// What is mounted on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The v2 hierarchy.
    pub(crate) unified: Option<Hierarchy>,
    /// Controllers that v2 has.
    pub(crate) unified_controllers: Vec<String>,
    /// v1 hierarchies by controller.
    pub(crate) legacy: BTreeMap<String, Hierarchy>,
}

impl Layout {
    /// Reads the machine's layout.
    pub(crate) fn detect() -> Result<Self, CgroupError> {
        let table = fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::Mounts)?;
        let mut layout = Self::parse(&table);
        if let Some(unified) = &layout.unified {
            let path = unified.mount.join("cgroup.controllers");
            let text = fs::read_to_string(&path).map_err(CgroupError::file("read", &path))?;
            layout.unified_controllers = text.split_whitespace().map(str::to_owned).collect();
        }
        Ok(layout)
    }

    /// Reads a mount table (proc_pid_mountinfo(5)). The first mount of a hierarchy counts.
    pub(crate) fn parse(table: &str) -> Self {
        let mut layout = Self::default();
        for mount in crate::procfs::mounts(table) {
            let hierarchy =
                || Hierarchy { mount: PathBuf::from(&*mount.target), root: mount.root.to_string() };
            match mount.kind {
                "cgroup2" if layout.unified.is_none() => layout.unified = Some(hierarchy()),
                "cgroup" => {
                    for option in mount.super_options.split(',') {
                        layout.legacy.entry(option.to_owned()).or_insert_with(hierarchy);
                    }
                }
                _ => {}
            }
        }
        layout
    }

    /// Where a controller is used from: `true` for v2.
    pub(crate) fn home(&self, controller: Controller) -> Option<(&Hierarchy, bool)> {
        let name = controller.name();
        match &self.unified {
            Some(unified) if self.unified_controllers.iter().any(|found| found == name) => {
                Some((unified, true))
            }
            _ => self.legacy.get(name).map(|hierarchy| (hierarchy, false)),
        }
    }

    /// The layout's common name.
    pub(crate) fn mode(&self) -> &'static str {
        match (&self.unified, self.legacy.is_empty()) {
            (Some(_), true) => "v2",
            (Some(_), false) => "hybrid (v1 and v2)",
            (None, false) => "v1",
            (None, true) => "none",
        }
    }
}

/// Whether this names a place for agents' cgroups: one component is a cgroup of our own beneath the root; more lead to
/// one that another (systemd, for a unit with `Delegate=yes`) makes, hands to us, and removes.
pub fn is_cgroup_path(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let component =
        |name: &str| (1..=64).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain);
    path.split('/').count() <= 8 && path.split('/').all(component)
}

/// Whether another makes this cgroup for us.
pub(crate) fn is_delegated(path: &str) -> bool {
    path.contains('/')
}

/// Our own directory in each hierarchy that is used, and what it is used for.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    pub(crate) layout: Layout,
    name: String,
}

impl Tree {
    /// Finds a hierarchy for every controller and makes our directory in each, unless it is delegated to us: then it has
    /// to be there, and nothing above it is touched.
    pub(crate) fn open(name: &str) -> Result<Self, CgroupError> {
        let tree = Self { layout: Layout::detect()?, name: name.to_owned() };
        let mut wanted = Vec::new();
        for controller in Controller::ALL {
            match tree.layout.home(controller) {
                None => return Err(CgroupError::Missing { controller: controller.name() }),
                Some((_, true)) => wanted.push(format!("+{}", controller.name())),
                Some((_, false)) => {}
            }
        }
        let delegated = is_delegated(name);
        for parent in tree.parents() {
            if delegated {
                if parent.is_dir() {
                    continue;
                }
                return Err(CgroupError::NotDelegated { path: parent });
            }
            fs::create_dir(&parent)
                .or_else(
                    |error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) },
                )
                .map_err(CgroupError::file("make the cgroup", &parent))?;
        }
        if let (Some(unified), false) = (&tree.layout.unified, wanted.is_empty()) {
            let controllers = wanted.join(" ");
            if !delegated {
                enable(&unified.mount, &controllers)?;
            }
            enable(&unified.mount.join(name), &controllers)?;
        }
        Ok(tree)
    }

    /// Our directories, one per hierarchy in use; v2 first. Processes join in this order and directories are
    /// removed in it: whatever is in a v1 directory is in v2 too and was killed there, and once the v2 directory
    /// is gone nothing can join any more.
    pub(crate) fn parents(&self) -> Vec<PathBuf> {
        let legacy = Controller::ALL.iter().filter_map(|&controller| match self.layout.home(controller) {
            Some((hierarchy, false)) => Some(hierarchy),
            _ => None,
        });
        let mut parents: Vec<PathBuf> = Vec::new();
        for hierarchy in self.layout.unified.iter().chain(legacy) {
            let parent = hierarchy.mount.join(&self.name);
            // cpu and memory may be mounted together.
            if !parents.contains(&parent) {
                parents.push(parent);
            }
        }
        parents
    }

    /// Our directories in the hierarchies of v1 that are not used. An OCI runtime makes cgroups in all that there are.
    pub(crate) fn others(&self) -> Vec<PathBuf> {
        let used = self.parents();
        let mut others: Vec<PathBuf> =
            self.layout.legacy.values().map(|hierarchy| hierarchy.mount.join(&self.name)).collect();
        others.retain(|other| !used.contains(other));
        others.sort();
        others.dedup();
        others
    }

    /// The path of a boundary's cgroup beneath the mount of any hierarchy.
    pub(crate) fn path(&self, boundary: &str) -> String {
        format!("/{}/{boundary}", self.name)
    }

    /// Our directory in the v2 hierarchy.
    pub(crate) fn unified(&self) -> Option<PathBuf> {
        self.layout.unified.as_ref().map(|unified| unified.mount.join(&self.name))
    }

    /// Our directory for a controller, and whether it is v2. `open` made sure that there is one.
    pub(crate) fn for_controller(&self, controller: Controller) -> Option<(PathBuf, bool)> {
        self.layout.home(controller).map(|(hierarchy, v2)| (hierarchy.mount.join(&self.name), v2))
    }

    /// The path that `/proc/PID/cgroup` shows for a member of an agent's group in a hierarchy.
    pub(crate) fn shown(&self, hierarchy: &Hierarchy, agent: &str) -> String {
        format!("{}/{}/{agent}", hierarchy.root.trim_end_matches('/'), self.name)
    }
}

/// Hands controllers down to the children of a v2 cgroup, unless they are already.
fn enable(path: &Path, controllers: &str) -> Result<(), CgroupError> {
    let file = path.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file).map_err(CgroupError::file("read", &file))?;
    let missing =
        |wanted: &&str| !enabled.split_whitespace().any(|found| found == wanted.trim_start_matches('+'));
    if !controllers.split(' ').any(|wanted| missing(&wanted)) {
        return Ok(());
    }
    fs::write(&file, controllers).map_err(|source| CgroupError::Delegate {
        controllers: controllers.to_owned(),
        path: path.to_owned(),
        source,
    })
}
