//! Worlds for tests: a whole installation of its own, beside whatever else runs on the machine.
//!
//! A [`World`] is the real `cofferdam up` with ports, directories, cgroup and uid ranges of its own. Dropping it
//! ends it, and fails the test when anything is left. A world whose test was killed is removed by the next one.

mod internet;
mod leftovers;
mod registry;
mod stale;
mod world;

use std::time::Duration;

pub use internet::{Answer, Heard, Internet, Reached, Speaks};
pub use leftovers::Leftovers;
pub use registry::Registry;
pub use world::{Blanks, Ran, World, ensure_image, remove_stale_worlds, tools};

/// How long to wait for what takes at most so many seconds on an ordinary machine. `COFFERDAM_TEST_PATIENCE` says how
/// many times slower this one is.
pub fn patience(seconds: u64) -> Duration {
    let factor = std::env::var("COFFERDAM_TEST_PATIENCE").ok().and_then(|text| text.parse::<u64>().ok());
    Duration::from_secs(seconds * factor.unwrap_or(1))
}

/// Whether a test that needs root can run. In CI it must; elsewhere it says why it does not.
pub fn can_run() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "CI runs these tests as root");
    eprintln!("skipped: needs root");
    false
}
