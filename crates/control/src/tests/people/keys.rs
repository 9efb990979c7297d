//! Keys: what they are for, how long, and whose.

use super::{ACME, Organisation, Person, accept};
use crate::tests::world::{Answer, World};
use model::clock::Clock;
use model::people::Role;
use serde_json::{Value, json};
use time::Duration;
use time::format_description::well_known::Rfc3339;

async fn make(world: &World, by: &Person, body: Value) -> String {
    let made = by.call_in(world, ACME, "POST", "/v1/keys", Some(body)).await.expect(201);
    made["secret"].as_str().unwrap().to_owned()
}

fn in_time(world: &World, from_now: Duration) -> String {
    (world.clock.now() + from_now).format(&Rfc3339).unwrap()
}

#[tokio::test]
async fn a_key_does_what_it_is_for() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let agents = make(&world, &org.owner, json!({"name": "agents", "scopes": ["agents"]})).await;
    let secrets = make(&world, &org.owner, json!({"name": "secrets", "scopes": ["secrets", "read"]})).await;
    let reads = make(&world, &org.owner, json!({"name": "reads", "scopes": ["read"]})).await;
    let secret = json!({"name": "mine", "value": "hunter2"});
    let member = json!({"email": "new@example.com"});
    for (key, path, body, expected) in [
        (&agents, "/v1/secrets", &secret, "FORBIDDEN"),
        (&reads, "/v1/secrets", &secret, "FORBIDDEN"),
        (&agents, "/v1/keys", &json!({"name": "more"}), "FORBIDDEN"),
        (&agents, "/v1/keys", &json!({"name": "more", "scopes": ["agents"]}), "FORBIDDEN"),
        (&secrets, "/v1/keys", &json!({"name": "more", "scopes": ["admin"]}), "FORBIDDEN"),
        (&agents, "/v1/invitations", &member, "FORBIDDEN"),
        (&agents, "/v1/data-key/rotate", &json!({}), "FORBIDDEN"),
        (&reads, "/v1/agents", &json!({}), "FORBIDDEN"),
        (&secrets, "/v1/agents", &json!({"name": "a", "image": "none"}), "FORBIDDEN"),
        (&agents, "/v1/agents", &json!({"name": "a", "image": "none"}), "NOT_FOUND"),
    ] {
        let answer = world.call_as(key, "POST", path, Some(body.clone())).await;
        assert_eq!(answer.problem().0, expected, "{path} {body}");
    }
    world.call_as(&secrets, "POST", "/v1/secrets", Some(secret)).await.expect(201);
    for key in [&agents, &secrets, &reads] {
        world.call_as(key, "GET", "/v1/agents", None).await.expect(200);
        assert_eq!(world.call_as(key, "GET", "/v1/keys", None).await.problem().0, "FORBIDDEN");
    }
    // A key is nobody's password: it neither changes one nor ends a session.
    let admin = make(&world, &org.owner, json!({"name": "admin"})).await;
    for (method, path) in [("GET", "/v1/sessions"), ("POST", "/v1/second-factor"), ("DELETE", "/v1/session")]
    {
        assert_eq!(world.call_as(&admin, method, path, None).await.problem().0, "FORBIDDEN", "{path}");
    }
    for bad in [json!([]), json!(["root"]), json!("admin")] {
        let body = json!({"name": "bad", "scopes": bad});
        let answer = org.owner.call_in(&world, ACME, "POST", "/v1/keys", Some(body)).await;
        assert_eq!(answer.problem().0, "VALIDATION_ERROR");
        assert!(answer.problem().1.unwrap().starts_with("scopes"), "{}", answer.json);
    }
}

#[tokio::test]
async fn a_key_ends_when_it_is_to_end_and_makes_none_that_lasts_longer() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let until = in_time(&world, Duration::hours(1));
    let key = make(&world, &org.owner, json!({"name": "short", "expires_at": until})).await;
    let mint = async |body: Value| -> Answer { world.call_as(&key, "POST", "/v1/keys", Some(body)).await };
    for longer in
        [json!({"name": "ever"}), json!({"name": "ever", "expires_at": in_time(&world, Duration::hours(2))})]
    {
        assert_eq!(mint(longer).await.problem(), ("VALIDATION_ERROR", Some("expires_at")));
    }
    mint(json!({"name": "child", "expires_at": until})).await.expect(201);
    let over = json!({"name": "over", "expires_at": in_time(&world, Duration::ZERO)});
    assert_eq!(mint(over).await.problem(), ("VALIDATION_ERROR", Some("expires_at")));
    world.clock.forward(Duration::hours(1) - Duration::seconds(1));
    world.call_as(&key, "GET", "/v1/whoami", None).await.expect(200);
    world.clock.forward(Duration::seconds(1));
    let answer = world.call_as(&key, "GET", "/v1/whoami", None).await;
    assert_eq!(answer.problem().0, "UNAUTHENTICATED", "also where it was looked up a moment ago");
}

#[tokio::test]
async fn members_see_and_delete_their_own() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    make(&world, &org.member, json!({"name": "mias"})).await;
    make(&world, &org.owner, json!({"name": "olgas"})).await;
    let list = async |who: &Person| {
        let keys = who.call_in(&world, ACME, "GET", "/v1/keys", None).await.expect(200);
        let items = keys["items"].as_array().unwrap().clone();
        items.into_iter().map(|key| (key["name"].as_str().unwrap().to_owned(), key)).collect::<Vec<_>>()
    };
    let names = |keys: &[(String, Value)]| keys.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&list(&org.member).await), ["mias"]);
    let all = list(&org.admin).await;
    assert_eq!(names(&all), ["olgas", "mias"]);
    let path = |at: usize| format!("/v1/keys/{}", all[at].1["id"].as_str().unwrap());
    let answer = org.member.call_in(&world, ACME, "DELETE", &path(0), None).await;
    assert_eq!(answer.problem().0, "NOT_FOUND");
    org.admin.call_in(&world, ACME, "DELETE", &path(1), None).await.expect(204);
    assert_eq!(org.admin.call_in(&world, ACME, "DELETE", &path(0), None).await.problem().0, "FORBIDDEN");
    org.owner.call_in(&world, ACME, "DELETE", &path(0), None).await.expect(204);
}

#[tokio::test]
async fn a_key_tells_when_it_was_last_used() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let key = make(&world, &org.owner, json!({"name": "used"})).await;
    let last = async || {
        let keys = org.owner.call_in(&world, ACME, "GET", "/v1/keys", None).await.expect(200);
        keys["items"][0]["last_used"].clone()
    };
    assert_eq!(last().await, Value::Null);
    world.clock.forward(Duration::minutes(3));
    world.call_as(&key, "GET", "/v1/whoami", None).await.expect(200);
    world.app.store.write_uses().await.unwrap();
    let told = time::OffsetDateTime::parse(last().await.as_str().unwrap(), &Rfc3339).unwrap();
    assert!((world.clock.now() - told).abs() < Duration::seconds(1));
}

#[tokio::test]
async fn a_key_that_ends_lets_nobody_in_for_longer() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let finn = Person::new(&world, "finn").await;
    let until = in_time(&world, Duration::hours(1));
    let key = make(&world, &org.owner, json!({"name": "short", "expires_at": until})).await;
    let ask =
        async |method: &str, path: &str, body: Value| world.call_as(&key, method, path, Some(body)).await;
    let invite = json!({"email": finn.email, "role": "owner"});
    assert_eq!(ask("POST", "/v1/invitations", invite).await.problem().0, "FORBIDDEN");
    let [member, admin] = [&org.member, &org.admin].map(|who| format!("/v1/members/{}", who.id));
    for role in ["admin", "owner"] {
        let answer = ask("PUT", &member, json!({"role": role})).await;
        assert_eq!(answer.problem().0, "FORBIDDEN", "{role}");
    }
    ask("PUT", &admin, json!({"role": "member"})).await.expect(200);
    let invite = json!({"email": finn.email, "role": "admin"});
    let made = ask("POST", "/v1/invitations", invite).await.expect(201);
    world.clock.forward(Duration::hours(1));
    let token = made["token"].as_str().unwrap();
    assert_eq!(accept(&world, &finn, token).await.problem().0, "UNAUTHENTICATED");
    // One that does not end may all that.
    org.owner.prove(&world).await;
    let key = make(&world, &org.owner, json!({"name": "lasting"})).await;
    let invite = Some(json!({"email": finn.email, "role": "owner"}));
    let made = world.call_as(&key, "POST", "/v1/invitations", invite).await.expect(201);
    world.call_as(&key, "PUT", &member, Some(json!({"role": "admin"}))).await.expect(200);
    accept(&world, &finn, made["token"].as_str().unwrap()).await.expect(200);
}

/// The id and the secret of a key that another makes.
async fn mint(world: &World, by: &str, name: &str) -> (String, String) {
    let made = world.call_as(by, "POST", "/v1/keys", Some(json!({"name": name}))).await.expect(201);
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    (text("id"), text("secret"))
}

async fn opens(world: &World, key: &str) -> bool {
    world.call_as(key, "GET", "/v1/whoami", None).await.status.is_success()
}

#[tokio::test]
async fn a_deleted_key_takes_along_what_it_made() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let finn = Person::new(&world, "finn").await;
    let other = make(&world, &org.owner, json!({"name": "other"})).await;
    let root = make(&world, &org.owner, json!({"name": "root"})).await;
    let (_, child) = mint(&world, &root, "child").await;
    let (_, grandchild) = mint(&world, &child, "grandchild").await;
    let mut tokens = Vec::new();
    for (key, email) in [(&child, &*finn.email), (&other, "kept@example.com")] {
        let body = Some(json!({"email": email, "role": "member"}));
        let made = world.call_as(key, "POST", "/v1/invitations", body).await.expect(201);
        tokens.push(made["token"].as_str().unwrap().to_owned());
    }
    let me = world.call_as(&root, "GET", "/v1/whoami", None).await.expect(200);
    let path = format!("/v1/keys/{}", me["key"].as_str().unwrap());
    org.owner.call_in(&world, ACME, "DELETE", &path, None).await.expect(204);
    for key in [&root, &child, &grandchild] {
        assert!(!opens(&world, key).await);
    }
    assert_eq!(accept(&world, &finn, &tokens[0]).await.problem().0, "UNAUTHENTICATED");
    assert!(opens(&world, &other).await);
    let left = org.owner.call_in(&world, ACME, "GET", "/v1/invitations", None).await.expect(200);
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_eq!(left["items"][0]["email"], "kept@example.com");
}

#[tokio::test]
async fn a_key_takes_the_place_of_the_one_that_made_it() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let root = make(&world, &org.owner, json!({"name": "root"})).await;
    let (old, _) = mint(&world, &root, "old").await;
    let (_, next) = {
        let (_, secret) = mint(&world, &root, "aside").await;
        assert!(opens(&world, &secret).await);
        let keys = org.owner.call_in(&world, ACME, "GET", "/v1/keys", None).await.expect(200);
        assert_eq!(keys["items"].as_array().unwrap().len(), 3);
        mint(&world, &secret, "next").await
    };
    // It deletes one beside it, then the one that made it, and goes with the one that made that.
    for name in ["old", "aside"] {
        let keys = org.owner.call_in(&world, ACME, "GET", "/v1/keys", None).await.expect(200);
        let key = keys["items"].as_array().unwrap().iter().find(|key| key["name"] == name).unwrap().clone();
        assert!(name != "old" || key["id"] == *old);
        let path = format!("/v1/keys/{}", key["id"].as_str().unwrap());
        world.call_as(&next, "DELETE", &path, None).await.expect(204);
        assert!(opens(&world, &next).await);
    }
    let me = world.call_as(&root, "GET", "/v1/whoami", None).await.expect(200);
    let path = format!("/v1/keys/{}", me["key"].as_str().unwrap());
    org.owner.call_in(&world, ACME, "DELETE", &path, None).await.expect(204);
    assert!(!opens(&world, &next).await);
}

#[tokio::test]
async fn an_account_keeps_its_owner_whatever_keys_go() {
    let world = World::new().await;
    let me = world.call_as(&world.other, "GET", "/v1/whoami", None).await.expect(200);
    let path = format!("/v1/keys/{}", me["key"].as_str().unwrap());
    let join = async |name: &str, role: &str| {
        let who = Person::new(&world, name).await;
        let body = Some(json!({"email": who.email, "role": role}));
        let made = world.call_as(&world.other, "POST", "/v1/invitations", body).await.expect(201);
        accept(&world, &who, made["token"].as_str().unwrap()).await.expect(200);
        who
    };
    let adam = join("adam", "admin").await;
    let delete = async |who: &Person| who.call_in(&world, "other", "DELETE", &path, None).await;
    assert_eq!(delete(&adam).await.problem().0, "FORBIDDEN");
    // Neither an admin nor a key that is somebody's or that ends is an owner who is left.
    adam.call_in(&world, "other", "POST", "/v1/keys", Some(json!({"name": "adams"}))).await.expect(201);
    let ends = json!({"name": "ends", "expires_at": in_time(&world, Duration::hours(1))});
    world.call_as(&world.other, "POST", "/v1/keys", Some(ends)).await.expect(201);
    let alone = world.call_as(&world.other, "DELETE", &path, None).await;
    assert_eq!(alone.problem().0, "IN_USE");
    assert!(opens(&world, &world.other).await);

    let olga = join("olga", "owner").await;
    world.clock.forward(Duration::minutes(5));
    assert_eq!(delete(&olga).await.problem().0, "PROOF_REQUIRED");
    olga.prove(&world).await;
    delete(&olga).await.expect(204);
    assert!(!opens(&world, &world.other).await);
    assert!(
        matches!(world.app.store.member(account(&me), &olga.email).await, Ok(left) if left.role == Role::Owner)
    );
}

fn account(me: &Value) -> model::AccountId {
    me["account"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn keys_are_not_deleted_without_end() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let mut paths = Vec::new();
    for index in 0..21 {
        let body = Some(json!({"name": format!("key-{index}")}));
        let made = org.member.call_in(&world, ACME, "POST", "/v1/keys", body).await.expect(201);
        paths.push(format!("/v1/keys/{}", made["id"].as_str().unwrap()));
    }
    let last = paths.pop().unwrap();
    for path in &paths {
        org.member.call_in(&world, ACME, "DELETE", path, None).await.expect(204);
    }
    let answer = org.member.call_in(&world, ACME, "DELETE", &last, None).await;
    assert_eq!(answer.problem().0, "TOO_MANY");
    // Others are not held to it, and it passes.
    world.clock.forward(Duration::minutes(20));
    org.member.call_in(&world, ACME, "DELETE", &last, None).await.expect(204);
}
