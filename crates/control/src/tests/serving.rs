//! The process around the router: sockets, files, endings.

use super::world::{Machine, World};
use crate::{Config, Error, api, server};
use model::agent::Observed;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

fn plain() -> server::Entry {
    server::Entry::Plain(Vec::new())
}

#[tokio::test]
async fn a_taken_port_names_the_remedy() {
    let holder = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = holder.local_addr().unwrap();
    let error = crate::serve(Config { listen, ..Config::default() }, None).await.unwrap_err();
    assert!(matches!(error, Error::PortTaken { address } if address == listen));
    assert!(error.to_string().contains("control.toml"));
}

#[tokio::test]
async fn an_empty_database_serves_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    let config = Config { listen, data: directory.path().join("control"), ..Config::default() };
    let error = crate::serve(config.clone(), None).await.unwrap_err();
    assert!(matches!(error, Error::NotInitialised { .. }));
    assert!(crate::initialise(&config).await.unwrap().is_some());
    assert!(crate::initialise(&config).await.unwrap().is_none());
    let issued = crate::issue_key(&config, &"spare".parse().unwrap()).await.unwrap();
    assert!(issued.api_key.starts_with("cof_"));
    for (path, mode) in
        [(config.data.clone(), 0o700), (config.signing_key(), 0o600), (config.database(), 0o600)]
    {
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            mode,
            "{}",
            path.display()
        );
    }
}

#[tokio::test]
async fn a_broken_signing_key_is_not_replaced() {
    let world = World::new().await;
    std::fs::write(world.config.signing_key(), "nonsense").unwrap();
    let error = crate::initialise(&world.config).await.unwrap_err();
    assert!(error.to_string().contains("holds no Ed25519 private key"));
    assert_eq!(std::fs::read_to_string(world.config.signing_key()).unwrap(), "nonsense");
}

#[tokio::test]
async fn connections_are_limited_and_end_cleanly() {
    let world = World::new().await;
    let listener = server::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let ending = CancellationToken::new();
    let doors = server::Doors::new(listener, plain(), None).unwrap();
    let serving = tokio::spawn(server::serve(doors, api::router(world.app.clone()), ending.clone()));
    let exchange = async |request: Vec<u8>| {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut reading, mut writing) = stream.split();
        let mut answer = Vec::new();
        let read = reading.read_to_end(&mut answer);
        let (_, _) = tokio::join!(async { writing.write_all(&request).await }, read);
        String::from_utf8_lossy(&answer).into_owned()
    };
    let get = "GET /v1/healthz HTTP/1.1\r\nHost: 127.0.0.1:7700\r\nConnection: close\r\n";
    assert!(exchange(format!("{get}\r\n").into_bytes()).await.contains("\"ok\""));
    let large = format!("{get}X: {}\r\n\r\n", "x".repeat(400_000));
    // The answer may be lost to a reset: not all of the request was read.
    assert!(!exchange(large.into_bytes()).await.contains("200 OK"));
    let many = format!("{get}{}\r\n", "X: x\r\n".repeat(100));
    assert!(exchange(many.into_bytes()).await.starts_with("HTTP/1.1 431"));
    let body = "x".repeat(3 << 20);
    let post = format!(
        "POST /v1/keys HTTP/1.1\r\nHost: 127.0.0.1:7700\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        world.key,
        body.len()
    );
    assert!(exchange(post.into_bytes()).await.contains("TOO_LARGE"), "the sender reads the answer");

    let idle = tokio::net::TcpStream::connect(address).await.unwrap();
    ending.cancel();
    tokio::time::timeout(Duration::from_secs(8), serving).await.unwrap().unwrap();
    drop(idle);
}

#[tokio::test]
async fn the_unix_socket_asks_for_the_same_keys() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let tcp = server::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = tcp.local_addr().unwrap();
    let ending = CancellationToken::new();
    let doors = server::Doors::new(tcp, plain(), Some(unix)).unwrap();
    let serving = tokio::spawn(server::serve(doors, api::router(world.app.clone()), ending.clone()));
    let ask = |host: &str, more: &str| {
        format!("GET /v1/whoami HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n").into_bytes()
    };
    let by_unix = async |request: Vec<u8>| {
        let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        stream.write_all(&request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let key = format!("Authorization: Bearer {}\r\n", world.key);
    for (host, more, status) in [
        ("localhost", key.clone(), 200),
        ("127.0.0.1:7700", key.clone(), 200),
        ("localhost", String::new(), 401),
        ("localhost", "Authorization: Bearer cof_x\r\n".to_owned(), 401),
        ("localhost:1", key.clone(), 421),
        ("evil.example", key.clone(), 421),
        ("localhost", format!("{key}Origin: http://localhost\r\n"), 403),
    ] {
        let answer = by_unix(ask(host, &more)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{host} {more}: {answer}");
    }
    // By the other door, that name is not ours.
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(&ask("localhost", &key)).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
    ending.cancel();
    tokio::time::timeout(Duration::from_secs(8), serving).await.unwrap().unwrap();
}

/// Reads until there is an answer or the end.
async fn answer(stream: &mut tokio::net::TcpStream) -> String {
    let mut bytes = vec![0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut bytes)).await;
    let length = read.expect("neither an answer nor an end").unwrap_or(0);
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

#[tokio::test]
async fn those_who_only_hold_places_keep_nobody_out() {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 2).await;
    world.image().await;
    let agent = world.agent("one").await;
    let listener = server::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let ending = CancellationToken::new();
    let router = api::router(world.app.clone());
    let doors = server::Doors::new(listener, plain(), None).unwrap();
    let bounds = server::Bounds { places: 4, head: Duration::from_secs(10) };
    let serving = tokio::spawn(server::serve_some(doors, router, ending.clone(), bounds));
    let open = async |text: String| {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    };
    let head = "Host: 127.0.0.1:7700\r\n";
    // One who may, and waits.
    let wait = format!(
        "GET /v1/agents/{agent}?wait=running HTTP/1.1\r\n{head}Authorization: Bearer {}\r\n\r\n",
        world.key
    );
    let mut waiting = open(wait).await;
    let mut subscribed = false;
    for _ in 0..500 {
        subscribed = world.app.seats.count() == 1;
        if subscribed {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(subscribed, "the wait is under way");
    // Heads that never end, bodies that never come, and connections that say nothing.
    let mut holders = Vec::new();
    for index in 0..30 {
        let text = match index % 3 {
            0 => String::new(),
            1 => format!("GET /v1/whoami HTTP/1.1\r\n{head}"),
            _ => format!(
                "POST /node/v1/enroll HTTP/1.1\r\n{head}Authorization: Bearer x\r\n\
                 Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
            ),
        };
        holders.push(open(text).await);
    }
    let whoami = format!("GET /v1/whoami HTTP/1.1\r\n{head}Authorization: Bearer {}\r\n\r\n", world.key);
    for _ in 0..3 {
        let said = answer(&mut open(whoami.clone()).await).await;
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    }
    assert_eq!(answer(&mut holders[0]).await, "", "the oldest made room");
    // The one who waits was never put out: it hears what it waits for.
    world.call_as(&world.key, "DELETE", &format!("/v1/agents/{agent}"), None).await.expect(200);
    machine.saw(&world, &agent, 2, Observed::Destroyed).await;
    let said = answer(&mut waiting).await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    ending.cancel();
    tokio::time::timeout(Duration::from_secs(8), serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn one_account_does_not_take_all_of_control() {
    let world = std::sync::Arc::new(World::new().await);
    let _machine = Machine::enrolled(&world, "node-1", 2).await;
    world.image().await;
    let agent = world.agent("one").await;
    let mut waits = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let (world, path) = (world.clone(), format!("/v1/agents/{agent}?wait=running&timeout=60s"));
        waits.spawn(async move { world.get(&path).await.status.as_u16() });
    }
    // Those above the limit come back at once.
    let mut refused = 0;
    while refused < 300 - 256 {
        assert_eq!(waits.join_next().await.unwrap().unwrap(), 429);
        refused += 1;
    }
    assert_eq!(world.get("/v1/whoami").await.problem().0, "TOO_MANY");
    let other = world.call_as(&world.other, "GET", "/v1/whoami", None).await;
    assert_eq!(other.status.as_u16(), 200, "others are served");
    waits.shutdown().await;
    assert_eq!(world.get("/v1/whoami").await.status.as_u16(), 200);
}

#[tokio::test]
async fn heads_that_trickle_in_are_not_waited_for() {
    let world = World::new().await;
    let listener = server::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let ending = CancellationToken::new();
    let bounds = server::Bounds { places: 64, head: Duration::from_millis(500) };
    let doors = server::Doors::new(listener, plain(), None).unwrap();
    let serving =
        tokio::spawn(server::serve_some(doors, api::router(world.app.clone()), ending.clone(), bounds));
    let began = std::time::Instant::now();
    let get = "GET /v1/healthz HTTP/1.1\r\nHost: 127.0.0.1:7700\r\n";
    let mut slow = tokio::task::JoinSet::new();
    // One that says nothing, one that says a byte at a time, one that is answered and then begins another head, and one that idles.
    for (first, then) in
        [("", ""), (get, "X"), (&*format!("{get}\r\n{get}"), "X"), (&*format!("{get}\r\n"), "")]
    {
        let (first, then) = (first.to_owned(), then.to_owned());
        slow.spawn(async move {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let (mut reading, mut writing) = stream.into_split();
            writing.write_all(first.as_bytes()).await.unwrap();
            let trickle = async {
                while writing.write_all(then.as_bytes()).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            let mut said = Vec::new();
            tokio::select! {
                // A reset is an end, too.
                _ = reading.read_to_end(&mut said) => {}
                () = trickle => {}
            }
            let said = String::from_utf8_lossy(&said).into_owned();
            (first.contains("\r\n\r\n"), said)
        });
    }
    let ended = tokio::time::timeout(Duration::from_secs(8), slow.join_all()).await;
    for (whole, said) in ended.expect("all of them were put out") {
        assert_eq!(said.contains("200 OK"), whole, "{said}");
    }
    assert!(began.elapsed() >= Duration::from_millis(500), "not before their time");
    ending.cancel();
    tokio::time::timeout(Duration::from_secs(8), serving).await.unwrap().unwrap();
}
