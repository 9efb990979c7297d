//! Several control processes on one database: what one does, those who wait at another learn at once; and one that goes takes
//! nothing along.

use super::world::{Machine, World};
use crate::Error;
use model::agent::Observed;
use serde_json::json;

#[tokio::test]
async fn who_waits_at_one_learns_of_what_another_does() {
    let Some(world) = World::on_server().await else { return };
    world.image().await;
    let machine = Machine::enrolled(&world, "node-1", 4).await;
    let second = world.replica().await;
    let rev = machine.desired(&second, "").await.rev;
    // A node that polls here hears of an agent that is made there, long before the poll ends by itself.
    let query = format!("?rev={rev}&wait=30");
    let (told, id) = tokio::join!(machine.desired(&second, &query), world.agent("a"));
    assert_eq!(
        told.agents.iter().map(|agent| agent.spec.id.to_string()).collect::<Vec<_>>(),
        std::slice::from_ref(&id)
    );
    // A client that waits there hears of what the node reports here.
    let path = format!("/v1/agents/{id}?wait=running&timeout=30s");
    let waiting = world.get(&path);
    let (agent, ()) = tokio::join!(waiting, machine.saw(&second, &id, 1, Observed::Running));
    assert_eq!(agent.expect(200)["state"], "running");
    // A key that is deleted here is none there.
    let made = second.post("/v1/keys", json!({"name": "spare"})).await.expect(201);
    let spare = made["secret"].as_str().unwrap();
    world.call_as(spare, "GET", "/v1/agents", None).await.expect(200);
    let mut changes = world.app.notify.agent(id.parse().unwrap());
    let gone = format!("/v1/keys/{}", made["id"].as_str().unwrap());
    second.call_as(&second.key, "DELETE", &gone, None).await.expect(204);
    // What came first is heard first.
    second.verb(&id, "stop").await.expect(200);
    changes.changed().await;
    world.call_as(spare, "GET", "/v1/agents", None).await.expect(401);
}

#[tokio::test]
async fn one_that_dies_takes_nothing_along() {
    let Some(world) = World::on_server().await else { return };
    world.image().await;
    let machine = Machine::enrolled(&world, "node-1", 4).await;
    let second = world.replica().await;
    let id = second.agent("a").await;
    // Its connections go with it, in the middle of whatever they were about.
    world.server().unwrap().cut();
    drop(second);
    let agent = loop {
        let answer = world.get(&format!("/v1/agents/{id}")).await;
        match answer.status.as_u16() {
            200 => break answer.json,
            status => assert_eq!((status, answer.problem().0), (503, "UNAVAILABLE"), "{}", answer.json),
        }
    };
    assert_eq!(agent["name"], "a");
    // What could not be done is said so, and nothing stands in the way of the next try.
    let stopped = loop {
        let answer = world.call_as(&world.key, "DELETE", &format!("/v1/agents/{id}"), None).await;
        match answer.status.as_u16() {
            503 => assert!(!answer.json["remedy"].is_null()),
            _ => break answer,
        }
    };
    assert!(stopped.status.is_success(), "{}", stopped.json);
    let told = machine.desired(&world, "").await;
    assert_eq!(told.agents[0].desired, model::agent::Desired::Destroyed);
}

#[tokio::test]
async fn a_process_without_the_installations_keys_does_not_begin() {
    let Some(world) = World::on_server().await else { return };
    let mut config = world.config.clone();
    let directory = tempfile::tempdir().unwrap();
    config.data = directory.path().join("control");
    let error = crate::initialise(&config).await.unwrap_err();
    assert!(matches!(&error, Error::KeyElsewhere { path } if *path == config.signing_key()), "{error}");
    std::fs::copy(world.config.signing_key(), config.signing_key()).unwrap();
    let error = crate::initialise(&config).await.unwrap_err();
    assert!(matches!(&error, Error::KeyElsewhere { path } if *path == config.secrets_key()), "{error}");
    std::fs::copy(world.config.secrets_key(), config.secrets_key()).unwrap();
    assert!(crate::initialise(&config).await.unwrap().is_none(), "the installation is there already");
}
