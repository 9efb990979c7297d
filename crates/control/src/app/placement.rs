//! Which node an agent goes to. Pure; the database has the last word.

use model::{AgentSpec, NodeId};
use store::Candidate;
use time::{Duration, OffsetDateTime};

/// A node that was silent for longer is used only when no other has room: nodes speak every 30 seconds.
const SILENT: Duration = Duration::seconds(90);

/// Prefers nodes that speak, then the account's own, then the emptiest; the oldest breaks ties.
pub(crate) fn place(spec: &AgentSpec, candidates: &[Candidate], now: OffsetDateTime) -> Option<NodeId> {
    candidates
        .iter()
        .filter(|node| node.free > 0 && node.memory >= spec.resources.memory.0)
        .min_by_key(|node| {
            let silent = node.last_seen.is_none_or(|seen| now - seen > SILENT);
            (silent, node.shared, std::cmp::Reverse(node.free), node.node)
        })
        .map(|node| node.node)
}
