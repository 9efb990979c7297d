//! Passwords: who is told what, what they cost, and which there are.

use super::{ORIGIN, PASSWORD, Person, browse, login, words};
use crate::tests::world::{Answer, World};
use serde_json::json;

async fn stored(world: &World, email: &str) -> String {
    let email = email.parse().unwrap();
    world.app.store.credentials(&email).await.unwrap().unwrap().hash.unwrap()
}

#[tokio::test]
async fn a_login_tells_nobody_who_is_known() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    // Known, and without a password yet.
    world.post("/v1/users", json!({"email": "new@example.com"})).await.expect(201);
    let long = "x".repeat(5_000);
    let mut answers = Vec::new();
    for (email, password) in [
        ("nobody@example.com", PASSWORD),
        (ada.email.as_str(), "eight wet otters"),
        (ada.email.as_str(), ""),
        (ada.email.as_str(), long.as_str()),
        ("new@example.com", PASSWORD),
        ("new@example.com", ""),
    ] {
        let answer = login(&world, &json!({"email": email, "password": password})).await;
        assert_eq!(answer.status.as_u16(), 401, "{email}");
        assert!(!answer.headers.contains_key("set-cookie"));
        answers.push(words(&answer));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    // Nor does an address that can be nobody's cost a try of somebody's.
    let answer = login(&world, &json!({"email": "no address", "password": PASSWORD})).await;
    assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some("email")));
    login(&world, &json!({"email": ada.email, "password": PASSWORD})).await.expect(201);
}

#[tokio::test]
async fn the_bounds_of_a_password() {
    let world = World::new().await;
    let made = world.post("/v1/users", json!({"email": "ada.lovelace@example.com"})).await.expect(201);
    let token = made["token"].as_str().unwrap();
    let set = async |password: &str| {
        let body = json!({"token": token, "password": password});
        browse(&world, "POST", "/v1/password-reset", &[], Some(&body)).await
    };
    for bad in ["seven77", "Password1!", "ada.lovelace99", "\u{fc}\u{fc}\u{fc}\u{fc}", &"x y".repeat(700)] {
        let answer = set(bad).await;
        assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some("password")), "{bad:.20}");
        assert!(answer.json["remedy"].is_string());
        assert!(bad.len() > 100 || !answer.json.to_string().contains(bad), "it is told back");
    }
    // More than any body may be.
    assert_eq!(set(&"x".repeat(8 << 10)).await.problem().0, "TOO_LARGE");
    // The token is as good as before for one that will do.
    world.clock.forward(time::Duration::minutes(20));
    set("\u{fc}ber sieben Br\u{fc}cken").await.expect(200);
}

#[tokio::test]
async fn a_password_is_hashed_anew_when_it_costs_more() {
    let mut world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    let before = stored(&world, &ada.email).await;
    assert!(before.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{before}");
    world.config.passwords.passes = 2;
    world.restart().await;
    let wrong = json!({"email": ada.email, "password": "eight wet otters"});
    login(&world, &wrong).await.expect(401);
    assert_eq!(stored(&world, &ada.email).await, before, "nobody but its owner changes it");
    Person::again(&world, &ada.email).await;
    let after = stored(&world, &ada.email).await;
    assert!(after.starts_with("$argon2id$v=19$m=64,t=2,p=1$"), "{after}");
    Person::again(&world, &ada.email).await;
    assert_eq!(stored(&world, &ada.email).await, after);
    // The sessions from before go on: nobody's password was changed.
    ada.call(&world, "GET", "/v1/session", None).await.expect(200);
}

#[tokio::test]
async fn whoever_changes_a_password_shows_the_one_before() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    let elsewhere = Person { cookie: Person::again(&world, &ada.email).await, ..ada.clone() };
    let change = async |current: &str, password: &str| -> Answer {
        let body = json!({"current": current, "password": password});
        ada.call(&world, "PUT", "/v1/password", Some(body)).await
    };
    assert_eq!(change("eight wet otters", "nine dry herons").await.problem().1, Some("current"));
    assert_eq!(change(PASSWORD, "short").await.problem().1, Some("password"));
    elsewhere.call(&world, "GET", "/v1/session", None).await.expect(200);
    change(PASSWORD, "nine dry herons").await.expect(204);
    ada.call(&world, "GET", "/v1/session", None).await.expect(200);
    elsewhere.call(&world, "GET", "/v1/session", None).await.expect(401);
    login(&world, &json!({"email": ada.email, "password": PASSWORD})).await.expect(401);
    login(&world, &json!({"email": ada.email, "password": "nine dry herons"})).await.expect(201);
}

#[tokio::test]
async fn two_changes_at_once_are_one() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    let body = |password: &str| Some(json!({"current": PASSWORD, "password": password}));
    let (one, two) = tokio::join!(
        ada.call(&world, "PUT", "/v1/password", body("nine dry herons")),
        ada.call(&world, "PUT", "/v1/password", body("ten grey geese")),
    );
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert!(statuses == [204, 409] || statuses == [204, 400], "{statuses:?}");
    let login = async |password| {
        let body = json!({"email": ada.email, "password": password});
        browse(&world, "POST", "/v1/session", &[("origin", ORIGIN)], Some(&body)).await.status.as_u16()
    };
    let both = [login("nine dry herons").await, login("ten grey geese").await];
    assert_eq!(both.iter().filter(|status| **status == 201).count(), 1, "{both:?}");
}
