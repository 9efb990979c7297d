//! Other protocols, servers that speak first, and what node says when it is to connect.

use super::world::*;
use model::gate_api::{ToGateSockets, Unconnected};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_server_may_speak_first_where_anything_goes() {
    let world = World::new(allow_tcp("git.example.com", 22)).await;
    let server = world.host("git.example.com", 22).await;
    let mut client = world.client("git.example.com", 22).await;
    let mut upstream = accept(&server).await;
    upstream.write_all(b"SSH-2.0-server\r\n").await.unwrap();
    assert_eq!(read(&mut client, 16).await, b"SSH-2.0-server\r\n");
    client.write_all(b"SSH-2.0-client\r\n").await.unwrap();
    assert_eq!(read(&mut upstream, 16).await, b"SSH-2.0-client\r\n");
    drop(upstream);
    assert_eq!(rest(&mut client).await.unwrap(), b"");

    // What the client says then is looked at all the same.
    for hostile in [client_hello(Some("other.example.com")), b"GET / HTTP/1.1\r\nHost: other\r\n\r\n".to_vec()] {
        let mut client = world.client("git.example.com", 22).await;
        let mut upstream = accept(&server).await;
        upstream.write_all(b"220 hello\r\n").await.unwrap();
        assert_eq!(read(&mut client, 11).await, b"220 hello\r\n");
        client.write_all(&hostile).await.unwrap();
        assert!(rest(&mut client).await.is_none_or(|rest| rest.first() == Some(&21)));
        assert!(rest(&mut upstream).await.unwrap_or_default().is_empty());
    }
}

#[tokio::test]
async fn a_silent_client_reaches_nobody_where_not_anything_goes() {
    let world = World::new(allow("api.example.com")).await;
    let _server = world.host("api.example.com", 443).await;
    let _client = world.client("api.example.com", 443).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(world.dialled().is_empty() && world.node.resolved.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_client_that_speaks_late_is_looked_at_before_its_bytes_pass() {
    let world = World::new(allow_tcp("api.example.com", 8443)).await;
    let server = world.host("api.example.com", 8443).await;
    let mut client = world.client("api.example.com", 8443).await;
    // Connected because nobody speaks.
    let mut upstream = accept(&server).await;
    client.write_all(&client_hello(Some("other.example.com"))).await.unwrap();
    assert_eq!(rest(&mut client).await.unwrap(), [21, 3, 3, 0, 2, 2, 49]);
    assert_eq!(rest(&mut upstream).await.unwrap_or_default(), b"");
}

#[tokio::test]
async fn addresses_are_tried_in_turn_and_forbidden_ones_are_passed_over() {
    let world = World::new(allow("api.example.com")).await;
    world.name("api.example.com", &["10.0.0.1", "93.184.216.34", "2606:4700::1"]);
    world.route("10.0.0.1:443", Route::Fail(Unconnected::Forbidden));
    let server = world.server("93.184.216.34:443").await;
    let hello = client_hello(Some("api.example.com"));
    let mut client = world.client("api.example.com", 443).await;
    client.write_all(&hello).await.unwrap();
    let mut upstream = accept(&server).await;
    assert_eq!(read(&mut upstream, hello.len()).await, hello);
    let expected = ["[2606:4700::1]:443", "10.0.0.1:443", "93.184.216.34:443"];
    assert_eq!(world.dialled(), expected.map(|address| address.parse().unwrap()));

    // There is no way for IPv6 here, so the next time it is the last.
    let mut client = world.client("api.example.com", 443).await;
    client.write_all(&hello).await.unwrap();
    accept(&server).await;
    let again = ["10.0.0.1:443", "[2606:4700::1]:443", "93.184.216.34:443"];
    assert_eq!(world.dialled()[3..], again.map(|address| address.parse().unwrap()));

    // One that does not answer keeps nobody from the next.
    world.route("10.0.0.1:443", Route::Never);
    let begun = Instant::now();
    let mut client = world.client("api.example.com", 443).await;
    client.write_all(&hello).await.unwrap();
    accept(&server).await;
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn what_leads_nowhere_is_reset() {
    let world = World::new(allow("*.example.com")).await;
    world.name("forbidden.example.com", &["169.254.169.254"]);
    world.route("169.254.169.254:443", Route::Fail(Unconnected::Forbidden));
    world.name("empty.example.com", &[]);
    for name in ["forbidden.example.com", "empty.example.com", "unknown.example.com"] {
        let mut client = world.client(name, 443).await;
        client.write_all(&client_hello(Some(name))).await.unwrap();
        assert_eq!(rest(&mut client).await, None, "{name}");
    }
}

#[tokio::test]
async fn names_are_asked_once_for_many_and_again_when_the_resolver_hung_up() {
    let world = World::new(allow("*.example.com")).await;
    let server = world.host("a.example.com", 443).await;
    let hello = client_hello(Some("a.example.com"));
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = world.client("a.example.com", 443).await;
        client.write_all(&hello).await.unwrap();
        clients.push(client);
    }
    for _ in 0..10 {
        accept(&server).await;
    }
    // Of each family.
    assert_eq!(world.node.resolved.lock().unwrap().len(), 2);
    let resolvers = || world.node.asked.lock().unwrap().len() - world.dialled().len();
    assert_eq!(resolvers(), 1);
    // The next question on that connection is the last it hears.
    world.node.patience.store(2, Ordering::Relaxed);
    world.name("b.example.com", &["93.184.216.34"]);
    let mut client = world.client("b.example.com", 443).await;
    client.write_all(&client_hello(Some("b.example.com"))).await.unwrap();
    accept(&server).await;
    assert_eq!(resolvers(), 2);
}

#[tokio::test]
async fn a_connection_that_comes_too_late_is_closed() {
    let world = World::new(allow("93.184.216.34")).await;
    let server = world.server("93.184.216.34:443").await;
    world.route("93.184.216.34:443", Route::Never);
    let mut client = world.client_at("93.184.216.34:443").await;
    client.write_all(&client_hello(None)).await.unwrap();
    while world.dialled().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The agent goes while node connects, and what was asked for comes then.
    say(&world.sockets, &ToGateSockets::Closed { agent: world.agent }, &[]);
    assert_eq!(rest(&mut client).await, None);
    let late = tokio::net::TcpStream::connect(server.local_addr().unwrap()).await.unwrap();
    let mut upstream = accept(&server).await;
    say(&world.sockets, &ToGateSockets::Connected { request: 1 }, &[late.as_fd()]);
    drop(late);
    assert_eq!(rest(&mut upstream).await.unwrap(), b"");
    // To answer twice does no harm.
    say(&world.sockets, &ToGateSockets::Failed { request: 1, why: Unconnected::Slow }, &[]);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!world.running.is_finished());
}
