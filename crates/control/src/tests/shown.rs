//! What was written out before is shown again for as long as it is so, at each control process, and to its account alone.

use super::world::{Machine, World, seen};
use model::agent::Observed;
use model::evidence::{Control, Evidence, State};
use model::node_api::ObservedState;
use serde_json::{Value, json};

async fn one(world: &World, id: &str) -> Value {
    world.get(&format!("/v1/agents/{id}")).await.expect(200)
}

async fn listed(world: &World, id: &str) -> Value {
    let page = world.get("/v1/agents").await.expect(200);
    let items = page["items"].as_array().unwrap();
    items.iter().find(|agent| agent["id"] == id).unwrap().clone()
}

/// Shown one by one as in a list, twice the same.
async fn shown(world: &World, id: &str) -> Value {
    let now = one(world, id).await;
    assert_eq!(one(world, id).await, now);
    assert_eq!(listed(world, id).await, now);
    assert_eq!(listed(world, id).await, now);
    now
}

async fn changes(world: &World, elsewhere: &World) {
    let machine = Machine::enrolled(world, "node-1", 4).await;
    world.image().await;
    let id = world.agent("one").await;
    for world in [world, elsewhere] {
        assert_eq!(shown(world, &id).await["state"], "provisioning");
    }
    machine.saw(world, &id, 1, Observed::Running).await;
    for world in [world, elsewhere] {
        assert_eq!(shown(world, &id).await["state"], "running");
    }
    // Neither the state nor the generation changes with what is observed of a boundary.
    let mut agent = seen(world, id.parse().unwrap(), 1, Observed::Running);
    let control = Control::Seccomp;
    agent.evidence = vec![Evidence { control, state: State::Missing, detail: "it is gone".to_owned() }];
    machine.report(world, &ObservedState { agents: vec![agent], ..ObservedState::default() }).await;
    for world in [world, elsewhere] {
        assert_eq!(shown(world, &id).await["evidence"][0]["detail"], "it is gone");
    }
    let policy = json!({"version": 1, "egress": {"preset": "none"}});
    world.call_as(&world.key, "PUT", &format!("/v1/agents/{id}/policy"), Some(policy)).await.expect(200);
    for world in [world, elsewhere] {
        let now = shown(world, &id).await;
        assert_eq!(
            (&now["policy"]["egress"]["preset"], &now["policy_revision"]),
            (&json!("none"), &json!(2))
        );
    }
    world.verb(&id, "stop").await.expect(200);
    for world in [world, elsewhere] {
        let answer = world.get(&format!("/v1/agents/{id}")).await;
        assert_eq!(
            (&answer.headers["etag"], &answer.headers["content-type"]),
            (&"\"2\"".parse().unwrap(), &"application/json".parse().unwrap())
        );
        assert_eq!(shown(world, &id).await["state"], "stopping");
        // Of another account it does not exist, shown before or not.
        let other = world.call_as(&world.other, "GET", &format!("/v1/agents/{id}"), None).await;
        assert_eq!(other.problem().0, "NOT_FOUND");
        let page = world.call_as(&world.other, "GET", "/v1/agents", None).await.expect(200);
        assert_eq!(page, json!({"items": []}));
    }
}

#[tokio::test]
async fn what_was_shown_is_shown_as_long_as_it_is_so() {
    let world = World::new().await;
    changes(&world, &world).await;
}

#[tokio::test]
async fn what_another_process_changes_is_shown_at_once() {
    let Some(world) = World::on_server().await else { return };
    let elsewhere = world.replica().await;
    changes(&world, &elsewhere).await;
}
