//! Questions of DNS.

use super::world::*;
use model::gate_api::FromGate;
use std::net::{IpAddr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;

const REFUSED: u8 = 5;

#[tokio::test]
async fn only_names_that_could_be_reached_have_addresses() {
    let mut world = World::new(allow("*.example.com")).await;
    let first = resolve(&world.doors, "a.example.com").await.unwrap();
    let FromGate::Named { agent, name } = world.heard().await else { panic!() };
    assert_eq!((agent, name.as_str()), (world.agent, "a.example.com"));
    assert_eq!(resolve(&world.doors, "A.Example.COM").await, Ok(first));
    let second = resolve(&world.doors, "b.example.com").await.unwrap();
    assert_ne!(first, second);
    for address in [first, second] {
        assert!(matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 198 && v4.octets()[1] & 0xfe == 18));
    }
    for refused in ["example.com", "example.org", "localhost", "secret.of.evil.org"] {
        assert_eq!(resolve(&world.doors, refused).await, Err(REFUSED), "{refused}");
    }
    // The name was told of once: what is heard next is the other one.
    assert!(matches!(world.heard().await, FromGate::Named { name, .. } if name == "b.example.com"));
    // HTTPS, TXT, and the address of IPv6.
    for (kind, answers) in [(65, 0), (16, 0), (28, 1)] {
        let answer = ask(&world.doors, &question(9, "a.example.com", kind)).await;
        assert_eq!((answer[3] & 0xf, answer[7]), (0, answers), "{kind}");
    }
    // Nobody else was asked.
    assert!(world.node.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn answers_come_from_the_address_that_was_asked_in_both_families() {
    let world = World::new(allow("a.example.com")).await;
    for server in ["127.5.6.7", "127.0.0.1", "::1"] {
        let server = SocketAddr::new(server.parse().unwrap(), world.doors.udp);
        let socket = UdpSocket::bind(if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).await.unwrap();
        socket.send_to(&question(3, "a.example.com", 1), server).await.unwrap();
        let mut answer = [0; 600];
        let received = socket.recv_from(&mut answer);
        let (_, from) =
            tokio::time::timeout(std::time::Duration::from_secs(5), received).await.unwrap().unwrap();
        assert_eq!(from, server);
    }
}

#[tokio::test]
async fn questions_come_by_tcp_too() {
    let world = World::new(allow("a.example.com")).await;
    let mut client = world.client_at("8.8.8.8:53").await;
    let mut answers = Vec::new();
    // Both at once.
    for (id, name) in [(1, "a.example.com"), (2, "example.org")] {
        let question = question(id, name, 1);
        client.write_u16(question.len().try_into().unwrap()).await.unwrap();
        client.write_all(&question).await.unwrap();
    }
    for _ in 0..2 {
        let length = client.read_u16().await.unwrap();
        answers.push(read(&mut client, length.into()).await);
    }
    assert_eq!((answers[0][1], answers[0][3] & 0xf), (1, 0));
    assert_eq!((answers[1][1], answers[1][3] & 0xf), (2, REFUSED));
    // Nonsense ends it.
    client.write_all(&[0, 3, 1, 2, 3]).await.unwrap();
    assert!(rest(&mut client).await.is_none_or(|rest| rest.is_empty()));
    let mut client = world.client_at("8.8.8.8:53").await;
    client.write_all(&[0xff; 4000]).await.unwrap();
    assert!(rest(&mut client).await.is_none_or(|rest| rest.is_empty()));
    assert!(world.dialled().is_empty());
}

#[tokio::test]
async fn names_outlive_the_gate() {
    let names = ["b.example.com", "a.example.com"];
    let world = World::with(settings(), Some(allow("*.example.com")), &names).await;
    let before = (resolve(&world.doors, "a.example.com").await, resolve(&world.doors, "c.example.com").await);
    drop(world);
    let names = ["b.example.com", "a.example.com", "c.example.com"];
    let mut world = World::with(settings(), Some(allow("*.example.com")), &names).await;
    let after = (resolve(&world.doors, "a.example.com").await, resolve(&world.doors, "c.example.com").await);
    assert_eq!(before, after);
    // Node is not told of what it told.
    resolve(&world.doors, "d.example.com").await.unwrap();
    assert!(matches!(world.heard().await, FromGate::Named { name, .. } if name == "d.example.com"));
    // A connection to what stood for a name before goes to it.
    let server = world.host("a.example.com", 443).await;
    let mut client = connect(&world.doors, SocketAddr::new(after.0.unwrap(), 443)).await;
    client.write_all(&client_hello(Some("a.example.com"))).await.unwrap();
    accept(&server).await;
}

#[tokio::test]
async fn what_stands_for_names_is_forgotten_with_the_boundary() {
    let flood: Vec<String> = (0..4096).map(|number| format!("n{number}.example.com")).collect();
    let flood: Vec<&str> = flood.iter().map(String::as_str).collect();
    let mut world = World::with(settings(), Some(allow("*.example.com")), &flood).await;
    assert!(resolve(&world.doors, "late.example.com").await.is_err(), "there are too many");
    world.restart();
    resolve_soon(&world.doors, "late.example.com").await;
    assert!(matches!(world.heard().await, FromGate::Named { name, .. } if name == "late.example.com"));
}

#[tokio::test]
async fn nonsense_is_not_answered_and_ends_nothing() {
    let world = World::new(allow("a.example.com")).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for nonsense in [&[][..], &[1], &[0xff; 12], &[0; 1500], &[7; 4000]] {
        socket.send_to(nonsense, ("127.0.0.1", world.doors.udp)).await.unwrap();
    }
    assert!(resolve(&world.doors, "a.example.com").await.is_ok());
}
