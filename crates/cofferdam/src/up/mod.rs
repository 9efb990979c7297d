//! One machine's installation: made ready, started, watched, ended.

pub mod neighbours;
pub mod pidfile;
pub mod remains;
pub mod setup;
pub mod socket;
pub mod supervise;
pub mod units;
