//! One agent that takes what it can leaves enough for the others.

use super::world::*;
use crate::egress::Settings;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_flood_of_connections_takes_half_and_no_more() {
    let few = Settings { flows: 16, ..settings() };
    let mut world = World::with(few, Some(allow("*.example.com")), &[]).await;
    let server = world.host("a.example.com", 443).await;
    let mut flood = Vec::new();
    for _ in 0..100 {
        flood.push(world.client("a.example.com", 443).await);
    }
    // All but those that have a place are reset.
    let mut reset = 0;
    let mut held = Vec::new();
    for client in flood {
        match tokio::time::timeout(Duration::from_millis(20), client.readable()).await {
            Ok(_) => reset += 1,
            Err(_) => held.push(client),
        }
    }
    assert_eq!((held.len(), reset), (8, 92));
    let doors = world.another(allow("a.example.com")).await;
    let hello = client_hello(Some("a.example.com"));
    let address = loop {
        match resolve(&doors, "a.example.com").await {
            Ok(address) => break address,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    let mut client = connect(&doors, SocketAddr::new(address, 443)).await;
    client.write_all(&hello).await.unwrap();
    accept(&server).await;
    // A place that is free again is for who comes next.
    drop(held);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut client = world.client("a.example.com", 443).await;
    client.write_all(&hello).await.unwrap();
    accept(&server).await;
}

#[tokio::test]
async fn connections_that_node_does_not_answer_keep_no_other_agent_waiting() {
    let mut world = World::new(allow("93.184.0.0/16")).await;
    world.route("93.184.1.1:443", Route::Never);
    let server = world.server("93.184.2.2:443").await;
    let hello = client_hello(None);
    let mut stuck = Vec::new();
    for _ in 0..200 {
        let mut client = world.client_at("93.184.1.1:443").await;
        client.write_all(&hello).await.unwrap();
        stuck.push(client);
    }
    while world.dialled().len() < crate::limits::DIALS_PER_AGENT {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let doors = world.another(allow("93.184.0.0/16")).await;
    let mut client = connect(&doors, "93.184.2.2:443".parse().unwrap()).await;
    client.write_all(&hello).await.unwrap();
    accept(&server).await;
    assert_eq!(world.dialled().len(), crate::limits::DIALS_PER_AGENT + 1);
}
