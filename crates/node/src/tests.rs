//! Tests of the node without root and without a kernel: what needs those is in `testkit`.

mod blanks;
mod config;
mod control;
mod gates;
mod journal;
mod lease;
mod plan;
mod recheck;
mod report;
mod secrets;
mod validate;

use model::agent::{Level, RunAs};
use model::node_api::DesiredAgent;
use model::{AccountId, AgentId, AgentSpec, Desired, ImageId, Resources, VolumeId};

pub(crate) fn spec() -> AgentSpec {
    AgentSpec {
        secrets: Vec::new(),
        id: AgentId::new(),
        name: "worker-1".parse().unwrap(),
        account: AccountId::new(),
        level: Level::Container,
        image: Some(ImageId::new()),
        image_digest: Some("0a".repeat(32)),
        volume: VolumeId::new(),
        origin: None,
        run_as: RunAs::Agent,
        main: None,
        env: Default::default(),
        image_config: Default::default(),
        driver: None,
        unrestricted: false,
        resources: Resources::default(),
        keep_scratch: false,
        ttl: None,
        idle_timeout: None,
    }
}

fn wish(desired: Desired, generation: u64) -> DesiredAgent {
    DesiredAgent {
        spec: spec(),
        desired,
        generation,
        token_epoch: 1,
        restored: false,
        policy: None,
        policy_revision: 0,
        secrets_revision: 0,
        transfers: 0,
    }
}
