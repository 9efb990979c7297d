//! What one agent may use, and the bounds that are accepted at all.

use crate::quantity::ByteSize;
use serde::{Deserialize, Serialize};

/// Limits of one agent, enforced by its cgroups and by the size of its volume. Locked at creation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Processor time, in cores. 0.05 to 512.
    pub cpus: f64,
    /// Memory, everything counted: pages, page cache, kernel and socket buffers. At least 32 MiB.
    pub memory: ByteSize,
    /// Processes and threads. 16 to 1,000,000.
    pub pids: u32,
    /// The volume: home and scratch together. 64 MiB to 64 TiB.
    pub disk: ByteSize,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpus: 1.0, memory: ByteSize(1 << 30), pids: 512, disk: ByteSize(5 << 30) }
    }
}

/// One limit that is out of its bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be {bounds}")]
pub struct ResourcesError {
    /// The field, as the API names it.
    pub field: &'static str,
    /// The bounds, in words.
    pub bounds: &'static str,
}

impl Resources {
    /// Checks every limit against what is accepted at all; a node may cap them lower.
    pub fn validate(&self) -> Result<(), ResourcesError> {
        let checks = [
            (
                self.cpus.is_finite() && (0.05..=512.0).contains(&self.cpus),
                "resources.cpus",
                "between 0.05 and 512",
            ),
            ((32 << 20..=1 << 46).contains(&self.memory.0), "resources.memory", "between 32MiB and 64TiB"),
            ((16..=1_000_000).contains(&self.pids), "resources.pids", "between 16 and 1000000"),
            ((64 << 20..=1 << 46).contains(&self.disk.0), "resources.disk", "between 64MiB and 64TiB"),
        ];
        match checks.into_iter().find(|(holds, ..)| !holds) {
            None => Ok(()),
            Some((_, field, bounds)) => Err(ResourcesError { field, bounds }),
        }
    }
}
