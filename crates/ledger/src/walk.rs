//! Following a chain from its beginning.

use crate::checkpoint::Checkpoint;
use crate::hash::{Hash, genesis, link};
use crate::record::Entry;
use std::collections::BTreeMap;

/// The first thing that is wrong with a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The event is not what it was when it was chained.
    #[error("event {event}, number {seq} of the chain, was changed")]
    Changed {
        /// Where.
        seq: u64,
        /// Which.
        event: String,
    },
    /// The event is gone, and its place is there.
    #[error("event {event}, number {seq} of the chain, was removed")]
    Removed {
        /// Where.
        seq: u64,
        /// Which.
        event: String,
    },
    /// An entry is gone with its event.
    #[error("number {seq} of the chain was removed")]
    Missing {
        /// Where.
        seq: u64,
    },
    /// The chain is shorter than it was.
    #[error(
        "the chain was cut off: it ends with number {end}, and a receipt says that there was a number {seq}"
    )]
    CutOff {
        /// The last that there is.
        end: u64,
        /// The last that there was.
        seq: u64,
    },
    /// The chain is whole, and not the one that there was.
    #[error(
        "the chain was written anew: number {after} is what a receipt says, if any does, and number {seq} is not"
    )]
    Rewritten {
        /// The last that is known to be right; 0 for none.
        after: u64,
        /// Where a receipt says otherwise.
        seq: u64,
    },
    /// A receipt is of another installation or another chain.
    #[error("the receipt is of the chain {chain} of the installation {installation}")]
    Foreign {
        /// Of which installation.
        installation: String,
        /// Of which chain.
        chain: String,
    },
}

/// Somebody on their way through a chain.
#[derive(Debug, Clone)]
pub struct Walk {
    installation: String,
    chain: String,
    seq: u64,
    hash: Hash,
    /// What receipts say of numbers that are not reached yet.
    said: BTreeMap<u64, Hash>,
    /// The last number that a receipt agreed on.
    agreed: u64,
}

impl Walk {
    /// Before the first entry.
    pub fn new(installation: &str, chain: &str) -> Self {
        let (said, hash) = (BTreeMap::new(), genesis(installation, chain));
        let (installation, chain) = (installation.to_owned(), chain.to_owned());
        Self { installation, chain, seq: 0, hash, said, agreed: 0 }
    }

    /// Holds the chain against this too, whose signature was looked at by the caller. Told before the first step.
    pub fn expect(&mut self, checkpoint: &Checkpoint) -> Result<(), Fault> {
        let Checkpoint { installation, chain, seq, hash, .. } = checkpoint;
        if *installation != self.installation || *chain != self.chain {
            return Err(Fault::Foreign { installation: installation.clone(), chain: chain.clone() });
        }
        // Of a chain before its first entry, which every chain begins with.
        if *seq == 0 {
            let same = *hash == genesis(installation, chain);
            return if same { Ok(()) } else { Err(Fault::Rewritten { after: 0, seq: 0 }) };
        }
        // Two that say different things of one number cannot both be right.
        if self.said.insert(*seq, *hash).is_some_and(|before| before != *hash) {
            return Err(Fault::Rewritten { after: 0, seq: *seq });
        }
        Ok(())
    }

    /// The last entry that was right.
    pub fn at(&self) -> (u64, Hash) {
        (self.seq, self.hash)
    }

    /// The next entry.
    pub fn step(&mut self, entry: &Entry) -> Result<(), Fault> {
        let seq = self.seq + 1;
        if entry.seq != seq {
            return Err(Fault::Missing { seq });
        }
        let event = entry.event.clone();
        let Some(record) = &entry.record else { return Err(Fault::Removed { seq, event }) };
        let hash = link(&self.hash, &record.hash());
        let chain = record.account.as_deref().unwrap_or(crate::INSTALLATION);
        if hash != entry.hash || record.id != event || chain != self.chain {
            return Err(Fault::Changed { seq, event });
        }
        if let Some(said) = self.said.remove(&seq) {
            if said != hash {
                return Err(Fault::Rewritten { after: self.agreed, seq });
            }
            self.agreed = seq;
        }
        (self.seq, self.hash) = (seq, hash);
        Ok(())
    }

    /// There are no more entries; tells how many there were.
    pub fn end(self) -> Result<u64, Fault> {
        match self.said.last_key_value() {
            Some((seq, _)) => Err(Fault::CutOff { end: self.seq, seq: *seq }),
            None => Ok(self.seq),
        }
    }
}
