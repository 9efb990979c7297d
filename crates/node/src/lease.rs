//! The ranges of ids: which agent has which. In memory; the journal is what remembers.

use model::AgentId;
use sandbox::UidRange;
use std::collections::BTreeMap;

/// Hands out ranges, each to one agent at a time.
#[derive(Debug)]
pub(crate) struct Leases {
    first: u32,
    ranges: u32,
    slots: u32,
    /// By whom; `None` is a blank.
    held: BTreeMap<u32, Option<AgentId>>,
}

/// Why no range was handed out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LeaseError {
    /// `slots` are taken.
    #[error("the node holds {0} agents and may not hold more; raise `slots` in node.toml, or stop some")]
    Full(u32),
    /// Every range is held.
    #[error("all {0} ranges of user ids are in use; raise `uid_ranges` in node.toml, or stop some agents")]
    Exhausted(u32),
    /// Two records in the journal name one range.
    #[error("the journal gives user ids from {base} to {agent} and to {}", holder.map_or("a blank".to_owned(), |holder| holder.to_string()))]
    Twice {
        /// The range.
        base: u32,
        /// Who asks.
        agent: AgentId,
        /// Who has it; `None` is a blank.
        holder: Option<AgentId>,
    },
}

impl Leases {
    /// None is held.
    pub(crate) fn new(first: u32, ranges: u32, slots: u32) -> Self {
        Self { first, ranges, slots, held: BTreeMap::new() }
    }

    /// Marks a range of the journal as held. It may lie outside of what is configured today: its agent was
    /// started when the configuration was another.
    pub(crate) fn restore(&mut self, agent: AgentId, range: UidRange) -> Result<(), LeaseError> {
        let overlap = self.held.iter().find(|(base, holder)| {
            base.abs_diff(range.base) < UidRange::COUNT && !(**base == range.base && **holder == Some(agent))
        });
        if let Some((base, holder)) = overlap {
            return Err(LeaseError::Twice { base: *base, agent, holder: *holder });
        }
        self.held.insert(range.base, Some(agent));
        Ok(())
    }

    /// The range that the agent has, or else the lowest that is free.
    pub(crate) fn take(&mut self, agent: AgentId) -> Result<UidRange, LeaseError> {
        if let Some((base, _)) = self.held.iter().find(|(_, holder)| **holder == Some(agent)) {
            return Ok(UidRange { base: *base });
        }
        self.check_room()?;
        let base = self.lowest_free().ok_or(LeaseError::Exhausted(self.ranges))?;
        self.held.insert(base, Some(agent));
        Ok(UidRange { base })
    }

    /// A free range for a blank, which takes no slot. There has to be one for each free slot beside it: agents that no
    /// blank fits must not find all ranges with blanks.
    pub(crate) fn take_spare(&mut self) -> Option<UidRange> {
        let slots_left = (self.slots as usize).saturating_sub(self.held.values().flatten().count());
        self.free_bases().nth(slots_left)?;
        let base = self.lowest_free()?;
        self.held.insert(base, None);
        Some(UidRange { base })
    }

    /// A blank becomes an agent's.
    pub(crate) fn hand_over(&mut self, range: UidRange, agent: AgentId) -> Result<(), LeaseError> {
        self.check_room()?;
        self.held.insert(range.base, Some(agent));
        Ok(())
    }

    /// A blank is gone.
    pub(crate) fn free_spare(&mut self, range: UidRange) {
        if self.held.get(&range.base) == Some(&None) {
            self.held.remove(&range.base);
        }
    }

    fn check_room(&self) -> Result<(), LeaseError> {
        let agents = self.held.values().flatten().count();
        if agents >= self.slots as usize { Err(LeaseError::Full(self.slots)) } else { Ok(()) }
    }

    fn lowest_free(&self) -> Option<u32> {
        self.free_bases().next()
    }

    fn free_bases(&self) -> impl Iterator<Item = u32> {
        let bases = (0..self.ranges).map(move |index| self.first + index * UidRange::COUNT);
        bases.filter(move |base| self.is_free(*base))
    }

    /// Frees what the agent has. The caller has seen that its processes and mounts are gone.
    pub(crate) fn free(&mut self, agent: AgentId) {
        self.held.retain(|_, holder| *holder != Some(agent));
    }

    fn is_free(&self, base: u32) -> bool {
        // Ranges of another configuration need not be aligned with ours.
        let below = self.held.range(..=base).next_back();
        let above = self.held.range(base..).next();
        [below, above].into_iter().flatten().all(|(held, _)| held.abs_diff(base) >= UidRange::COUNT)
    }
}
