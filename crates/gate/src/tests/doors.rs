//! Who may talk to the guard at all, and how errors look.

use super::world::*;
use model::gate_api::Condition;
use model::{Code, Problem};

fn parts(answer: &str) -> (u16, Option<Problem>) {
    let status = answer.split(' ').nth(1).unwrap_or("0").parse().unwrap();
    let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
    (status, serde_json::from_str(body).ok())
}

#[tokio::test]
async fn only_our_own_names() {
    let world = World::new(nobody).await;
    let port = world.port;
    let ask = async |target: &str, hosts: &[String]| {
        let hosts: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
        parts(&world.raw(&format!("GET {target} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n")).await)
    };
    for good in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("LOCALHOST:{port}"),
        format!("[::1]:{port}"),
    ] {
        assert_eq!(ask("/v1/healthz", std::slice::from_ref(&good)).await.0, 200, "{good}");
    }
    let bad = [
        "127.0.0.1".to_owned(),
        "localhost".into(),
        format!("evil.example:{port}"),
        format!("localhost.evil.example:{port}"),
        format!("127.0.0.1:{port}.evil.example"),
        format!("x@127.0.0.1:{port}"),
        format!("127.0.0.1:{}", port ^ 1),
        String::new(),
    ];
    for host in bad {
        let (status, problem) = ask("/v1/healthz", std::slice::from_ref(&host)).await;
        assert_eq!((status, problem.map(|p| p.code)), (421, Some(Code::Misdirected)), "{host:?}");
    }
    let ours = format!("127.0.0.1:{port}");
    assert_ne!(ask("/v1/healthz", &[]).await.0, 200);
    assert_ne!(ask("/v1/healthz", &[ours.clone(), "evil.example".into()]).await.0, 200);
    assert_eq!(ask("http://evil.example/v1/healthz", std::slice::from_ref(&ours)).await.0, 421);
    assert_eq!(ask(&format!("http://{ours}/v1/healthz"), &[ours]).await.0, 200);
}

#[tokio::test]
async fn web_pages_are_refused() {
    let world = World::new(nobody).await;
    let own = format!("http://127.0.0.1:{}", world.port);
    for origin in ["https://evil.example", "null", &own] {
        let (status, problem) =
            problem(world.get("execs").header("origin", origin).send().await.unwrap()).await;
        assert_eq!((status, problem.code), (403, Code::CrossOrigin), "{origin}");
    }
    let preflight = world.http.request("OPTIONS".parse().unwrap(), world.url("execs"));
    let answer = preflight.header("origin", "https://evil.example").send().await.unwrap();
    assert_eq!(answer.status(), 403);
    assert!(answer.headers().keys().all(|name| !name.as_str().starts_with("access-control")));
}

#[tokio::test]
async fn errors_are_problems() {
    let world = World::new(nobody).await;
    let url = format!("http://127.0.0.1:{}", world.port);
    let check = async |request: reqwest::RequestBuilder, code: Code, field: Option<&str>| {
        let (status, problem) = problem(request.send().await.unwrap()).await;
        assert_eq!(
            (status, problem.code, problem.field.as_deref()),
            (code.status(), code, field),
            "{problem:?}"
        );
    };
    check(world.http.get(format!("{url}/nothing")), Code::NotFound, None).await;
    check(world.http.get(format!("{url}/v1/agents/{}/nothing", world.agent)), Code::NotFound, None).await;
    check(world.http.patch(world.url("execs")), Code::MethodNotAllowed, None).await;
    check(world.get("files"), Code::Validation, Some("path")).await;
    check(world.get("files?path=relative"), Code::Validation, Some("path")).await;
    check(world.get("files?path=/a%00b"), Code::Validation, Some("path")).await;
    check(world.get(&format!("files?path=/{}", "a".repeat(5000))), Code::Validation, Some("path")).await;
    check(world.get("files?path=/a&path=/b"), Code::Validation, Some("path")).await;
    check(world.get("files?path=/a&view=all"), Code::Validation, Some("view")).await;
    check(world.get("files?path=/a&user=nobody"), Code::Validation, Some("user")).await;
    check(world.get("files?path=/a&follow=1"), Code::Validation, Some("follow")).await;
    check(world.get("logs?tail=-1"), Code::Validation, Some("tail")).await;
    check(world.get("logs?follow=yes"), Code::Validation, Some("follow")).await;
    check(world.get("execs/agt_1"), Code::NotFound, Some("exec")).await;
    for port in ["0", "65536", "-1", "http"] {
        check(world.get(&format!("ports/{port}")), Code::Validation, Some("port")).await;
    }
    check(world.get("ports/80"), Code::Validation, None).await;
    let put = |rest: &str| world.http.put(world.url(rest)).bearer_auth(world.token(&ALL)).body("x");
    for mode in ["888", "-644", "+644", "77777", ""] {
        check(
            put(&format!("files?path=/a&mode={}", mode.replace('+', "%2B"))),
            Code::Validation,
            Some("mode"),
        )
        .await;
    }
    let post = |rest: &str, body: &str| {
        let request = world.http.post(world.url(rest)).bearer_auth(world.token(&ALL)).body(body.to_owned());
        request.header("content-type", "application/json")
    };
    check(post("execs", "{"), Code::Validation, Some("body")).await;
    check(post("execs", "[]"), Code::Validation, Some("body")).await;
    check(post("execs", r#"{"argv":["a"]} x"#), Code::Validation, Some("body")).await;
    check(post("execs", r#"{"argv":[]}"#), Code::Validation, Some("argv")).await;
    check(post("execs", r#"{"argv":["a\u0000"]}"#), Code::Validation, Some("argv")).await;
    check(post("execs", r#"{"argv":"a"}"#), Code::Validation, Some("argv")).await;
    check(post("execs", r#"{"argv":["a"],"wrong":1}"#), Code::Validation, Some("wrong")).await;
    check(post("execs", r#"{"argv":["a"],"cwd":"x"}"#), Code::Validation, Some("cwd")).await;
    check(post("execs", r#"{"argv":["a"],"env":{"A=B":""}}"#), Code::Validation, Some("env")).await;
    check(post("execs", r#"{"argv":["a"],"tty":{"rows":0,"cols":1}}"#), Code::Validation, Some("tty")).await;
    check(
        post("execs", r#"{"argv":["a"],"tty":{"rows":70000,"cols":1}}"#),
        Code::Validation,
        Some("tty.rows"),
    )
    .await;
    check(post("execs", r#"{"argv":["a"],"timeout_ms":-1}"#), Code::Validation, Some("timeout_ms")).await;
    check(post("execs", &format!(r#"{{"argv":["{}"]}}"#, "a".repeat(600 << 10))), Code::TooLarge, None).await;
    check(
        post("execs", &format!(r#"{{"argv":["{}"]}}"#, "a".repeat(200 << 10))),
        Code::Validation,
        Some("argv"),
    )
    .await;
    let signal = format!("execs/{}/signal", model::ExecId::new());
    check(post(&signal, r#"{"signal":0}"#), Code::Validation, Some("signal")).await;
    check(post(&signal, r#"{"signal":64}"#), Code::Validation, Some("signal")).await;
    check(post("files?path=/a", r#"{"op":"move","to":"b"}"#), Code::Validation, Some("to")).await;
    check(post("files?path=/a", r#"{"op":"chmod"}"#), Code::Validation, None.or(Some("op"))).await;
    let text = world.http.post(world.url("execs")).bearer_auth(world.token(&ALL)).body("{}");
    check(text, Code::UnsupportedMediaType, None).await;
}

#[tokio::test]
async fn an_agent_that_cannot_answer_says_so_at_once() {
    let mut world = World::new(nobody).await;
    for (condition, word) in [(Condition::Paused, "Resume"), (Condition::Stopped, "Start")] {
        world.state(5, condition).await;
        for rest in ["execs", "files?path=/", "logs", "processes"] {
            // Node has those of an agent that does not run.
            if (rest, condition) == ("logs", Condition::Stopped) {
                continue;
            }
            let (status, problem) = problem(world.get(rest).send().await.unwrap()).await;
            assert_eq!((status, problem.code), (409, Code::WrongState), "{rest}");
            assert!(problem.remedy.unwrap().starts_with(word));
        }
        let refusal = refused(world.websocket("execs/attach").await.unwrap_err());
        assert_eq!(refusal.code, Code::WrongState);
    }
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_unavailable() {
    let world = World::new(nobody).await;
    std::fs::remove_file(world.socket()).unwrap();
    let (status, problem) = problem(world.get("execs").send().await.unwrap()).await;
    assert_eq!((status, problem.code), (503, Code::Unavailable));
    assert!(!problem.detail.contains(".sock"), "no host path leaves");
}

#[tokio::test]
async fn heads_are_bounded() {
    let world = World::new(nobody).await;
    let host = format!("Host: 127.0.0.1:{}\r\n", world.port);
    let many: String = (0..200).map(|n| format!("x-{n}: y\r\n")).collect();
    assert_eq!(parts(&world.raw(&format!("GET /v1/healthz HTTP/1.1\r\n{host}{many}\r\n")).await).0, 431);
    let long = format!("GET /v1/healthz HTTP/1.1\r\n{host}x: {}\r\n\r\n", "y".repeat(100 << 10));
    assert_eq!(parts(&world.raw(&long).await).0, 431);
    assert_eq!(parts(&world.raw("\x16\x03\x01\x02garbage\r\n\r\n").await).0, 400);
}

#[tokio::test]
async fn those_who_only_hold_places_keep_nobody_out() {
    use futures_util::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut world = World::few(4, |mut peer: Peer| async move {
        if let ::channel::Request::Exec(exec) = peer.request().await {
            peer.attached(exec.id).await;
            peer.closed().await;
        }
    })
    .await;
    // A session that may stay, though nothing moves in it.
    let mut attached = world.websocket("execs/attach").await.unwrap();
    let text = r#"{"argv":["sleep","9"],"env":{},"stdin":true}"#;
    futures_util::SinkExt::send(&mut attached, tokio_tungstenite::tungstenite::Message::text(text))
        .await
        .unwrap();
    assert!(attached.next().await.unwrap().unwrap().is_text());
    let mut holders = Vec::new();
    for index in 0..30 {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
        if index % 2 == 0 {
            stream.write_all(b"GET /v1/healthz HTTP/1.1\r\nHost: ").await.unwrap();
        }
        holders.push(stream);
    }
    let served = tokio::time::timeout(std::time::Duration::from_secs(5), world.settled()).await;
    served.expect("a client with a token is served");
    let first = tokio::time::timeout(std::time::Duration::from_secs(5), holders[0].read(&mut [0; 1])).await;
    assert!(matches!(first, Ok(Ok(0) | Err(_))), "the oldest made room: {first:?}");
    let quiet = tokio::time::timeout(std::time::Duration::from_millis(100), attached.next()).await;
    assert!(quiet.is_err(), "the session was put out: {quiet:?}");
}
