//! What the kernel says of an agent whose system calls another kernel answers (runsc).
//!
//! The host sees no process of such an agent. What it sees is the guard, which stands for init; the *sentry*, which is the other
//! kernel; the *gofer*, which opens files for it; and, with the platform that uses ptrace(2), *stubs* in which the agent's
//! programs run, each stopped by the sentry at every system call. A control holds if it does of all of them. What
//! cannot be seen from here was asked of init before anything of the agent ran, and says so.

use crate::cgroup::Group;
use crate::host::namespace;
use crate::inspect::{Finding, Identity, Subject, host_owned, identity, open_namespace, root_filesystem};
use crate::procfs::{self, Own};
use jail::layout::ROOT_CAPABILITIES;
use model::evidence::Control;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

/// `CAP_DAC_READ_SEARCH` and `CAP_SYS_CHROOT`, which count for files and processes of the agent's own.
const GOFER: [u8; 2] = [2, 18];

/// What the kernel that answers the agent does not have, and why the agent can do without.
pub(crate) fn unsupported(control: Control) -> Option<&'static str> {
    match control {
        // It would keep that kernel from starting, too.
        Control::Landlock => Some("the kernel that answers the agent has none"),
        Control::AppArmor => Some("its profile is for agents that the host's kernel answers"),
        Control::InitProtection => Some(
            "everybody inside sees what init has open, and root inside may end it: that kernel allows it",
        ),
        _ => None,
    }
}

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Guard,
    Sentry,
    Gofer,
    Stub,
}

#[derive(Debug)]
struct Process {
    pid: u32,
    role: Role,
    status: String,
}

/// All processes of one such agent.
#[derive(Debug)]
pub(crate) struct Kernel<'a> {
    subject: Subject<'a>,
    processes: Vec<Process>,
    /// The agent's user namespace, and those of sentries below it.
    users: Vec<Identity>,
}

impl<'a> Kernel<'a> {
    /// Looks at every process in the agent's cgroup.
    pub(crate) fn look(subject: Subject<'a>, group: &Group) -> Result<Self, String> {
        let own = user(subject.pid)?;
        let mut users = vec![own];
        let mut processes = Vec::new();
        for pid in group.processes() {
            let found = if pid == subject.pid { Ok(Role::Guard) } else { role(pid, own, &mut users) };
            match found.and_then(|role| Ok(Process { pid, role, status: read(pid, "status")? })) {
                Ok(process) => processes.push(process),
                // It ended meanwhile, as stubs do when programs end.
                Err(_) if !fs::exists(format!("/proc/{pid}/exe")).unwrap_or(false) => {}
                Err(why) => return Err(why),
            }
        }
        for (role, what) in [(Role::Guard, "guard"), (Role::Sentry, "sentry"), (Role::Gofer, "gofer")] {
            if !processes.iter().any(|process| process.role == role) {
                return Err(format!("there is no {what} in its cgroup"));
            }
        }
        Ok(Self { subject, processes, users })
    }

    /// What is said of a control in another way than of an agent of the host's kernel; `None` where it is the same.
    pub(crate) fn find(&self, control: Control, same: impl Fn() -> Finding, own: &Own) -> Option<Finding> {
        let all = |finding: Finding| finding.map(|said| format!("{said}; {}", self.count()));
        Some(match control {
            Control::UserNamespace => same().map(|said| {
                let below = self.users.len() - 1;
                format!("{said}; {} are in it or in {below} below", self.count())
            }),
            Control::PidNamespace => self.namespace("pid"),
            Control::MountNamespace => self.namespace("mnt"),
            Control::NetworkNamespace => same().and_then(|said| self.namespace("net").map(|_| said)),
            Control::IpcNamespace => self.namespace("ipc"),
            Control::UtsNamespace => self.namespace("uts"),
            Control::CgroupNamespace => self.namespace("cgroup"),
            Control::NoNewPrivs => all(self.each("NoNewPrivs", "1")),
            Control::Seccomp => all(self.each("Seccomp", "2")),
            Control::Capabilities => self.capabilities(),
            Control::RootFilesystem => self.root(own),
            Control::KernelInterfaces => self.mounts(|mount| {
                let reaching =
                    ["proc", "sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "bpf"];
                (!reaching.contains(&mount.kind)).then_some("no file system of the host's kernel is there")
            }),
            Control::Devices => self.mounts(|mount| {
                mount.options.split(',').any(|option| option == "nodev").then_some("devices work nowhere")
            }),
            _ => return None,
        })
    }

    fn of(&self, role: Role) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(move |process| process.role == role)
    }

    fn count(&self) -> String {
        let stubs = self.of(Role::Stub).count();
        format!("guard, sentry, gofer and {stubs} stubs")
    }

    fn each(&self, key: &str, wanted: &str) -> Finding {
        for Process { pid, role, status } in &self.processes {
            let is = procfs::status_value(status, key).unwrap_or_default();
            if is != wanted {
                return Err(format!("{key} of {role:?} {pid} is {is}, not {wanted}"));
            }
        }
        Ok(format!("{key} {wanted}"))
    }

    /// The guard's is the host's; all others are in it, or in one that belongs to the agent's ids.
    fn namespace(&self, kind: &'static str) -> Finding {
        let said = host_owned(self.subject, kind)?;
        let own = identity(&open_namespace(&self.subject.pid.to_string(), kind)?)?;
        let mut others = 0;
        for Process { pid, role, .. } in &self.processes {
            let namespace = match open_namespace(&pid.to_string(), kind) {
                // Ended meanwhile.
                Err(_) if *role == Role::Stub => continue,
                other => other?,
            };
            if identity(&namespace)? == own {
                continue;
            }
            others += 1;
            let owner = namespace::owner(namespace.as_fd()).map_err(|error| {
                format!("cannot tell who owns the {kind} namespace of {role:?} {pid}: {error}")
            })?;
            if !self.users.contains(&identity(&File::from(owner))?) {
                return Err(format!("the {kind} namespace of {role:?} {pid} is not its own"));
            }
        }
        Ok(format!("{said}; {others} of {} are in others of its own", self.processes.len()))
    }

    fn capabilities(&self) -> Finding {
        let value = |process: &Process, key| {
            let text = procfs::status_value(&process.status, key).unwrap_or_default();
            u64::from_str_radix(text, 16).map_err(|_| format!("{key} of {} is {text}", process.pid))
        };
        for guard in self.of(Role::Guard) {
            for key in ["CapPrm", "CapEff", "CapBnd"] {
                if value(guard, key)? != 0 {
                    return Err(format!("{key} of the guard is not empty"));
                }
            }
        }
        let allowed = ROOT_CAPABILITIES.into_iter().chain(GOFER).fold(0u64, |mask, bit| mask | 1 << bit);
        for gofer in self.of(Role::Gofer) {
            let extra = value(gofer, "CapPrm")? & !allowed;
            if extra != 0 {
                return Err(format!("the gofer holds {extra:#x} too much"));
            }
        }
        // Those of sentry and stubs count in a user namespace with nothing of the agent's in it.
        for process in self.of(Role::Sentry).chain(self.of(Role::Stub)) {
            let (user, held) = (user(process.pid)?, value(process, "CapPrm")?);
            if held != 0 && user == self.users[0] {
                return Err(format!("{:?} {} holds {held:#x}", process.role, process.pid));
            }
        }
        Ok("the guard has none, the gofer what opening the agent's files takes, sentry and stubs none that count \
            outside of a user namespace of their own"
            .to_owned())
    }

    fn root(&self, own: &Own) -> Finding {
        let mut said = String::new();
        for role in [Role::Guard, Role::Gofer] {
            for process in self.of(role) {
                let table = read(process.pid, "mountinfo")?;
                // What was exchanged with init is a directory that is no more, in which nothing can be made.
                let table: String = table
                    .lines()
                    .filter(|line| !line.contains("//deleted "))
                    .fold(String::new(), |all, line| all + line + "\n");
                said = root_filesystem(&procfs::mounts(&table).collect::<Vec<_>>(), own)?;
            }
        }
        for process in self.of(Role::Sentry) {
            let table = read(process.pid, "mountinfo")?;
            let mut mounts = procfs::mounts(&table);
            let empty = mounts.next().is_some_and(|mount| {
                mount.kind == "tmpfs" && mount.options.split(',').any(|option| option == "ro")
            });
            if !empty || mounts.next().is_some() {
                return Err("the sentry sees more than an empty root".to_owned());
            }
        }
        Ok(format!("gofer and guard: {said}; sentry: an empty, read-only root"))
    }

    /// Of guard and gofer; the sentry has one mount, which is empty.
    fn mounts(&self, check: impl Fn(&procfs::Mount<'_>) -> Option<&'static str>) -> Finding {
        let mut said = "";
        for process in self.of(Role::Guard).chain(self.of(Role::Gofer)) {
            let table = read(process.pid, "mountinfo")?;
            for mount in procfs::mounts(&table) {
                said = check(&mount).ok_or_else(|| {
                    format!(
                        "{} is mounted at {} for {:?} {}",
                        mount.kind, mount.target, process.role, process.pid
                    )
                })?;
            }
        }
        Ok(format!("{said}; /proc, /sys and /dev inside are the other kernel's"))
    }

    /// Another kernel answers the agent's system calls: nothing of the agent is a process that could ask the host's.
    pub(crate) fn boundary(&self) -> Finding {
        let seen = self.subject.kernel.ok_or("init has said nothing of its kernel")?;
        if !seen.log.contains("gVisor") {
            return Err(format!("the kernel's log began with {:?}", seen.log));
        }
        let sentries: Vec<u32> = self.of(Role::Sentry).map(|sentry| sentry.pid).collect();
        for stub in self.of(Role::Stub) {
            let tracer = procfs::status_value(&stub.status, "TracerPid").unwrap_or_default();
            // A thread of the sentry's.
            let leader = match tracer.parse().map(|tracer| read(tracer, "status")) {
                Ok(Ok(status)) => procfs::status_value(&status, "Tgid").and_then(|pid| pid.parse().ok()),
                _ => None,
            };
            let ended = || !fs::exists(format!("/proc/{}/exe", stub.pid)).unwrap_or(false);
            if !leader.is_some_and(|leader| sentries.contains(&leader)) && !ended() {
                return Err(format!("process {} is traced by {tracer}, which is no sentry", stub.pid));
            }
        }
        self.each("Seccomp", "2")?;
        Ok(format!(
            "{}, all of the runtime's program and under seccomp, every stub traced by the sentry; init saw at its start: {}",
            self.count(),
            seen.log
        ))
    }
}

fn read(pid: u32, file: &str) -> Result<String, String> {
    procfs::read(format!("/proc/{pid}/{file}"))
        .map_err(|error| format!("cannot read {file} of {pid}: {error}"))
}

fn user(pid: u32) -> Result<Identity, String> {
    identity(&open_namespace(&pid.to_string(), "user")?)
}

/// What another process than the guard is: of the runtime's program, which is root's, or nothing that may be there.
fn role(pid: u32, own: Identity, users: &mut Vec<Identity>) -> Result<Role, String> {
    let link = format!("/proc/{pid}/exe");
    let program =
        fs::read_link(&link).map_err(|error| format!("cannot tell the program of {pid}: {error}"))?;
    let file = fs::metadata(&link).map_err(|error| format!("cannot tell the program of {pid}: {error}"))?;
    if file.uid() != 0 || file.mode() & 0o022 != 0 {
        return Err(format!("process {pid} runs {}, which is not the runtime", program.display()));
    }
    let status = read(pid, "status")?;
    let namespace = open_namespace(&pid.to_string(), "user")?;
    let is = identity(&namespace)?;
    if is != own && !users.contains(&is) {
        let above = namespace::owner(namespace.as_fd())
            .map_err(|error| format!("cannot tell what the user namespace of {pid} is below: {error}"))?;
        if identity(&File::from(above))? != own {
            return Err(format!("the user namespace of process {pid} is not below the agent's"));
        }
        users.push(is);
    }
    Ok(match (procfs::status_value(&status, "TracerPid"), is == own) {
        (Some("0"), true) => Role::Gofer,
        (Some("0"), false) => Role::Sentry,
        _ => Role::Stub,
    })
}
