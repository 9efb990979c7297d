//! Clones: what they have of their source, and what is theirs alone.

use super::secrets::{delivery, injecting, set};
use super::world::{Machine, World};
use model::agent::Observed;
use serde_json::{Value, json};

async fn world(slots: u32) -> (World, Machine) {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", slots).await;
    world.image().await;
    (world, machine)
}

async fn clone(world: &World, source: &str, body: Value) -> super::world::Answer {
    world.post(&format!("/v1/agents/{source}/clone"), body).await
}

#[tokio::test]
async fn a_clone_is_its_source_with_an_identity_of_its_own() {
    let (world, machine) = world(4).await;
    set(&world, "api", "hunter2hunter2hunter2", &["a.example"]).await;
    set(&world, "db", "hunter3", &[]).await;
    let create = json!({"name": "a", "image": "debian", "labels": {"team": "x"}, "env": {"MINE": "1"},
        "main": {"argv": ["sleep", "1"]}, "resources": {"memory": "256MiB"}, "keep_scratch": true, "ttl": "2h",
        "secrets": [{"secret": "db", "env": "DB"}], "policy": injecting(&[("api", "a.example")])});
    let source = world.post("/v1/agents", create).await.expect(201);
    let id = source["id"].as_str().unwrap();
    machine.saw(&world, id, 1, Observed::Running).await;
    let source = world.get(&format!("/v1/agents/{id}")).await.expect(200);
    let copy = clone(&world, "a", json!({"name": "b"})).await;
    assert_eq!(copy.status.as_u16(), 201, "{}", copy.json);
    assert!(copy.headers.contains_key("etag") && copy.headers.contains_key("location"));
    let copy = copy.json;
    for same in [
        "account",
        "level",
        "image",
        "image_name",
        "image_digest",
        "node",
        "main",
        "labels",
        "run_as",
        "resources",
        "keep_scratch",
        "ttl",
        "policy",
        "image_config",
    ] {
        assert_eq!(copy[same], source[same], "{same}");
    }
    for own in ["id", "name", "volume", "created_at"] {
        assert!(copy[own] != source[own] || own == "created_at", "{own}");
    }
    assert_eq!(copy["origin"], json!({"agent": id, "volume": source["volume"]}));
    assert_eq!((&copy["state"], &copy["evidence"]), (&json!("provisioning"), &json!([])));
    // Its node is told where its disk comes from, and its secrets, behind a placeholder of its own.
    let wishes = machine.desired(&world, "").await.agents;
    let wish = |id: &str| wishes.iter().find(|wish| wish.spec.id.to_string() == id).unwrap();
    let (there, here) = (wish(id), wish(copy["id"].as_str().unwrap()));
    assert_eq!(here.spec.origin.map(|origin| origin.volume), Some(there.spec.volume));
    assert_eq!((&here.spec.env, &here.spec.secrets), (&there.spec.env, &there.spec.secrets));
    assert_eq!((here.generation, here.token_epoch, here.policy_revision), (1, 1, 1));
    let (_, ours) = delivery::told(&world, &machine, id).await;
    let (_, theirs) = delivery::told(&world, &machine, copy["id"].as_str().unwrap()).await;
    assert_eq!(ours.len(), 2);
    for (our, their) in ours.iter().zip(&theirs) {
        assert_eq!((&our.name, &our.value), (&their.name, &their.value));
        assert!(our.placeholder.is_none() || our.placeholder != their.placeholder);
    }
    let events = world.get("/v1/events?limit=50").await.expect(200);
    let event =
        events["items"].as_array().unwrap().iter().find(|event| event["kind"] == "agent.cloned").unwrap();
    assert_eq!((&event["subject"], &event["detail"]["source"]), (&copy["id"], &json!(id)));
}

#[tokio::test]
async fn a_clone_may_have_another_image() {
    let (world, machine) = world(4).await;
    let id = world.agent("a").await;
    machine.saw(&world, &id, 1, Observed::Running).await;
    let newer = json!({"name": "debian", "digest": "cd".repeat(32), "size": 4096,
        "config": {"env": {"LANG": "de_DE.UTF-8", "A": "newer"}, "cwd": "/opt"}});
    let newer = world.post("/v1/images", newer).await.expect(201);
    // The source's name has moved on; what it was made of is still its own.
    let same = clone(&world, "a", json!({"name": "same"})).await.expect(201);
    assert_eq!(same["image_digest"], json!("ab".repeat(32)));
    let moved = clone(&world, "a", json!({"name": "moved", "image": "debian"})).await.expect(201);
    assert_eq!((&moved["image"], &moved["image_digest"]), (&newer["id"], &newer["digest"]));
    assert_eq!(moved["image_config"]["cwd"], "/opt");
    let wishes = machine.desired(&world, "").await.agents;
    let env = |agent: &Value| {
        let wish = wishes.iter().find(|wish| json!(wish.spec.id) == agent["id"]).unwrap();
        (wish.spec.env["LANG"].clone(), wish.spec.env["A"].clone())
    };
    assert_eq!(env(&same), ("C.UTF-8".to_owned(), "image".to_owned()));
    assert_eq!(env(&moved), ("de_DE.UTF-8".to_owned(), "newer".to_owned()));
    assert_eq!(
        clone(&world, "a", json!({"name": "x", "image": "none"})).await.problem(),
        ("NOT_FOUND", Some("image"))
    );
}

#[tokio::test]
async fn what_cannot_be_cloned_says_why() {
    let (world, machine) = world(2).await;
    let id = world.agent("a").await;
    machine.saw(&world, &id, 1, Observed::Running).await;
    assert_eq!(clone(&world, "nobody", json!({"name": "b"})).await.problem().0, "NOT_FOUND");
    assert_eq!(clone(&world, "a", json!({"name": "a"})).await.problem(), ("NAME_TAKEN", Some("name")));
    assert_eq!(clone(&world, "a", json!({"name": "No"})).await.problem().0, "VALIDATION_ERROR");
    // Another account has no such agent, and its node no room for a third.
    let path = format!("/v1/agents/{id}/clone");
    let theirs = world.call_as(&world.other, "POST", &path, Some(json!({"name": "b"}))).await;
    assert_eq!(theirs.problem().0, "NOT_FOUND");
    clone(&world, "a", json!({"name": "b"})).await.expect(201);
    // Beside its source there is no room, and elsewhere there is no disk to copy.
    Machine::enrolled(&world, "node-2", 4).await;
    assert_eq!(clone(&world, "a", json!({"name": "c"})).await.problem().0, "NO_CAPACITY");
    let account = world.account().await;
    let quota = json!({"agents": 2});
    let path = format!("/v1/accounts/{account}/quota");
    world.call_as(&world.key, "PUT", &path, Some(quota)).await.expect(200);
    world.call_as(&world.key, "DELETE", "/v1/agents/b", None).await.expect(200);
    let b = world.get("/v1/agents?state=destroying").await.expect(200)["items"][0]["id"].clone();
    machine.saw(&world, b.as_str().unwrap(), 2, Observed::Destroyed).await;
    clone(&world, "a", json!({"name": "c"})).await.expect(201);
    assert_eq!(clone(&world, "a", json!({"name": "d"})).await.status.as_u16(), 503);
    world.call_as(&world.key, "DELETE", "/v1/agents/a", None).await.expect(200);
    assert_eq!(clone(&world, &id, json!({"name": "d"})).await.problem().0, "WRONG_STATE");
}

#[tokio::test]
async fn the_quota_counts_a_clone() {
    let (world, machine) = world(4).await;
    let id = world.agent("a").await;
    machine.saw(&world, &id, 1, Observed::Running).await;
    let path = format!("/v1/accounts/{}/quota", world.account().await);
    world.call_as(&world.key, "PUT", &path, Some(json!({"agents": 1}))).await.expect(200);
    assert_eq!(clone(&world, "a", json!({"name": "b"})).await.problem(), ("QUOTA_EXCEEDED", Some("agents")));
}

#[tokio::test]
async fn a_clone_is_made_once() {
    let (world, machine) = world(4).await;
    let id = world.agent("a").await;
    machine.saw(&world, &id, 1, Observed::Running).await;
    let ask = async |body: Value| {
        let request = world
            .request("POST", "/v1/agents/a/clone")
            .header("authorization", format!("Bearer {}", world.key))
            .header("content-type", "application/json")
            .header("idempotency-key", "once")
            .body(axum::body::Body::from(body.to_string()));
        world.send(request.unwrap()).await
    };
    let first = ask(json!({"name": "b"})).await.expect(201);
    assert_eq!(ask(json!({"name": "b"})).await.expect(201)["id"], first["id"]);
    assert_eq!(ask(json!({"name": "c"})).await.problem().0, "IDEMPOTENCY_MISMATCH");
    assert_eq!(world.get("/v1/agents").await.expect(200)["items"].as_array().unwrap().len(), 2);
}
