//! What control does by itself.

pub(crate) mod cleanup;
pub(crate) mod deadlines;
pub(crate) mod keys;
pub(crate) mod ledger;
pub(crate) mod usage;
pub(crate) mod uses;
