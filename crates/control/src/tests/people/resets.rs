//! Resets: what a token is good for, who gets one, and who hears of it.

use super::factors::with_factor;
use super::{ACME, Organisation, PASSWORD, Person, at_machine, browse, kinds, login};
use crate::tests::world::{Answer, World};
use serde_json::{Value, json};
use time::Duration;

async fn token(world: &World, who: &Person) -> String {
    let made = at_machine(world, "POST", &format!("/v1/users/{}/reset", who.id)).await.expect(201);
    assert_eq!(made["user"]["id"], who.id);
    made["token"].as_str().unwrap().to_owned()
}

async fn redeem(world: &World, token: &str, password: &str) -> Answer {
    let body = json!({"token": token, "password": password});
    browse(world, "POST", "/v1/password-reset", &[], Some(&body)).await
}

#[tokio::test]
async fn a_reset_ends_every_session_and_works_once() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    let elsewhere = Person { cookie: Person::again(&world, &ada.email).await, ..ada.clone() };
    let token = token(&world, &ada).await;
    ada.call(&world, "GET", "/v1/session", None).await.expect(200);
    redeem(&world, &token, "nine dry herons").await.expect(200);
    for session in [&ada, &elsewhere] {
        session.call(&world, "GET", "/v1/session", None).await.expect(401);
    }
    login(&world, &json!({"email": ada.email, "password": PASSWORD})).await.expect(401);
    assert_eq!(redeem(&world, &token, "ten grey geese").await.problem().0, "UNAUTHENTICATED");
    login(&world, &json!({"email": ada.email, "password": "nine dry herons"})).await.expect(201);
}

#[tokio::test]
async fn a_reset_leaves_no_key_that_somebody_else_may_have_made() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let mut keys = Vec::new();
    for account in [ACME, "mia"] {
        let made =
            org.member.call_in(&world, account, "POST", "/v1/keys", Some(json!({"name": "left"}))).await;
        keys.push(made.expect(201)["secret"].as_str().unwrap().to_owned());
    }
    let others = org.owner.call_in(&world, ACME, "POST", "/v1/keys", Some(json!({"name": "others"}))).await;
    let others = others.expect(201)["secret"].as_str().unwrap().to_owned();
    for key in keys.iter().chain([&others]) {
        world.call_as(key, "GET", "/v1/whoami", None).await.expect(200);
    }
    let token = token(&world, &org.member).await;
    redeem(&world, &token, "nine dry herons").await.expect(200);
    for key in &keys {
        world.call_as(key, "GET", "/v1/whoami", None).await.expect(401);
    }
    world.call_as(&others, "GET", "/v1/whoami", None).await.expect(200);
    let told = login(&world, &json!({"email": org.member.email, "password": "nine dry herons"})).await;
    let mia = Person { cookie: super::cookie_of(&told), ..org.member.clone() };
    for account in [ACME, "mia"] {
        assert!(kinds(&world, &mia, account).await.contains(&"key.deleted".to_owned()), "{account}");
    }
}

#[tokio::test]
async fn of_two_at_once_with_one_token_one_sets_the_password() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    let token = token(&world, &ada).await;
    let (one, two) =
        tokio::join!(redeem(&world, &token, "nine dry herons"), redeem(&world, &token, "ten grey geese"));
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401]);
}

#[tokio::test]
async fn a_token_lasts_an_hour_and_the_last_one_counts() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    let first = token(&world, &ada).await;
    let second = token(&world, &ada).await;
    assert_eq!(redeem(&world, &first, "nine dry herons").await.problem().0, "UNAUTHENTICATED");
    world.clock.forward(Duration::minutes(60));
    let over = redeem(&world, &second, "nine dry herons").await;
    assert_eq!(over.problem().0, "UNAUTHENTICATED");
    let unknown = redeem(&world, "cofr_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "nine dry herons").await;
    assert_eq!(super::words(&over), super::words(&unknown));
    let third = token(&world, &ada).await;
    // Whoever sets the password otherwise has no use for it, and nobody else is to have one.
    let body = json!({"current": PASSWORD, "password": "ten grey geese"});
    let cookie = Person::again(&world, &ada.email).await;
    let ada = Person { cookie, ..ada };
    ada.call(&world, "PUT", "/v1/password", Some(body)).await.expect(204);
    assert_eq!(redeem(&world, &third, "nine dry herons").await.problem().0, "UNAUTHENTICATED");
    assert_eq!(redeem(&world, &ada.cookie, "nine dry herons").await.problem().0, "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_reset_leaves_the_second_factor() {
    let world = World::new().await;
    let (ada, _) = with_factor(&world, "ada").await;
    let token = token(&world, &ada).await;
    redeem(&world, &token, "nine dry herons").await.expect(200);
    let body = json!({"email": ada.email, "password": "nine dry herons"});
    assert_eq!(login(&world, &body).await.problem().0, "SECOND_FACTOR_REQUIRED");
}

#[tokio::test]
async fn an_operator_elsewhere_cannot_become_somebody() {
    let world = World::new().await;
    let (ada, _) = with_factor(&world, "ada").await;
    let (reset, factor) =
        (format!("/v1/users/{}/reset", ada.email), format!("/v1/users/{}/second-factor", ada.email));
    for (method, path) in [("POST", &reset), ("DELETE", &factor)] {
        let answer = world.call_as(&world.key, method, path, None).await;
        assert_eq!(answer.problem().0, "FORBIDDEN", "{method} {path}");
        assert!(answer.json["remedy"].as_str().unwrap().contains("as root"), "{}", answer.json);
        // Nor does a name or a header make an address the machine's.
        let request = world
            .request(method, path)
            .header("authorization", format!("Bearer {}", world.key))
            .header("x-forwarded-for", "127.0.0.1")
            .extension(crate::server::Door::Tcp)
            .body(axum::body::Body::empty());
        assert_eq!(world.send(request.unwrap()).await.problem().0, "FORBIDDEN", "{method} {path}");
        // And whoever is at the machine without being its operator is nobody in particular.
        let request = world
            .request(method, path)
            .header("authorization", format!("Bearer {}", world.other))
            .extension(crate::server::Door::Unix)
            .body(axum::body::Body::empty());
        assert_eq!(world.send(request.unwrap()).await.problem().0, "FORBIDDEN", "{method} {path}");
    }
    // Somebody who never chose a password has nothing yet that could be seen.
    world.post("/v1/users", json!({"email": "new@example.com"})).await.expect(201);
    world.call_as(&world.key, "POST", "/v1/users/new@example.com/reset", None).await.expect(201);
    at_machine(&world, "POST", &reset).await.expect(201);
    at_machine(&world, "DELETE", &factor).await.expect(204);
    assert_eq!(at_machine(&world, "DELETE", &factor).await.problem().0, "NOT_FOUND");
    assert_eq!(
        at_machine(&world, "POST", "/v1/users/nobody@example.com/reset").await.problem().0,
        "NOT_FOUND"
    );
}

#[tokio::test]
async fn owners_see_that_somebody_can_become_their_member() {
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let stranger = Person::new(&world, "eve").await;
    let seen = async |kind: &str| {
        let kinds = kinds(&world, &org.owner, ACME).await;
        kinds.iter().filter(|seen| *seen == kind).count()
    };
    assert_eq!(seen("user.reset_issued").await, 0);
    let token = token(&world, &org.member).await;
    assert_eq!(seen("user.reset_issued").await, 1);
    redeem(&world, &token, "nine dry herons").await.expect(200);
    assert_eq!(seen("user.password_set").await, 1);
    // What happens to somebody else is no business of theirs.
    self::token(&world, &stranger).await;
    assert_eq!(seen("user.reset_issued").await, 1);
    let events = org.owner.call_in(&world, ACME, "GET", "/v1/events?limit=200", None).await.expect(200);
    let items = events["items"].as_array().unwrap();
    let issued = items.iter().find(|event| event["kind"] == "user.reset_issued").unwrap();
    assert_eq!(issued["subject"], org.member.id);
    assert!(issued["actor"].as_str().unwrap().starts_with("key_"), "{issued}");
    assert!(!events.to_string().contains(&token), "{}", Value::Null);
}

#[tokio::test]
async fn resets_of_one_person_are_made_at_a_rate() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    let path = format!("/v1/users/{}/reset", ada.id);
    let mut made = 0;
    for _ in 0..10 {
        made += u16::from(at_machine(&world, "POST", &path).await.status.as_u16() == 201);
    }
    assert_eq!(made, 5);
}
