//! Init, run for real: as pid 1 of a pid namespace, over its channel. Needs root, for the namespace only; the whole
//! boundary is tested elsewhere.
#![allow(unsafe_code)]

mod execs;
mod files;
mod harness;
mod life;
mod places;
