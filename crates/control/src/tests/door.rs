//! The API at the door: how often it may be asked, by whom, and what browsers are told of its answers.

use super::world::{Answer, HOST, Machine, World, public};
use crate::peer::Peer;
use aws_lc_rs::signature::Ed25519KeyPair;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use serde_json::{Value, json};
use std::net::IpAddr;
use tower::ServiceExt;

/// Of somebody on the internet; `::N` is another /48 for each N.
fn address(number: u16) -> IpAddr {
    IpAddr::from([0x2001, 0xdb8, number, 0, 0, 0, 0, 1])
}

/// As if a connection from there had brought it.
async fn from(
    world: &World,
    peer: IpAddr,
    key: &str,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> Answer {
    let request = world
        .request(method, path)
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", "application/json")
        .extension(Peer { address: peer, tls: false });
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    world.send(request.body(body).unwrap()).await
}

#[track_caller]
fn check_refusal(answer: &Answer) {
    assert_eq!((answer.status.as_u16(), answer.problem().0), (429, "TOO_MANY"), "{}", answer.json);
    let seconds: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=7200).contains(&seconds), "{seconds}");
    assert_eq!(answer.json["retry_after"], seconds);
    assert!(answer.json["remedy"].as_str().unwrap().contains(&seconds.to_string()));
}

/// How many are served of those that ask one after the other, and that the rest is refused as it should be.
async fn served<A: Future<Output = Answer>>(times: u16, mut ask: impl FnMut(u16) -> A) -> u16 {
    let mut served = 0;
    for time in 0..times {
        let answer = ask(time).await;
        match answer.status.as_u16() {
            429 => check_refusal(&answer),
            _ => served += 1,
        }
    }
    served
}

#[tokio::test]
async fn an_account_sets_secrets_and_makes_keys_at_a_rate_whatever_its_addresses() {
    let world = World::new().await;
    world.post("/v1/secrets", json!({"name": "mine", "value": "hunter2"})).await.expect(201);
    let rotate = |time| {
        let body = json!({"value": format!("hunter-{time}")});
        from(&world, address(time), &world.key, "POST", "/v1/secrets/mine/rotate", Some(body))
    };
    assert_eq!(served(140, rotate).await, 119, "with the one that made it");
    let rekey = |time| from(&world, address(time), &world.key, "POST", "/v1/data-key/rotate", None);
    assert_eq!(served(30, rekey).await, 20);
    let make = |time| {
        let body = json!({"name": format!("key-{time}")});
        from(&world, address(time), &world.key, "POST", "/v1/keys", Some(body))
    };
    assert_eq!(served(40, make).await, 30);
    // Another account is not concerned, and neither is what is not sensitive.
    let theirs = json!({"name": "theirs", "value": "hunter2"});
    from(&world, address(1), &world.other, "POST", "/v1/secrets", Some(theirs)).await.expect(201);
    from(&world, address(1), &world.key, "GET", "/v1/secrets", None).await.expect(200);
    world.clock.forward(time::Duration::minutes(30));
    make(99).await.expect(201);
    rotate(99).await.expect(200);
}

#[tokio::test]
async fn guesses_are_slowed_down_and_lock_nobody_out() {
    let world = World::new().await;
    let guess = |time| {
        let key = format!("cof_{time}");
        let world = &world;
        async move { from(world, address(1), &key, "GET", "/v1/whoami", None).await }
    };
    assert_eq!(served(100, guess).await, 60);
    // Who shares that address and has a key is served, and so are guesses from elsewhere.
    from(&world, address(1), &world.key, "GET", "/v1/whoami", None).await.expect(200);
    from(&world, address(2), "cof_x", "GET", "/v1/whoami", None).await.expect(401);
    // A request that brings nothing is no guess.
    let bare = world.request("GET", "/v1/whoami").extension(Peer { address: address(1), tls: false });
    world.send(bare.body(Body::empty()).unwrap()).await.expect(401);
    world.clock.forward(time::Duration::minutes(2));
    guess(0).await.expect(401);
}

#[tokio::test]
async fn tokens_of_nodes_are_tried_at_a_rate() {
    let world = World::new().await;
    let body = json!({"public_key": public(&Ed25519KeyPair::generate().unwrap()),
        "capacity": {"slots": 1, "cpus": 1.0, "memory": 1u64 << 30}});
    let one = crate::bootstrap_token(&world.config, &"node-1".parse().unwrap()).await.unwrap();
    // Everybody tries one token.
    let enrol =
        |time| from(&world, address(time), "cfb_stolen", "POST", "/node/v1/enroll", Some(body.clone()));
    assert_eq!(served(40, enrol).await, 30);
    // One tries many.
    let enrol = |time: u16| {
        let (world, body, key) = (&world, body.clone(), format!("cfb_{time}"));
        async move { from(world, address(999), &key, "POST", "/node/v1/enroll", Some(body)).await }
    };
    assert_eq!(served(40, enrol).await, 30);
    from(&world, address(998), &one, "POST", "/node/v1/enroll", Some(body.clone())).await.expect(200);

    let machine = Machine::enrolled(&world, "node-2", 1).await;
    let trade = |assertion: String, time| {
        let world = &world;
        async move {
            let body = json!({"assertion": assertion});
            from(world, address(time), "x", "POST", "/node/v1/token", Some(body)).await
        }
    };
    // Whoever speaks in the node's name and cannot sign for it takes nothing from it.
    let mut claims = machine.assertion(&world);
    let stranger = Ed25519KeyPair::generate().unwrap();
    let forged = super::world::sign(&stranger, &claims);
    for time in 0..100 {
        assert_ne!(trade(forged.clone(), time).await.status.as_u16(), 200);
    }
    let mut traded = 0;
    for time in 0..40 {
        claims.jti = format!("jti-{time}");
        let answer = trade(super::world::sign(&machine.pair, &claims), 200 + time).await;
        traded += u16::from(answer.status.as_u16() == 200);
        assert!(matches!(answer.status.as_u16(), 200 | 429), "{}", answer.json);
    }
    assert_eq!(traded, 19, "with the one that it enrolled with");
}

#[tokio::test]
async fn only_proxies_that_are_named_say_who_asks() {
    let mut world = World::new().await;
    world.config.serve.proxies = vec!["10.0.0.0/8".parse().unwrap()];
    world.restart().await;
    let by = |peer: &str, words: String| {
        let request = world
            .request("GET", "/v1/whoami")
            .header("authorization", "Bearer cof_x")
            .header("x-forwarded-for", words)
            .extension(Peer { address: peer.parse().unwrap(), tls: false });
        world.send(request.body(Body::empty()).unwrap())
    };
    // Through the proxy each client counts for itself, whatever it wrote before it came there.
    assert_eq!(served(80, |time| by("10.0.0.1", format!("192.0.2.{time}, 198.51.100.7"))).await, 60);
    by("10.0.0.1", "198.51.101.8".to_owned()).await.expect(401);
    // And beside it nobody's word is taken.
    assert_eq!(served(80, |time| by("203.0.113.1", format!("192.0.2.{time}"))).await, 60);
}

/// What every answer says to browsers.
#[track_caller]
fn check_headers(headers: &HeaderMap, what: &str, tls: bool) {
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(headers[name], value, "{what}");
        assert_eq!(headers.get_all(name).iter().count(), 1, "{what}: {name}");
    }
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{what}");
    assert!(!policy.contains("unsafe"), "{what}: {policy}");
    assert_eq!(headers.contains_key("strict-transport-security"), tls, "{what}");
    let cors = headers.keys().find(|name| name.as_str().starts_with("access-control-"));
    assert_eq!(cors, None, "{what}");
}

#[tokio::test]
async fn every_answer_of_every_route_carries_the_headers() {
    let mut world = World::new().await;
    world.config.serve.proxies = vec!["10.0.0.1".parse().unwrap()];
    world.restart().await;
    let paths = world.document()["paths"].as_object().unwrap();
    let documented = paths.iter().flat_map(|(path, item)| {
        item.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path.clone()))
    });
    let others = [
        ("POST", "/node/v1/enroll"),
        ("POST", "/node/v1/token"),
        ("GET", "/node/v1/desired"),
        ("POST", "/node/v1/observed"),
        ("GET", "/nowhere"),
        ("PATCH", "/v1/agents"),
        ("HEAD", "/v1/healthz"),
        ("OPTIONS", "/v1/agents"),
    ];
    let others = others.map(|(method, path)| (method.to_owned(), path.to_owned()));
    let tls = Peer { address: address(1), tls: true };
    let plain = Peer { tls: false, ..tls };
    let proxy = Peer { address: "10.0.0.1".parse().unwrap(), tls: false };
    for (method, path) in documented.chain(others) {
        let path = path.replace("{id}", "agt_01h455vb4pex5vsknk084sn02q");
        for (peer, proto, origin, secure) in [
            (tls, None, None, true),
            (plain, None, None, false),
            (plain, Some("https"), None, false),
            (proxy, Some("https"), None, true),
            (proxy, Some("http"), None, false),
            (tls, None, Some("https://evil.example"), true),
        ] {
            for key in [Some(&world.key), None] {
                let mut request = Request::builder().method(&*method).uri(&path).header("host", HOST);
                request = request.extension(peer);
                for (name, value) in [("x-forwarded-proto", proto), ("origin", origin)] {
                    request = value.into_iter().fold(request, |request, value| request.header(name, value));
                }
                request = key
                    .into_iter()
                    .fold(request, |it, key| it.header("authorization", format!("Bearer {key}")));
                let request = request.body(Body::empty()).unwrap();
                let answer = world.router.clone().oneshot(request).await.unwrap();
                let what = format!("{method} {path} {proto:?} {origin:?}: {}", answer.status());
                check_headers(answer.headers(), &what, secure);
            }
        }
    }
}

#[tokio::test]
async fn no_page_of_another_origin_gets_an_answer_or_leave() {
    let world = World::new().await;
    for method in ["OPTIONS", "GET", "POST", "DELETE"] {
        let request = world
            .request(method, "/v1/agents")
            .header("origin", "https://evil.example")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization")
            .header("authorization", format!("Bearer {}", world.key));
        let answer = world.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.problem().0, "CROSS_ORIGIN", "{method}");
        check_headers(&answer.headers, method, false);
    }
}
