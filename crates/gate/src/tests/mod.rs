//! The real gate on a real listener, between a fake node and fake inits.

mod doors;
mod execs;
mod files;
mod hostile;
mod node;
mod throughput;
mod tokens;
mod world;
