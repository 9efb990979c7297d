//! Policies: kept apart from what an agent is for life, and changed while it runs.

use super::world::{Answer, Machine, World};
use axum::body::Body;
use model::policy::{Policy, Preset};
use serde_json::{Value, json};
use std::time::Duration;

async fn world() -> (World, Machine) {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 4).await;
    world.image().await;
    (world, machine)
}

async fn put(world: &World, id: &str, headers: &[(&str, &str)], policy: &Value) -> Answer {
    let mut request = world
        .request("PUT", &format!("/v1/agents/{id}/policy"))
        .header("authorization", format!("Bearer {}", world.key))
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    world.send(request.body(Body::from(policy.to_string())).unwrap()).await
}

fn only(host: &str) -> Value {
    json!({"version": 1, "egress": {"rule": [{"action": "allow", "host": host}]}})
}

/// As an answer has it: with what was left out.
fn whole(policy: &Value) -> Value {
    serde_json::to_value(serde_json::from_value::<Policy>(policy.clone()).unwrap()).unwrap()
}

#[tokio::test]
async fn an_agent_is_made_with_a_policy() {
    let (world, machine) = world().await;
    let policy = only("example.com");
    let made = json!({"name": "a", "image": "debian", "policy": policy});
    let made = world.post("/v1/agents", made).await.expect(201);
    assert_eq!((&made["policy"], &made["policy_revision"]), (&whole(&policy), &json!(1)));
    let desired = machine.desired(&world, "").await.agents.remove(0);
    assert_eq!(serde_json::to_value(&desired.policy).unwrap(), whole(&policy));
    assert_eq!(desired.policy_revision, 1);
    let shown = world.get("/v1/agents/a/policy").await;
    assert_eq!(shown.headers["etag"], "\"1\"");
    assert_eq!(shown.expect(200), whole(&policy));
    let events = world.get("/v1/events?limit=200").await.expect(200);
    let told = events["items"].as_array().unwrap().iter().find(|event| event["kind"] == "agent.created");
    assert_eq!(told.unwrap()["detail"]["policy"], whole(&policy));
}

#[tokio::test]
async fn who_does_not_say_gets_the_default() {
    let (world, _machine) = world().await;
    let policy = async |request: Value| -> Policy {
        let made = world.post("/v1/agents", request).await.expect(201);
        serde_json::from_value(made["policy"].clone()).unwrap()
    };
    let tame = policy(json!({})).await;
    assert_eq!((tame.egress.preset, &*tame.egress.bundles), (Preset::Allowlist, &["common".to_owned()][..]));
    assert_eq!(policy(json!({"unrestricted": true})).await.egress.preset, Preset::Open);
    for made in [tame, Policy::default_of(true), Policy::nothing()] {
        assert_eq!(made.validate(true), Ok(()), "{made:?}");
    }
    assert_eq!(Policy::default_of(false).validate(false), Ok(()));
}

#[tokio::test]
async fn a_workspace_has_none() {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 4).await;
    let report = model::node_api::ObservedState {
        levels: Some(model::agent::Level::ALL.to_vec()),
        ..Default::default()
    };
    machine.report(&world, &report).await;
    let made = world.post("/v1/agents", json!({"level": "workspace", "name": "w"})).await.expect(201);
    assert!(made.get("policy").is_none() && made["policy_revision"] == 0, "{made}");
    let with = json!({"level": "workspace", "policy": {"version": 1}});
    assert_eq!(world.post("/v1/agents", with).await.problem(), ("VALIDATION_ERROR", Some("policy")));
    assert_eq!(put(&world, "w", &[], &json!({"version": 1})).await.problem().0, "VALIDATION_ERROR");
    world.post("/v1/agents", json!({"level": "process", "policy": {"version": 1}})).await.expect(201);
}

#[tokio::test]
async fn a_change_reaches_the_node_at_once_and_raises_no_generation() {
    let (world, machine) = world().await;
    let id = world.agent("a").await;
    let first = machine.desired(&world, "").await;
    let query = format!("?rev={}&epoch={}&wait=30", first.rev, first.database_epoch);
    let began = std::time::Instant::now();
    let policy = only("example.com");
    let change = async {
        tokio::task::yield_now().await;
        put(&world, "a", &[], &policy).await
    };
    let (told, changed) = tokio::join!(machine.desired(&world, &query), change);
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(changed.headers["etag"], "\"2\"");
    assert_eq!(changed.expect(200), whole(&policy));
    let agent = &told.agents[0];
    assert_eq!((agent.policy_revision, agent.generation), (2, first.agents[0].generation));
    assert_eq!(serde_json::to_value(&agent.policy).unwrap(), whole(&policy));
    assert_eq!(agent.spec, first.agents[0].spec);
    let events = world.get(&format!("/v1/events?subject={id}")).await.expect(200);
    assert_eq!(events["items"][0]["kind"], "agent.policy_changed");
    assert_eq!(events["items"][0]["detail"], json!({"revision": 2, "policy": whole(&policy)}));
    assert!(events["items"][0]["actor"].as_str().unwrap().starts_with("key_"));
    let shown = world.get("/v1/agents/a").await.expect(200);
    assert_eq!((&shown["policy"], &shown["policy_revision"]), (&whole(&policy), &json!(2)));

    // The same again is no change: no event, no revision, nothing for the node.
    assert_eq!(put(&world, "a", &[], &policy).await.headers["etag"], "\"2\"");
    assert_eq!(world.get(&format!("/v1/events?subject={id}")).await.expect(200), events);
    assert_eq!(machine.desired(&world, "").await.rev, told.rev);
}

#[tokio::test]
async fn who_read_another_revision_is_refused() {
    let (world, machine) = world().await;
    let id = world.agent("a").await;
    put(&world, "a", &[("if-match", "\"1\"")], &only("one.example")).await.expect(200);
    let before = machine.desired(&world, "").await.rev;
    let late = put(&world, "a", &[("if-match", "\"1\"")], &only("two.example")).await;
    assert_eq!(late.problem().0, "PRECONDITION_FAILED");
    for bad in ["2", "W/\"2\"", "\"x\"", ""] {
        let answer = put(&world, "a", &[("if-match", bad)], &only("two.example")).await;
        assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some("If-Match")), "{bad}");
    }
    assert_eq!(machine.desired(&world, "").await.rev, before);
    assert_eq!(world.get("/v1/agents/a/policy").await.expect(200), whole(&only("one.example")));
    put(&world, "a", &[("if-match", "*")], &only("two.example")).await.expect(200);
    put(&world, &id, &[], &only("three.example")).await.expect(200);
    assert_eq!(world.get("/v1/agents/a/policy").await.headers["etag"], "\"4\"");

    // A change that is sent twice is made once.
    let key = [("idempotency-key", "k")];
    put(&world, "a", &key, &only("four.example")).await.expect(200);
    put(&world, "a", &[], &only("five.example")).await.expect(200);
    assert_eq!(put(&world, "a", &key, &only("four.example")).await.headers["etag"], "\"5\"");
    assert_eq!(world.get("/v1/agents/a/policy").await.expect(200), whole(&only("five.example")));
    let other = put(&world, "a", &key, &only("six.example")).await;
    assert_eq!(other.problem(), ("IDEMPOTENCY_MISMATCH", Some("Idempotency-Key")));
}

#[tokio::test]
async fn faults_name_their_field_and_change_nothing() {
    let (world, machine) = world().await;
    world.agent("a").await;
    let before = (machine.desired(&world, "").await.rev, world.get("/v1/events?limit=200").await.expect(200));
    let rule = |rule: Value| json!({"version": 1, "egress": {"rule": [rule]}});
    let cases = [
        (json!({}), "version"),
        (json!({"version": "one"}), "version"),
        (json!({"version": 1, "egress": {"preset": "most"}}), "egress.preset"),
        (json!({"version": 1, "egress": {"unknown": 1}}), "egress.unknown"),
        (json!({"version": 1, "egress": {"rules": []}}), "egress.rules"),
        (json!({"version": 1, "tools": {}}), "tools"),
        (rule(json!({"host": "a.example"})), "egress.rule[0].action"),
        (rule(json!({"action": "let", "host": "a.example"})), "egress.rule[0].action"),
        (rule(json!({"action": "allow"})), "egress.rule[0].host"),
        (rule(json!({"action": "allow", "host": "a.example", "ports": [65536]})), "egress.rule[0].ports[0]"),
        (json!({"version": 2}), "version"),
        (json!({"version": 1, "egress": {"preset": "open"}}), "egress.preset"),
        (
            json!({"version": 1, "egress": {"preset": "allowlist", "bundles": ["gethub"]}}),
            "egress.bundles[0]",
        ),
        (rule(json!({"action": "allow", "host": "*"})), "egress.rule[0].host"),
        (rule(json!({"action": "allow", "host": "a.example", "ports": [0]})), "egress.rule[0].ports[0]"),
        (
            rule(
                json!({"action": "allow", "host": "a.example", "ports": [7], "protocol": "tcp", "methods": ["GET"]}),
            ),
            "egress.rule[0].methods",
        ),
    ];
    for (policy, field) in cases {
        let answer = put(&world, "a", &[], &policy).await;
        assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some(field)), "{policy}: {}", answer.json);
        assert!(answer.json["remedy"].is_string());
        let under = format!("policy.{field}");
        let answer = world.post("/v1/agents", json!({"policy": policy})).await;
        assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some(&*under)), "{policy}: {}", answer.json);
    }
    let after = (machine.desired(&world, "").await.rev, world.get("/v1/events?limit=200").await.expect(200));
    assert_eq!(before, after);
}

#[tokio::test]
async fn what_is_to_be_destroyed_keeps_the_policy_that_it_had() {
    let (world, machine) = world().await;
    let id = world.agent("a").await;
    world.call_as(&world.key, "DELETE", "/v1/agents/a", None).await.expect(200);
    assert_eq!(put(&world, &id, &[], &only("a.example")).await.problem().0, "WRONG_STATE");
    machine.saw(&world, &id, 2, model::agent::Observed::Destroyed).await;
    assert_eq!(put(&world, &id, &[], &only("a.example")).await.problem().0, "WRONG_STATE");
    assert_eq!(world.get(&format!("/v1/agents/{id}/policy")).await.headers["etag"], "\"1\"");
}
