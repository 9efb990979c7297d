//! Names that agents were given addresses for: a gate that was started again gives them the same ones.

use super::Gates;
use model::{AccountId, AgentId};
use std::io;

/// Names that are remembered of one agent.
const NAMES: usize = 4096;
/// The longest name (RFC 1035).
const NAME: usize = 253;
/// Bytes of the names of all agents of an account: a gate is told of them in one line, with all else.
const NAMES_BYTES: usize = 4 << 20;

impl Gates {
    /// Remembers that an agent has an address for a name; an error for what is no name. For an agent that is not this
    /// account's, nothing.
    pub(super) fn named(&self, account: AccountId, agent: AgentId, name: String) -> io::Result<()> {
        let plain = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
        if !(1..=NAME).contains(&name.len()) || !name.bytes().all(plain) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a name that is none"));
        }
        let mut inner = self.lock();
        let Some(running) = inner.running.get_mut(&account) else { return Ok(()) };
        let kept: usize = running.agents.values().map(|known| known.names_bytes).sum();
        if let Some(known) = running.agents.get_mut(&agent)
            && known.doors.is_some()
            && kept + name.len() <= NAMES_BYTES
            && known.names.len() < NAMES
            && !known.names.contains(&name)
        {
            known.names_bytes += name.len();
            known.names.push(name);
        }
        Ok(())
    }
}
