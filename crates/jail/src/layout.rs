//! Where things are behind a boundary: the descriptors that init is started with, the ids, the paths.

use std::ffi::CStr;

/// Ids of one agent, uids and gids alike: 0 to 65,535 inside.
pub const ID_COUNT: u32 = 65_536;

/// uid and gid of the user `agent`, unless the image names another.
pub const AGENT_ID: u32 = 1000;

/// Its home, on the volume.
pub const HOME: &str = "/home/agent";

/// Where the overlay's work directory is on a volume.
pub const VOLUME_WORK: &CStr = c"work";

/// The scratch layer over the image, on a volume.
pub const VOLUME_UPPER: &CStr = c"upper";

/// What is to be deleted on a volume, until the next start has done it.
pub const VOLUME_OLD: &CStr = c"old";

/// Where homes are on a volume; `/home` inside is another matter.
pub const VOLUME_HOME: &CStr = c"home";

/// The directories of a volume, with their modes.
pub const VOLUME_DIRS: [(&CStr, u32); 4] =
    [(VOLUME_UPPER, 0o755), (VOLUME_WORK, 0o700), (c"log", 0o700), (VOLUME_HOME, 0o750)];

/// Both halves of the main process's log, on a volume.
pub const VOLUME_LOGS: [&CStr; 2] = [c"log/main.0", c"log/main.1"];

/// The descriptors of [`crate::spec::Request`] arrive on this one in the zygote.
pub const ZYGOTE_FD: i32 = 3;

/// Init: the channel's listening socket.
pub const CHANNEL_FD: i32 = 3;
/// Init: where the exit record goes.
pub const EXIT_RECORD_FD: i32 = 4;
/// Init: the memfd with its configuration.
pub const CONFIG_FD: i32 = 5;
/// Init: first half of the main process's log, read and write.
pub const LOG_A_FD: i32 = 6;
/// Init: second half of it.
pub const LOG_B_FD: i32 = 7;

/// Init: the listener of the seccomp filter, which asks it about netlink sockets and locks of files.
pub const SECCOMP_FD: i32 = 8;

/// Init of an agent without an image: the file that is `/etc/hostname` inside, for writing.
pub const HOSTNAME_FD: i32 = 9;
/// Init of an agent without an image: the file that is `/etc/hosts` inside, for writing.
pub const HOSTS_FD: i32 = 10;
/// Closed by an init that is an OS user once it has protected itself: the zygote says that a boundary is there only then, and
/// whoever looks at it finds all that there will be. Others are whole before they are executed.
pub const READY_FD: i32 = 11;

/// A gid inside that no process of the agent has, as init's saved one.
pub const SAVED_GID: u32 = 65_534;

/// Where an agent finds secrets that it was given as files: in memory, for its user alone.
pub const SECRETS: &str = "/run/secrets";

/// Where an agent finds what the platform has for it to read: in memory.
pub const PLATFORM: &str = "/run/cofferdam";

/// Both, as names in `/run`, with their modes: made for an agent without an image, whose init may make nothing there.
pub const OWN_RUN: [(&CStr, u32); 2] = [(c"secrets", 0o700), (c"cofferdam", 0o755)];

/// What an agent behind a rail may change things beneath: [`HOME`], and what is made for it alone.
pub const WRITABLE: [&CStr; 6] =
    [c"/home/agent", c"/tmp", c"/var/tmp", c"/dev", c"/run/secrets", c"/run/cofferdam"];

/// Directories of the machine that an agent without an image sees. What is not listed is other people's.
pub const SYSTEM: [&str; 11] =
    ["bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "opt", "nix", "gnu"];

/// What is hidden of these on every machine, besides what node is told: configuration, and the socket of a service that builds
/// for every user who asks, with a network and outside of everybody's limits. That a mount is read-only keeps nobody from a
/// socket in it.
pub const HIDDEN: [&str; 2] = ["/etc/cofferdam", "/nix/var/nix/daemon-socket"];

/// Files of `/etc` that are the agent's own where the machine has them.
pub const OWN_ETC: [&CStr; 5] = [c"resolv.conf", c"hostname", c"hosts", c"passwd", c"group"];

/// Where the kernel's resolver asks for names: an address of TEST-NET-1 (RFC 5737) that only the dry network answers.
pub const NAMESERVER: &str = "192.0.2.53";

/// Capabilities of root inside, by number (`linux/capability.h`): what package managers need, and nothing that reaches
/// beyond files, ids and processes of the agent's own.
pub const ROOT_CAPABILITIES: [u8; 11] = [
    0,  // CAP_CHOWN
    1,  // CAP_DAC_OVERRIDE
    3,  // CAP_FOWNER
    4,  // CAP_FSETID
    5,  // CAP_KILL
    6,  // CAP_SETGID
    7,  // CAP_SETUID
    8,  // CAP_SETPCAP: init and dpkg's maintainer scripts drop what they do not need
    10, // CAP_NET_BIND_SERVICE
    18, // CAP_SYS_CHROOT
    31, // CAP_SETFCAP
];

/// `CAP_SYS_PTRACE`, which init alone keeps. It reaches the agent's own processes and no others: init counts the locks that
/// they have. Because they lack it, the kernel refuses them ptrace and prlimit on init.
pub const INIT_CAPABILITY: u8 = 19;

/// Names in `/proc` that tell of the host or reach it, and that everybody may read, or that ought to be out of reach
/// whatever their mode: hardware, the host's disks and filesystems, its modules, keys, log and command line. What only
/// the host's root may open (`slabinfo`, `kpagecount`, …) is left as it is: nobody inside is that.
pub const MASKED: [&CStr; 24] = [
    c"acpi",
    c"asound",
    c"bus",
    c"cmdline",
    c"diskstats",
    c"driver",
    c"fs",
    c"interrupts",
    c"irq",
    c"kallsyms",
    c"kcore",
    c"key-users",
    c"keys",
    c"kmsg",
    c"latency_stats",
    c"locks", // reading it holds up every lock on the host, and it shows some of others
    c"modules",
    c"partitions",
    c"pressure", // of the whole host, and triggers that no cgroup is charged for
    c"sched_debug",
    c"scsi",
    c"swaps",
    c"sysrq-trigger",
    c"timer_list",
];
