//! Sessions: cookies, and what other pages and other people try with them.

use super::{ORIGIN, PASSWORD, Person, browse, cookie_of, kinds, login};
use crate::tests::world::World;
use axum::body::Body;
use serde_json::json;
use time::Duration;

#[tokio::test]
async fn a_session_is_a_cookie_that_no_script_and_no_other_host_sees() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    let answer = login(&world, &json!({"email": "ADA@example.com", "password": PASSWORD})).await;
    let set = answer.headers["set-cookie"].to_str().unwrap().to_owned();
    assert!(set.starts_with("__Host-cofferdam=cofs_"), "{set}");
    for attribute in ["; Path=/", "; Max-Age=604800", "; Secure", "; HttpOnly", "; SameSite=Lax"] {
        assert!(set.contains(attribute), "{set}");
    }
    assert!(!set.contains("Domain"), "{set}");
    let cookie = cookie_of(&answer);
    let token = cookie.split_once('=').unwrap().1.to_owned();
    let told = answer.expect(201);
    assert!(!told.to_string().contains(&token), "no answer shows it");
    assert_eq!(told["user"]["email"], "ada@example.com");
    assert_eq!(told["accounts"][0]["kind"], "personal");

    // A GET needs no Origin: following a link sends none.
    let headers = [("cookie", cookie.as_str())];
    let me = browse(&world, "GET", "/v1/whoami", &headers, None).await.expect(200);
    assert_eq!((&me["user"], &me["role"]), (&json!(ada.id), &json!("owner")));
    assert_eq!(me["key"], serde_json::Value::Null);
    // A server keeps it in files of its own.
    if world.server().is_none() {
        let database = std::fs::read(world.config.database()).unwrap();
        let wal = std::fs::read(world.config.database().with_extension("db-wal")).unwrap_or_default();
        for secret in [token.as_str(), PASSWORD] {
            let there = |bytes: &[u8]| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!there(&database) && !there(&wal), "the database holds {secret}");
        }
    }
}

#[tokio::test]
async fn a_login_takes_no_session_over() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    let mallory = Person::new(&world, "mallory").await;
    let body = json!({"email": ada.email, "password": PASSWORD});
    // A cookie that somebody else put there: one that nobody issued, and one of their own.
    for planted in ["__Host-cofferdam=cofs_planted", &mallory.cookie] {
        let headers = [("origin", ORIGIN), ("cookie", planted)];
        let answer = browse(&world, "POST", "/v1/session", &headers, Some(&body)).await;
        assert_ne!(cookie_of(&answer), planted);
        answer.expect(201);
        let with = [("cookie", planted)];
        browse(&world, "GET", "/v1/session", &with, None).await.expect(401);
    }
    let ended = kinds(&world, &ada, "ada").await.iter().any(|kind| kind == "session.ended");
    assert!(!ended, "none of hers did");
    // And one's own ends with it.
    let headers = [("origin", ORIGIN), ("cookie", ada.cookie.as_str())];
    browse(&world, "POST", "/v1/session", &headers, Some(&body)).await.expect(201);
    ada.call(&world, "GET", "/v1/session", None).await.expect(401);
    // Whose session ended, theirs is the event.
    let mallory = Person { cookie: Person::again(&world, &mallory.email).await, ..mallory };
    let ada = Person { cookie: Person::again(&world, &ada.email).await, ..ada };
    for person in [&mallory, &ada] {
        let name = person.email.split('@').next().unwrap();
        let kinds = kinds(&world, person, name).await;
        assert_eq!(kinds.iter().filter(|kind| *kind == "session.ended").count(), 1, "{name}");
    }
}

#[tokio::test]
async fn a_change_needs_the_exact_origin() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    let body = json!({"name": "stolen"});
    let cookie = ("cookie", ada.cookie.as_str());
    let none: &[(&str, &str)] = &[cookie];
    let answer = browse(&world, "POST", "/v1/keys", none, Some(&body)).await;
    assert_eq!(answer.problem().0, "CROSS_ORIGIN");
    for origin in [
        "null",
        "",
        "http://127.0.0.1:7701",
        "http://127.0.0.1",
        "http://localhost:7700",
        "http://127.0.0.1:7700.evil.example",
        "https://evil.example",
        "http://127.0.0.1:7700/",
        "HTTP://127.0.0.1:7700",
    ] {
        for method in ["POST", "GET"] {
            let headers = [cookie, ("origin", origin)];
            let answer = browse(&world, method, "/v1/keys", &headers, None).await;
            assert_eq!(answer.problem().0, "CROSS_ORIGIN", "{method} {origin:?}");
        }
    }
    let twice = [cookie, ("origin", ORIGIN), ("origin", ORIGIN)];
    assert_eq!(browse(&world, "POST", "/v1/keys", &twice, Some(&body)).await.problem().0, "CROSS_ORIGIN");
    let crossing = [cookie, ("origin", ORIGIN), ("sec-fetch-site", "same-site")];
    assert_eq!(browse(&world, "POST", "/v1/keys", &crossing, Some(&body)).await.problem().0, "CROSS_ORIGIN");
    // A page that is not ours logs nobody in, either.
    let credentials = json!({"email": ada.email, "password": PASSWORD});
    let answer = browse(&world, "POST", "/v1/session", &[], Some(&credentials)).await;
    assert_eq!(answer.problem().0, "CROSS_ORIGIN");
    assert!(!answer.headers.contains_key("set-cookie"));

    let keys = ada.call(&world, "GET", "/v1/keys", None).await.expect(200);
    assert_eq!(keys["items"], json!([]));
    ada.call(&world, "POST", "/v1/keys", Some(body)).await.expect(201);
}

#[tokio::test]
async fn a_form_is_no_request() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    let forms = [
        ("application/x-www-form-urlencoded", "name=stolen"),
        ("text/plain", "{\"name\":\"stolen\"}"),
        ("multipart/form-data; boundary=x", "--x--"),
    ];
    for (kind, body) in forms {
        for (origin, expected) in
            [("https://evil.example", "CROSS_ORIGIN"), (ORIGIN, "UNSUPPORTED_MEDIA_TYPE")]
        {
            let request = world
                .request("POST", "/v1/keys")
                .header("cookie", &ada.cookie)
                .header("origin", origin)
                .header("content-type", kind)
                .body(Body::from(body));
            assert_eq!(world.send(request.unwrap()).await.problem().0, expected, "{kind} {origin}");
        }
    }
    assert_eq!(ada.call(&world, "GET", "/v1/keys", None).await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn a_key_counts_and_a_cookie_beside_it_does_not() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    let (cookie, key) = (("cookie", ada.cookie.as_str()), format!("Bearer {}", world.other));
    let both = [cookie, ("authorization", key.as_str())];
    let me = browse(&world, "GET", "/v1/whoami", &both, None).await.expect(200);
    assert_eq!((&me["account_name"], &me["user"]), (&json!("other"), &serde_json::Value::Null));
    for bad in ["Bearer cof_x", "Basic YTpi", "Bearer", ""] {
        let headers = [cookie, ("authorization", bad)];
        let answer = browse(&world, "GET", "/v1/whoami", &headers, None).await;
        assert_eq!(answer.problem().0, "UNAUTHENTICATED", "{bad:?}: the cookie is no way out");
    }
    // No page has a key, so that one that shows both is somebody's who plays one.
    let headers = [cookie, ("authorization", key.as_str()), ("origin", ORIGIN)];
    assert_eq!(browse(&world, "GET", "/v1/whoami", &headers, None).await.problem().0, "CROSS_ORIGIN");
    // Nor is a session's token a key, nor a key a session.
    let token = ada.cookie.split_once('=').unwrap().1;
    world.call_as(token, "GET", "/v1/whoami", None).await.expect(401);
    let swapped = format!("__Host-cofferdam={}", world.key);
    browse(&world, "GET", "/v1/whoami", &[("cookie", &swapped)], None).await.expect(401);
    // Two cookies of one name were not both set by us.
    let two = format!("{}; __Host-cofferdam=cofs_x", ada.cookie);
    browse(&world, "GET", "/v1/whoami", &[("cookie", &two)], None).await.expect(401);
}

#[tokio::test]
async fn sessions_are_listed_and_ended_by_their_person_alone() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    let bob = Person::new(&world, "bob").await;
    let elsewhere = Person { cookie: Person::again(&world, &ada.email).await, ..ada.clone() };
    let sessions = ada.call(&world, "GET", "/v1/sessions", None).await.expect(200);
    let sessions = sessions.as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    assert_eq!(sessions.iter().filter(|session| session["current"] == true).count(), 1);
    let other = sessions.iter().find(|session| session["current"] == false).unwrap();
    let path = format!("/v1/sessions/{}", other["id"].as_str().unwrap());

    assert_eq!(bob.call(&world, "DELETE", &path, None).await.problem().0, "NOT_FOUND");
    elsewhere.call(&world, "GET", "/v1/session", None).await.expect(200);
    ada.call(&world, "DELETE", &path, None).await.expect(204);
    elsewhere.call(&world, "GET", "/v1/session", None).await.expect(401);
    assert_eq!(ada.call(&world, "DELETE", &path, None).await.problem().0, "NOT_FOUND");

    let out = ada.call(&world, "DELETE", "/v1/session", None).await;
    assert!(out.headers["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    out.expect(204);
    ada.call(&world, "GET", "/v1/session", None).await.expect(401);
    bob.call(&world, "GET", "/v1/session", None).await.expect(200);
}

#[tokio::test]
async fn a_session_lasts_seven_days_however_much_it_is_used() {
    let world = World::new().await;
    let ada = Person::new(&world, "ada").await;
    for _ in 0..7 {
        ada.call(&world, "GET", "/v1/session", None).await.expect(200);
        world.clock.forward(Duration::hours(24) - Duration::seconds(1));
    }
    ada.call(&world, "GET", "/v1/session", None).await.expect(200);
    world.clock.forward(Duration::seconds(8));
    ada.call(&world, "GET", "/v1/session", None).await.expect(401);
    world.app.store.remove_expired().await.unwrap();
    let person = ada.id.parse().unwrap();
    assert!(world.app.store.sessions(person, model::SessionId::new()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_session_acts_where_its_person_belongs() {
    let world = World::new().await;
    let org = super::Organisation::new(&world).await;
    let stranger = Person::new(&world, "eve").await;
    let name = |json: serde_json::Value| json["account_name"].as_str().unwrap().to_owned();
    assert_eq!(name(org.member.call(&world, "GET", "/v1/whoami", None).await.expect(200)), "mia");
    assert_eq!(name(org.member.call_in(&world, "acme", "GET", "/v1/whoami", None).await.expect(200)), "acme");
    let own = stranger.call_in(&world, "acme", "GET", "/v1/whoami", None).await;
    let none = stranger.call_in(&world, "nowhere", "GET", "/v1/whoami", None).await;
    assert_eq!((own.problem().0, none.problem().0), ("NOT_FOUND", "NOT_FOUND"));
    // One that is there is refused in the words of one that is not.
    let told = |answer: &crate::tests::world::Answer, name: &str| {
        super::words(answer).to_string().replace(name, "NAME")
    };
    assert_eq!(told(&own, "acme"), told(&none, "nowhere"));
    for odd in ["", "../acme", "ACME", "acme' OR 1=1 --"] {
        let answer = org.member.call_in(&world, odd, "GET", "/v1/whoami", None).await;
        assert_eq!(answer.problem().0, "NOT_FOUND", "{odd:?}");
    }
}
