//! The system calls that have no safe wrapper, each behind a safe function.
//!
//! The only module of this crate with `unsafe`. Nothing here decides anything.
#![allow(unsafe_code)]

pub(crate) mod flush;
pub(crate) mod lock;
pub(crate) mod loop_device;
pub(crate) mod mount;
pub(crate) mod namespace;
pub(crate) mod process;
pub(crate) mod sockets;
