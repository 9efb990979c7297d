//! The ledger's arithmetic: the bytes of an event that are hashed, the chain over them, signed checkpoints, and proofs.
//!
//! Pure: no database, no files, no clock. Whoever has the entries of a chain can follow it with [`Walk`], whoever wrote them. A chain alone
//! shows what was changed by halves. That it was not written anew as a whole shows a checkpoint that somebody else kept: a receipt.

mod checkpoint;
mod hash;
mod record;
#[cfg(test)]
mod tests;
mod walk;

pub use checkpoint::{Checkpoint, KeyFault, Proof, Receipt, ReceiptFault, Signer};
pub use hash::{Hash, NotAHash, genesis, link};
pub use record::{Entry, Record};
pub use walk::{Fault, Walk};

/// The chain of what belongs to no account. Others have the account's id.
pub const INSTALLATION: &str = "installation";
