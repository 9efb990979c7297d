//! How much an agent may move: what is too much passes neither way, and others go on.

use super::world::*;
use model::egress::Outcome;
use model::policy::Policy;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const NAME: &str = "a.example.com";
const MANY: usize = 4 << 20;

/// Anything at a port of a host, and these limits.
fn limited(limits: Value) -> Policy {
    let rules = json!([{"action": "allow", "host": NAME, "ports": [22]}, {"action": "allow", "host": NAME}]);
    let egress = json!({"rule": rules, "limits": limits});
    let policy: Policy = serde_json::from_value(json!({"version": 1, "egress": egress})).unwrap();
    policy.validate(false).unwrap();
    policy
}

/// A connection of which the server spoke first, so that nothing counts but its bytes.
async fn open(world: &World, server: &TcpListener) -> (TcpStream, TcpStream) {
    let client = world.client_soon(NAME, 22).await;
    let upstream = accept(server).await;
    (client, upstream)
}

/// Writes all of it, or as much as is taken until the connection breaks.
async fn pour(stream: &mut TcpStream, bytes: usize) {
    let piece = vec![7; 64 << 10];
    let mut left = bytes;
    while left > 0 && stream.write_all(&piece[..piece.len().min(left)]).await.is_ok() {
        left -= piece.len().min(left);
    }
}

/// How much comes until it ends, however it does.
async fn comes(stream: &mut TcpStream) -> usize {
    let (mut all, mut buffer) = (0, vec![0; 64 << 10]);
    loop {
        let reading = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer));
        match reading.await.expect("it neither went on nor ended") {
            Ok(0) | Err(_) => return all,
            Ok(some) => all += some,
        }
    }
}

#[tokio::test]
async fn what_is_too_much_passes_neither_way_and_nothing_after_it() {
    for (limits, out, by) in [
        (json!({"sent_per_day": MANY}), true, "limit sent_per_day"),
        (json!({"bytes_per_day": MANY}), true, "limit bytes_per_day"),
        (json!({"bytes_per_day": MANY}), false, "limit bytes_per_day"),
    ] {
        let mut world = World::new(limited(limits)).await;
        let server = world.host(NAME, 22).await;
        // Another connection of the agent, on which nothing happens.
        let (mut quiet, mut quiet_upstream) = open(&world, &server).await;
        let (mut client, mut upstream) = open(&world, &server).await;
        let passed = match out {
            true => tokio::join!(pour(&mut client, 4 * MANY), comes(&mut upstream)).1,
            false => tokio::join!(pour(&mut upstream, 4 * MANY), comes(&mut client)).1,
        };
        // What was on its way in is gone with the connection.
        let least = if out { MANY / 2 } else { 0 };
        assert!(passed <= MANY && passed > least, "{by}: {passed}");
        assert_eq!(rest(&mut quiet).await, None);
        assert_eq!(rest(&mut quiet_upstream).await.unwrap_or_default(), b"");
        // A new one is refused before anybody is asked.
        let dialled = world.dialled().len();
        let mut next = world.client(NAME, 22).await;
        assert_eq!(rest(&mut next).await, None);
        assert_eq!(world.dialled().len(), dialled);
        for _ in 0..2 {
            let record = world.record().await;
            assert_eq!((record.outcome, record.by.as_str()), (Outcome::Passed, "rule 1"));
            assert_eq!(record.end, Some(format!("refused by {by}")));
        }
        assert_eq!(world.outcome().await, (Outcome::Denied, by.to_owned()));
    }
}

/// A connection that says one byte, once the policy lets one be made.
async fn begun(world: &World, server: &TcpListener) -> (TcpStream, TcpStream) {
    loop {
        let mut client = world.client(NAME, 22).await;
        // It may be refused already.
        let _ = client.write_all(b"?").await;
        tokio::select! {
            mut upstream = accept(server) => {
                assert_eq!(read(&mut upstream, 1).await, b"?");
                return (client, upstream);
            }
            ended = rest(&mut client) => assert_eq!(ended, None),
        }
    }
}

#[tokio::test]
async fn many_small_connections_are_as_one() {
    let mut world = World::new(limited(json!({"bytes_per_day": 10_000}))).await;
    let server = world.host(NAME, 22).await;
    for _ in 0..10 {
        let (mut client, mut upstream) = begun(&world, &server).await;
        client.write_all(&[7; 399]).await.unwrap();
        read(&mut upstream, 399).await;
        upstream.write_all(&[7; 600]).await.unwrap();
        read(&mut client, 600).await;
    }
    let mut client = world.client(NAME, 22).await;
    client.write_all(b"?").await.unwrap();
    assert_eq!(rest(&mut client).await, None);
    assert_eq!(comes(&mut accept(&server).await).await, 0);
    // Another agent of the same policy has all of it.
    let doors = world.another(limited(json!({"bytes_per_day": 10_000}))).await;
    let address = std::net::SocketAddr::new(resolve_soon(&doors, NAME).await, 22);
    let mut other = connect(&doors, address).await;
    other.write_all(&[7; 9000]).await.unwrap();
    assert_eq!(read(&mut accept(&server).await, 9000).await.len(), 9000);
    // A larger limit is in force at once, and what was moved before counts.
    world.set(Some(limited(json!({"bytes_per_day": 10_100})))).await;
    let (mut client, mut upstream) = begun(&world, &server).await;
    client.write_all(&[7; 90]).await.unwrap();
    read(&mut upstream, 90).await;
    client.write_all(&[7; 20]).await.unwrap();
    assert_eq!(rest(&mut client).await, None);
    assert_eq!(comes(&mut upstream).await, 0);
    // And a smaller one cuts.
    world.set(Some(limited(json!({})))).await;
    let (mut client, mut upstream) = begun(&world, &server).await;
    tokio::join!(pour(&mut client, MANY), async { read(&mut upstream, MANY).await.len() });
    world.set(Some(limited(json!({"sent_per_day": MANY})))).await;
    assert_eq!(rest(&mut client).await, None);
}

#[tokio::test]
async fn requests_and_what_is_looked_into_count_too() {
    let mut world = World::new(limited(json!({"sent_per_day": 20_000}))).await;
    let server = world.host(NAME, 80).await;
    let mut client = world.client(NAME, 80).await;
    let head = format!("POST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 1000000\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let mut upstream = accept(&server).await;
    let ((), passed) = tokio::join!(pour(&mut client, 1_000_000), comes(&mut upstream));
    assert!(passed < 500_000, "{passed}");
    assert_eq!(rest(&mut client).await, None);
    let mut next = world.client(NAME, 80).await;
    assert_eq!(rest(&mut next).await, None);
    world.record().await;
    assert_eq!(world.outcome().await, (Outcome::Denied, "limit sent_per_day".to_owned()));
}
