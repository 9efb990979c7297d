//! Agents through their lives.

use super::world::{Machine, World, seen};
use axum::body::Body;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use model::agent::{ExitReason, Observed};
use model::evidence::{Control, Evidence, State};
use model::node_api::ObservedState;
use model::token::WorkspaceClaims;
use serde_json::{Value, json};
use std::time::Duration;

async fn world() -> (World, Machine) {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 4).await;
    world.image().await;
    (world, machine)
}

async fn with_header(
    world: &World,
    method: &str,
    path: &str,
    header: (&str, &str),
    body: Option<Value>,
) -> super::world::Answer {
    let request = world
        .request(method, path)
        .header("authorization", format!("Bearer {}", world.key))
        .header("content-type", "application/json")
        .header(header.0, header.1)
        .body(body.map_or_else(Body::empty, |body| Body::from(body.to_string())));
    world.send(request.unwrap()).await
}

#[tokio::test]
async fn a_life() {
    let (world, machine) = world().await;
    let body = json!({"image": "debian", "name": "worker", "labels": {"team": "a"}, "env": {"A": "mine"},
        "main": {"argv": ["sleep", "1"]}, "resources": {"memory": "64MiB"}});
    let answer = world.post("/v1/agents", body).await;
    assert_eq!(answer.headers["etag"], "\"1\"");
    let agent = answer.expect(201);
    assert_eq!(agent["state"], "provisioning");
    assert_eq!(agent["claim"], "none");
    let id = agent["id"].as_str().unwrap();

    let desired = machine.desired(&world, "").await;
    let spec = &desired.agents[0].spec;
    assert_eq!(spec.id.to_string(), id);
    assert_eq!(spec.env["A"], "mine");
    assert_eq!(spec.env["LANG"], "C.UTF-8");
    assert_eq!(spec.image_config.cwd.as_deref(), Some("/srv"));
    assert_eq!(
        spec.main.as_ref().unwrap().cwd,
        None,
        "init starts what does not say in the image's directory"
    );

    let token = json!({"scopes": ["exec", "files"]});
    let early = world.post(&format!("/v1/agents/{id}/token"), token.clone()).await;
    assert_eq!(early.problem().0, "WRONG_STATE");

    let mut running = seen(&world, id.parse().unwrap(), 1, Observed::Running);
    let seen_all = |control| Evidence { control, state: State::Observed, detail: "seen".to_owned() };
    running.evidence = Control::CONTAINER.map(seen_all).to_vec();
    machine.report(&world, &ObservedState { agents: vec![running], ..ObservedState::default() }).await;
    let agent = world.get("/v1/agents/worker?wait=running").await.expect(200);
    assert_eq!((&agent["state"], &agent["claim"]), (&json!("running"), &json!("sandboxed (container)")));

    let handed = world.post("/v1/agents/worker/token", token).await.expect(201);
    assert_eq!(handed["url"], "http://127.0.0.1:7701");
    let jwt = handed["token"].as_str().unwrap();
    let header = jsonwebtoken::decode_header(jwt).unwrap();
    let key = &desired.keys[0];
    assert_eq!(header.kid, Some(key.kid.to_string()));
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.validate_aud = false;
    let key = DecodingKey::from_ed_components(&key.x).unwrap();
    let claims = jsonwebtoken::decode::<WorkspaceClaims>(jwt, &key, &validation).unwrap().claims;
    assert_eq!((claims.aud.to_string().as_str(), claims.epoch), (id, 1));
    assert_eq!(claims.iss, desired.installation);
    assert_eq!(claims.exp - claims.iat, 3600);

    world.verb(id, "pause").await.expect(200);
    machine.saw(&world, id, 2, Observed::Paused).await;
    world.verb("worker", "resume").await.expect(200);
    machine.saw(&world, id, 3, Observed::Running).await;
    assert_eq!(world.verb(id, "stop").await.expect(200)["state"], "stopping");
    machine.saw(&world, id, 4, Observed::Stopped).await;
    assert_eq!(world.verb(id, "pause").await.problem().0, "WRONG_STATE");
    assert_eq!(world.verb(id, "start").await.expect(200)["state"], "starting");
    machine.saw(&world, id, 5, Observed::Running).await;
    let gone = world.call_as(&world.key, "DELETE", "/v1/agents/worker", None).await.expect(200);
    assert_eq!(gone["state"], "destroying");
    assert_eq!(machine.desired(&world, "").await.agents.len(), 1, "the tombstone");
    machine.saw(&world, id, 6, Observed::Destroyed).await;
    assert!(machine.desired(&world, "").await.agents.is_empty());

    assert_eq!(world.get("/v1/agents").await.expect(200)["items"], json!([]));
    assert_eq!(world.get("/v1/agents?state=destroyed").await.expect(200)["items"][0]["id"], id);
    assert_eq!(world.get(&format!("/v1/agents/{id}")).await.expect(200)["state"], "destroyed");
    assert_eq!(world.get("/v1/agents/worker").await.problem().0, "NOT_FOUND");
    let token = world.post(&format!("/v1/agents/{id}/token"), json!({"scopes": ["exec"]})).await;
    assert_eq!(token.problem().0, "WRONG_STATE");
    // The name and the slot are free again.
    world.agent("worker").await;
    assert_eq!(world.get("/v1/nodes").await.expect(200)["items"][0]["used"], 1);

    let events = world.get(&format!("/v1/events?subject={id}")).await.expect(200);
    let kinds: Vec<&str> =
        events["items"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds.last(), Some(&"agent.created"));
    assert!(kinds.contains(&"agent.token_issued"));
    assert_eq!(kinds.iter().filter(|kind| **kind == "agent.ordered").count(), 5);
}

#[tokio::test]
async fn what_ends_by_itself_stays_ended() {
    let (world, machine) = world().await;
    let id = world.agent("a").await;
    machine.saw(&world, &id, 1, Observed::Running).await;
    let mut ended = seen(&world, id.parse().unwrap(), 1, Observed::Stopped);
    ended.reason = Some(ExitReason::Exited { code: 3 });
    machine.report(&world, &ObservedState { agents: vec![ended], ..ObservedState::default() }).await;
    let desired = &machine.desired(&world, "").await.agents[0];
    assert_eq!((desired.desired, desired.generation), (model::Desired::Stopped, 2));
    // The node confirms; that does not wipe out the reason.
    machine.saw(&world, &id, 2, Observed::Stopped).await;
    let agent = world.get("/v1/agents/a?wait=running").await.expect(200);
    assert_eq!(
        (&agent["state"], &agent["reason"]),
        (&json!("stopped"), &json!({"kind": "exited", "code": 3}))
    );

    world.verb(&id, "start").await.expect(200);
    let mut failed = seen(&world, id.parse().unwrap(), 3, Observed::Failed);
    failed.reason = Some(ExitReason::Boundary { detail: "no\x1b[31m loop device".to_owned() });
    machine.report(&world, &ObservedState { agents: vec![failed], ..ObservedState::default() }).await;
    machine.saw(&world, &id, 4, Observed::Stopped).await;
    let agent = world.get("/v1/agents/a?wait=settled").await.expect(200);
    assert_eq!(agent["state"], "failed");
    assert_eq!(agent["reason"]["detail"], "no [31m loop device");
}

#[tokio::test]
async fn stale_reports_say_nothing() {
    let (world, machine) = world().await;
    let id = world.agent("a").await;
    machine.saw(&world, &id, 1, Observed::Running).await;
    world.verb(&id, "stop").await.expect(200);
    machine.saw(&world, &id, 1, Observed::Failed).await;
    assert_eq!(world.get("/v1/agents/a").await.expect(200)["state"], "stopping");
    machine.saw(&world, &id, 9, Observed::Destroyed).await;
    assert_eq!(world.get("/v1/agents/a").await.expect(200)["state"], "stopping");
    // The next order is newer than whatever the node has acted on.
    let agent = world.call_as(&world.key, "DELETE", "/v1/agents/a", None).await.expect(200);
    assert_eq!(agent["generation"], 10);
}

#[tokio::test]
async fn waiting_ends_with_the_change() {
    let (world, machine) = world().await;
    let id = world.agent("a").await;
    let path = format!("/v1/agents/{id}?wait=running&timeout=20s");
    let report = async {
        tokio::task::yield_now().await;
        machine.saw(&world, &id, 1, Observed::Running).await;
    };
    let began = std::time::Instant::now();
    let (waited, ()) = tokio::join!(world.get(&path), report);
    assert_eq!(waited.expect(200)["state"], "running");
    assert!(began.elapsed() < Duration::from_secs(10));

    // Running, but told to pause: not settled.
    world.verb(&id, "pause").await.expect(200);
    let answer = world.get("/v1/agents/a?wait=settled&timeout=1s").await;
    assert_eq!(answer.problem().0, "TIMEOUT");
    for query in ["wait=sideways", "wait=running&timeout=61s", "wait=running&timeout=-1", "waitt=running"] {
        assert_eq!(
            world.get(&format!("/v1/agents/a?{query}")).await.problem().0,
            "VALIDATION_ERROR",
            "{query}"
        );
    }
    let ending = async {
        tokio::task::yield_now().await;
        world.app.ending.cancel();
    };
    let (waited, ()) = tokio::join!(world.get("/v1/agents/a?wait=paused&timeout=20s"), ending);
    assert_eq!(waited.problem().0, "UNAVAILABLE");
}

#[tokio::test]
async fn idempotency_keys() {
    let (world, _machine) = world().await;
    let create = async |key: &str, body: Value| {
        with_header(&world, "POST", "/v1/agents", ("idempotency-key", key), Some(body)).await
    };
    let first = create("one", json!({"image": "debian"})).await.expect(201);
    let again = create("one", json!({"image": "debian"})).await.expect(201);
    assert_eq!(first, again);
    assert_eq!(world.get("/v1/agents").await.expect(200)["items"].as_array().unwrap().len(), 1);
    let other = create("one", json!({"image": "debian", "name": "b"})).await;
    assert_eq!(other.problem(), ("IDEMPOTENCY_MISMATCH", Some("Idempotency-Key")));
    create("two", json!({"image": "debian"})).await.expect(201);
    for bad in ["", &"k".repeat(201)] {
        assert_eq!(create(bad, json!({"image": "debian"})).await.problem().0, "VALIDATION_ERROR");
    }
    // A verb acts once, even when the world has moved on.
    let id = first["id"].as_str().unwrap();
    let stop = format!("/v1/agents/{id}/stop");
    with_header(&world, "POST", &stop, ("idempotency-key", "stop"), None).await.expect(200);
    let replay = with_header(&world, "POST", &stop, ("idempotency-key", "stop"), None).await.expect(200);
    assert_eq!(replay["generation"], 2);
    // After a day the key is forgotten.
    world.clock.forward(time::Duration::hours(25));
    create("one", json!({"image": "debian", "name": "later"})).await.expect(201);
    // A key is made once; its secret is not kept for the replay.
    let key =
        || with_header(&world, "POST", "/v1/keys", ("idempotency-key", "k"), Some(json!({"name": "k"})));
    let (made, replayed) = (key().await.expect(201), key().await.expect(201));
    assert_eq!(made["id"], replayed["id"]);
    assert!(made["secret"].is_string() && replayed["secret"].is_null());
}

#[tokio::test]
async fn if_match() {
    let (world, _machine) = world().await;
    let id = world.agent("a").await;
    let path = format!("/v1/agents/{id}");
    let stop = format!("{path}/stop");
    let answer = with_header(&world, "DELETE", &path, ("if-match", "\"2\""), None).await;
    assert_eq!(answer.problem().0, "PRECONDITION_FAILED");
    for bad in ["2", "W/\"1\"", "\"x\"", ""] {
        let answer = with_header(&world, "POST", &stop, ("if-match", bad), None).await;
        assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some("If-Match")), "{bad}");
    }
    with_header(&world, "POST", &stop, ("if-match", "\"1\""), None).await.expect(200);
    with_header(&world, "DELETE", &path, ("if-match", "*"), None).await.expect(200);
}

#[tokio::test]
async fn lists_have_pages() {
    let (world, _machine) = world().await;
    for name in ["a", "b", "c", "d"] {
        let body = json!({"image": "debian", "name": name, "labels": {"odd": (name == "a" || name == "c").to_string()}});
        world.post("/v1/agents", body).await.expect(201);
    }
    let mut names = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = world.get(&format!("/v1/agents?limit=3{cursor}")).await.expect(200);
        names.extend(page["items"].as_array().unwrap().iter().map(|agent| agent["name"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(names, ["d", "c", "b", "a"]);
    let odd = world.get("/v1/agents?label=odd%3Dtrue").await.expect(200);
    assert_eq!(odd["items"].as_array().unwrap().len(), 2);
    let none = world.get("/v1/agents?label=odd=true&label=even=true").await.expect(200);
    assert_eq!(none["items"], json!([]));
    let none = world.get("/v1/agents?state=failed").await.expect(200);
    assert_eq!(none["items"], json!([]));
    for query in [
        "limit=0",
        "limit=201",
        "limit=x",
        "cursor=x",
        "cursor=%00",
        "label=x",
        "state=x",
        "limit=1&limit=2",
        "x=1",
    ] {
        assert_eq!(
            world.get(&format!("/v1/agents?{query}")).await.problem().0,
            "VALIDATION_ERROR",
            "{query}"
        );
    }
    for path in ["images", "keys", "nodes", "events"] {
        world.get(&format!("/v1/{path}?limit=1")).await.expect(200);
        assert_eq!(world.get(&format!("/v1/{path}?limit=0")).await.problem().0, "VALIDATION_ERROR");
    }
}

#[tokio::test]
async fn names_capacity_and_images_in_use() {
    let world = World::new().await;
    let image = world.image().await;
    let create = || world.post("/v1/agents", json!({"image": "debian"}));
    let answer = create().await;
    assert_eq!(answer.problem().0, "NO_CAPACITY");
    assert!(answer.json["remedy"].is_string());
    let machine = Machine::enrolled(&world, "node-1", 2).await;
    let first = create().await.expect(201);
    let taken = world.post("/v1/agents", json!({"image": "debian", "name": first["name"]})).await;
    assert_eq!(taken.problem(), ("NAME_TAKEN", Some("name")));
    let large = world.post("/v1/agents", json!({"image": "debian", "resources": {"memory": "2TiB"}})).await;
    assert_eq!(large.problem().0, "NO_CAPACITY");
    create().await.expect(201);
    assert_eq!(create().await.problem().0, "NO_CAPACITY");
    let answer = world.post("/v1/agents", json!({"image": "gentoo"})).await;
    assert_eq!(answer.problem(), ("NOT_FOUND", Some("image")));

    let path = format!("/v1/images/{image}");
    assert_eq!(world.call_as(&world.key, "DELETE", &path, None).await.problem().0, "IN_USE");
    // The name moves on; what was made from the old content keeps it, and holds it.
    let moved = json!({"name": "debian", "digest": "ef".repeat(32), "size": 8192});
    let moved = world.post("/v1/images", moved).await.expect(201);
    assert_ne!(moved["id"], image.as_str());
    assert_eq!(world.get("/v1/images").await.expect(200)["items"].as_array().unwrap().len(), 1);
    for agent in machine.desired(&world, "").await.agents {
        assert_eq!(agent.spec.image_digest, Some("ab".repeat(32)));
    }
    world.call_as(&world.key, "DELETE", "/v1/images/debian", None).await.expect(204);
    assert_eq!(world.get("/v1/images/debian").await.problem().0, "NOT_FOUND");
}

fn creating(name: &str) -> Value {
    json!({"image": "debian", "name": name, "token": {"scopes": ["exec"]}})
}

fn claims(jwt: &str) -> WorkspaceClaims {
    jsonwebtoken::dangerous::insecure_decode_claims(jwt).unwrap()
}

#[tokio::test]
async fn one_call_creates_waits_and_opens() {
    let (world, machine) = world().await;
    let rev = machine.desired(&world, "").await.rev;
    let create = world.post("/v1/agents?wait=running", creating("one"));
    let play = async {
        let desired = machine.desired(&world, &format!("?rev={rev}&wait=20")).await;
        let id = desired.agents[0].spec.id.to_string();
        machine.saw(&world, &id, 1, Observed::Running).await;
        id
    };
    let (answer, id) = tokio::join!(create, play);
    let made = answer.expect(201);
    assert_eq!((&made["state"], made["id"].as_str()), (&json!("running"), Some(&*id)));
    assert_eq!(made["workspace"]["url"], "http://127.0.0.1:7701");
    let claims = claims(made["workspace"]["token"].as_str().unwrap());
    assert_eq!((claims.aud.to_string(), claims.epoch, claims.scp.len()), (id.clone(), 1, 1));
    // The ledger has both, and says which token.
    let events = world.get(&format!("/v1/events?subject={id}")).await.expect(200);
    let told: Vec<_> = events["items"].as_array().unwrap().iter().map(|e| e["kind"].clone()).collect();
    assert_eq!(told, ["agent.state", "agent.token_issued", "agent.created"]);
    assert_eq!(events["items"][1]["detail"]["jti"], claims.jti);
    // Nobody else ever sees it.
    assert!(world.get(&format!("/v1/agents/{id}")).await.expect(200)["workspace"].is_null());
    assert!(!events.to_string().contains(made["workspace"]["token"].as_str().unwrap()));
}

#[tokio::test]
async fn the_way_to_a_second_agent_is_known_before_it_runs() {
    let (world, machine) = world().await;
    let path = "/v1/agents?wait=reachable&timeout=0s";
    let first = world.post(path, creating("first")).await.expect(201);
    assert!(first["workspace"].is_null(), "no agent of the account told of its gate yet");
    machine.saw(&world, first["id"].as_str().unwrap(), 1, Observed::Running).await;
    let second = world.post(path, creating("second")).await.expect(201);
    assert_eq!(second["state"], "provisioning");
    assert_eq!(second["workspace"]["url"], "http://127.0.0.1:7701");
    let claims = claims(second["workspace"]["token"].as_str().unwrap());
    assert_eq!((claims.aud.to_string().as_str(), claims.epoch), (second["id"].as_str().unwrap(), 1));
    // Another account has a gate of its own, of which nothing is known.
    let image = world.get("/v1/images/debian").await.expect(200)["id"].as_str().unwrap().to_owned();
    let account = world.call_as(&world.other, "GET", "/v1/whoami", None).await.expect(200)["account"].clone();
    let grant = json!({"account": account});
    world.post(&format!("/v1/images/{image}/grant"), grant).await.expect(201);
    let theirs = world.call_as(&world.other, "POST", path, Some(creating("theirs"))).await.expect(201);
    assert!(theirs["workspace"].is_null());
}

#[tokio::test]
async fn a_create_that_waits_in_vain_is_made() {
    let (world, _machine) = world().await;
    let made = world.post("/v1/agents?wait=running&timeout=0s", creating("slow")).await.expect(201);
    assert_eq!(made["state"], "provisioning");
    assert!(made["workspace"].is_null(), "there is no way to it yet");
    world.get("/v1/agents/slow").await.expect(200);
    for (path, field) in [
        ("/v1/agents", "token"),
        ("/v1/agents?wait=soon", "wait"),
        ("/v1/agents?wait=running&timeout=2m", "timeout"),
        ("/v1/agents?now=1", "now"),
    ] {
        let answer = world.post(path, creating("other")).await;
        assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some(field)), "{path}");
    }
    let none = json!({"image": "debian", "token": {"scopes": []}});
    let answer = world.post("/v1/agents?wait=running", none).await;
    assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some("token.scopes")));
    world.get("/v1/agents/other").await.expect(404);
}

#[tokio::test]
async fn a_replayed_create_waits_too_and_hands_out_a_token_of_its_own() {
    let (world, machine) = world().await;
    let path = "/v1/agents?wait=running&timeout=0s";
    let key = ("idempotency-key", "k");
    let made = with_header(&world, "POST", path, key, Some(creating("a"))).await.expect(201);
    let id = made["id"].as_str().unwrap();
    machine.saw(&world, id, 1, Observed::Running).await;
    let again = with_header(&world, "POST", path, key, Some(creating("a"))).await.expect(201);
    assert_eq!((&again["id"], &again["state"]), (&made["id"], &json!("running")));
    let token = claims(again["workspace"]["token"].as_str().unwrap());
    let events = world.get(&format!("/v1/events?subject={id}")).await.expect(200);
    assert_eq!(events["items"][0]["kind"], "agent.token_issued");
    assert_eq!(events["items"][0]["detail"]["jti"], token.jti);
}
