//! Quotas: many who ask at once get no more than there is, and one account's use is not another's.

use super::*;
use model::quantity::ByteSize;
use model::quota::Quota;

async fn agents(world: &World, account: AccountId) -> u64 {
    world.store.quota(account).await.unwrap().used.agents
}

both!(many_at_once_get_what_there_is);
async fn many_at_once_get_what_there_is(engine: Engine) {
    let world = World::on(engine).await;
    enrolled(&world.store, "node-2", 40).await;
    let most = Quota { memory: Some(ByteSize(5 << 30)), ..Quota::default() };
    world.store.set_quota(Actor::System, world.account, &most).await.unwrap();
    let place: Place = |candidates| candidates.iter().max_by_key(|it| it.free).map(|it| it.node);
    let all = (0..30).map(|number| world.create(world.new_agent(&format!("a{number}")), place));
    let made = futures_util::future::join_all(all).await;
    let refused = made.iter().filter(|made| matches!(made, Err(Error::Quota(_)))).count();
    assert_eq!((made.iter().filter(|made| made.is_ok()).count(), refused), (5, 25));
    assert_eq!(agents(&world, world.account).await, 5);
    // What was refused holds no slot.
    assert_eq!(world.count("SELECT COUNT(*) FROM node_slots WHERE coalesce(agent, '') <> ''").await, 5);
}

both!(ones_use_is_not_anothers);
async fn ones_use_is_not_anothers(engine: Engine) {
    let world = World::on(engine).await;
    let other = world.store.create_account(Actor::System, &new_account("other")).await.unwrap();
    let one = Quota { agents: Some(1), ..Quota::default() };
    world.store.set_quota(Actor::System, other, &one).await.unwrap();
    world.agent("a").await;
    world.agent("b").await;
    assert_eq!(agents(&world, other).await, 0);
    let image = image(&world.store, other).await;
    let new = |name: &str| {
        let new = world.new_agent(name);
        NewAgent { spec: AgentSpec { account: other, image: Some(image), ..new.spec }, ..new }
    };
    let create = async |new: NewAgent| {
        let name = new.spec.name.clone();
        let make =
            |found: Found<'_>| place(found.candidates).map(|node| (new, node)).ok_or(Error::NoCapacity);
        let asked = Asked { account: other, name: &name, image: "debian", secrets: &[], source: None };
        world.store.create_agent(Actor::System, asked, make, None).await
    };
    create(new("a")).await.unwrap();
    assert!(matches!(create(new("b")).await, Err(Error::Quota(_))));
    assert_eq!((agents(&world, world.account).await, agents(&world, other).await), (2, 1));
}
