//! The ranges of ids: who has which: an agent, or all agents of an account that are one OS user. In memory; the journal is what remembers.

use model::agent::Level;
use model::{AccountId, AgentId, AgentSpec};
use sandbox::UidRange;
use std::collections::BTreeMap;

/// Who a range is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// One agent.
    Agent(AgentId),
    /// The agents of an account that are no boundary to each other (level 0).
    Account(AccountId),
}

impl Owner {
    /// Who the range of an agent is for.
    pub(crate) fn of(spec: &AgentSpec) -> Self {
        match spec.level {
            Level::Workspace => Self::Account(spec.account),
            Level::Process | Level::Container => Self::Agent(spec.id),
        }
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Agent(agent) => agent.fmt(f),
            Self::Account(account) => account.fmt(f),
        }
    }
}

/// Hands out ranges, each to one owner at a time.
#[derive(Debug)]
pub(crate) struct Leases {
    first: u32,
    ranges: u32,
    slots: u32,
    /// By whom; `None` is a blank.
    held: BTreeMap<u32, Option<Owner>>,
    /// What each owner has.
    owners: BTreeMap<Owner, u32>,
    /// By whose range each agent that has one goes.
    agents: BTreeMap<AgentId, Owner>,
    /// How many blanks go by the range of an account, which stays its own as long as there are any.
    sharing: BTreeMap<u32, usize>,
    /// No range below this one is free.
    lowest: u32,
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
        agent: Owner,
        /// Who has it; `None` is a blank.
        holder: Option<Owner>,
    },
}

impl Leases {
    /// None is held.
    pub(crate) fn new(first: u32, ranges: u32, slots: u32) -> Self {
        Self {
            first,
            ranges,
            slots,
            held: BTreeMap::new(),
            owners: BTreeMap::new(),
            agents: BTreeMap::new(),
            sharing: BTreeMap::new(),
            lowest: 0,
        }
    }

    /// Marks a range of the journal as held. It may lie outside of what is configured today: its agent was
    /// started when the configuration was another.
    pub(crate) fn restore(
        &mut self,
        agent: AgentId,
        owner: Owner,
        range: UidRange,
    ) -> Result<(), LeaseError> {
        let near =
            range.base.saturating_sub(UidRange::COUNT - 1)..=range.base.saturating_add(UidRange::COUNT - 1);
        // Before control said what it is, it was taken for one of its own.
        let known = [Some(owner), Some(Owner::Agent(agent)), self.agents.get(&agent).copied()];
        let own = |base: &u32, holder: &Option<Owner>| *base == range.base && known.contains(holder);
        let overlap = self.held.range(near).find(|(base, holder)| !own(base, holder));
        if let Some((base, holder)) = overlap {
            return Err(LeaseError::Twice { base: *base, agent: owner, holder: *holder });
        }
        self.give(agent, owner, range.base);
        Ok(())
    }

    /// The range that the agent has or that its owner has, or else the lowest that is free.
    pub(crate) fn take(&mut self, agent: AgentId, owner: Owner) -> Result<UidRange, LeaseError> {
        if let Some(base) = self.agents.get(&agent).and_then(|owner| self.owners.get(owner)) {
            return Ok(UidRange { base: *base });
        }
        self.check_room()?;
        let base = match self.owners.get(&owner) {
            Some(base) => *base,
            None => self.lowest_free().ok_or(LeaseError::Exhausted(self.ranges))?,
        };
        self.give(agent, owner, base);
        Ok(UidRange { base })
    }

    /// A free range for a blank, which takes no slot. There has to be one for each free slot beside it: agents that no
    /// blank fits must not find all ranges with blanks.
    pub(crate) fn take_spare(&mut self) -> Option<UidRange> {
        let slots_left = (self.slots as usize).saturating_sub(self.agents.len());
        self.free_bases(0).nth(slots_left).filter(|_| self.has_room_for_blanks())?;
        let base = self.lowest_free()?;
        self.held.insert(base, None);
        Some(UidRange { base })
    }

    /// Whether one more range may be a blank's alone, which that of an account is when its last agent goes.
    fn has_room_for_blanks(&self) -> bool {
        let spare = self.held.values().filter(|holder| holder.is_none()).count();
        spare + self.sharing.len() < self.ranges.saturating_sub(self.slots) as usize
    }

    /// The range that an account has, for a blank that is to be another of its agents.
    pub(crate) fn share(&mut self, base: u32) -> Option<UidRange> {
        let Some(Some(Owner::Account(_))) = self.held.get(&base) else { return None };
        if !self.sharing.contains_key(&base) && !self.has_room_for_blanks() {
            return None;
        }
        *self.sharing.entry(base).or_default() += 1;
        Some(UidRange { base })
    }

    /// A blank becomes an agent's.
    pub(crate) fn hand_over(&mut self, range: UidRange, agent: AgentId) -> Result<(), LeaseError> {
        if self.held.get(&range.base) == Some(&None) {
            self.check_room()?;
            self.give(agent, Owner::Agent(agent), range.base);
        } else {
            // The agent has the range already.
            self.free_blank(range);
        }
        Ok(())
    }

    /// A blank is gone.
    pub(crate) fn free_blank(&mut self, range: UidRange) {
        match self.held.get(&range.base) {
            Some(None) => {
                self.held.remove(&range.base);
                self.lowest = 0;
            }
            Some(&Some(owner)) => {
                if let Some(count) = self.sharing.get_mut(&range.base) {
                    *count -= 1;
                    if *count == 0 {
                        self.sharing.remove(&range.base);
                        self.free_unused(owner);
                    }
                }
            }
            None => {}
        }
    }

    /// Frees what the agent has, unless others have it too. The caller has seen that its processes and mounts are gone.
    pub(crate) fn free(&mut self, agent: AgentId) {
        let Some(owner) = self.agents.remove(&agent) else { return };
        self.free_unused(owner);
    }

    /// Frees the range of an owner that has neither agents nor blanks left.
    fn free_unused(&mut self, owner: Owner) {
        let Some(&base) = self.owners.get(&owner) else { return };
        if !self.sharing.contains_key(&base) && !self.agents.values().any(|other| *other == owner) {
            self.owners.remove(&owner);
            self.held.remove(&base);
            self.lowest = 0;
        }
    }

    fn give(&mut self, agent: AgentId, owner: Owner, base: u32) {
        self.agents.insert(agent, owner);
        self.owners.insert(owner, base);
        if let Some(Some(before)) = self.held.insert(base, Some(owner))
            && before != owner
        {
            // Whoever goes by the same ids is the same owner's.
            self.agents.values_mut().filter(|holder| **holder == before).for_each(|holder| *holder = owner);
            self.owners.remove(&before);
        }
    }

    fn check_room(&self) -> Result<(), LeaseError> {
        if self.agents.len() >= self.slots as usize { Err(LeaseError::Full(self.slots)) } else { Ok(()) }
    }

    fn lowest_free(&mut self) -> Option<u32> {
        let base = self.free_bases(self.lowest).next();
        self.lowest = base.map_or(self.ranges, |base| (base - self.first) / UidRange::COUNT);
        base
    }

    /// Free ranges, from this one on.
    fn free_bases(&self, from: u32) -> impl Iterator<Item = u32> {
        let bases = (from..self.ranges).map(move |index| self.first + index * UidRange::COUNT);
        bases.filter(move |base| self.is_free(*base))
    }

    fn is_free(&self, base: u32) -> bool {
        // Ranges of another configuration need not be aligned with ours.
        let below = self.held.range(..=base).next_back();
        let above = self.held.range(base..).next();
        [below, above].into_iter().flatten().all(|(held, _)| held.abs_diff(base) >= UidRange::COUNT)
    }
}
