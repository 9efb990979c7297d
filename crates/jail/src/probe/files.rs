//! Attempts on files: those of the kernel, device nodes, and whatever lies above the root.

use super::word::call;
use super::{Prober, Seen, refused, refused_or};
use crate::sys;
use libc::*;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Opens for writing, and writes nothing: the file must be out of reach. What is not there cannot be written to.
pub fn closed(path: &CStr) -> Seen {
    let opened = call!(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0);
    refused_or(&[ENOENT, EROFS, ENXIO, ENODEV, ENOTDIR], opened)
}

/// All of them; the first that is open counts.
pub fn all_closed(paths: impl Iterator<Item = &'static CStr>) -> Seen {
    let mut last = Seen::held("none is there");
    for path in paths {
        last = closed(path);
        if last.0 != super::Outcome::Held {
            return Seen(last.0, format!("{}: {}", path.to_string_lossy(), last.1));
        }
    }
    last
}

/// Reads: nothing may come.
fn silent(path: &CStr) -> Seen {
    let file = match sys::open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW) {
        Ok(file) => file,
        Err(error) => return refused_or(&[ENOENT, ENXIO, ENODEV], Err(error)),
    };
    let mut buffer = [0; 64];
    match sys::read(file.as_fd(), &mut buffer) {
        Ok(0) => Seen::held("it is empty"),
        Ok(count) => Seen::broken(format!("{count} bytes could be read")),
        // A directory in its place.
        Err(error) => refused_or(&[EISDIR, EIO, EINVAL], Err(error)),
    }
}

/// Lists: nothing may be there.
fn empty(path: &str) -> Seen {
    match fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            None => Seen::held("it is empty"),
            Some(_) => Seen::broken("it has entries"),
        },
        Err(error) => refused_or(&[ENOENT], Err(error)),
    }
}

pub fn attempts(prober: &mut Prober<'_>) {
    sysctls(prober);
    told(prober);
    devices(prober);
    root(prober);
}

fn sysctls(prober: &mut Prober<'_>) {
    prober.attempt("kernel-core-pattern", |_| closed(c"/proc/sys/kernel/core_pattern"));
    prober.attempt("kernel-modprobe", |_| closed(c"/proc/sys/kernel/modprobe"));
    prober.attempt("kernel-usermode-helper", |_| closed(c"/proc/sys/kernel/usermodehelper/bset"));
    prober.attempt("kernel-randomize", |_| closed(c"/proc/sys/kernel/randomize_va_space"));
    prober.attempt("kernel-panic", |_| closed(c"/proc/sys/kernel/panic"));
    prober.attempt("kernel-overcommit", |_| closed(c"/proc/sys/vm/overcommit_memory"));
    prober.attempt("kernel-protected-links", |_| closed(c"/proc/sys/fs/protected_symlinks"));
    prober.attempt("kernel-binfmt", |_| closed(c"/proc/sys/fs/binfmt_misc/register"));
    prober.attempt("kernel-user-namespaces", |_| closed(c"/proc/sys/user/max_user_namespaces"));
    prober.attempt("kernel-sysrq", |_| closed(c"/proc/sysrq-trigger"));
    prober.attempt("kernel-uevent-helper", |_| closed(c"/sys/kernel/uevent_helper"));
    prober.attempt("kernel-power", |_| closed(c"/sys/power/state"));
    prober.attempt("kernel-processors", |_| closed(c"/sys/devices/system/cpu/cpu1/online"));
    prober.attempt("kernel-huge-pages", |_| closed(c"/sys/kernel/mm/transparent_hugepage/enabled"));
}

fn told(prober: &mut Prober<'_>) {
    prober.attempt("kernel-memory-image", |_| silent(c"/proc/kcore"));
    prober.attempt("kernel-symbols", |_| silent(c"/proc/kallsyms"));
    prober.attempt("kernel-log", |_| silent(c"/proc/kmsg"));
    prober.attempt("kernel-keys", |_| silent(c"/proc/keys"));
    prober.attempt("kernel-timers", |_| silent(c"/proc/timer_list"));
    prober.attempt("kernel-command-line", |_| silent(c"/proc/cmdline"));
    prober.attempt("kernel-modules", |_| silent(c"/proc/modules"));
    prober.attempt("kernel-locks", |_| silent(c"/proc/locks"));
    prober.attempt("kernel-page-flags", |_| silent(c"/proc/kpageflags"));
    prober.attempt("kernel-slabs", |_| silent(c"/proc/slabinfo"));
    prober.attempt("kernel-debugfs", |_| empty("/sys/kernel/debug"));
    prober.attempt("kernel-tracefs", |_| empty("/sys/kernel/tracing"));
    prober.attempt("kernel-securityfs", |_| empty("/sys/kernel/security"));
    prober.attempt("kernel-bpffs", |_| empty("/sys/fs/bpf"));
    prober.attempt("kernel-firmware", |_| empty("/sys/firmware"));
    prober.attempt("kernel-bus", |_| empty("/proc/bus"));
    prober.attempt("kernel-acpi", |_| empty("/proc/acpi"));
}

/// Makes a device node in a directory where files can be made; if that works, the node goes at once.
fn no_node(kind: u32, device: u64) -> Seen {
    let mut seen = Seen::unclear("no directory");
    for directory in [c"/tmp", c"/dev/shm", c"/home/agent"] {
        let Ok(directory) = sys::open(directory, O_RDONLY | O_DIRECTORY) else { continue };
        let name = c".cofferdam-probe-node";
        let made = call!(SYS_mknodat, &directory, name, kind | 0o600, device);
        if made.is_ok() {
            let _ = sys::unlink_at(directory.as_fd(), name, 0);
        }
        seen = refused(made);
        if seen.0 != super::Outcome::Held {
            return seen;
        }
    }
    seen
}

/// Device nodes that a boundary has: null, zero, full, random, urandom, tty.
const NODES: [(u32, u32); 6] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0)];

fn devices(prober: &mut Prober<'_>) {
    prober.attempt("device-memory", |_| closed(c"/dev/mem"));
    prober.attempt("device-ports", |_| closed(c"/dev/port"));
    prober.attempt("device-kernel-log", |_| closed(c"/dev/kmsg"));
    prober.attempt("device-kvm", |_| closed(c"/dev/kvm"));
    prober.attempt("device-fuse", |_| closed(c"/dev/fuse"));
    prober.attempt("device-loop", |_| closed(c"/dev/loop-control"));
    prober.attempt("device-mapper", |_| closed(c"/dev/mapper/control"));
    prober.attempt("device-tun", |_| closed(c"/dev/net/tun"));
    prober.attempt("device-vhost", |_| {
        all_closed([c"/dev/vhost-net", c"/dev/vhost-vsock", c"/dev/vsock"].into_iter())
    });
    prober.attempt("device-nodes", |_| match strange_node("/dev", 0) {
        Ok(None) => Seen::held("null, zero, full, random, urandom, tty and terminals"),
        Ok(Some(found)) => Seen::broken(format!("{found} is there")),
        Err(error) => Seen::unclear(error.to_string()),
    });
    prober.attempt("device-make-character", |_| no_node(S_IFCHR, makedev(1, 1)));
    prober.attempt("device-make-block", |_| no_node(S_IFBLK, makedev(8, 0)));
}

/// A node that is none of those that every boundary has.
fn strange_node(directory: &str, depth: u32) -> io::Result<Option<String>> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (kind, path) = (entry.file_type()?, entry.path().to_string_lossy().into_owned());
        if kind.is_dir() && depth < 4 {
            // What somebody keeps others out of cannot be listed.
            if let Ok(Some(found)) = strange_node(&path, depth + 1) {
                return Ok(Some(found));
            }
        }
        if kind.is_block_device() || kind.is_char_device() {
            let device = entry.metadata()?.rdev();
            let (major, minor) = (major(device), minor(device));
            // Majors 136 to 143 and 5:2 are the terminals of devpts.
            let terminal = (136..=143).contains(&major) || (major, minor) == (5, 2);
            if kind.is_block_device() || !(terminal || NODES.contains(&(major, minor))) {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}

/// What tells one directory from every other.
pub fn identity(path: &str) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}

fn root(prober: &mut Prober<'_>) {
    prober.attempt("root-parent", |_| match (identity("/"), identity("/../../..")) {
        (Ok(root), Ok(above)) => Seen::expect(root == above, "the parent of / is /"),
        _ => Seen::unclear("cannot read the root"),
    });
    prober.attempt("root-chroot", |_| {
        let (Ok(before), Ok(root)) = (identity("/"), sys::open(c"/", O_RDONLY | O_DIRECTORY)) else {
            return Seen::unclear("cannot read the root");
        };
        if let Err(error) = call!(SYS_chroot, c"/tmp") {
            return refused(Err(error));
        }
        let climb = || {
            call!(SYS_fchdir, &root)?;
            for _ in 0..64 {
                call!(SYS_chdir, c"..")?;
            }
            call!(SYS_chroot, c".")?;
            identity("/")
        };
        match climb() {
            Ok(after) => Seen::expect(after == before, "whoever leaves a chroot is in the agent's root"),
            Err(error) => refused(Err(error)),
        }
    });
    prober.attempt("root-working-directory", |_| match std::env::current_dir() {
        Ok(path) => Seen::expect(path.starts_with("/"), path.to_string_lossy()),
        Err(error) => Seen::broken(format!("the working directory is outside: {error}")),
    });
    prober.attempt("root-own-program", |_| {
        refused(call!(SYS_openat, AT_FDCWD, c"/proc/self/exe", O_WRONLY | O_CLOEXEC, 0))
    });
    prober.attempt("root-mounts", |_| match fs::read_to_string("/proc/self/mountinfo") {
        Ok(text) => {
            let words = ["/var/lib/", "/dev/loop", "/dev/sd", "/dev/vd", "/dev/nvme", "/dev/mapper"];
            let told = text.lines().find(|line| words.iter().any(|word| line.contains(word)));
            Seen::expect(told.is_none(), told.unwrap_or("no path of the host is told"))
        }
        Err(error) => Seen::unclear(error.to_string()),
    });
}
