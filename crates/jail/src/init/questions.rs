//! How many netlink sockets there may be. What waits in one is memory of the kernel that no cgroup is charged for, and no
//! other limit counts them; the seccomp filter asks init about each.

use super::{Init, sys};
use std::os::fd::AsFd;

/// Netlink sockets of the agent at the same time. Programs use one for a moment, to list addresses.
const MAX_NETLINK: usize = 128;

impl Init {
    /// Answers one question of the filter: the only one is for a netlink socket.
    ///
    /// A socket that was allowed is counted once it exists, so that as many threads as ask at once can go beyond the
    /// limit: by the agent's limit of processes.
    pub fn decide_socket(&mut self) {
        let Some(listener) = &self.listener_of_filter else { return };
        // Who asked may be gone by now, and then there is nobody to answer.
        if let Some(question) = sys::next_question(listener.as_fd()) {
            let refusal = (netlink_sockets() >= MAX_NETLINK).then_some(libc::ENFILE);
            sys::answer_question(listener.as_fd(), question, refusal);
        }
    }
}

/// All that are in the agent's network namespace; the kernel's own few and a heading are counted too.
fn netlink_sockets() -> usize {
    // Unreadable means no more of them.
    let table = std::fs::read("/proc/self/net/netlink");
    table.map_or(usize::MAX, |table| table.iter().filter(|byte| **byte == b'\n').count())
}
