//! The control API on the ledger.

use crate::control::Control;
use crate::error::Error;
use ledger::{Entry, Receipt};

/// A chain of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chain {
    /// That of the account.
    Account,
    /// That of the installation, for its operator.
    Installation,
}

impl Chain {
    fn as_str(self) -> &'static str {
        match self {
            Self::Account => "account",
            Self::Installation => "installation",
        }
    }
}

impl Control {
    /// Entries of a chain behind the number `after`, oldest first, at most 1000. Where there are none yet, the answer comes with the first,
    /// or empty after `wait` seconds, of which 60 are the most.
    pub async fn ledger_entries(&self, chain: Chain, after: u64, wait: u64) -> Result<Vec<Entry>, Error> {
        let request = self
            .endpoint
            .get(&["v1", "audit", "entries"])
            .query(&[("chain", chain.as_str())])
            .query(&[("after", after), ("wait", wait)]);
        self.endpoint.json(request).await
    }

    /// Where a chain stands, signed.
    pub async fn ledger_receipt(&self, chain: Chain) -> Result<Receipt, Error> {
        let request = self.endpoint.get(&["v1", "audit", "receipt"]).query(&[("chain", chain.as_str())]);
        self.endpoint.json(request).await
    }
}
