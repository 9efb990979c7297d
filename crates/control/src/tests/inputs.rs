//! Bad input: an error with code and field, nothing changed, never a fault of ours.

use super::world::{Machine, World};
use axum::body::Body;
use proptest::prelude::*;
use serde_json::{Value, json};

async fn world() -> World {
    let world = World::new().await;
    Machine::enrolled(&world, "node-1", 4).await;
    world.image().await;
    world
}

#[tokio::test]
async fn fields_are_named() {
    let world = world().await;
    let events = world.get("/v1/events?limit=200").await.expect(200);
    let agent = |field: &str, value: Value| {
        let mut body = json!({"image": "debian"});
        body[field] = value;
        body
    };
    let labels: Value =
        (0..65).map(|n| (format!("l{n}"), json!(""))).collect::<serde_json::Map<_, _>>().into();
    let cases = [
        ("/v1/agents", agent("level", json!("microvm")), "level"),
        ("/v1/agents", agent("level", json!(2)), "level"),
        ("/v1/agents", agent("level", json!("process")), "image"),
        ("/v1/agents", json!({"level": "process", "entrypoint": ["sh"]}), "entrypoint"),
        ("/v1/agents", json!({"level": "workspace", "run_as": "root"}), "run_as"),
        ("/v1/agents", json!({"level": "process", "main": {"argv": ["sh"], "user": "root"}}), "main.user"),
        ("/v1/agents", agent("unrestricted", json!("yes")), "unrestricted"),
        ("/v1/agents", json!({"image": 1}), "image"),
        ("/v1/agents", agent("colour", json!("red")), "colour"),
        ("/v1/agents", agent("name", json!("UPPER")), "name"),
        ("/v1/agents", agent("name", json!("a\u{0}b")), "name"),
        ("/v1/agents", agent("name", json!("a".repeat(900_000))), "name"),
        ("/v1/agents", agent("level", json!("moat")), "level"),
        ("/v1/agents", agent("level", json!({"container": null})), "level"),
        ("/v1/agents", agent("main", json!({"argv": []})), "main.argv"),
        ("/v1/agents", agent("main", json!({"argv": ["sh", "a\u{0}b"]})), "main.argv[1]"),
        ("/v1/agents", agent("main", json!({"argv": ["sh", 7]})), "main.argv[1]"),
        ("/v1/agents", agent("main", json!({"argv": ["x".repeat(200_000)]})), "main.argv"),
        ("/v1/agents", agent("main", json!({"argv": ["sh"], "cwd": "etc"})), "main.cwd"),
        ("/v1/agents", agent("main", json!({"argv": ["sh"], "shell": true})), "main.shell"),
        ("/v1/agents", agent("main", json!({"argv": ["sh"], "user": "nobody"})), "main.user"),
        ("/v1/agents", agent("env", json!({"1A": "x"})), "env.1A"),
        ("/v1/agents", agent("env", json!({"A=B": "x"})), "env.A=B"),
        ("/v1/agents", agent("env", json!({"A": "a\u{0}"})), "env.A"),
        ("/v1/agents", agent("env", json!({"A": "a".repeat(200_000)})), "env"),
        ("/v1/agents", agent("env", json!(["A"])), "env"),
        ("/v1/agents", agent("labels", json!({"a": "b\u{7}"})), "labels.a"),
        ("/v1/agents", agent("labels", json!({"a\u{1b}": "b"})), "labels.a"),
        ("/v1/agents", agent("labels", json!({"a": "b".repeat(256)})), "labels.a"),
        ("/v1/agents", agent("labels", labels), "labels"),
        ("/v1/agents", agent("run_as", json!("daemon")), "run_as"),
        ("/v1/agents", agent("resources", json!({"cpus": -1})), "resources.cpus"),
        ("/v1/agents", agent("resources", json!({"cpus": 1e300})), "resources.cpus"),
        ("/v1/agents", agent("resources", json!({"memory": "-1GiB"})), "resources.memory"),
        ("/v1/agents", agent("resources", json!({"memory": "1KiB"})), "resources.memory"),
        ("/v1/agents", agent("resources", json!({"memory": 1.5})), "resources.memory"),
        ("/v1/agents", agent("resources", json!({"pids": 0})), "resources.pids"),
        ("/v1/agents", agent("resources", json!({"pids": 5_000_000_000u64})), "resources.pids"),
        ("/v1/agents", agent("resources", json!({"disk": "9999999TiB"})), "resources.disk"),
        ("/v1/agents", agent("resources", json!({"gpus": 1})), "resources.gpus"),
        ("/v1/agents", agent("ttl", json!("0s")), "ttl"),
        ("/v1/agents", agent("ttl", json!(u64::MAX)), "ttl"),
        ("/v1/agents", agent("idle_timeout", json!("soon")), "idle_timeout"),
        ("/v1/agents", agent("keep_scratch", json!("yes")), "keep_scratch"),
        ("/v1/images", json!({"name": "x", "digest": "AB".repeat(32), "size": 1}), "digest"),
        ("/v1/images", json!({"name": "x", "digest": "../../etc/passwd", "size": 1}), "digest"),
        ("/v1/images", json!({"name": "x", "digest": "ab".repeat(32), "size": 0}), "size"),
        ("/v1/images", json!({"name": "x", "digest": "ab".repeat(32), "size": -1}), "size"),
        (
            "/v1/images",
            json!({"name": "x", "digest": "ab".repeat(32), "size": 1, "config": {"user": "root"}}),
            "config.user",
        ),
        ("/v1/keys", json!({"name": ""}), "name"),
        ("/v1/keys", json!({"name": "k", "hash": "x"}), "hash"),
        ("/v1/agents/nobody/token", json!({"scopes": ["sudo"]}), "scopes[0]"),
        ("/v1/agents/nobody/token", json!({"scopes": []}), "scopes"),
    ];
    for (path, body, field) in cases {
        let answer = world.post(path, body).await;
        assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some(field)), "{} {}", field, answer.json);
        let text = answer.json.to_string();
        assert!(text.len() < 2000, "the answer repeats what was sent");
        // None of serde's own sentences.
        for theirs in ["line 1", "expected struct", "untagged", "invalid type", "at column"] {
            assert!(!text.contains(theirs), "{text}");
        }
    }
    assert_eq!(world.get("/v1/events?limit=200").await.expect(200), events, "something changed");
}

#[tokio::test]
async fn bodies() {
    let world = world().await;
    let send = async |content_type: Option<&str>, body: Vec<u8>| {
        let mut request =
            world.request("POST", "/v1/agents").header("authorization", format!("Bearer {}", world.key));
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        world.send(request.body(Body::from(body)).unwrap()).await
    };
    let good = br#"{"image":"debian"}"#.to_vec();
    for content_type in
        [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("multipart/form-data")]
    {
        assert_eq!(send(content_type, good.clone()).await.problem().0, "UNSUPPORTED_MEDIA_TYPE");
    }
    send(Some("application/json; charset=utf-8"), good).await.expect(201);
    let json = Some("application/json");
    for body in [&b""[..], b"{", b"[]", b"null", b"\"x\"", b"{\"image\":\"\xff\"}", b"{} {}"] {
        assert_eq!(send(json, body.to_vec()).await.problem().0, "VALIDATION_ERROR");
    }
    assert_eq!(send(json, vec![b'['; 100_000]).await.problem().0, "VALIDATION_ERROR", "deeply nested");
    let name = format!(r#"{{"image":"debian","name":"{}"}}"#, "a".repeat(10_000_000));
    assert_eq!(send(json, name.into_bytes()).await.problem().0, "TOO_LARGE");
    let stop = world.post("/v1/agents/x/stop", json!({"force": true})).await;
    assert_eq!(stop.problem(), ("VALIDATION_ERROR", Some("force")));
    assert_eq!(world.post("/v1/agents/x/stop", json!({})).await.problem().0, "NOT_FOUND");
}

#[tokio::test]
async fn paths_and_methods() {
    let world = world().await;
    for path in ["/", "/v1", "/v1/agents/", "/v2/agents", "/v1/agents/a/b/c", "/v1/../etc/passwd"] {
        assert_eq!(world.get(path).await.problem().0, "NOT_FOUND", "{path}");
    }
    for id in
        ["x", "agt_", "%00", "%ff", "a%20b", "%1b%5b31m", &"a".repeat(5000), "agt_01h455vb4pex5vsknk084sn02q"]
    {
        assert_eq!(world.get(&format!("/v1/agents/{id}")).await.problem().0, "NOT_FOUND", "{id}");
    }
    for (method, path) in [
        ("PUT", "/v1/agents"),
        ("PATCH", "/v1/agents/x"),
        ("OPTIONS", "/v1/agents"),
        ("DELETE", "/v1/whoami"),
    ] {
        let answer = world.call_as(&world.key, method, path, None).await;
        assert_eq!(answer.problem().0, "METHOD_NOT_ALLOWED", "{method} {path}");
        assert!(answer.headers.contains_key("allow"), "{method} {path}");
    }
}

/// Names that occur in the document, for fuzzing objects that are nearly right.
fn vocabulary(document: &Value) -> Vec<String> {
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let names = schemas
        .values()
        .filter_map(|schema| schema["properties"].as_object())
        .flat_map(|p| p.keys().cloned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.dedup();
    names
}

fn values(names: Vec<String>) -> impl Strategy<Value = Value> {
    let words = [
        "debian",
        "a",
        "root",
        "container",
        "exec",
        "1GiB",
        "30s",
        "-1",
        "",
        "\u{0}",
        "\u{1b}[2J",
        "é",
        "../x",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0u32..100).prop_map(Value::from),
        proptest::sample::select(words.to_vec()).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(Value::from("ab".repeat(32))),
    ];
    let name = prop_oneof![8 => proptest::sample::select(names), 1 => any::<String>()];
    leaf.prop_recursive(3, 24, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(name.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Random JSON at every POST endpoint of the document: never a fault of ours.
#[test]
fn random_json_is_no_fault() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = runtime.block_on(world());
    let paths = world.document()["paths"].as_object().unwrap();
    let posts: Vec<String> =
        paths.iter().filter(|(_, item)| item.get("post").is_some()).map(|(path, _)| path.clone()).collect();
    assert!(posts.len() >= 8);
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let names = vocabulary(world.document());
    let bases = [json!({"image": "debian"}), json!({"name": "k"}), json!({"scopes": ["exec"]}), json!({})];
    let case = (
        proptest::sample::select(posts),
        values(names),
        proptest::sample::select(bases.to_vec()),
        any::<bool>(),
    );
    runner
        .run(&case, |(path, value, base, merge)| {
            let mut body = value;
            if let (true, Value::Object(fields)) = (merge, &body) {
                let mut merged = base.as_object().unwrap().clone();
                merged.extend(fields.clone());
                body = Value::Object(merged);
            }
            let answer = runtime.block_on(world.post(&path.replace("{id}", "nobody"), body));
            let full = answer.json["code"] == "NO_CAPACITY";
            prop_assert!(answer.status.as_u16() < 500 || full, "{}", answer.json);
            Ok(())
        })
        .unwrap();
}

#[test]
fn random_requests_are_no_fault() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = runtime.block_on(world());
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let case = ("[a-z0-9/%?=&_.-]{0,40}", proptest::collection::vec(any::<u8>(), 0..200), any::<bool>());
    runner
        .run(&case, |(path, body, node)| {
            let path = format!("/{}/v1/{path}", if node { "node" } else { "" }).replace("//", "/");
            let Ok(request) = world
                .request("POST", &path)
                .header("authorization", format!("Bearer {}", world.key))
                .header("content-type", "application/json")
                .body(Body::from(body))
            else {
                return Ok(());
            };
            let answer = runtime.block_on(world.send(request));
            prop_assert!(answer.status.as_u16() < 500, "{}", answer.json);
            Ok(())
        })
        .unwrap();
}
