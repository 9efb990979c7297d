//! Secrets: what comes back of them, who may have them, and what a node is told.

pub(super) mod delivery;
pub(super) mod leaks;

use super::world::{Answer, Machine, World};
use serde_json::{Value, json};

pub(super) async fn world() -> (World, Machine) {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 8).await;
    world.image().await;
    (world, machine)
}

/// Makes a secret of the first account, and tells its id.
pub(super) async fn set(world: &World, name: &str, value: &str, hosts: &[&str]) -> String {
    let body = json!({"name": name, "value": value, "hosts": hosts});
    world.post("/v1/secrets", body).await.expect(201)["id"].as_str().unwrap().to_owned()
}

/// A policy that puts secrets into requests to hosts.
pub(super) fn injecting(pairs: &[(&str, &str)]) -> Value {
    let inject = pairs.iter().map(|(secret, host)| json!({"secret": secret, "host": host, "bearer": true}));
    json!({"version": 1, "egress": {"inject": inject.collect::<Vec<_>>()}})
}

async fn delete(world: &World, path: &str) -> Answer {
    world.call_as(&world.key, "DELETE", path, None).await
}

pub(super) async fn put(world: &World, path: &str, body: Value) -> Answer {
    world.call_as(&world.key, "PUT", path, Some(body)).await
}

async fn revisions(world: &World, machine: &Machine) -> Vec<u64> {
    machine.desired(world, "").await.agents.iter().map(|agent| agent.secrets_revision).collect()
}

#[tokio::test]
async fn a_secret_lives() {
    let (world, _machine) = world().await;
    let long = "sk-ant-0123456789abcdef";
    let made = world.post("/v1/secrets", json!({"name": "a", "value": long, "hosts": ["*.a.example"]})).await;
    let made = made.expect(201);
    assert_eq!((&made["hint"], &made["version"]), (&json!("••••cdef"), &json!(1)));
    assert_eq!(made["hosts"], json!(["*.a.example"]));
    let id = made["id"].as_str().unwrap();
    assert!(id.starts_with("sec_") && made.get("value").is_none());
    for key in ["a", id] {
        assert_eq!(world.get(&format!("/v1/secrets/{key}")).await.expect(200), made);
    }
    // Of a short one nothing is shown.
    let short = world.post("/v1/secrets", json!({"name": "b", "value": "0123456789abcde"})).await.expect(201);
    assert_eq!((&short["hint"], &short["hosts"]), (&json!("••••"), &json!([])));

    let taken = world.post("/v1/secrets", json!({"name": "a", "value": "another"})).await;
    assert_eq!(taken.problem(), ("NAME_TAKEN", Some("name")));
    let rotated = world.post("/v1/secrets/a/rotate", json!({"value": "0123456789ABCDEF"})).await.expect(200);
    assert_eq!((&rotated["hint"], &rotated["version"]), (&json!("••••CDEF"), &json!(2)));
    let moved = put(&world, &format!("/v1/secrets/{id}/hosts"), json!({"hosts": ["b.example"]})).await;
    assert_eq!(moved.expect(200)["hosts"], json!(["b.example"]));

    let page = world.get("/v1/secrets?limit=1").await.expect(200);
    assert_eq!(page["items"][0]["name"], "b");
    let next = format!("/v1/secrets?cursor={}", page["next"].as_str().unwrap());
    let rest = world.get(&next).await.expect(200);
    assert_eq!((&rest["items"][0]["name"], rest.get("next")), (&json!("a"), None));

    delete(&world, "/v1/secrets/a").await.expect(204);
    for path in ["/v1/secrets/a", &format!("/v1/secrets/{id}")] {
        assert_eq!(world.get(path).await.problem().0, "NOT_FOUND");
        assert_eq!(delete(&world, path).await.problem().0, "NOT_FOUND");
    }
    assert_ne!(set(&world, "a", "again", &[]).await, id, "the name is free");
    let events = world.get(&format!("/v1/events?subject={id}")).await.expect(200);
    let events: Vec<_> =
        events["items"].as_array().unwrap().iter().map(|e| (&e["kind"], &e["detail"])).collect();
    let expected = [
        (json!("secret.deleted"), json!({"name": "a"})),
        (json!("secret.changed"), json!({"name": "a", "hosts": ["b.example"]})),
        (json!("secret.rotated"), json!({"name": "a", "version": 2})),
        (json!("secret.created"), json!({"name": "a", "hosts": ["*.a.example"]})),
    ];
    assert_eq!(events, expected.iter().map(|(kind, detail)| (kind, detail)).collect::<Vec<_>>());
}

#[tokio::test]
async fn requests_that_come_twice_act_once() {
    let (world, _machine) = world().await;
    let post = async |path: &str, key: &str, body: Value| {
        let request = world
            .request("POST", path)
            .header("authorization", format!("Bearer {}", world.key))
            .header("content-type", "application/json")
            .header("idempotency-key", key);
        world.send(request.body(body.to_string().into()).unwrap()).await
    };
    let body = json!({"name": "a", "value": "first"});
    let made = post("/v1/secrets", "k", body.clone()).await.expect(201);
    assert_eq!(post("/v1/secrets", "k", body).await.expect(201), made);
    let other = post("/v1/secrets", "k", json!({"name": "a", "value": "second"})).await;
    assert_eq!(other.problem().0, "IDEMPOTENCY_MISMATCH", "another value is another request");
    let value = json!({"value": "third"});
    for _ in 0..2 {
        assert_eq!(post("/v1/secrets/a/rotate", "r", value.clone()).await.expect(200)["version"], 2);
    }
    assert_eq!(world.get("/v1/secrets/a").await.expect(200)["version"], 2);
}

#[tokio::test]
async fn values_that_cannot_be_kept_are_refused_without_being_repeated() {
    let (world, _machine) = world().await;
    set(&world, "kept", "x", &[]).await;
    let events = world.get("/v1/events?limit=200").await.expect(200);
    let planted = "hunter2-hunter2";
    let long = planted.repeat(10_000);
    let cases = [
        ("/v1/secrets", json!({"name": "a"}), Some("value")),
        ("/v1/secrets", json!({"name": "a", "value": ""}), Some("value")),
        ("/v1/secrets", json!({"name": "a", "value": long}), Some("value")),
        ("/v1/secrets", json!({"name": "a", "value": format!("{planted}\0")}), Some("value")),
        ("/v1/secrets", json!({"name": "a", "value": [planted]}), Some("value")),
        ("/v1/secrets", json!({"name": "a", "value": {planted: 1}}), Some("value")),
        ("/v1/secrets", json!({"name": planted.to_uppercase(), "value": planted}), Some("name")),
        ("/v1/secrets", json!({"name": "a", "value": planted, "hosts": planted}), Some("hosts")),
        (
            "/v1/secrets",
            json!({"name": "a", "value": planted, "hosts": ["https://x/hunter2"]}),
            Some("hosts[0]"),
        ),
        (
            "/v1/secrets",
            json!({"name": "a", "value": planted, "hosts": ["a.example", "10.0.0.1"]}),
            Some("hosts[1]"),
        ),
        ("/v1/secrets", json!({"name": "a", "value": planted, "hosts": ["*"]}), Some("hosts[0]")),
        (
            "/v1/secrets",
            json!({"name": "a", "value": planted, "hosts": vec!["a.example"; 65]}),
            Some("hosts"),
        ),
        // A field that there is not is not named: what stands there may be the value.
        ("/v1/secrets", json!({"name": "a", planted: "value"}), None),
        ("/v1/secrets", json!([planted]), None),
        ("/v1/secrets", json!(planted), None),
        ("/v1/secrets/kept/rotate", json!({"value": ""}), Some("value")),
        ("/v1/secrets/kept/rotate", json!({"value": "x", planted: 1}), None),
        ("/v1/secrets/kept/rotate", json!({}), Some("value")),
    ];
    for (path, body, field) in cases {
        let answer = world.post(path, body.clone()).await;
        assert_eq!(answer.problem(), ("VALIDATION_ERROR", field), "{}", answer.json);
        assert!(!answer.json.to_string().to_lowercase().contains("hunter2"), "{}", answer.json);
        assert!(answer.json["remedy"].is_string(), "{}", answer.json);
    }
    let huge = world.post("/v1/secrets", json!({"name": "a", "value": "x".repeat(600_000)})).await;
    assert_eq!(huge.problem().0, "TOO_LARGE");
    for text in ["{\"name\":\"a\",\"value\":\"hunter2", "hunter2", "{\"value\":\"hunter2\\x\"}"] {
        let request = world
            .request("POST", "/v1/secrets")
            .header("authorization", format!("Bearer {}", world.key))
            .header("content-type", "application/json");
        let answer = world.send(request.body(text.to_owned().into()).unwrap()).await;
        assert_eq!(answer.problem().0, "VALIDATION_ERROR");
        assert!(!answer.json.to_string().contains("hunter2"), "{}", answer.json);
    }
    assert_eq!(world.get("/v1/events?limit=200").await.expect(200), events, "something changed");
}

#[tokio::test]
async fn policies_name_secrets_that_there_are_for_hosts_that_they_are_for() {
    let (world, machine) = world().await;
    set(&world, "bound", "x", &["api.example.com", "*.b.example"]).await;
    set(&world, "free", "x", &[]).await;
    let foreign = json!({"name": "foreign", "value": "x"});
    world.call_as(&world.other, "POST", "/v1/secrets", Some(foreign)).await.expect(201);
    world.agent("a").await;
    for (secret, host, field) in [
        ("nothing", "api.example.com", "egress.inject[1].secret"),
        ("foreign", "api.example.com", "egress.inject[1].secret"),
        ("bound", "other.example.com", "egress.inject[1].host"),
        ("bound", "*.example.com", "egress.inject[1].host"),
        ("bound", "b.example", "egress.inject[1].host"),
    ] {
        let policy = injecting(&[("free", "a.example"), (secret, host)]);
        let answer = put(&world, "/v1/agents/a/policy", policy.clone()).await;
        assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some(field)), "{secret} {host}: {}", answer.json);
        let under = format!("policy.{field}");
        let answer = world.post("/v1/agents", json!({"policy": policy})).await;
        assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some(&*under)), "{secret} {host}: {}", answer.json);
    }
    assert_eq!(revisions(&world, &machine).await, [0]);
    for (secret, host) in [
        ("bound", "API.example.com."),
        ("bound", "x.y.b.example"),
        ("bound", "*.y.b.example"),
        ("bound", "*.b.example"),
        ("free", "*.anything.example"),
    ] {
        let policy = injecting(&[(secret, host)]);
        put(&world, "/v1/agents/a/policy", policy.clone()).await.expect(200);
        world.post("/v1/agents", json!({"policy": policy, "ttl": "1h"})).await.expect(201);
    }
}

#[tokio::test]
async fn agents_are_given_secrets_at_places_of_their_own() {
    let (world, machine) = world().await;
    set(&world, "free", "x", &[]).await;
    set(&world, "bound", "x", &["api.example.com"]).await;
    let env = |env: &str| json!({"secret": "free", "env": env});
    let file = |file: &str| json!({"secret": "free", "file": file});
    let many: Vec<_> = (0..65).map(|n| env(&format!("E{n}"))).collect();
    for (more, field) in [
        (json!({"secrets": [{"secret": "nothing", "env": "A"}]}), "secrets[0].secret"),
        (json!({"secrets": [env("A"), {"secret": "bound", "env": "B"}]}), "secrets[1].secret"),
        (json!({"secrets": [{"secret": "Not A Name", "env": "A"}]}), "secrets[0].secret"),
        (json!({"secrets": [{"secret": "free"}]}), "secrets[0].env"),
        (json!({"secrets": [{"secret": "free", "env": "A", "file": "a"}]}), "secrets[0].file"),
        (json!({"secrets": [{"secret": "free", "env": "A", "value": "x"}]}), "secrets[0].value"),
        (json!({"secrets": [env("1A")]}), "secrets[0].env"),
        (json!({"secrets": [env("A=B")]}), "secrets[0].env"),
        (json!({"secrets": [env("")]}), "secrets[0].env"),
        (json!({"secrets": [file("../x")]}), "secrets[0].file"),
        (json!({"secrets": [file("a/b")]}), "secrets[0].file"),
        (json!({"secrets": [file(".x")]}), "secrets[0].file"),
        (json!({"secrets": [env("A"), env("A")]}), "secrets[1].env"),
        (json!({"secrets": [file("a"), env("A"), file("a")]}), "secrets[2].file"),
        (json!({"secrets": [env("A")], "env": {"A": "x"}}), "secrets[0].env"),
        (json!({"secrets": [env("A")], "main": {"argv": ["sh"], "env": {"A": "x"}}}), "secrets[0].env"),
        (json!({"secrets": many}), "secrets"),
        (
            json!({"secrets": [env("A")], "policy": {"version": 1, "egress": {"inject": [
                {"secret": "free", "host": "a.example", "bearer": true, "env": "A"}]}}}),
            "policy.egress.inject[0].env",
        ),
    ] {
        let answer = world.post("/v1/agents", more).await;
        assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some(field)), "{}", answer.json);
    }
    assert_eq!(machine.desired(&world, "").await.agents, []);
    // Beside the image's own `A`: what was asked for goes before that.
    let uses = json!([env("A"), file("a"), env("B")]);
    world.post("/v1/agents", json!({"name": "a", "image": "debian", "secrets": uses})).await.expect(201);
    let desired = machine.desired(&world, "").await.agents.remove(0);
    assert_eq!((serde_json::to_value(&desired.spec.secrets).unwrap(), desired.secrets_revision), (uses, 1));
    let policy = json!({"version": 1, "egress": {"inject": [
        {"secret": "free", "host": "a.example", "bearer": true, "env": "B"}]}});
    let answer = put(&world, "/v1/agents/a/policy", policy).await;
    assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some("egress.inject[0].env")));
}

#[tokio::test]
async fn whatever_changes_for_a_node_raises_its_revision() {
    let (world, machine) = world().await;
    let id = set(&world, "a", "x", &["a.example", "b.example"]).await;
    set(&world, "b", "x", &[]).await;
    world.agent("with").await;
    world.agent("without").await;
    let given = json!({"name": "given", "image": "debian", "secrets": [{"secret": "b", "env": "B"}]});
    world.post("/v1/agents", given).await.expect(201);
    let mut expected = [0, 0, 1];
    assert_eq!(revisions(&world, &machine).await, expected);
    let mut since = machine.desired(&world, "").await;
    let mut told = async |what: &str, rises: [u64; 3]| {
        let query = format!("?rev={}&epoch={}", since.rev, since.database_epoch);
        let news = machine.desired(&world, &query).await;
        for (own, rise) in expected.iter_mut().zip(rises) {
            *own += rise;
        }
        assert_eq!(revisions(&world, &machine).await, expected, "{what}");
        let changed = rises.iter().filter(|rise| **rise > 0).count();
        assert_eq!(news.agents.len(), changed, "the node's long poll tells of it: {what}");
        since = news;
    };
    put(&world, "/v1/agents/with/policy", injecting(&[("a", "a.example")])).await.expect(200);
    told("bound", [1, 0, 0]).await;
    put(&world, "/v1/agents/with/policy", injecting(&[("a", "a.example"), ("b", "b.example")]))
        .await
        .expect(200);
    told("another bound", [1, 0, 0]).await;
    world.post("/v1/secrets/a/rotate", json!({"value": "y"})).await.expect(200);
    told("rotated", [1, 0, 0]).await;
    world.post("/v1/secrets/b/rotate", json!({"value": "y"})).await.expect(200);
    told("rotated what two have", [1, 0, 1]).await;
    put(&world, "/v1/secrets/a/hosts", json!({"hosts": ["*.example", "a.example"]})).await.expect(200);
    told("hosts", [1, 0, 0]).await;
    put(&world, "/v1/secrets/a/hosts", json!({"hosts": ["*.example", "a.example"]})).await.expect(200);
    told("the same hosts", [0, 0, 0]).await;
    put(&world, "/v1/agents/with/policy", injecting(&[("b", "b.example")])).await.expect(200);
    told("unbound", [1, 0, 0]).await;
    world.post("/v1/secrets/a/rotate", json!({"value": "z"})).await.expect(200);
    delete(&world, &format!("/v1/secrets/{id}")).await.expect(204);
    told("of no agent", [0, 0, 0]).await;
    put(&world, "/v1/agents/with/policy", injecting(&[])).await.expect(200);
    told("the last unbound", [1, 0, 0]).await;
    assert_eq!(expected, [7, 0, 2]);
}

#[tokio::test]
async fn a_secret_that_an_agent_has_stays() {
    let (world, machine) = world().await;
    set(&world, "a", "x", &["a.example"]).await;
    set(&world, "b", "x", &[]).await;
    let policy = injecting(&[("a", "a.example")]);
    let first = world.post("/v1/agents", json!({"name": "first", "policy": policy})).await.expect(201);
    let uses = json!([{"secret": "b", "file": "b"}]);
    world.post("/v1/agents", json!({"name": "second", "policy": policy, "secrets": uses})).await.expect(201);
    let refused = delete(&world, "/v1/secrets/a").await;
    assert_eq!(refused.problem().0, "IN_USE");
    assert!(refused.json["detail"].as_str().unwrap().contains("agents first, second"), "{}", refused.json);
    assert_eq!(delete(&world, "/v1/secrets/b").await.problem().0, "IN_USE");
    // Nor is it taken away by its hosts.
    for hosts in [json!(["b.example"]), json!(["*.a.example"])] {
        let refused = put(&world, "/v1/secrets/a/hosts", json!({"hosts": hosts})).await;
        assert_eq!(refused.problem(), ("IN_USE", Some("hosts")), "{}", refused.json);
    }
    let refused = put(&world, "/v1/secrets/b/hosts", json!({"hosts": ["b.example"]})).await;
    assert_eq!(refused.problem(), ("IN_USE", Some("hosts")), "the agent has the value itself");
    put(&world, "/v1/secrets/a/hosts", json!({"hosts": []})).await.expect(200);
    put(&world, "/v1/agents/first/policy", injecting(&[])).await.expect(200);
    assert_eq!(delete(&world, "/v1/secrets/a").await.problem().0, "IN_USE");
    delete(&world, "/v1/agents/second").await.expect(200);
    delete(&world, "/v1/secrets/a").await.expect(204);
    delete(&world, "/v1/secrets/b").await.expect(204);
    let left = machine.desired(&world, "").await.agents;
    assert_eq!(left.len(), 2);
    assert_eq!(first["name"], "first");
}
