//! Who may call what. The cases are held against the OpenAPI document: an endpoint without one fails here.

use super::world::{HOST, Machine, World};
use axum::body::Body;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What another account's key gets at an endpoint.
#[derive(Clone, Copy, PartialEq)]
enum Stranger {
    /// The thing does not exist for it.
    NotFound,
    /// The same operation on its own, other things.
    Own(u16),
}

struct Case {
    path: String,
    body: Option<Value>,
    stranger: Stranger,
}

/// What the cases are about.
struct Mine<'a> {
    agent: &'a str,
    image: &'a str,
    key: &'a str,
    question: &'a str,
    remembered: &'a str,
    secret: &'a str,
}

fn cases(mine: &Mine<'_>) -> BTreeMap<(&'static str, &'static str), Case> {
    use Stranger::{NotFound, Own};
    let digest = "cd".repeat(32);
    let create_agent = json!({"image": mine.image});
    let register = json!({"name": "alpine", "digest": digest, "size": 1});
    let table: Vec<(&str, &str, Option<Value>, Stranger)> = vec![
        ("post", "/v1/agents", Some(create_agent), NotFound),
        ("get", "/v1/agents", None, Own(200)),
        ("get", "/v1/agents/{id}", None, NotFound),
        ("get", "/v1/agents/{id}/evidence", None, NotFound),
        ("get", "/v1/agents/{id}/policy", None, NotFound),
        ("put", "/v1/agents/{id}/policy", Some(json!({"version": 1})), NotFound),
        ("post", "/v1/agents/{id}/pause", None, NotFound),
        ("post", "/v1/agents/{id}/resume", None, NotFound),
        ("post", "/v1/agents/{id}/stop", None, NotFound),
        ("post", "/v1/agents/{id}/start", None, NotFound),
        ("post", "/v1/agents/{id}/token", Some(json!({"scopes": ["exec"]})), NotFound),
        ("delete", "/v1/agents/{id}", None, NotFound),
        // Only with a node's word: see `images`.
        ("post", "/v1/images", Some(register), Own(403)),
        ("get", "/v1/images", None, Own(200)),
        ("get", "/v1/images/{id}", None, NotFound),
        ("delete", "/v1/images/{id}", None, NotFound),
        ("post", "/v1/images/{id}/grant", Some(json!({"account": model::AccountId::new()})), Own(403)),
        ("post", "/v1/keys", Some(json!({"name": "second"})), Own(201)),
        ("get", "/v1/keys", None, Own(200)),
        ("delete", "/v1/keys/{id}", None, NotFound),
        ("get", "/v1/nodes", None, Own(200)),
        ("get", "/v1/events", None, Own(200)),
        ("get", "/v1/egress/log", None, Own(200)),
        ("get", "/v1/egress/questions", None, Own(200)),
        ("post", "/v1/egress/questions/{id}/answer", Some(json!({"decision": "once"})), NotFound),
        ("get", "/v1/egress/remembered", None, Own(200)),
        ("delete", "/v1/egress/remembered/{id}", None, NotFound),
        ("post", "/v1/secrets", Some(json!({"name": "second", "value": "hunter2"})), Own(201)),
        ("get", "/v1/secrets", None, Own(200)),
        ("get", "/v1/secrets/{id}", None, NotFound),
        ("post", "/v1/secrets/{id}/rotate", Some(json!({"value": "hunter3"})), NotFound),
        ("put", "/v1/secrets/{id}/hosts", Some(json!({"hosts": ["a.example"]})), NotFound),
        ("delete", "/v1/secrets/{id}", None, NotFound),
        ("post", "/v1/data-key/rotate", None, Own(204)),
        // Its account operates nothing.
        ("post", "/v1/wrapping-key/rotate", None, Own(403)),
        ("get", "/v1/whoami", None, Own(200)),
        // For people alone: a key is nobody.
        ("get", "/v1/session", None, Own(403)),
        ("delete", "/v1/session", None, Own(403)),
        ("post", "/v1/session/proof", Some(json!({"password": "x"})), Own(403)),
        ("get", "/v1/sessions", None, Own(403)),
        ("delete", "/v1/sessions/{id}", None, Own(403)),
        ("put", "/v1/password", Some(json!({"current": "x", "password": "y"})), Own(403)),
        ("post", "/v1/second-factor", None, Own(403)),
        ("put", "/v1/second-factor", Some(json!({"code": "123456"})), Own(403)),
        ("delete", "/v1/second-factor", None, Own(403)),
        ("post", "/v1/accounts", Some(json!({"name": "fresh"})), Own(403)),
        ("get", "/v1/accounts", None, Own(200)),
        ("delete", "/v1/membership", None, Own(403)),
        // The operator's.
        ("get", "/v1/users", None, Own(403)),
        ("post", "/v1/users", Some(json!({"email": "ada@example.com"})), Own(403)),
        ("post", "/v1/users/{id}/reset", None, Own(403)),
        ("delete", "/v1/users/{id}/second-factor", None, Own(403)),
        ("get", "/v1/members", None, Own(200)),
        ("put", "/v1/members/{id}", Some(json!({"role": "admin"})), NotFound),
        ("delete", "/v1/members/{id}", None, NotFound),
        ("post", "/v1/invitations", Some(json!({"email": "ada@example.com"})), Own(201)),
        ("get", "/v1/invitations", None, Own(200)),
        ("delete", "/v1/invitations/{id}", None, NotFound),
    ];
    let id = |path: &str| match path.split('/').nth(2) {
        Some("images") => mine.image.to_owned(),
        Some("keys") => mine.key.to_owned(),
        Some("secrets") => mine.secret.to_owned(),
        Some("egress") if path.contains("remembered") => mine.remembered.to_owned(),
        Some("egress") => mine.question.to_owned(),
        _ => mine.agent.to_owned(),
    };
    table
        .into_iter()
        .map(|(method, path, body, stranger)| {
            ((method, path), Case { path: path.replace("{id}", &id(path)), body, stranger })
        })
        .collect()
}

/// Endpoints that answer to anybody.
const OPEN: [(&str, &str); 2] = [("get", "/v1/healthz"), ("get", "/v1/openapi.json")];
/// Endpoints that want a password or a token in their body.
const BY_BODY: [(&str, &str); 3] =
    [("post", "/v1/session"), ("post", "/v1/password-reset"), ("post", "/v1/invitations/accept")];

#[tokio::test]
async fn every_endpoint_by_every_caller() {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 8).await;
    let image = world.image().await;
    let agent = world.agent("mine").await;
    let question = super::egress::asked(&world, &machine, &agent, &["first.example"]).await.remove(0);
    let answer = format!("/v1/egress/questions/{question}/answer");
    world.post(&answer, json!({"decision": "always"})).await.expect(200);
    let question = super::egress::asked(&world, &machine, &agent, &["second.example"]).await.remove(0);
    let remembered = world.get("/v1/egress/remembered").await.expect(200)["items"][0]["id"].clone();
    let key = world.post("/v1/keys", json!({"name": "spare"})).await.expect(201)["id"].clone();
    let key = key.as_str().unwrap();
    let remembered = remembered.as_str().unwrap();
    let secret = world.post("/v1/secrets", json!({"name": "mine", "value": "hunter2"})).await.expect(201);
    let id = secret["id"].as_str().unwrap();
    let mine = Mine { agent: &agent, image: &image, key, question: &question, remembered, secret: id };
    let cases = cases(&mine);
    let paths = world.document()["paths"].as_object().unwrap();
    let mut seen = 0;
    for (path, item) in paths {
        for method in item.as_object().unwrap().keys() {
            let open = OPEN.contains(&(method, path));
            if open {
                world.call_as("", method.to_uppercase().as_str(), path, None).await.expect(200);
                continue;
            }
            if BY_BODY.contains(&(method, path)) {
                let body = match path.as_str() {
                    "/v1/session" => json!({"email": "ada@example.com", "password": "nobody's own"}),
                    "/v1/password-reset" => json!({"token": "cofr_x", "password": "nobody's own"}),
                    _ => json!({"token": "cofi_x", "password": "nobody's own"}),
                };
                let request = world.request("POST", path).header("origin", format!("http://{HOST}"));
                let request = request.header("content-type", "application/json");
                let answer = world.send(request.body(Body::from(body.to_string())).unwrap()).await;
                assert_eq!(answer.problem().0, "UNAUTHENTICATED", "{path}");
                continue;
            }
            let case = cases.get(&(method.as_str(), path.as_str()));
            let case = case.unwrap_or_else(|| panic!("{method} {path} has no case here"));
            let method = method.to_uppercase();
            let request = world.request(&method, &case.path).body(Body::empty()).unwrap();
            assert_eq!(
                world.send(request).await.problem().0,
                "UNAUTHENTICATED",
                "{method} {path} without a key"
            );
            for bad in ["cof_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "x", ""] {
                let answer = world.call_as(bad, &method, &case.path, case.body.clone()).await;
                assert_eq!(answer.problem().0, "UNAUTHENTICATED", "{method} {path} with a bad key");
                assert!(answer.headers.contains_key("www-authenticate"));
            }
            let answer = world.call_as(&world.other, &method, &case.path, case.body.clone()).await;
            match case.stranger {
                Stranger::NotFound => {
                    assert_eq!(answer.problem().0, "NOT_FOUND", "{method} {path} by a stranger")
                }
                Stranger::Own(status) => {
                    let json = answer.expect(status).to_string();
                    for mine in [&agent, &image, key, &question, remembered, id] {
                        assert!(!json.contains(mine), "{method} {path} shows {mine} to a stranger");
                    }
                }
            }
            seen += 1;
        }
    }
    assert_eq!(seen, cases.len(), "a case is for an endpoint that is gone");
    // None of all that moved anything.
    assert_eq!(world.get(&format!("/v1/agents/{agent}")).await.expect(200)["generation"], 1);
    world.get(&format!("/v1/images/{image}")).await.expect(200);
    let waits = world.get("/v1/egress/questions").await.expect(200);
    assert_eq!(waits["items"][0]["id"], question);
    assert_eq!(world.get("/v1/egress/remembered").await.expect(200)["items"][0]["id"], remembered);
    assert_eq!(world.get("/v1/secrets/mine").await.expect(200), secret);
}

#[tokio::test]
async fn node_endpoints_want_node_credentials() {
    let world = World::new().await;
    for (method, path, body) in [
        (
            "POST",
            "/node/v1/enroll",
            json!({"public_key": "A".repeat(43), "capacity": {"slots": 1, "cpus": 1.0, "memory": 1}}),
        ),
        ("POST", "/node/v1/token", json!({"assertion": "x"})),
        ("GET", "/node/v1/desired", Value::Null),
        ("GET", "/node/v1/images", Value::Null),
        ("POST", "/node/v1/egress", json!({})),
        ("POST", "/node/v1/agents/agt_01h455vb4pex5vsknk084sn02q/secrets", json!({"assertion": "x"})),
        ("POST", "/node/v1/observed", json!({"agents": [], "orphans": []})),
    ] {
        // Neither a stranger nor a holder of an API key is a node.
        for key in ["x", &world.key] {
            let answer = world.call_as(key, method, path, (!body.is_null()).then(|| body.clone())).await;
            assert_eq!(answer.problem().0, "UNAUTHENTICATED", "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_nodes_token_opens_nothing_else() {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 1).await;
    let answer = world.call_as(&machine.token, "GET", "/v1/agents", None).await;
    assert_eq!(answer.problem().0, "UNAUTHENTICATED");
}

#[tokio::test]
async fn web_pages_are_kept_out() {
    let world = World::new().await;
    let send = async |header: &'static str, value: &'static str| {
        let request = world
            .request("GET", "/v1/whoami")
            .header("authorization", format!("Bearer {}", world.key))
            .header(header, value)
            .body(Body::empty())
            .unwrap();
        world.send(request).await
    };
    for origin in ["null", "http://127.0.0.1:7700", "https://evil.example"] {
        assert_eq!(send("origin", origin).await.problem().0, "CROSS_ORIGIN");
    }
    for site in ["cross-site", "same-site"] {
        assert_eq!(send("sec-fetch-site", site).await.problem().0, "CROSS_ORIGIN");
    }
    send("sec-fetch-site", "none").await.expect(200);
    for host in
        ["evil.example", "127.0.0.1", "127.0.0.1:7701", "localhost.evil.example:7700", "[::2]:7700", ""]
    {
        let request =
            axum::http::Request::get("/v1/healthz").header("host", host).body(Body::empty()).unwrap();
        assert_eq!(world.send(request).await.problem().0, "MISDIRECTED", "{host}");
    }
    for host in [HOST, "localhost:7700", "LOCALHOST:7700", "[::1]:7700"] {
        let request =
            axum::http::Request::get("/v1/healthz").header("host", host).body(Body::empty()).unwrap();
        world.send(request).await.expect(200);
    }
    let twice =
        world.request("GET", "/v1/healthz").header("host", "evil.example").body(Body::empty()).unwrap();
    assert_eq!(world.send(twice).await.problem().0, "MISDIRECTED");
    let none = axum::http::Request::get("/v1/healthz").body(Body::empty()).unwrap();
    assert_eq!(world.send(none).await.problem().0, "MISDIRECTED");
}

#[tokio::test]
async fn a_deleted_key_opens_nothing_and_takes_tokens_along() {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 2).await;
    world.image().await;
    world.agent("a").await;
    let before = machine.desired(&world, "").await;
    let key = world.post("/v1/keys", json!({"name": "second"})).await.expect(201);
    let (id, secret) = (key["id"].as_str().unwrap(), key["secret"].as_str().unwrap());
    assert!(secret.starts_with("cof_"));
    world.call_as(secret, "GET", "/v1/whoami", None).await.expect(200);
    assert!(!world.get("/v1/keys").await.expect(200).to_string().contains("secret"));
    world.call_as(secret, "DELETE", &format!("/v1/keys/{id}"), None).await.expect(204);
    world.call_as(secret, "GET", "/v1/whoami", None).await.expect(401);
    let after = machine.desired(&world, "").await;
    assert!(after.agents[0].token_epoch > before.agents[0].token_epoch);
    assert!(after.rev > before.rev);

    let last = world.get("/v1/whoami").await.expect(200)["key"].clone();
    let answer =
        world.call_as(&world.key, "DELETE", &format!("/v1/keys/{}", last.as_str().unwrap()), None).await;
    assert_eq!(answer.problem().0, "IN_USE");
    world.get("/v1/whoami").await.expect(200);
}
