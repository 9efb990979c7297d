//! What follows from time.

use super::world::{Machine, World};
use crate::tasks::deadlines;
use model::agent::Observed;
use serde_json::json;
use std::time::Duration;

async fn settle(world: &World) {
    let due = world.app.store.deadlines(100).await.unwrap();
    deadlines::settle(&world.app, &due).await;
}

#[tokio::test]
async fn time_to_live() {
    let world = World::new().await;
    Machine::enrolled(&world, "node-1", 2).await;
    world.image().await;
    world.post("/v1/agents", json!({"image": "debian", "name": "short", "ttl": "1h"})).await.expect(201);
    world.agent("long").await;
    world.clock.forward(time::Duration::minutes(59));
    settle(&world).await;
    assert_eq!(world.get("/v1/agents/short").await.expect(200)["state"], "provisioning");
    world.clock.forward(time::Duration::minutes(2));
    settle(&world).await;
    assert_eq!(world.get("/v1/agents/short").await.expect(200)["state"], "destroying");
    assert_eq!(world.get("/v1/agents/long").await.expect(200)["state"], "provisioning");
    let events = world.get("/v1/events").await.expect(200);
    assert_eq!(events["items"][0]["detail"]["cause"], "ttl");
    assert_eq!(events["items"][0]["actor"], "system");
}

#[tokio::test]
async fn idle_timeout() {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 2).await;
    world.image().await;
    let agent = json!({"image": "debian", "name": "a", "idle_timeout": "10m"});
    let id = world.post("/v1/agents", agent).await.expect(201)["id"].as_str().unwrap().to_owned();
    machine.saw(&world, &id, 1, Observed::Running).await;
    let minutes = async |minutes| {
        world.clock.forward(time::Duration::minutes(minutes));
        settle(&world).await;
        world.get("/v1/agents/a").await.expect(200)["state"].as_str().unwrap().to_owned()
    };
    assert_eq!(minutes(9).await, "running");
    machine.saw(&world, &id, 1, Observed::Running).await;
    assert_eq!(minutes(9).await, "running", "it was used");
    // Its node is silent: perhaps it is in use.
    assert_eq!(minutes(9).await, "running");
    machine.desired(&world, "").await;
    assert_eq!(minutes(0).await, "stopping");
}

/// The task itself: it sleeps until the deadline and acts without being told.
#[tokio::test]
async fn the_reconciler_wakes() {
    let world = World::new().await;
    Machine::enrolled(&world, "node-1", 2).await;
    world.image().await;
    let task = tokio::spawn(deadlines::run(world.app.clone()));
    world.post("/v1/agents", json!({"image": "debian", "name": "a", "ttl": "1s"})).await.expect(201);
    world.clock.forward(time::Duration::seconds(2));
    // It may have looked before the clock moved, and sleeps a second then.
    while world.get("/v1/agents/a").await.expect(200)["state"] != "destroying" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.app.ending.cancel();
    task.await.unwrap();
}
