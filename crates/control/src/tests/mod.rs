//! The API in-process: the real router over a real database in a temporary directory.

mod access;
mod acme;
mod agents;
mod audit;
mod clones;
mod door;
mod egress;
mod evidence;
mod images;
mod inputs;
mod levels;
mod nodes;
mod people;
mod placement;
mod policies;
mod quotas;
mod rekey;
mod replicas;
mod secrets;
mod serving;
mod shown;
mod time_passes;
mod tls;
mod transfers;
mod usage;
mod world;
