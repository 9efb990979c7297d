//! Placement, by table.

use crate::app::placement::{NoPlace, place};
use model::agent::Level;
use model::mode::{Mode, Refusal};
use model::{AgentSpec, ByteSize, NodeId, Resources};
use store::Candidate;
use time::{Duration, OffsetDateTime};

fn spec(memory: u64, level: Level, unrestricted: bool) -> AgentSpec {
    let resources = Resources { memory: ByteSize(memory), ..Resources::default() };
    AgentSpec {
        secrets: Vec::new(),
        id: model::AgentId::new(),
        name: "a".parse().unwrap(),
        account: model::AccountId::new(),
        level,
        image: None,
        image_digest: None,
        volume: model::VolumeId::new(),
        origin: None,
        run_as: Default::default(),
        main: None,
        env: Default::default(),
        image_config: Default::default(),
        driver: None,
        unrestricted,
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
        levels: vec![Level::Container],
        last_seen: Some(now - Duration::seconds(silent)),
        way: None,
    };
    let check = |candidates: &[Candidate], expected: Option<usize>| {
        let picked = place(Mode::Managed, &spec(1 << 30, Level::Container, false), candidates, now);
        let expected = expected.map(|index| candidates[index].node).ok_or(NoPlace::Full);
        assert_eq!(picked, expected, "{candidates:?}");
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
    let levels = |levels: &[Level], node| Candidate { levels: levels.to_vec(), ..node };
    let place = |mode, level, unrestricted, candidates: &[Candidate]| {
        place(mode, &spec(1 << 30, level, unrestricted), candidates, now)
    };
    let some = [
        levels(&[Level::Process], node(true, 9, BIG, 0)),
        levels(&[Level::Workspace, Level::Container], node(true, 1, BIG, 0)),
    ];
    assert_eq!(place(Mode::Indie, Level::Container, true, &some), Ok(some[1].node));
    assert_eq!(place(Mode::Indie, Level::Process, true, &some), Ok(some[0].node));
    assert_eq!(place(Mode::Indie, Level::Workspace, false, &some[..1]), Err(NoPlace::Level));
    assert_eq!(place(Mode::Managed, Level::Container, true, &some), Err(NoPlace::Mode(Refusal::SharedNode)));
    let with_own = [some[1].clone(), node(false, 1, BIG, 600)];
    assert_eq!(place(Mode::Managed, Level::Container, true, &with_own), Ok(with_own[1].node));
    let full = [some[1].clone(), node(false, 0, BIG, 0)];
    assert_eq!(place(Mode::Managed, Level::Container, true, &full), Err(NoPlace::Full));
    check(&[Candidate { last_seen: None, ..node(true, 9, BIG, 0) }, node(true, 1, BIG, 0)], Some(1));
}
