//! The conversation with node.

use super::world::*;
use model::Code;
use model::gate_api::{Condition, FromGate, ToGate};
use model::workspace::Stats;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn stats_come_from_node() {
    let mut world = World::new(nobody).await;
    world.state(5, Condition::Paused).await;
    let call = tokio::spawn(world.get("stats").send());
    let request = loop {
        if let FromGate::StatsWanted { request, agent } = world.heard().await {
            assert_eq!(agent, world.agent);
            break request;
        }
    };
    let stats = Stats { memory: 7, ..Stats::default() };
    world.tell(&ToGate::Stats { request: request + 1000, stats: None }).await;
    world.tell(&ToGate::Stats { request, stats: Some(stats) }).await;
    assert_eq!(call.await.unwrap().unwrap().json::<Stats>().await.unwrap(), stats);

    let call = tokio::spawn(world.get("stats").send());
    let request = loop {
        if let FromGate::StatsWanted { request, .. } = world.heard().await {
            break request;
        }
    };
    world.tell(&ToGate::Stats { request, stats: None }).await;
    assert_eq!(problem(call.await.unwrap().unwrap()).await.1.code, Code::Unavailable);
}

#[tokio::test]
async fn use_is_reported_once_a_second() {
    let mut world = World::new(async |mut peer: Peer| {
        peer.request().await;
        peer.reply(::channel::Reply::Streaming).await;
        peer.closed().await;
    })
    .await;
    let open = world.get("logs?follow=true").send().await.unwrap();
    let began = Instant::now();
    for _ in 0..3 {
        assert!(matches!(world.heard().await, FromGate::Activity { agent } if agent == world.agent));
    }
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1500), "{took:?}: too often");
    drop(open);
    // One more at most is under way; then there is silence.
    let mut late = 0;
    while let Ok(heard) = tokio::time::timeout(Duration::from_millis(2500), world.heard()).await {
        assert!(matches!(heard, FromGate::Activity { .. }));
        late += 1;
        assert!(late < 4, "it is still in use");
    }
}

#[tokio::test]
async fn the_gate_ends_with_node() {
    let world = World::new(nobody).await;
    drop((world.to_gate, world.from_gate));
    assert!(world.running.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_line_that_is_not_understood_ends_it_too() {
    let mut world = World::new(nobody).await;
    world.to_gate.write_all(b"{\"type\":\"news\"}\n").await.unwrap();
    assert!(matches!(world.running.await.unwrap(), Err(crate::Error::Control(_))));
}

#[tokio::test]
async fn logs_of_an_agent_that_ended_come_from_node() {
    let mut world = World::new(nobody).await;
    world.state(5, Condition::Stopped).await;
    for (tail, expected) in [("", model::gate_api::MAX_LOGS), ("?follow=true&tail=7", 7)] {
        let call = tokio::spawn(world.get(&format!("logs{tail}")).send());
        let request = loop {
            if let FromGate::LogsWanted { request, agent, most } = world.heard().await {
                assert_eq!((agent, most), (world.agent, expected));
                break request;
            }
        };
        world.tell(&ToGate::Logs { request, logs: Some(b"why\n".to_vec().into()) }).await;
        assert_eq!(call.await.unwrap().unwrap().text().await.unwrap(), "why\n");
    }
    let call = tokio::spawn(world.get("logs").send());
    let request = loop {
        if let FromGate::LogsWanted { request, .. } = world.heard().await {
            break request;
        }
    };
    world.tell(&ToGate::Logs { request, logs: None }).await;
    assert_eq!(problem(call.await.unwrap().unwrap()).await.1.code, Code::Unavailable);
    world.state(5, Condition::Paused).await;
    assert_eq!(problem(world.get("logs").send().await.unwrap()).await.1.code, Code::WrongState);
}
