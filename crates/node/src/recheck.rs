//! Looking again: when, and what of it is told.
//!
//! Pure. The worker looks; here is decided what it takes for known.

use model::AgentId;
use model::evidence::{Evidence, State};
use std::time::{Duration, Instant};

/// Looks that are made at the same time, of all agents.
pub(crate) const AT_ONCE: usize = 4;
/// That nothing changed is told control this often.
pub(crate) const TOLD_EVERY: Duration = Duration::from_secs(5 * 60);
/// Changes of one agent that are told within [`WINDOW`]. The ledger is kept for ever.
const MOST: u32 = 10;
const WINDOW: Duration = Duration::from_secs(3600);

/// How long after it is taken in hand a boundary is first looked at again: for each agent another part of the period, so
/// that those that are taken over together are not looked at together.
pub(crate) fn phase(agent: AgentId, period: Duration) -> Duration {
    let text = agent.base32();
    let mixed = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    period.mul_f64((mixed >> 40) as f64 / f64::from(1u32 << 24))
}

/// How often what is known of an agent's boundary changed of late.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    count: u32,
    since: Option<Instant>,
}

impl Changes {
    /// What is known after a look: what was seen, unless that changes too often. Then only what fell is taken in, and what
    /// fell stays so until the window is over: each control once, whatever comes and goes.
    pub(crate) fn take(&mut self, known: &[Evidence], seen: Vec<Evidence>, now: Instant) -> Vec<Evidence> {
        if seen == known {
            return seen;
        }
        if self.since.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            *self = Self { count: 0, since: Some(now) };
        }
        if self.count < MOST {
            self.count += 1;
            return seen;
        }
        let keep = |found: Evidence| match known.iter().find(|known| known.control == found.control) {
            Some(known) if known.state == State::Missing || found.state != State::Missing => known.clone(),
            _ => found,
        };
        seen.into_iter().map(keep).collect()
    }
}

/// What is known when looking takes longer than the time until the next look.
pub(crate) fn unseen(known: &[Evidence]) -> Vec<Evidence> {
    let detail = "the kernel did not answer before it was time to look again".to_owned();
    known
        .iter()
        .map(|found| Evidence { control: found.control, state: State::Missing, detail: detail.clone() })
        .collect()
}
