//! Addresses that stand for names. An agent that asks for a name is given one, and connecting to it tells which name was meant,
//! whatever the protocol. Each agent has its own; a name keeps its address for as long as the agent lives.
//!
//! Where a name's address is depends on the names before it, so restoring the same names in the same order gives the same
//! addresses.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Names of one agent; node remembers as many.
pub const MOST: usize = 4096;
/// 198.18.0.0/15, which is for benchmarks of networks (RFC 2544), so nothing of the internet is hidden by it.
const V4: u32 = 0xc612_0000;
/// fdcf:d::/96, unique local.
const V6: u128 = 0xfdcf_000d << 96;
const INDEX_BITS: u32 = 17;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;

/// What stands for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synthetic {
    /// For IPv4.
    pub v4: Ipv4Addr,
    /// For IPv6.
    pub v6: Ipv6Addr,
}

/// The names of one agent.
#[derive(Debug, Default)]
pub struct Names {
    by_name: HashMap<Arc<str>, u32>,
    by_index: HashMap<u32, Arc<str>>,
}

impl Names {
    /// As it was when these were given, in this order.
    pub fn restore<N: AsRef<str>>(names: impl IntoIterator<Item = N>) -> Self {
        let mut restored = Self::default();
        for name in names {
            restored.give(name.as_ref());
        }
        restored
    }

    /// The addresses of a name (normal, as of [`model::policy::name`]), and whether they are new; `None` when there are too many
    /// names.
    pub fn give(&mut self, name: &str) -> Option<(Synthetic, bool)> {
        if let Some(index) = self.by_name.get(name) {
            return Some((synthetic(*index), false));
        }
        if self.by_name.len() >= MOST {
            return None;
        }
        // There are many more indices than names, so one is free.
        let mut index = hash(name);
        while index == 0 || self.by_index.contains_key(&index) {
            index = (index + 1) & INDEX_MASK;
        }
        let name: Arc<str> = name.into();
        self.by_index.insert(index, Arc::clone(&name));
        self.by_name.insert(name, index);
        Some((synthetic(index), true))
    }

    /// The name that an address stands for.
    pub fn name(&self, address: IpAddr) -> Option<&Arc<str>> {
        self.by_index.get(&index(address)?)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

/// Whether an address is one of those that stand for names; whether it stands for one is another question.
pub fn is_synthetic(address: IpAddr) -> bool {
    index(address).is_some()
}

fn index(address: IpAddr) -> Option<u32> {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let bits = address.to_bits();
            (bits & !INDEX_MASK == V4).then_some(bits & INDEX_MASK)
        }
        IpAddr::V6(address) => {
            // What is left fits, because the network was taken off.
            let rest = u32::try_from(address.to_bits() ^ V6).ok()?;
            (rest <= INDEX_MASK).then_some(rest)
        }
    }
}

fn synthetic(index: u32) -> Synthetic {
    Synthetic { v4: Ipv4Addr::from_bits(V4 | index), v6: Ipv6Addr::from_bits(V6 | u128::from(index)) }
}

/// FNV-1a, folded: it must be the same in every process. An agent that looks for names which collide only makes its own slower.
fn hash(name: &str) -> u32 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let folded = hash ^ (hash >> INDEX_BITS) ^ (hash >> (2 * INDEX_BITS)) ^ (hash >> (3 * INDEX_BITS));
    (folded & u64::from(INDEX_MASK)) as u32
}
