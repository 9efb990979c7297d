//! Transfers between accounts: who may, what goes along, and what is tried by those who had the agent before.

use super::people::{ACME, ORIGIN, Organisation, Person, browse, kinds};
use super::secrets::delivery;
use super::world::{Answer, Machine, World};
use model::agent::Observed;
use serde_json::{Value, json};
use time::Duration;

/// [`ACME`] with an agent that runs, and an image that its owner has in their own account, too.
struct Scene {
    world: World,
    machine: Machine,
    org: Organisation,
    agent: String,
}

/// The name of somebody's own account.
async fn own(world: &World, person: &Person) -> String {
    let me = person.call(world, "GET", "/v1/whoami", None).await.expect(200);
    me["account_name"].as_str().unwrap().to_owned()
}

async fn grant(world: &World, image: &str, account: &Value) {
    world.post(&format!("/v1/images/{image}/grant"), json!({"account": account})).await.expect(201);
}

impl Scene {
    async fn new() -> Self {
        let world = World::new().await;
        let machine = Machine::enrolled(&world, "node-1", 8).await;
        let org = Organisation::new(&world).await;
        let image = world.image().await;
        let here = org.owner.call_in(&world, ACME, "GET", "/v1/whoami", None).await.expect(200);
        grant(&world, &image, &here["account"]).await;
        for person in [&org.owner, &org.admin] {
            let there = person.call(&world, "GET", "/v1/whoami", None).await.expect(200);
            grant(&world, &image, &there["account"]).await;
        }
        let made = org.owner.call_in(
            &world,
            ACME,
            "POST",
            "/v1/agents",
            Some(json!({"name": "a", "image": "debian"})),
        );
        let agent = made.await.expect(201)["id"].as_str().unwrap().to_owned();
        machine.saw(&world, &agent, 1, Observed::Running).await;
        Self { world, machine, org, agent }
    }

    async fn give(&self, by: &Person, to: &str) -> Answer {
        let path = format!("/v1/agents/{}/transfer", self.agent);
        by.call_in(&self.world, ACME, "POST", &path, Some(json!({"account": to}))).await
    }

    /// Given to the owner's own account.
    async fn given(&self) -> Value {
        let to = own(&self.world, &self.org.owner).await;
        self.give(&self.org.owner, &to).await.expect(200)
    }

    async fn epoch(&self) -> u64 {
        self.machine.desired(&self.world, "").await.agents[0].token_epoch
    }
}

#[tokio::test]
async fn an_agent_goes_with_all_that_it_is() {
    let scene = Scene::new().await;
    let Scene { world, machine, org, agent } = &scene;
    let before =
        org.owner.call_in(world, ACME, "GET", &format!("/v1/agents/{agent}"), None).await.expect(200);
    let epoch = scene.epoch().await;
    let moved = scene.given().await;
    assert_eq!(moved["from"], before["account"]);
    let now = &moved["agent"];
    for same in ["id", "name", "image_digest", "volume", "node", "policy", "resources", "level", "created_at"]
    {
        assert_eq!(now[same], before[same], "{same}");
    }
    assert_ne!(now["account"], before["account"]);
    assert_ne!(now["image"], before["image"]);
    assert_eq!(now["state"], "starting");
    // It is there, and gone here.
    let path = format!("/v1/agents/{agent}");
    assert_eq!(org.owner.call(world, "GET", &path, None).await.expect(200), *now);
    assert_eq!(org.owner.call(world, "GET", "/v1/agents", None).await.expect(200)["items"][0]["id"], **agent);
    for path in [path.as_str(), "/v1/agents/a"] {
        assert_eq!(org.owner.call_in(world, ACME, "GET", path, None).await.problem().0, "NOT_FOUND");
    }
    assert!(scene.epoch().await > epoch);
    for (account, name) in [(ACME.to_owned(), "acme"), (own(world, &org.owner).await, "own")] {
        let kinds = kinds(world, &org.owner, &account).await;
        assert_eq!(kinds.iter().filter(|kind| *kind == "agent.transferred").count(), 1, "{name}");
    }
    // The new owner's node starts it, and it answers where its new gate is.
    let generation = now["generation"].as_u64().unwrap();
    machine.saw(world, agent, generation, Observed::Running).await;
    assert_eq!(org.owner.call(world, "GET", &path, None).await.expect(200)["state"], "running");
    // The image is in use there from now on, and here no more.
    let images = org.owner.call_in(world, ACME, "GET", "/v1/images", None).await.expect(200);
    let image = format!("/v1/images/{}", images["items"][0]["id"].as_str().unwrap());
    org.owner.call_in(world, ACME, "DELETE", &image, None).await.expect(204);
    let image = format!("/v1/images/{}", now["image"].as_str().unwrap());
    assert_eq!(org.owner.call(world, "DELETE", &image, None).await.problem().0, "IN_USE");
}

#[tokio::test]
async fn who_may_not_act_in_both_gives_nothing() {
    let scene = Scene::new().await;
    let Scene { world, org, agent, .. } = &scene;
    let to = own(world, &org.owner).await;
    // Admins of one who do not belong to the other hear that it is not there, whether it is or not.
    assert_eq!(scene.give(&org.admin, &to).await.problem(), ("NOT_FOUND", None));
    assert_eq!(scene.give(&org.admin, "nowhere").await.problem(), ("NOT_FOUND", None));
    assert_eq!(scene.give(&org.member, &own(world, &org.member).await).await.problem().0, "FORBIDDEN");
    // Nor does anybody take one who belongs to the account that it would go to.
    let eve = Person::new(world, "eve").await;
    let path = format!("/v1/agents/{agent}/transfer");
    let take = json!({"account": own(world, &eve).await});
    assert_eq!(eve.call_in(world, ACME, "POST", &path, Some(take.clone())).await.problem().0, "NOT_FOUND");
    assert_eq!(eve.call(world, "POST", &path, Some(take)).await.problem().0, "VALIDATION_ERROR");
    let here = scene.give(&org.owner, ACME).await;
    assert_eq!(here.problem(), ("VALIDATION_ERROR", Some("account")));
    // A key is for one account, whoever made it.
    let key =
        org.owner.call_in(world, ACME, "POST", "/v1/keys", Some(json!({"name": "k"}))).await.expect(201);
    let answer =
        world.call_as(key["secret"].as_str().unwrap(), "POST", &path, Some(json!({"account": to}))).await;
    assert_eq!(answer.problem().0, "FORBIDDEN");
    // And an old session is no proof.
    world.clock.forward(Duration::minutes(6));
    assert_eq!(scene.give(&org.owner, &to).await.problem().0, "PROOF_REQUIRED");
    let still = org.owner.call_in(world, ACME, "GET", &format!("/v1/agents/{agent}"), None).await.expect(200);
    assert_eq!(still["state"], "running");
    org.owner.prove(world).await;
    scene.give(&org.owner, &to).await.expect(200);
}

#[tokio::test]
async fn what_is_in_the_way_is_told_in_one_answer() {
    let scene = Scene::new().await;
    let Scene { world, org, agent, .. } = &scene;
    let to = own(world, &org.owner).await;
    let taken = json!({"name": "a", "image": "debian"});
    org.owner.call(world, "POST", "/v1/agents", Some(taken)).await.expect(201);
    let secret = json!({"name": "api", "value": "hunter2", "hosts": ["a.example"]});
    org.owner.call_in(world, ACME, "POST", "/v1/secrets", Some(secret)).await.expect(201);
    let policy = super::secrets::injecting(&[("api", "a.example")]);
    let path = format!("/v1/agents/{agent}/policy");
    org.owner.call_in(world, ACME, "PUT", &path, Some(policy)).await.expect(200);
    let answer = scene.give(&org.owner, &to).await;
    assert_eq!(answer.problem().0, "CANNOT_TRANSFER");
    let detail = answer.json["detail"].as_str().unwrap();
    assert!(detail.contains("is called a") && detail.contains("api"), "{detail}");
    assert!(answer.json["remedy"].as_str().unwrap().contains("inject"));
    // Nothing of the secrets goes along, and what was given to the agent itself is named.
    org.owner.call_in(world, ACME, "PUT", &path, Some(json!({"version": 1}))).await.expect(200);
    org.owner.call(world, "DELETE", "/v1/agents/a", None).await.expect(200);
}

#[tokio::test]
async fn secrets_stay_with_their_account() {
    let scene = Scene::new().await;
    let Scene { world, machine, org, .. } = &scene;
    let secret = json!({"name": "db", "value": "hunter2"});
    org.owner.call_in(world, ACME, "POST", "/v1/secrets", Some(secret)).await.expect(201);
    let with = json!({"name": "b", "image": "debian", "secrets": [{"secret": "db", "env": "DB"}]});
    let made = org.owner.call_in(world, ACME, "POST", "/v1/agents", Some(with)).await.expect(201);
    let id = made["id"].as_str().unwrap();
    machine.saw(world, id, 1, Observed::Running).await;
    let (before, secrets) = delivery::told(world, machine, id).await;
    assert_eq!(secrets.len(), 1);
    let to = own(world, &org.owner).await;
    let path = format!("/v1/agents/{id}/transfer");
    let moved = org.owner.call_in(world, ACME, "POST", &path, Some(json!({"account": to}))).await.expect(200);
    assert_eq!(moved["unbound"], json!(["db"]));
    let wish = machine.desired(world, "").await;
    let wish = wish.agents.iter().find(|wish| wish.spec.id.to_string() == id).unwrap();
    assert!(wish.spec.secrets.is_empty() && wish.secrets_revision > before && wish.transfers == 1);
    // A node that has not acted on it asks for the account before, and is told nothing; nor is there anything.
    let ask = async |transfers: u64| {
        let assertion = delivery::assertion(world, machine, id);
        let body = json!({"assertion": assertion, "transfers": transfers});
        world.call_as(&machine.token, "POST", &format!("/node/v1/agents/{id}/secrets"), Some(body)).await
    };
    assert_eq!(ask(0).await.problem().0, "WRONG_STATE");
    ask(1).await.expect(200);
    // The secret is nobody's any more, and can go.
    org.owner.call_in(world, ACME, "DELETE", "/v1/secrets/db", None).await.expect(204);
}

#[tokio::test]
async fn who_had_it_sees_and_moves_nothing_of_it() {
    let scene = Scene::new().await;
    let Scene { world, machine, org, agent } = &scene;
    let key =
        org.admin.call_in(world, ACME, "POST", "/v1/keys", Some(json!({"name": "k"}))).await.expect(201);
    let key = key["secret"].as_str().unwrap();
    world.call_as(key, "GET", &format!("/v1/agents/{agent}"), None).await.expect(200);
    let moved = scene.given().await;
    let generation = moved["agent"]["generation"].as_u64().unwrap();
    machine.saw(world, agent, generation, Observed::Running).await;
    super::egress::asks_about(world, machine, agent, "late.example").await;
    for (method, path, body) in [
        ("GET", format!("/v1/agents/{agent}"), None),
        ("GET", format!("/v1/agents/{agent}?wait=running&timeout=1s"), None),
        ("GET", format!("/v1/agents/{agent}/evidence"), None),
        ("GET", format!("/v1/agents/{agent}/policy"), None),
        ("PUT", format!("/v1/agents/{agent}/policy"), Some(json!({"version": 1}))),
        ("POST", format!("/v1/agents/{agent}/token"), Some(json!({"scopes": ["exec"]}))),
        ("POST", format!("/v1/agents/{agent}/stop"), None),
        ("DELETE", format!("/v1/agents/{agent}"), None),
        ("GET", format!("/v1/egress/log?agent={agent}"), None),
        ("GET", format!("/v1/egress/questions?agent={agent}"), None),
    ] {
        assert_eq!(world.call_as(key, method, &path, body).await.problem().0, "NOT_FOUND", "{method} {path}");
    }
    for path in ["/v1/egress/questions", "/v1/egress/log", "/v1/agents"] {
        let seen = world.call_as(key, "GET", path, None).await.expect(200);
        assert_eq!(seen["items"], json!([]), "{path}");
    }
    let asked = org.owner.call(world, "GET", "/v1/egress/questions", None).await.expect(200);
    assert!(asked.to_string().contains(agent) || asked["items"] == json!([]));
    let events = world.call_as(key, "GET", "/v1/events?limit=200", None).await.expect(200);
    let later =
        events["items"].as_array().unwrap().iter().take_while(|event| event["kind"] != "agent.transferred");
    assert!(later.into_iter().all(|event| event["subject"] != **agent), "{events}");
}

#[tokio::test]
async fn a_replayed_request_tells_what_was_and_opens_nothing() {
    let scene = Scene::new().await;
    let Scene { world, org, agent, .. } = &scene;
    let to = own(world, &org.owner).await;
    let ask = async |path: &str, key: &str, body: &Value| {
        let headers = [
            ("cookie", org.owner.cookie.as_str()),
            ("origin", ORIGIN),
            ("cofferdam-account", ACME),
            ("idempotency-key", key),
        ];
        browse(world, "POST", path, &headers, Some(body)).await
    };
    // An agent that is made, and its creation asked for again once it is another's: with a token, too.
    let create = json!({"name": "b", "image": "debian", "token": {"scopes": ["exec"]}});
    let made = ask("/v1/agents?wait=provisioning", "create", &create).await.expect(201);
    let id = made["id"].as_str().unwrap();
    scene.machine.saw(world, id, 1, Observed::Running).await;
    let path = format!("/v1/agents/{id}/transfer");
    let transfer = json!({"account": to});
    let first = ask(&path, "give", &transfer).await.expect(200);
    let epoch = async || {
        let wish = scene.machine.desired(world, "").await;
        wish.agents.iter().find(|wish| wish.spec.id.to_string() == id).unwrap().token_epoch
    };
    let before = epoch().await;
    assert_eq!(ask(&path, "give", &transfer).await.expect(200), first);
    assert_eq!(epoch().await, before, "it went once");
    let again = ask("/v1/agents?wait=running&timeout=1s", "create", &create).await;
    assert_eq!(again.problem().0, "NOT_FOUND");
    assert!(!again.json.to_string().contains("eyJ"), "a token");
    let other = json!({"account": ACME});
    assert_eq!(ask(&path, "give", &other).await.status.as_u16(), 400);
    // The key is tied to the request: another agent is another request.
    let path = format!("/v1/agents/{agent}/transfer");
    assert_eq!(ask(&path, "give", &transfer).await.problem().0, "IDEMPOTENCY_MISMATCH");
}

#[tokio::test]
async fn who_waits_for_it_is_told_nothing_of_its_new_life() {
    let scene = Scene::new().await;
    let Scene { world, machine, org, agent } = &scene;
    let path = format!("/v1/agents/{agent}?wait=stopped&timeout=20s");
    let waits = org.admin.call_in(world, ACME, "GET", &path, None);
    let moves = async {
        tokio::task::yield_now().await;
        let moved = scene.given().await;
        let generation = moved["agent"]["generation"].as_u64().unwrap();
        machine.saw(world, agent, generation, Observed::Stopped).await;
    };
    let (answer, ()) = tokio::join!(waits, moves);
    assert_eq!(answer.problem().0, "NOT_FOUND");
}
