//! Placement, by table.

use crate::app::placement::place;
use model::{AgentSpec, ByteSize, NodeId, Resources};
use store::Candidate;
use time::{Duration, OffsetDateTime};

fn spec(memory: u64) -> AgentSpec {
    let resources = Resources { memory: ByteSize(memory), ..Resources::default() };
    AgentSpec {
        id: model::AgentId::new(),
        name: "a".parse().unwrap(),
        account: model::AccountId::new(),
        level: Default::default(),
        image: model::ImageId::new(),
        image_digest: String::new(),
        volume: model::VolumeId::new(),
        run_as: Default::default(),
        main: None,
        env: Default::default(),
        image_config: Default::default(),
        resources,
        keep_scratch: false,
        ttl: None,
        idle_timeout: None,
    }
}

#[test]
fn the_best_node_is_picked() {
    let now = OffsetDateTime::UNIX_EPOCH + Duration::days(20_000);
    let node = |shared, free, memory, silent: i64| Candidate {
        node: NodeId::new(),
        shared,
        free,
        memory,
        last_seen: Some(now - Duration::seconds(silent)),
        way: None,
    };
    let check = |candidates: &[Candidate], expected: Option<usize>| {
        let picked = place(&spec(1 << 30), candidates, now);
        assert_eq!(picked, expected.map(|index| candidates[index].node), "{candidates:?}");
    };
    const BIG: u64 = 1 << 40;
    check(&[], None);
    check(&[node(true, 0, BIG, 0)], None);
    check(&[node(true, 9, 1 << 20, 0)], None);
    check(&[node(true, 9, BIG, 0), node(false, 1, BIG, 0)], Some(1));
    check(&[node(true, 1, BIG, 0), node(true, 9, BIG, 0)], Some(1));
    check(&[node(true, 3, BIG, 0), node(true, 3, BIG, 0)], Some(0));
    check(&[node(false, 9, BIG, 600), node(true, 1, BIG, 30)], Some(1));
    check(&[node(true, 9, BIG, 600)], Some(0));
    check(&[Candidate { last_seen: None, ..node(true, 9, BIG, 0) }, node(true, 1, BIG, 0)], Some(1));
}
