//! Which level an agent gets, and what the mode of the installation refuses.

use super::world::{Machine, World};
use model::agent::{Level, Observed};
use model::mode::Mode;
use model::node_api::ObservedState;
use serde_json::json;

/// A node that makes these levels, by its own word.
async fn making(world: &World, name: &str, levels: &[Level]) -> Machine {
    let machine = Machine::enrolled(world, name, 9).await;
    let report = ObservedState { levels: Some(levels.to_vec()), ..ObservedState::default() };
    machine.report(world, &report).await;
    machine
}

#[tokio::test]
async fn the_strongest_that_can_be_made_is_the_default() {
    let world = World::new().await;
    world.image().await;
    let machine = making(&world, "node-1", &[Level::Workspace, Level::Process]).await;
    let made = world.post("/v1/agents", json!({})).await.expect(201);
    assert_eq!(made["level"], "process");
    assert!(made.get("image").is_none() && made.get("image_digest").is_none(), "{made}");
    let desired = machine.desired(&world, "").await.agents.remove(0);
    assert_eq!((desired.spec.level, &desired.spec.image_digest), (Level::Process, &None));
    // An image is a wish for a container.
    let answer = world.post("/v1/agents", json!({"image": "debian"})).await;
    assert_eq!(answer.problem(), ("LEVEL_UNAVAILABLE", Some("level")));
    assert!(answer.json["detail"].as_str().unwrap().contains("process, workspace"), "{}", answer.json);

    making(&world, "node-2", &Level::ALL).await;
    let made = world.post("/v1/agents", json!({})).await.expect(201);
    assert_eq!((&made["level"], &made["image_name"]), (&json!("container"), &json!("debian")));
    for level in ["workspace", "process", "container"] {
        let made = world.post("/v1/agents", json!({"level": level})).await.expect(201);
        assert_eq!(made["level"], level);
        assert_eq!(made.get("warnings").is_some(), level == "workspace", "{made}");
    }
    let events = world.get("/v1/events?limit=200").await.expect(200);
    let told = events["items"].as_array().unwrap().iter().filter(|event| event["kind"] == "node.levels");
    assert_eq!(told.count(), 2);
    // Said again, it is no news.
    let report = ObservedState { levels: Some(Level::ALL[..2].to_vec()), ..ObservedState::default() };
    machine.report(&world, &report).await;
    let events = world.get("/v1/events?limit=200").await.expect(200);
    let told = events["items"].as_array().unwrap().iter().filter(|event| event["kind"] == "node.levels");
    assert_eq!(told.count(), 2);
}

#[tokio::test]
async fn a_managed_installation_refuses_what_is_no_boundary() {
    let mut world = World::new().await;
    world.image().await;
    let machine = making(&world, "node-1", &Level::ALL).await;
    let process = world.post("/v1/agents", json!({"level": "process", "name": "p"})).await.expect(201);
    let id = process["id"].as_str().unwrap().to_owned();
    machine.saw(&world, &id, 1, Observed::Stopped).await;
    let wild = json!({"level": "container", "name": "wild", "unrestricted": true});
    let wild = world.post("/v1/agents", wild).await.expect(201)["id"].as_str().unwrap().to_owned();
    machine.saw(&world, &wild, 1, Observed::Stopped).await;

    world.switch(Mode::Managed).await;
    for level in ["workspace", "process"] {
        let answer = world.post("/v1/agents", json!({"level": level})).await;
        assert_eq!(answer.problem(), ("MODE_REFUSES", Some("level")));
        assert!(answer.json["remedy"].as_str().unwrap().contains("container"));
    }
    // One from another time does not run again, and can be removed.
    assert_eq!(world.verb(&id, "start").await.problem().0, "MODE_REFUSES");
    assert_eq!(world.verb(&wild, "start").await.problem(), ("MODE_REFUSES", Some("unrestricted")));
    world.call_as(&world.key, "DELETE", &format!("/v1/agents/{id}"), None).await.expect(200);
    assert_eq!(world.post("/v1/agents", json!({})).await.expect(201)["level"], "container");
    let answer = world.post("/v1/agents", json!({"unrestricted": true})).await;
    assert_eq!(answer.problem(), ("MODE_REFUSES", Some("unrestricted")));
}

#[tokio::test]
async fn an_unrestricted_agent_is_one_on_request_and_says_so() {
    let world = World::new().await;
    world.image().await;
    Machine::enrolled(&world, "node-1", 9).await;
    let made = world.post("/v1/agents", json!({"name": "wild", "unrestricted": true})).await.expect(201);
    let tame = world.post("/v1/agents", json!({"name": "tame"})).await.expect(201);
    assert_eq!((&made["unrestricted"], &tame["unrestricted"]), (&json!(true), &json!(false)));
    for agent in world.get("/v1/agents").await.expect(200)["items"].as_array().unwrap() {
        let warned = agent["warnings"].to_string().contains("unrestricted");
        assert_eq!(warned, agent["name"] == "wild");
    }
    let events = world.get("/v1/events?limit=200").await.expect(200);
    let created = events["items"].as_array().unwrap().iter().find(|event| event["subject"] == made["id"]);
    assert_eq!(created.unwrap()["detail"]["unrestricted"], true);
}
