//! How often people may try things, wherever they come from; and that what they type is kept nowhere.

use super::factors::with_factor;
use super::{ACME, ORIGIN, Organisation, PASSWORD, Person, at_machine, browse, invite};
use crate::peer::Peer;
use crate::tests::secrets::leaks::Log;
use crate::tests::world::{Answer, World};
use axum::body::Body;
use serde_json::{Value, json};
use std::net::IpAddr;

/// Of somebody on the internet; each number is another /48.
fn address(number: u16) -> IpAddr {
    IpAddr::from([0x2001, 0xdb8, number, 0, 0, 0, 0, 1])
}

async fn from(world: &World, peer: IpAddr, path: &str, body: &Value) -> Answer {
    let request = world
        .request("POST", path)
        .header("origin", ORIGIN)
        .header("content-type", "application/json")
        .extension(Peer { address: peer, tls: false })
        .body(Body::from(body.to_string()));
    world.send(request.unwrap()).await
}

async fn tried<A: Future<Output = Answer>>(times: u16, mut ask: impl FnMut(u16) -> A) -> u16 {
    let mut tried = 0;
    for time in 0..times {
        let answer = ask(time).await;
        assert!(answer.status.as_u16() != 429 || answer.headers.contains_key("retry-after"));
        tried += u16::from(answer.status.as_u16() != 429);
    }
    tried
}

#[tokio::test]
async fn neither_another_address_nor_another_name_beats_the_limit_of_logins() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    world.clock.forward(time::Duration::minutes(30));
    let wrong = |email: String| json!({"email": email, "password": "eight wet otters"});
    let by_name = |time| {
        let (world, body) = (&world, wrong(ada.email.clone()));
        async move { from(world, address(time), "/v1/session", &body).await }
    };
    assert_eq!(tried(30, by_name).await, 10);
    // Written otherwise, it is the same address; and one that nobody has counts like one that somebody has.
    let body = wrong("ADA@EXAMPLE.COM".to_owned());
    from(&world, address(500), "/v1/session", &body).await.expect(429);
    let nobody = |time| {
        let (world, body) = (&world, wrong("nobody@example.com".to_owned()));
        async move { from(world, address(1000 + time), "/v1/session", &body).await }
    };
    assert_eq!(tried(30, nobody).await, 10);
    let by_address = |time| {
        let (world, body) = (&world, wrong(format!("user-{time}@example.com")));
        async move { from(world, address(2000), "/v1/session", &body).await }
    };
    assert_eq!(tried(60, by_address).await, 30);
    // Whoever is logged in stays so.
    ada.call(&world, "GET", "/v1/session", None).await.expect(200);
}

#[tokio::test]
async fn tokens_are_tried_at_a_rate() {
    let world = World::new().await;
    for path in ["/v1/password-reset", "/v1/invitations/accept"] {
        world.clock.forward(time::Duration::minutes(30));
        let one = |time| {
            let (world, body) = (&world, json!({"token": format!("cofr_{path}"), "password": PASSWORD}));
            async move { from(world, address(time), path, &body).await }
        };
        assert_eq!(tried(30, one).await, 10, "{path}: one token from everywhere");
        let many = |time| {
            let (world, body) = (&world, json!({"token": format!("cofr_{time}"), "password": PASSWORD}));
            async move { from(world, address(999), path, &body).await }
        };
        assert_eq!(tried(60, many).await, 30, "{path}: many tokens from one address");
    }
}

#[tokio::test]
async fn strangers_send_little_and_what_is_refused_is_not_read() {
    let world = World::new().await;
    let long = "x".repeat(8 << 10);
    for (path, body) in [
        ("/v1/session", json!({"email": "ada@example.com", "password": long})),
        ("/v1/password-reset", json!({"token": long, "password": PASSWORD})),
        ("/v1/invitations/accept", json!({"token": long, "password": PASSWORD})),
    ] {
        let answer = browse(&world, "POST", path, &[("origin", ORIGIN)], Some(&body)).await;
        assert_eq!(answer.problem().0, "TOO_LARGE", "{path}");
    }
    // The longest password, each byte of it written as six.
    let longest = format!(r#"{{"email":"ada@example.com","password":"{}"}}"#, r"\u0001".repeat(1024));
    let send = |body: Body| {
        let request = world.request("POST", "/v1/session").header("origin", ORIGIN);
        request
            .header("content-type", "application/json")
            .extension(Peer { address: address(7), tls: false })
            .body(body)
    };
    assert_eq!(world.send(send(Body::from(longest)).unwrap()).await.problem().0, "UNAUTHENTICATED");
    for time in 0..40 {
        let body = json!({"email": format!("user-{time}@example.com"), "password": PASSWORD});
        world.send(send(Body::from(body.to_string())).unwrap()).await;
    }
    // Whoever read this body would say that it is too large.
    let more = Body::from("x".repeat(16 << 10));
    assert_eq!(world.send(send(more).unwrap()).await.problem().0, "TOO_MANY");
}

#[tokio::test]
async fn problems_repeat_nothing_of_what_was_typed() {
    let world = World::new().await;
    let typed = "typed-0H4rdT0Gu3ss";
    for (path, body) in [
        ("/v1/session", json!({"email": "ada@example.com", "password": [typed]})),
        ("/v1/session", json!({"email": "ada@example.com", "password": typed, typed: 1})),
        ("/v1/session", json!({"email": "ada@example.com", "password": typed, "code": {typed: typed}})),
        ("/v1/password-reset", json!({"token": typed, "password": {typed: typed}})),
        ("/v1/password-reset", json!({"token": typed, "password": typed})),
        ("/v1/invitations/accept", json!({"token": typed, "password": typed})),
        ("/v1/invitations/accept", json!(typed)),
    ] {
        let answer = browse(&world, "POST", path, &[("origin", ORIGIN)], Some(&body)).await;
        assert!(answer.status.is_client_error());
        assert!(!format!("{answer:?}").contains(typed), "{path}: {}", answer.json);
    }
}

#[tokio::test]
async fn what_people_show_is_kept_nowhere() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let world = World::new().await;
    let org = Organisation::new(&world).await;
    let (ada, seed) = with_factor(&world, "ada").await;
    let invitation = invite(&world, &org.owner, "new@example.com", "member").await;
    let reset = at_machine(&world, "POST", &format!("/v1/users/{}/reset", ada.id)).await.expect(201);
    let made = org.owner.call_in(&world, ACME, "POST", "/v1/keys", Some(json!({"name": "mine"}))).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let session = ada.cookie.split_once('=').unwrap().1.to_owned();
    let planted = [
        PASSWORD.to_owned(),
        session,
        invitation,
        text(&reset["token"]),
        text(&made.expect(201)["secret"]),
        crate::auth::totp::base32(&seed),
    ];
    let wrong = json!({"email": "ada@example.com", "password": format!("{PASSWORD}!")});
    browse(&world, "POST", "/v1/session", &[("origin", ORIGIN)], Some(&wrong)).await.expect(401);
    ada.call(&world, "GET", "/v1/session", None).await.expect(200);
    world.app.store.write_uses().await.unwrap();
    let read = |path: std::path::PathBuf| std::fs::read(path).unwrap_or_default();
    let database = world.config.database();
    let log = log.0.lock().unwrap().clone();
    assert!(log.windows(15).any(|window| window == b"/v1/invitations"), "the log was there to be searched");
    for (place, bytes) in [
        ("the log", log),
        ("the database", read(database.clone())),
        ("its WAL", read(database.with_extension("db-wal"))),
    ] {
        for secret in &planted {
            let there = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!there, "{place} holds {secret}");
        }
        assert!(!bytes.windows(seed.len()).any(|window| window == seed), "{place} holds the seed");
    }
}
