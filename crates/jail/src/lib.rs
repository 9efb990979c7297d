//! The helper that makes level-2 boundaries, and lives in them.
//!
//! `cofferdam-jail` is one small, static, synchronous binary with five lives: as **zygote** it is the one place that
//! clones namespaces, as **init** it is process 1 behind every boundary, as **probe** it tries to get out of one, as
//! **oci** it gives a runtime what it makes a boundary of, and as **confine** it takes everything from a helper process of
//! the platform that it does not need, then becomes it.
//!
//! It never opens the network, never resolves a path of the host that somebody else chose (zygote works on the
//! descriptors it is given), and never runs two threads.

// Namespaces, mounts, filters: system calls that no library wraps whole. This crate is where they live.
#![allow(unsafe_code)]

pub mod apparmor;
pub mod confine;
pub mod init;
pub mod landlock;
pub mod laps;
pub mod layout;
pub mod oci;
pub mod probe;
pub mod sabotage;
pub mod seccomp;
pub mod spec;
pub mod step;
pub mod sys;
pub mod wire;
pub mod zygote;
