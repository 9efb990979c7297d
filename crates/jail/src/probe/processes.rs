//! Attempts on init, on what Landlock keeps apart, and on the AppArmor profile.

use super::word::{NULL, call};
use super::{Outside, Prober, Seen, network, refused, refused_or};
use crate::apparmor::PROFILE;
use libc::*;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;

/// What guards init besides Landlock: the probe is in a domain of its own, agents are in init's.
pub fn init(prober: &mut Prober<'_>) {
    prober.attempt("init-ptrace", |_| refused(call!(SYS_ptrace, PTRACE_SEIZE, 1, 0, 0)));
    prober.attempt("init-limits", |_| {
        // Asking takes what setting takes.
        refused(call!(SYS_prlimit64, 1, RLIMIT_CPU, NULL, &mut [0u64; 2]))
    });
    prober.attempt("init-read-memory", |_| {
        let mut buffer = [0u64; 1];
        let (local, remote) = ([(&raw mut buffer) as u64, 8], [0x10000u64, 8]);
        refused(call!(SYS_process_vm_readv, 1, &local, 1, &remote, 1, 0))
    });
    prober.attempt("init-write-memory", |_| {
        // To an address where nothing is.
        let buffer = [0u64; 1];
        let (local, remote) = ([(&raw const buffer) as u64, 8], [8u64, 8]);
        refused(call!(SYS_process_vm_writev, 1, &local, 1, &remote, 1, 0))
    });
    prober.attempt("init-take-descriptor", |_| match call!(SYS_pidfd_open, 1, 0) {
        Ok(pidfd) => refused(call!(SYS_pidfd_getfd, pidfd, 3, 0)),
        Err(error) => refused(Err(error)),
    });
    prober.attempt("init-memory", |_| opened("/proc/1/mem"));
    prober.attempt("init-maps", |_| opened("/proc/1/maps"));
    prober.attempt("init-environment", |_| opened("/proc/1/environ"));
    // Root inside may count them, and no more.
    prober.attempt("init-descriptors", |_| link("/proc/1/fd/3"));
    prober.attempt("init-program", |_| link("/proc/1/exe"));
    prober.attempt("init-root", |_| link("/proc/1/root"));
    prober.attempt("init-namespaces", |_| opened("/proc/1/ns/mnt"));
}

fn opened(path: &str) -> Seen {
    refused(fs::File::open(path).map(|_| 0))
}

fn link(path: &str) -> Seen {
    match fs::read_link(path) {
        Ok(target) => Seen::broken(format!("it leads to {}", target.display())),
        Err(error) => refused(Err(error)),
    }
}

/// Opens a socket in this network namespace that will be outside of the Landlock domain.
pub fn neighbour(outside: &mut Outside) -> io::Result<OwnedFd> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    let mut random = [0u64; 2];
    call!(SYS_getrandom, &mut random, 16, 0)?;
    outside.neighbour = format!("cofferdam-probe-{:x}{:x}", random[0], random[1]);
    let address = SocketAddr::from_abstract_name(&outside.neighbour)?;
    UnixListener::bind_addr(&address).map(OwnedFd::from)
}

pub fn attempts(prober: &mut Prober<'_>) {
    prober.attempt("landlock-signal", |outside| scoped(outside, || call!(SYS_kill, 1, 0)));
    prober.attempt("landlock-ptrace", |outside| match outside.landlock_abi {
        0 => Seen::unsupported("this kernel has no Landlock"),
        // The prober is above this domain? No: in it. Init is in another.
        _ => refused(call!(SYS_ptrace, PTRACE_SEIZE, 1, 0, 0)),
    });
    prober.attempt("landlock-abstract-socket", |outside| match outside.landlock_abi {
        0..6 => Seen::unsupported("this kernel's Landlock does not scope sockets (ABI 6 does)"),
        _ => refused_or(&[], network::abstract_socket(&outside.neighbour).map(|()| 0)),
    });
    prober.attempt("apparmor-profile", |outside| {
        profiled(outside, || match fs::read_to_string("/proc/self/attr/apparmor/current") {
            Ok(label) => {
                let label = label.trim_end();
                Seen::expect(label.strip_prefix(PROFILE) == Some(" (enforce)"), label)
            }
            Err(error) => Seen::unclear(error.to_string()),
        })
    });
    prober.attempt("apparmor-leave", |outside| ask(outside, "current", "changeprofile unconfined"));
    prober.attempt("apparmor-leave-at-exec", |outside| ask(outside, "exec", "exec unconfined"));
    prober.attempt("apparmor-hat", |outside| ask(outside, "current", "changehat 1^none"));
}

/// Asks for another profile.
fn ask(outside: &Outside, file: &str, what: &str) -> Seen {
    let asked = || fs::write(format!("/proc/self/attr/apparmor/{file}"), what);
    profiled(outside, || refused(asked().map(|()| 0)))
}

fn profiled(outside: &Outside, attempt: impl FnOnce() -> Seen) -> Seen {
    if outside.apparmor { attempt() } else { Seen::unsupported("this machine has no AppArmor profile") }
}

fn scoped(outside: &Outside, attempt: fn() -> io::Result<i64>) -> Seen {
    match outside.landlock_abi {
        0..6 => Seen::unsupported("this kernel's Landlock does not scope signals (ABI 6 does)"),
        _ => refused(attempt()),
    }
}
