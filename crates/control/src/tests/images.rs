//! Who may have which image: to know a digest is not to have the content.

use super::world::{Machine, World, public};
use aws_lc_rs::signature::Ed25519KeyPair;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use model::agent::Observed;
use model::clock::Clock;
use model::token::ImageVoucher;
use serde::Serialize;
use serde_json::{Value, json};

fn sign(pair: &Ed25519KeyPair, claims: &impl Serialize) -> String {
    let key = EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref());
    jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), claims, &key).unwrap()
}

fn request(name: &str, digest: &str, voucher: Option<String>) -> Value {
    json!({ "name": name, "digest": digest, "size": 4096, "voucher": voucher })
}

async fn account(world: &World, key: &str) -> model::AccountId {
    let who = world.call_as(key, "GET", "/v1/whoami", None).await.expect(200);
    who["account"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_image_takes_a_nodes_word() {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "here", 4).await;
    let other = account(&world, &world.other).await;
    let digest = "cd".repeat(32);
    let now = world.clock.now().unix_timestamp();
    let honest = ImageVoucher {
        iss: machine.id,
        aud: ImageVoucher::audience(&machine.installation),
        sub: other,
        digest: digest.clone(),
        size: 4096,
        iat: now,
        exp: now + 50,
    };
    let register = async |voucher: Option<String>| {
        world.call_as(&world.other, "POST", "/v1/images", Some(request("mine", &digest, voucher))).await
    };
    // The operator has it; the other account knows its digest, and nothing else.
    world.post("/v1/images", request("base", &digest, None)).await.expect(201);
    assert_eq!(register(None).await.problem(), ("FORBIDDEN", None));
    let stranger = Ed25519KeyPair::generate().unwrap();
    assert_ne!(public(&stranger), public(&machine.pair));
    let operator = account(&world, &world.key).await;
    let lies = [
        sign(&stranger, &honest),
        sign(&machine.pair, &ImageVoucher { sub: operator, ..honest.clone() }),
        sign(&machine.pair, &ImageVoucher { digest: "ab".repeat(32), ..honest.clone() }),
        sign(&machine.pair, &ImageVoucher { size: 1, ..honest.clone() }),
        sign(&machine.pair, &ImageVoucher { aud: machine.installation.clone(), ..honest.clone() }),
        sign(&machine.pair, &ImageVoucher { aud: "another/images".to_owned(), ..honest.clone() }),
        sign(&machine.pair, &ImageVoucher { iat: now - 100, exp: now - 50, ..honest.clone() }),
        sign(&machine.pair, &ImageVoucher { exp: now + 3600, ..honest.clone() }),
        sign(&machine.pair, &ImageVoucher { iss: model::NodeId::new(), ..honest.clone() }),
        sign(&machine.pair, &machine.assertion(&world)),
        "none".to_owned(),
        String::new(),
        "x".repeat(10_000),
    ];
    for lie in lies {
        let answer = register(Some(lie.clone())).await;
        assert_eq!(answer.problem(), ("FORBIDDEN", Some("voucher")), "{}", &lie[..lie.len().min(300)]);
    }
    // A voucher is no assertion either.
    let body = json!({ "assertion": sign(&machine.pair, &honest) });
    world.call_as("x", "POST", "/node/v1/token", Some(body)).await.expect(401);

    register(Some(sign(&machine.pair, &honest))).await.expect(201);
    // What it has, it may name again.
    let again = request("second", &digest, None);
    world.call_as(&world.other, "POST", "/v1/images", Some(again)).await.expect(201);
    let unknown = request("third", &"ef".repeat(32), None);
    world.call_as(&world.other, "POST", "/v1/images", Some(unknown)).await.expect(403);
}

#[tokio::test]
async fn an_operator_grants_images() {
    let world = World::new().await;
    world.image().await;
    let other = account(&world, &world.other).await;
    let operator = account(&world, &world.key).await;
    let grant = json!({ "account": other });
    let made = world.post("/v1/images/debian/grant", grant.clone()).await.expect(201);
    let theirs = world.call_as(&world.other, "GET", "/v1/images/debian", None).await.expect(200);
    assert_eq!(made, theirs);
    assert_eq!(theirs["digest"], "ab".repeat(32));
    assert_ne!(world.get("/v1/images/debian").await.expect(200)["id"], theirs["id"]);
    // Twice is once.
    assert_eq!(world.post("/v1/images/debian/grant", grant).await.expect(201)["id"], theirs["id"]);

    let back = Some(json!({ "account": operator }));
    let refused = world.call_as(&world.other, "POST", "/v1/images/debian/grant", back).await;
    assert_eq!(refused.problem(), ("FORBIDDEN", None));
    let nobody = json!({ "account": model::AccountId::new() });
    assert_eq!(
        world.post("/v1/images/debian/grant", nobody).await.problem(),
        ("VALIDATION_ERROR", Some("account"))
    );
    let none = world.post("/v1/images/none/grant", json!({ "account": other })).await;
    assert_eq!(none.problem().0, "NOT_FOUND");
}

#[tokio::test]
async fn nodes_learn_what_is_in_use() {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "here", 4).await;
    let in_use = async || {
        let json = world.call_as(&machine.token, "GET", "/node/v1/images", None).await.expect(200);
        serde_json::from_value::<model::node_api::ImagesInUse>(json).unwrap().digests
    };
    assert_eq!(in_use().await, Vec::<String>::new());
    world.image().await;
    let agent = world.agent("one").await;
    // The name moves on; the agent stays with what it was made from.
    world.post("/v1/images", request("debian", &"cd".repeat(32), None)).await.expect(201);
    assert_eq!(in_use().await, ["ab".repeat(32), "cd".repeat(32)]);
    world.call_as(&world.key, "DELETE", "/v1/images/debian", None).await.expect(204);
    assert_eq!(in_use().await, ["ab".repeat(32)]);
    world.call_as(&world.key, "DELETE", &format!("/v1/agents/{agent}"), None).await.expect(200);
    assert_eq!(in_use().await, ["ab".repeat(32)], "it is not gone yet");
    machine.saw(&world, &agent, 2, model::agent::Observed::Destroyed).await;
    assert_eq!(in_use().await, Vec::<String>::new());
    world.call_as(&world.key, "GET", "/node/v1/images", None).await.expect(401);
}

/// What an image says of its programs is part of the agents that are made from it.
#[tokio::test]
async fn an_agent_is_what_its_image_says() {
    let world = World::new().await;
    let _machine = Machine::enrolled(&world, "here", 9).await;
    let image = |name: &str, user: Value| {
        json!({ "name": name, "digest": "ab".repeat(32), "size": 1, "config": { "entrypoint": ["/init"],
            "cmd": ["serve"], "cwd": "/srv", "user": user, "env": { "A": "1" } } })
    };
    world
        .post("/v1/images", image("web", json!({ "uid": 101, "gid": 102, "name": "web" })))
        .await
        .expect(201);
    world.post("/v1/images", image("root", json!({ "uid": 0, "gid": 0 }))).await.expect(201);
    let create = async |body: Value| world.post("/v1/agents", body).await.expect(201);
    let agent = create(json!({ "image": "web", "main": { "argv": [] } })).await;
    assert_eq!(agent["main"]["argv"], json!(["/init", "serve"]));
    assert_eq!((&agent["run_as"], &agent["image_config"]["user"]["uid"]), (&json!("agent"), &json!(101)));
    let agent = create(json!({ "image": "root", "main": { "argv": ["x"] } })).await;
    assert_eq!(agent["main"]["argv"], json!(["/init", "x"]));
    assert_eq!(agent["run_as"], "root");
    let agent =
        create(json!({ "image": "root", "run_as": "agent", "entrypoint": [], "main": { "argv": ["x"] } }))
            .await;
    assert_eq!((&agent["run_as"], &agent["main"]["argv"]), (&json!("agent"), &json!(["x"])));
    assert_eq!(create(json!({ "image": "web" })).await["main"], Value::Null);
    let nothing = json!({ "image": "web", "entrypoint": [], "main": { "argv": [] } });
    assert_eq!(world.post("/v1/agents", nothing).await.problem(), ("VALIDATION_ERROR", Some("main.argv")));
    for user in [json!({ "uid": 65535, "gid": 0 }), json!({ "uid": 1, "gid": 70_000 })] {
        assert_eq!(world.post("/v1/images", image("bad", user)).await.problem().1, Some("config.user"));
    }
}

/// Registers content under a name, with these packages.
async fn push(world: &World, name: &str, digest: &str, packages: Option<Value>) -> Value {
    let mut image = json!({"name": name, "digest": digest.repeat(32), "size": 4096});
    if let Some(versions) = packages {
        image["packages"] = json!({"manager": "dpkg", "versions": versions});
    }
    world.post("/v1/images", image).await.expect(201)
}

#[tokio::test]
async fn what_is_pushed_changes_nothing_that_is_there_and_says_what_there_is() {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 4).await;
    let first = push(&world, "debian", "ab", Some(json!({"libc6": "2.36-9", "old": "1"}))).await;
    let id = world.agent("a").await;
    machine.saw(&world, &id, 1, Observed::Running).await;
    let wish = machine.desired(&world, "").await;
    let before = world.get("/v1/agents/a").await.expect(200);
    assert!(before.get("upgrade").is_none());
    let second = push(&world, "debian", "cd", Some(json!({"libc6": "2.41-12", "new": "3"}))).await;
    // Nothing of the agent is another, for its node neither: there is not even anything to hear.
    let same = machine.desired(&world, "").await;
    assert_eq!((same.rev, &same.agents), (wish.rev, &wish.agents));
    world.verb("a", "stop").await.expect(200);
    machine.saw(&world, &id, 2, Observed::Stopped).await;
    world.verb("a", "start").await.expect(200);
    let again = machine.desired(&world, "").await;
    assert_eq!(again.agents[0].spec, wish.agents[0].spec, "restart uses the same");
    // Its content stays, whatever is pruned, until it is gone.
    let in_use = async || {
        let used = world.call_as(&machine.token, "GET", "/node/v1/images", None).await.expect(200);
        used["digests"].as_array().unwrap().contains(&json!("ab".repeat(32)))
    };
    assert!(in_use().await);
    // And whoever looks is told of the way, with a command that makes it.
    let listed = world.get("/v1/agents").await.expect(200)["items"][0].clone();
    for agent in [&world.get("/v1/agents/a").await.expect(200), &listed] {
        assert_eq!(
            (&agent["upgrade"]["image"], &agent["upgrade"]["digest"]),
            (&second["id"], &second["digest"])
        );
        assert_eq!(agent["upgrade"]["command"], "cofferdam agent clone a a-new --image debian");
    }
    let path = format!("/v1/images/{}/diff?with=debian", first["id"].as_str().unwrap());
    let diff = world.get(&path).await.expect(200);
    assert_eq!((&diff["from"]["digest"], &diff["to"]["digest"]), (&first["digest"], &second["digest"]));
    assert_eq!(
        diff["packages"],
        json!([{"name": "libc6", "from": "2.36-9", "to": "2.41-12"}, {"name": "new", "to": "3"},
            {"name": "old", "from": "1"}])
    );
    // The clone is on it, and has nothing to upgrade to.
    let clone = json!({"name": "b", "image": "debian"});
    let clone = world.post("/v1/agents/a/clone", clone).await.expect(201);
    assert_eq!(clone["image"], second["id"]);
    assert!(world.get("/v1/agents/b").await.expect(200).get("upgrade").is_none());
    world.call_as(&world.key, "DELETE", "/v1/agents/a", None).await.expect(200);
    machine.saw(&world, &id, 4, Observed::Destroyed).await;
    assert!(!in_use().await);
}

#[tokio::test]
async fn what_differs_is_unknown_where_nothing_was_read() {
    let world = World::new().await;
    push(&world, "a", "ab", None).await;
    push(&world, "b", "cd", Some(json!({"libc6": "2"}))).await;
    let diff = world.get("/v1/images/a/diff?with=b").await.expect(200);
    assert!(diff["unknown"].as_str().unwrap().contains('a') && diff["packages"] == json!([]));
    // Told later, it is known.
    push(&world, "a", "ab", Some(json!({"libc6": "1"}))).await;
    let diff = world.get("/v1/images/a/diff?with=b").await.expect(200);
    assert_eq!(diff["packages"], json!([{"name": "libc6", "from": "1", "to": "2"}]));
    assert_eq!(world.get("/v1/images/a/diff").await.problem(), ("VALIDATION_ERROR", Some("with")));
    assert_eq!(world.get("/v1/images/a/diff?with=c").await.problem().0, "NOT_FOUND");
    let theirs = world.call_as(&world.other, "GET", "/v1/images/a/diff?with=b", None).await;
    assert_eq!(theirs.problem().0, "NOT_FOUND");
    let odd = json!({"name": "c", "digest": "ef".repeat(32), "size": 1,
        "packages": {"manager": "dpkg", "versions": {"a\u{1b}[2J": "1"}}});
    assert_eq!(world.post("/v1/images", odd).await.problem(), ("VALIDATION_ERROR", Some("packages")));
}
