//! Second factors: what a code opens, and that it opens it once.

use super::{ORIGIN, PASSWORD, Person, browse, kinds, login, words};
use crate::auth::totp;
use crate::tests::world::{Answer, World};
use model::clock::Clock;
use serde_json::{Value, json};
use time::Duration;

/// What an authenticator makes of the text that its person typed.
fn seed(text: &str) -> Vec<u8> {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bits = text.chars().flat_map(|digit| {
        let value = ALPHABET.find(digit).expect("base32");
        (0..5).rev().map(move |place| value >> place & 1)
    });
    let bits: Vec<usize> = bits.collect();
    bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |value, bit| value << 1 | *bit as u8)).collect()
}

fn code(world: &World, seed: &[u8]) -> String {
    totp::current(seed, world.clock.now().unix_timestamp())
}

/// Somebody with a second factor, and its seed. Its first code is used up.
pub(super) async fn with_factor(world: &World, name: &str) -> (Person, Vec<u8>) {
    let person = Person::new(world, name).await;
    let made = person.call(world, "POST", "/v1/second-factor", None).await.expect(201);
    let seed = seed(made["secret"].as_str().unwrap());
    let body = json!({"code": code(world, &seed)});
    person.call(world, "PUT", "/v1/second-factor", Some(body)).await.expect(204);
    (person, seed)
}

fn body(person: &Person, code: Option<&str>) -> Value {
    json!({"email": person.email, "password": PASSWORD, "code": code})
}

#[tokio::test]
async fn a_login_asks_for_a_code_behind_the_right_password_alone() {
    let world = World::new().await;
    let (ada, seed) = with_factor(&world, "ada").await;
    let none = login(&world, &body(&ada, None)).await;
    assert_eq!((none.status.as_u16(), none.problem().0), (401, "SECOND_FACTOR_REQUIRED"));
    assert!(!none.headers.contains_key("set-cookie"));
    world.clock.forward(Duration::seconds(30));
    let right = code(&world, &seed);
    // Whoever does not know the password learns nothing of the factor, nor whether a code is right.
    let wrong = json!({"email": ada.email, "password": "eight wet otters", "code": right});
    let wrong = login(&world, &wrong).await;
    let nobody = login(&world, &json!({"email": "nobody@example.com", "password": PASSWORD})).await;
    let bad = login(&world, &body(&ada, Some("000000"))).await;
    assert_eq!(words(&wrong), words(&nobody));
    assert_eq!(words(&wrong), words(&bad));
    login(&world, &body(&ada, Some(&right))).await.expect(201);
    // Whose password is known to somebody else sees it: of a code behind a wrong one there is nothing to see.
    let refused = async || {
        let kinds = kinds(&world, &ada, "ada").await;
        kinds.iter().filter(|kind| *kind == "session.code_refused").count()
    };
    assert_eq!(refused().await, 1);
    login(&world, &body(&ada, Some(&right))).await.expect(401);
    assert_eq!(refused().await, 2, "nor does one go by that was taken before");
    let me = ada.call(&world, "GET", "/v1/session", None).await.expect(200);
    assert_eq!(me["user"]["second_factor"], true);
}

#[tokio::test]
async fn a_code_opens_once() {
    let world = World::new().await;
    let (ada, seed) = with_factor(&world, "ada").await;
    world.clock.forward(Duration::seconds(60));
    let first = code(&world, &seed);
    login(&world, &body(&ada, Some(&first))).await.expect(201);
    login(&world, &body(&ada, Some(&first))).await.expect(401);
    // Nor the one before it, which would have been good a moment ago, nor for something else.
    let earlier = totp::current(&seed, world.clock.now().unix_timestamp() - 30);
    login(&world, &body(&ada, Some(&earlier))).await.expect(401);
    let proof = ada.call(&world, "POST", "/v1/session/proof", Some(json!({"code": first}))).await;
    assert_eq!(proof.problem(), ("VALIDATION_ERROR", Some("code")));
    // One is good for half a minute before and behind its time, and no longer.
    world.clock.forward(Duration::seconds(60));
    let late = code(&world, &seed);
    world.clock.forward(Duration::seconds(60));
    login(&world, &body(&ada, Some(&late))).await.expect(401);
    let proof = json!({"code": code(&world, &seed)});
    ada.call(&world, "POST", "/v1/session/proof", Some(proof)).await.expect(204);
}

#[tokio::test]
async fn of_two_at_once_with_one_code_one_gets_in() {
    let world = World::new().await;
    let (ada, seed) = with_factor(&world, "ada").await;
    world.clock.forward(Duration::seconds(60));
    let body = body(&ada, Some(&code(&world, &seed)));
    let (one, two) = tokio::join!(login(&world, &body), login(&world, &body));
    let mut statuses = [one.status.as_u16(), two.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 401]);
}

#[tokio::test]
async fn a_factor_counts_from_its_first_code_on() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    let elsewhere = Person { cookie: Person::again(&world, &ada.email).await, ..ada.clone() };
    let answer = ada.call(&world, "PUT", "/v1/second-factor", Some(json!({"code": "123456"}))).await;
    assert_eq!(answer.problem().0, "WRONG_STATE");
    let first = ada.call(&world, "POST", "/v1/second-factor", None).await.expect(201);
    assert!(first["uri"].as_str().unwrap().starts_with("otpauth://totp/Cofferdam:ada%40example.com?secret="));
    Person::again(&world, &ada.email).await;
    // Begun anew: the seed before is worth nothing.
    let second = ada.call(&world, "POST", "/v1/second-factor", None).await.expect(201);
    let old = code(&world, &seed(first["secret"].as_str().unwrap()));
    let answer = ada.call(&world, "PUT", "/v1/second-factor", Some(json!({"code": old}))).await;
    assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some("code")));
    elsewhere.call(&world, "GET", "/v1/session", None).await.expect(200);
    let new = code(&world, &seed(second["secret"].as_str().unwrap()));
    ada.call(&world, "PUT", "/v1/second-factor", Some(json!({"code": new}))).await.expect(204);
    // A session that began without it is over, but for the one that asked.
    elsewhere.call(&world, "GET", "/v1/session", None).await.expect(401);
    ada.call(&world, "GET", "/v1/session", None).await.expect(200);
    // And it is not replaced in passing.
    let answer = ada.call(&world, "POST", "/v1/second-factor", None).await;
    assert_eq!(answer.problem().0, "IN_USE");
    ada.call(&world, "DELETE", "/v1/second-factor", None).await.expect(204);
    Person::again(&world, &ada.email).await;
}

#[tokio::test]
async fn codes_are_guessed_at_a_rate_whatever_the_address() {
    let world = World::new().await;
    let (ada, seed) = with_factor(&world, "ada").await;
    let mut tried = 0;
    for time in 0..12 {
        // As often as passwords may be tried, and from everywhere.
        world.clock.forward(Duration::minutes(1));
        let peer = crate::peer::Peer { address: [10, 0, time, 1].into(), tls: false };
        for _ in 0..4 {
            let request = world
                .request("POST", "/v1/session")
                .header("origin", ORIGIN)
                .header("content-type", "application/json")
                .extension(peer)
                .body(axum::body::Body::from(body(&ada, Some("000000")).to_string()));
            tried += u16::from(world.send(request.unwrap()).await.status.as_u16() == 401);
        }
    }
    // One was confirmed with.
    assert!(tried <= 19, "{tried} of a million codes within a quarter of an hour");
    // The session is not concerned by what others try with its person's address: a password proves it still.
    let again: Answer = ada.call(&world, "GET", "/v1/session", None).await;
    again.expect(200);
    world.clock.forward(Duration::hours(2));
    login(&world, &body(&ada, Some(&code(&world, &seed)))).await.expect(201);
}

#[tokio::test]
async fn seeds_follow_to_another_wrapping_key() {
    let world = World::new().await;
    let (ada, seed) = with_factor(&world, "ada").await;
    let wrapped = async || world.app.store.factor(ada.id.parse().unwrap()).await.unwrap().unwrap().seed;
    let before = wrapped().await;
    assert!(!before.wrapped.windows(seed.len()).any(|window| window == seed), "it is wrapped");
    world.call_as(&world.key, "POST", "/v1/wrapping-key/rotate", None).await.expect(204);
    let after = wrapped().await;
    assert_ne!(before.wrapped_by, after.wrapped_by);
    world.clock.forward(Duration::seconds(60));
    login(&world, &body(&ada, Some(&code(&world, &seed)))).await.expect(201);
    let headers = [("cookie", ada.cookie.as_str())];
    browse(&world, "GET", "/v1/session", &headers, None).await.expect(200);
}
