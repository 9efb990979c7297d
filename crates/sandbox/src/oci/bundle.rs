//! `config.json` (OCI runtime specification 1.0): as little of it as there is for a runtime to do.
//!
//! It names neither hooks nor a user namespace, resources nor a seccomp filter: limits are set on the cgroups already, and
//! the process that is started enters its user namespace and loads its filter by itself, with a listener, which no
//! document can express. It names no network namespace, for that is the one that the runtime itself is in.

use jail::layout::MASKED;
use jail::oci::kernel::{self, EXCHANGE, paths};
use jail::oci::{ARGUMENTS, CONFINED};
use serde_json::json;
use std::io;
use std::path::Path;

/// Names of capabilities as the specification has them, by number (`linux/capability.h`).
const CAPABILITIES: [&str; 32] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
];

/// That of a kernel. It mounts `/proc`, `/dev` and `/sys` of its own.
pub(super) fn of_kernel(name: &str, shm_bytes: u64) -> String {
    let held: Vec<_> =
        kernel::capabilities().map(|number| format!("CAP_{}", CAPABILITIES[usize::from(number)])).collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": kernel::ARGUMENTS,
            "cwd": "/",
            "capabilities": {"bounding": &held, "effective": &held, "permitted": &held},
        },
        "root": {"path": paths::ROOT},
        "hostname": name,
        "mounts": [
            {"destination": EXCHANGE, "type": "bind", "source": paths::EXCHANGE, "options": ["rbind", "rw"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "nodev", "mode=1777", format!("size={shm_bytes}")]},
        ],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}]},
    })
    .to_string()
}

/// Writes it. The root is mounted where the runtime is, and nowhere else.
pub(super) fn write(
    bundle: &Path,
    root: &Path,
    cgroup: &str,
    base_uid: u32,
    apparmor: bool,
) -> io::Result<()> {
    // Not `apparmorProfile`: what is started still has to become init, which nobody in the profile may.
    let args: Vec<_> = ARGUMENTS.into_iter().chain(apparmor.then_some(CONFINED)).collect();
    let masked: Vec<_> = MASKED.iter().map(|name| format!("/proc/{}", name.to_string_lossy())).collect();
    let namespaces = ["pid", "mount", "ipc", "uts", "cgroup"].map(|kind| json!({"type": kind}));
    let document = json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": base_uid, "gid": base_uid},
            "args": args,
            "cwd": "/",
            "capabilities": {},
            "noNewPrivileges": true,
        },
        "root": {"path": root},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            // Over itself: a runtime that finds no mount of /dev makes nodes of its own in it.
            {"destination": "/dev", "type": "bind", "source": root.join("dev"),
             "options": ["rbind", "ro", "nosuid", "noexec"]},
        ],
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": cgroup,
            "rootfsPropagation": "private",
            "maskedPaths": masked,
            "readonlyPaths": ["/proc/sys"],
        },
    });
    std::fs::write(bundle.join("config.json"), serde_json::to_vec(&document)?)
}
