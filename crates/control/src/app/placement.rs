//! Which node an agent goes to. Pure; the database has the last word.

use model::mode::{Mode, Refusal};
use model::{AgentSpec, NodeId};
use store::Candidate;
use time::{Duration, OffsetDateTime};

/// A node that was silent for longer is used only when no other has room: nodes speak every 30 seconds.
const SILENT: Duration = Duration::seconds(90);

/// Why no node takes an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// None makes its level.
    Level,
    /// None that does may have it.
    Mode(Refusal),
    /// Those that may are full, or too small.
    Full,
}

/// Prefers nodes that speak, then the account's own, then the emptiest; the oldest breaks ties.
pub(crate) fn place(
    mode: Mode,
    spec: &AgentSpec,
    candidates: &[Candidate],
    now: OffsetDateTime,
) -> Result<NodeId, NoPlace> {
    let able: Vec<&Candidate> = candidates.iter().filter(|node| node.levels.contains(&spec.level)).collect();
    if able.is_empty() {
        // Where there is no node at all, it is not the level that is in the way.
        return Err(if candidates.is_empty() { NoPlace::Full } else { NoPlace::Level });
    }
    let check = |node: &&Candidate| mode.check_node(spec.unrestricted, node.shared);
    if let Some(Err(refusal)) = able.iter().map(check).min_by_key(Result::is_err) {
        return Err(NoPlace::Mode(refusal));
    }
    able.into_iter()
        .filter(|node| check(node).is_ok() && node.free > 0 && node.memory >= spec.resources.memory.0)
        .min_by_key(|node| {
            let silent = node.last_seen.is_none_or(|seen| now - seen > SILENT);
            (silent, node.shared, std::cmp::Reverse(node.free), node.node)
        })
        .map(|node| node.node)
        .ok_or(NoPlace::Full)
}
