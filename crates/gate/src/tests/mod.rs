//! The real gate on a real listener, between a fake node and fake inits, and servers on loopback that stand for the internet.

mod doors;
mod egress;
mod execs;
mod files;
mod hostile;
mod node;
mod throughput;
mod tokens;
mod world;
