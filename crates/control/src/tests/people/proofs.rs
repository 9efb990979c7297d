//! Step-up: what asks for a proof that is fresh, and what is one.

use super::{ACME, Organisation, PASSWORD, Person, kinds};
use crate::tests::world::{Answer, World};
use serde_json::{Value, json};
use time::Duration;

async fn ask(world: &World, who: &Person, method: &str, path: &str, body: Option<Value>) -> Answer {
    who.call_in(world, ACME, method, path, body).await
}

#[tokio::test]
async fn what_is_sensitive_asks_for_a_fresh_proof() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let owner = &org.owner;
    let (admin, member) = (format!("/v1/members/{}", org.admin.id), format!("/v1/members/{}", org.member.id));
    let invitation = json!({"email": "new@example.com", "role": "owner"});
    let sensitive: Vec<(&str, &str, Option<Value>)> = vec![
        ("POST", "/v1/keys", Some(json!({"name": "mine"}))),
        ("POST", "/v1/data-key/rotate", None),
        ("PUT", "/v1/secrets/mine/hosts", Some(json!({"hosts": ["a.example"]}))),
        ("POST", "/v1/second-factor", None),
        ("PUT", "/v1/second-factor", Some(json!({"code": "123456"}))),
        ("DELETE", "/v1/second-factor", None),
        ("POST", "/v1/invitations", Some(invitation)),
        ("POST", "/v1/invitations", Some(json!({"email": "plain@example.com"}))),
        ("POST", "/v1/accounts", Some(json!({"name": "more"}))),
        ("PUT", &member, Some(json!({"role": "admin"}))),
        ("PUT", &admin, Some(json!({"role": "owner"}))),
        ("DELETE", &member, None),
    ];
    // Just logged in is fresh, until five minutes are over.
    world.clock.forward(Duration::minutes(5) - Duration::seconds(1));
    ask(&world, owner, "POST", "/v1/data-key/rotate", None).await.expect(204);
    world.clock.forward(Duration::seconds(1));
    for (method, path, body) in &sensitive {
        let answer = ask(&world, owner, method, path, body.clone()).await;
        let (status, code) = (answer.status.as_u16(), answer.problem().0);
        assert_eq!((status, code), (403, "PROOF_REQUIRED"), "{method} {path}");
        assert!(answer.json["remedy"].as_str().unwrap().contains("/v1/session/proof"));
    }
    // Nothing of it was done, and what is not sensitive goes on.
    assert_eq!(ask(&world, owner, "GET", "/v1/keys", None).await.expect(200)["items"], json!([]));
    assert_eq!(
        ask(&world, owner, "GET", "/v1/members", None).await.expect(200)["items"].as_array().unwrap().len(),
        3
    );
    let invited = ask(&world, owner, "GET", "/v1/invitations", None).await.expect(200);
    assert_eq!(invited["items"], json!([]));
    assert_eq!(
        ask(&world, owner, "GET", "/v1/accounts", None).await.expect(200).as_array().unwrap().len(),
        2
    );
    // To make somebody more takes one of an admin, too; to make somebody less takes none.
    let body = Some(json!({"role": "admin"}));
    assert_eq!(ask(&world, &org.admin, "PUT", &member, body).await.problem().0, "PROOF_REQUIRED");
    ask(&world, &org.admin, "PUT", &admin, Some(json!({"role": "member"}))).await.expect(200);

    owner.prove(&world).await;
    ask(&world, owner, "POST", "/v1/keys", Some(json!({"name": "mine"}))).await.expect(201);
    ask(&world, owner, "PUT", &admin, Some(json!({"role": "owner"}))).await.expect(200);
    ask(&world, owner, "DELETE", &member, None).await.expect(204);
}

#[tokio::test]
async fn an_operator_in_a_session_shows_once_more_that_they_are_there() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    let invited = json!({"email": ada.email, "role": "admin"});
    let token = world.post("/v1/invitations", invited).await.expect(201)["token"].clone();
    ada.call(&world, "POST", "/v1/invitations/accept", Some(json!({"token": token}))).await.expect(200);
    let acme = ada.call(&world, "POST", "/v1/accounts", Some(json!({"name": ACME}))).await.expect(201);
    let quota = format!("/v1/accounts/{}/quota", acme["id"].as_str().unwrap());
    let limit = Some(json!({"agents": 3}));
    let set = async || ada.call_in(&world, "default", "PUT", &quota, limit.clone()).await;
    set().await.expect(200);
    world.clock.forward(Duration::minutes(5));
    assert_eq!(set().await.problem().0, "PROOF_REQUIRED");
    ada.prove(&world).await;
    set().await.expect(200);
    // A key is its own proof.
    world.clock.forward(Duration::minutes(5));
    world.call_as(&world.key, "PUT", &quota, limit.clone()).await.expect(200);
}

#[tokio::test]
async fn no_proof_but_ones_own_is_one() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    let elsewhere = Person { cookie: Person::again(&world, &ada.email).await, ..ada.clone() };
    world.clock.forward(Duration::minutes(6));
    for (body, field) in [
        (json!({"password": "eight wet otters"}), "password"),
        (json!({"password": ""}), "password"),
        (json!({"code": "123456"}), "code"),
        (json!({}), "password"),
        (json!({"password": PASSWORD, "code": "123456"}), "password"),
    ] {
        let answer = ada.call(&world, "POST", "/v1/session/proof", Some(body)).await;
        assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some(field)));
    }
    // That of another session is that session's.
    elsewhere.prove(&world).await;
    let key = Some(json!({"name": "mine"}));
    assert_eq!(ada.call(&world, "POST", "/v1/keys", key.clone()).await.problem().0, "PROOF_REQUIRED");
    elsewhere.call(&world, "POST", "/v1/keys", key).await.expect(201);
}

#[tokio::test]
async fn passwords_are_guessed_in_a_session_at_a_rate() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    let mut guessed = 0;
    for _ in 0..20 {
        let body = json!({"password": "eight wet otters"});
        let answer = ada.call(&world, "POST", "/v1/session/proof", Some(body)).await;
        guessed += u16::from(answer.status.as_u16() == 400);
        let body = json!({"current": "eight wet otters", "password": "nine dry herons"});
        let answer = ada.call(&world, "PUT", "/v1/password", Some(body)).await;
        guessed += u16::from(answer.status.as_u16() == 400);
    }
    assert_eq!(guessed, 10, "one count for all ways to guess");
    // Each of which their person sees, and no more of them than were let through.
    let kinds = kinds(&world, &ada, "ada").await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "session.code_refused").count(), 10);
    // Which keeps nobody from logging in.
    Person::again(&world, &ada.email).await;
}
