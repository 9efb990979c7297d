//! The process around the router: sockets, files, endings.

use super::world::World;
use crate::{Config, Error, api, server};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_taken_port_names_the_remedy() {
    let holder = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let listen = holder.local_addr().unwrap();
    let error = crate::serve(Config { listen, ..Config::default() }).await.unwrap_err();
    assert!(matches!(error, Error::PortTaken { address } if address == listen));
    assert!(error.to_string().contains("control.toml"));
}

#[tokio::test]
async fn an_empty_database_serves_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    let config = Config { listen, data: directory.path().join("control"), hosts: Vec::new() };
    let error = crate::serve(config.clone()).await.unwrap_err();
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
    let serving = tokio::spawn(server::serve(listener, api::router(world.app.clone()), ending.clone()));
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
