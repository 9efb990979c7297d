//! What changes is in force at once, also for what is open.

use super::world::*;
use model::gate_api::{ToGate, ToGateSockets};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

async fn established(world: &World, server: &TcpListener, name: &str) -> (TcpStream, TcpStream) {
    let hello = client_hello(Some(name));
    let mut client = world.client(name, 443).await;
    client.write_all(&hello).await.unwrap();
    let mut upstream = accept(server).await;
    assert_eq!(read(&mut upstream, hello.len()).await, hello);
    (client, upstream)
}

#[tokio::test]
async fn what_is_denied_now_is_cut_and_the_rest_goes_on() {
    let mut world = World::new(allow("*.example.com")).await;
    let server = world.host("a.example.com", 443).await;
    world.name("b.example.com", &["93.184.216.34"]);
    let (mut cut, mut cut_upstream) = established(&world, &server, "a.example.com").await;
    let (mut kept, mut kept_upstream) = established(&world, &server, "b.example.com").await;
    world.set(Some(allow("b.example.com"))).await;
    let begun = Instant::now();
    assert_eq!(rest(&mut cut).await, None);
    assert!(begun.elapsed() < Duration::from_millis(100));
    rest(&mut cut_upstream).await;
    for (from, to) in [(&mut kept, &mut kept_upstream)] {
        from.write_all(b"still").await.unwrap();
        assert_eq!(read(to, 5).await, b"still");
        to.write_all(b"here").await.unwrap();
        assert_eq!(read(from, 4).await, b"here");
    }
    assert_eq!(resolve(&world.doors, "a.example.com").await, Err(5));
    // A deny beats what allows.
    let policy = json!([
        {"action": "allow", "host": "*.example.com"},
        {"action": "deny", "host": "b.example.com"},
    ]);
    world.set(Some(rules(policy))).await;
    assert_eq!(rest(&mut kept).await, None);
    // And what is allowed again is so for new ones.
    world.set(Some(allow("b.example.com"))).await;
    world.set(Some(allow("a.example.com"))).await;
    while resolve(&world.doors, "a.example.com").await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    established(&world, &server, "a.example.com").await;
}

#[tokio::test]
async fn without_a_policy_or_an_agent_nothing_passes() {
    let mut world = World::with(settings(), None, &[]).await;
    assert_eq!(resolve(&world.doors, "a.example.com").await, Err(5));
    let mut client = world.client_at("93.184.216.34:443").await;
    assert_eq!(rest(&mut client).await, None);
    world.set(Some(allow("a.example.com"))).await;
    let server = world.host("a.example.com", 443).await;
    while resolve(&world.doors, "a.example.com").await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let (mut client, _upstream) = established(&world, &server, "a.example.com").await;
    world.tell(&ToGate::Agents { set: Vec::new(), gone: vec![world.agent] }).await;
    assert_eq!(rest(&mut client).await, None);
    assert_eq!(resolve(&world.doors, "a.example.com").await, Err(5));
}

#[tokio::test]
async fn doors_end_when_they_are_replaced_and_connections_when_the_boundary_goes() {
    let mut world = World::new(allow("a.example.com")).await;
    let server = world.host("a.example.com", 443).await;
    let (mut client, mut upstream) = established(&world, &server, "a.example.com").await;
    let old = std::mem::replace(&mut world.doors, give_doors(&world.sockets, world.agent));
    while TcpStream::connect(("127.0.0.1", old.tcp)).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    client.write_all(b"still").await.unwrap();
    assert_eq!(read(&mut upstream, 5).await, b"still");
    let (mut second, _upstream) = established(&world, &server, "a.example.com").await;
    say(&world.sockets, &ToGateSockets::Closed { agent: world.agent }, &[]);
    assert_eq!(rest(&mut client).await, None);
    assert_eq!(rest(&mut second).await, None);
    while TcpStream::connect(("127.0.0.1", world.doors.tcp)).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // It begins anew with the same names.
    world.doors = give_doors(&world.sockets, world.agent);
    established(&world, &server, "a.example.com").await;
}
