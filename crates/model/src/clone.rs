//! Copies of agents: what a copy is made of, and what it is made anew. Pure.
//!
//! A clone has its source's disk, as it is at that moment, and all that it was made with. What tells an agent from others is its own:
//! its id and host name, its tokens, the authority that it trusts, the placeholders of its secrets, its address, its log and its
//! past. Its scratch layer begins empty, with the machine id and the seeds of random numbers that may have been there.

use crate::agent::AgentSpec;
use crate::id::{AgentId, VolumeId};
use crate::image::ImageConfig;
use crate::name::Name;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `POST /v1/agents/ID/clone`.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloneAgent {
    /// The clone's name, unique in the account.
    pub name: Name,
    /// Name or id of the image that it is to have; the one that its source keeps without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// Where the disk of an agent comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Origin {
    /// The agent that it is a copy of. It may be gone by now.
    pub agent: AgentId,
    /// That agent's disk.
    pub volume: VolumeId,
}

/// What a clone is: another agent, with another disk.
pub fn cloned(source: &AgentSpec, id: AgentId, name: Name) -> AgentSpec {
    let origin = Some(Origin { agent: source.id, volume: source.volume });
    AgentSpec { id, name, volume: VolumeId::new(), origin, ..source.clone() }
}

/// What an agent says of programs in it once it has another image: what its maker said stays, and what the image before said is said by
/// the new one.
///
/// Of a variable with the value that the image before had, nobody can tell whether its maker said it, too; it follows the image.
pub fn on_image(
    env: &BTreeMap<String, String>,
    own: &ImageConfig,
    before: &ImageConfig,
    after: &ImageConfig,
) -> (BTreeMap<String, String>, ImageConfig) {
    let mut config = after.clone();
    let mut merged = std::mem::take(&mut config.env);
    let said = env.iter().filter(|(name, value)| before.env.get(*name) != Some(*value));
    merged.extend(said.map(|(name, value)| (name.clone(), value.clone())));
    let overridden = own.entrypoint != before.entrypoint || own.cmd != before.cmd;
    let config = config.with_entrypoint(overridden.then(|| own.entrypoint.clone()));
    (merged, config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(env: &[(&str, &str)], entrypoint: &[&str]) -> ImageConfig {
        let owned =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ImageConfig {
            env: owned(env),
            entrypoint: entrypoint.iter().map(|word| (*word).to_owned()).collect(),
            ..ImageConfig::default()
        }
    }

    #[test]
    fn what_the_maker_said_stays_and_what_the_image_said_follows_it() {
        let before = config(&[("PATH", "/old"), ("LANG", "C"), ("GONE", "1")], &["tini"]);
        let after = config(&[("PATH", "/new"), ("LANG", "C.UTF-8"), ("MORE", "2")], &["dumb-init"]);
        let mut own = before.clone();
        let mut env = std::mem::take(&mut own.env);
        env.insert("LANG".to_owned(), "de".to_owned());
        env.insert("MINE".to_owned(), "3".to_owned());
        let (merged, config) = on_image(&env, &own, &before, &after);
        let merged: Vec<_> = merged.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(merged, ["LANG=de", "MINE=3", "MORE=2", "PATH=/new"]);
        assert_eq!(config.entrypoint, ["dumb-init"]);
        assert!(config.env.is_empty(), "it is the agent's own by now");
        // Whoever left the entrypoint out leaves it out.
        own.entrypoint.clear();
        assert!(on_image(&env, &own, &before, &after).1.entrypoint.is_empty());
    }
}
