//! What the seccomp filter asks init: things that no other limit counts, and whose memory no cgroup is charged for.

use super::{Init, locks, sys};
use std::os::fd::AsFd;
use std::time::Instant;

/// Netlink sockets of the agent at the same time. Programs use one for a moment, to list addresses.
const MAX_NETLINK: usize = 128;

impl Init {
    /// Answers one question of the filter.
    ///
    /// A socket that was allowed is counted once it exists, so that as many threads as ask at once can go beyond the
    /// limit: by the agent's limit of processes.
    pub fn decide_question(&mut self) {
        let Some(listener) = &self.listener_of_filter else { return };
        // Who asked may be gone by now, and then there is nobody to answer.
        let Some((question, call)) = sys::next_question(listener.as_fd()) else { return };
        let refusal = match call {
            libc::SYS_fcntl => {
                let allowed = self.locks.one_more(Instant::now(), locks::count);
                (!allowed).then_some(libc::ENOLCK)
            }
            _ => (netlink_sockets() >= MAX_NETLINK).then_some(libc::ENFILE),
        };
        sys::answer_question(listener.as_fd(), question, refusal);
    }
}

/// All that are in the agent's network namespace; the kernel's own few and a heading are counted too.
fn netlink_sockets() -> usize {
    // Unreadable means no more of them.
    let table = std::fs::read("/proc/self/net/netlink");
    table.map_or(usize::MAX, |table| table.iter().filter(|byte| **byte == b'\n').count())
}
