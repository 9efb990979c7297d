//! Attempts on limits.

use super::word::{NULL, call};
use super::{Prober, Seen, refused, refused_or};
use libc::*;

/// Raises a hard limit by one.
fn raised(resource: u32) -> Seen {
    let mut now = [0u64; 2];
    if let Err(error) = call!(SYS_prlimit64, 0, resource, NULL, &mut now) {
        return Seen::unclear(error.to_string());
    }
    if now[1] == RLIM_INFINITY {
        return Seen::unsupported("this limit is left to the cgroup");
    }
    refused(call!(SYS_prlimit64, 0, resource, &[now[0], now[1] + 1], NULL))
}

pub fn attempts(prober: &mut Prober<'_>) {
    prober.attempt("memory-raise-locked", |_| raised(RLIMIT_MEMLOCK));
    prober.attempt("memory-lock", |_| {
        // As much as no agent may lock. Only pages that are there would be locked: MLOCK_ONFAULT.
        let size = 1usize << 40;
        let kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        match call!(SYS_mmap, NULL, size, PROT_NONE, kind, -1, 0) {
            Ok(address) => match call!(SYS_mlock2, address, size, 1) {
                Err(error) if error.raw_os_error() == Some(ENOMEM) => Seen::held(error.to_string()),
                result => refused(result),
            },
            Err(error) => Seen::unclear(error.to_string()),
        }
    });
    prober.attempt("processes-raise-signals", |_| raised(RLIMIT_SIGPENDING));
    prober.attempt("processes-raise-files", |_| raised(RLIMIT_NOFILE));
    prober.attempt("cpu-real-time", |_| refused(call!(SYS_sched_setscheduler, 0, SCHED_FIFO, &[1u64])));
    prober.attempt("cpu-deadline", |_| {
        // `struct sched_attr`: SCHED_DEADLINE, 1 ms of every 100 ms.
        let attr = [48 | (SCHED_DEADLINE as u64) << 32, 0, 0, 1_000_000, 100_000_000, 100_000_000];
        refused_or(&[], call!(SYS_sched_setattr, 0, &attr, 0))
    });
    prober.attempt("cpu-priority", |_| refused(call!(SYS_setpriority, 0, 0, -20)));
    prober.attempt("cpu-io-priority", |_| refused(call!(SYS_ioprio_set, 1, 0, 1 << 13)));
}
