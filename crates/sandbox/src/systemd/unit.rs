//! What a unit is asked to be: systemd.exec(5), systemd.service(5).
//!
//! Its process makes namespaces, mounts and users, so of all hardening that is set which these do not need. Seccomp filters,
//! the bounding set, no_new_privs and the network, ipc and uts namespaces are the agent's as well; mounts are those around the
//! zygote alone, which leaves them behind.

use zbus::{Fd, Variant};

/// What a zygote needs of root, by number (`linux/capability.h`).
const CAPABILITIES: [u8; 11] = [
    0,  // CHOWN: homes, files in /etc
    1,  // DAC_OVERRIDE: directories of a volume
    3,  // FOWNER: likewise
    6,  // SETGID: becoming the agent's user, and the map of its volume's ids
    7,  // SETUID: likewise
    8,  // SETPCAP: bounding what that user may ever have
    12, // NET_ADMIN: loopback in its network namespace
    19, // SYS_PTRACE: opening the user namespace in which its volume's ids are mapped
    21, // SYS_ADMIN: namespaces, mounts, a seccomp filter with a listener
    24, // SYS_RESOURCE: its share in want of memory
    27, // MKNOD: six nodes in its /dev
];

/// What neither a zygote nor any program of an agent's calls; what agents may is less than the rest.
const NO_CALLS: [&str; 7] =
    ["@clock", "@cpu-emulation", "@module", "@obsolete", "@raw-io", "@reboot", "@swap"];

const FAMILIES: [&str; 4] = ["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"];

/// So long init may take to come up, and to end an agent that is told to.
const SECONDS: u64 = 1_000_000;

/// A service that runs `jail` with this standard input.
pub(super) fn properties<'a>(
    jail: &'a str,
    hidden: &'a [String],
    input: Fd<'a>,
) -> Vec<(&'static str, Variant<'a>)> {
    let arguments: Vec<&str> =
        ["cofferdam-jail", "unit"].into_iter().chain(hidden.iter().map(String::as_str)).collect();
    let capabilities = CAPABILITIES.iter().fold(0u64, |mask, bit| mask | 1 << bit);
    // Beneath a home or a directory for temporary files it would be out of sight.
    let program = vec![(jail, jail, false, 0u64)];
    let yes = [
        // Whoever leaves for another target leaves agents alone.
        "IgnoreOnIsolate",
        "NoNewPrivileges",
        "PrivateIPC",
        "PrivateMounts",
        "PrivateNetwork",
        "PrivateTmp",
        "ProtectClock",
        "ProtectControlGroups",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "RestrictRealtime",
    ];
    let words = [
        ("Description", "A boundary of Cofferdam's"),
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        // Nobody asks a unit how it ended: node reads that of the agent.
        ("CollectMode", "inactive-or-failed"),
        ("KillMode", "mixed"),
        ("StandardOutput", "null"),
        ("StandardError", "journal"),
        ("DevicePolicy", "closed"),
        ("KeyringMode", "private"),
        ("ProcSubset", "pid"),
        ("ProtectHome", "tmpfs"),
        ("ProtectProc", "invisible"),
        ("ProtectSystem", "strict"),
    ];
    let others = [
        ("ExecStart", vec![(jail, arguments, false)].into()),
        ("StandardInputFileDescriptor", input.into()),
        // When the machine goes down, that unit's stop comes first, and ends agents as node does.
        ("Before", vec!["cofferdam.service"].into()),
        ("TimeoutStartUSec", (30 * SECONDS).into()),
        ("TimeoutStopUSec", (20 * SECONDS).into()),
        ("AmbientCapabilities", 0u64.into()),
        ("BindReadOnlyPaths", program.into()),
        ("CapabilityBoundingSet", capabilities.into()),
        ("RestrictAddressFamilies", (true, FAMILIES.to_vec()).into()),
        ("SystemCallArchitectures", vec!["native"].into()),
        ("SystemCallFilter", (false, NO_CALLS.to_vec()).into()),
        ("SystemCallErrorNumber", libc::EPERM.into()),
        ("UMask", 0o077u32.into()),
    ];
    let yes = yes.into_iter().map(|name| (name, Variant::from(true)));
    let words = words.into_iter().map(|(name, word)| (name, Variant::from(word)));
    yes.chain(words).chain(others).collect()
}
