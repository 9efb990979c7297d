//! What is written down: every connection that is over, and everything that was refused.

use super::world::*;
use crate::egress::Settings;
use model::egress::{Connection, Outcome};
use model::gate_api::{FromGate, ToGateSockets, Unconnected};
use model::policy::Protocol;
use serde_json::json;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt;

/// What can be said beforehand of a record.
fn shape(record: &Connection) -> (&str, Option<u16>, Option<Protocol>, Outcome, &str, Option<&str>) {
    let Connection { host, port, protocol, outcome, by, end, .. } = record;
    (host, *port, *protocol, *outcome, by, end.as_deref())
}

#[tokio::test]
async fn a_connection_that_passed_is_told_when_it_is_over() {
    let mut world = World::new(allow("*.example.com")).await;
    let server = world.host("a.example.com", 443).await;
    let before = OffsetDateTime::now_utc();
    let hello = client_hello(Some("a.example.com"));
    let mut client = world.client("a.example.com", 443).await;
    client.write_all(&hello).await.unwrap();
    let mut upstream = accept(&server).await;
    read(&mut upstream, hello.len()).await;
    upstream.write_all(b"answer").await.unwrap();
    read(&mut client, 6).await;
    let connected = OffsetDateTime::now_utc();
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert!(world.records.is_empty());
    drop((client, upstream));
    let record = world.record().await;
    let tls = Some(Protocol::Tls);
    let expected = ("a.example.com", Some(443), tls, Outcome::Passed, "rule 1", Some("closed"));
    assert_eq!(shape(&record), expected);
    assert_eq!((record.sent, record.received, record.count), (hello.len() as u64, 6, 1));
    assert_eq!(record.address, Some("93.184.216.34:443".parse().unwrap()));
    assert!(record.at >= before && record.at <= connected, "{record:?}");
    assert!((50..5000).contains(&record.duration_ms), "{record:?}");
}

#[tokio::test]
async fn what_is_cut_says_why() {
    let mut world = World::new(allow("*.example.com")).await;
    let server = world.host("a.example.com", 443).await;
    let hello = client_hello(Some("a.example.com"));
    for end in ["refused by rule 1", "the agent is gone"] {
        let mut client = world.client_soon("a.example.com", 443).await;
        client.write_all(&hello).await.unwrap();
        let mut upstream = accept(&server).await;
        read(&mut upstream, hello.len()).await;
        if end == "the agent is gone" {
            say(&world.sockets, &ToGateSockets::Closed { agent: world.agent }, &[]);
        } else {
            world.set(Some(rules(json!([{"action": "deny", "host": "a.example.com"}])))).await;
        }
        assert_eq!(rest(&mut client).await, None);
        let record = loop {
            let record = world.record().await;
            if record.port.is_some() {
                break record;
            }
        };
        assert_eq!((record.outcome, record.by.as_str()), (Outcome::Passed, "rule 1"));
        assert_eq!(record.end.as_deref(), Some(end));
        world.set(Some(allow("*.example.com"))).await;
    }
}

#[tokio::test]
async fn what_is_refused_says_by_whom() {
    let policy = rules(json!([
        {"action": "allow", "host": "*.example.com"},
        {"action": "deny", "host": "b.example.com"},
        {"action": "deny", "host": "93.184.216.0/24"},
        {"action": "allow", "host": "93.184.217.34"},
    ]));
    let mut world = World::new(policy).await;
    // Names, each with both families asked for.
    for (name, by) in [("b.example.com", "rule 2"), ("example.org", "preset none")] {
        for kind in [1, 28] {
            ask(&world.doors, &question(7, name, kind)).await;
        }
        let record = world.record().await;
        assert_eq!(shape(&record), (name, None, None, Outcome::Denied, by, None));
        assert_eq!(record.count, 1);
    }
    // Addresses, before anything is said.
    let mut client = world.client_at("93.184.216.34:22").await;
    assert_eq!(rest(&mut client).await, None);
    let record = world.record().await;
    assert_eq!(shape(&record), ("93.184.216.34", Some(22), None, Outcome::Denied, "rule 3", None));
    assert_eq!((record.sent, record.received, record.address), (0, 0, None));
    let mut client = world.client_at("198.18.0.9:443").await;
    assert_eq!(rest(&mut client).await, None);
    assert_eq!(world.outcome().await, (Outcome::Denied, "no name".to_owned()));
    // What does not fit, which is cut where it is long.
    let long = format!("{}.{}.example.com", "x".repeat(60), "y".repeat(60));
    let mut client = world.client(&long, 443).await;
    client.write_all(&client_hello(Some("a.example.com"))).await.unwrap();
    rest(&mut client).await;
    let (outcome, by) = world.outcome().await;
    assert!(outcome == Outcome::Denied && by.starts_with("name \"xxx"), "{by}");
    assert_eq!(by.len(), model::egress::MAX_TEXT);
    // Another protocol than is allowed.
    let mut client = world.client("a.example.com", 443).await;
    client.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    assert_eq!(rest(&mut client).await, None);
    let record = world.record().await;
    let tcp = Some(Protocol::Tcp);
    assert_eq!(shape(&record), ("a.example.com", Some(443), tcp, Outcome::Denied, "preset none", None));
}

#[tokio::test]
async fn what_was_allowed_and_not_connected_failed() {
    let mut world = World::new(allow("*.example.com")).await;
    world.name("empty.example.com", &[]);
    world.name("refused.example.com", &["93.184.216.34"]);
    for port in [443, 80] {
        world.route(&format!("93.184.216.34:{port}"), Route::Fail(Unconnected::Refused));
    }
    let get = "GET / HTTP/1.1\r\nHost: refused.example.com\r\n\r\n";
    for (name, port, said, why) in [
        ("empty.example.com", 443, client_hello(None), "not connected: the name has no address"),
        ("refused.example.com", 443, client_hello(None), "not connected: it refused the connection"),
        ("refused.example.com", 80, get.into(), "it refused the connection"),
    ] {
        let mut client = world.client(name, port).await;
        client.write_all(&said).await.unwrap();
        rest(&mut client).await;
        let record = world.record().await;
        let protocol = Some(if port == 80 { Protocol::Http } else { Protocol::Tls });
        let expected = (name, Some(port), protocol, Outcome::Failed, "rule 1", Some(why));
        assert_eq!(shape(&record), expected);
    }
    // That is all that there is to tell of them.
    let mut client = world.client_at("93.184.216.34:1").await;
    rest(&mut client).await;
    assert_eq!(world.record().await.port, Some(1));
}

#[tokio::test]
async fn requests_that_are_refused_are_told_besides_their_connection() {
    let policy = rules(json!([{
        "action": "allow", "host": "a.example.com", "ports": [80], "protocol": "http", "methods": ["GET"],
    }]));
    let mut world = World::new(policy).await;
    let server = world.host("a.example.com", 80).await;
    let http = Some(Protocol::Http);
    let host = ("a.example.com", Some(80), http);
    // One that no request passes on.
    let mut client = world.client("a.example.com", 80).await;
    client.write_all(b"POST / HTTP/1.1\r\nHost: a.example.com\r\nConnection: close\r\n\r\n").await.unwrap();
    rest(&mut client).await;
    let record = world.record().await;
    assert_eq!(shape(&record), (host.0, host.1, host.2, Outcome::Denied, "preset none", None));
    // And one that goes on.
    let mut client = world.client("a.example.com", 80).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n").await.unwrap();
    let mut upstream = accept(&server).await;
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    read(&mut client, 38).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: b.example.com\r\n\r\n").await.unwrap();
    rest(&mut client).await;
    let record = world.record().await;
    assert_eq!(shape(&record), (host.0, host.1, host.2, Outcome::Denied, "the request's host", None));
    let record = world.record().await;
    assert_eq!((record.outcome, record.by.as_str()), (Outcome::Passed, "rule 1"));
}

#[tokio::test]
async fn equal_refusals_are_one_record_with_a_count() {
    let mut world = World::with(settings(), Some(allow("a.example.com")), &[]).await;
    for _ in 0..10 {
        for port in [22, 25] {
            let mut client = world.client_at(&format!("93.184.216.34:{port}")).await;
            assert_eq!(rest(&mut client).await, None);
        }
    }
    let told = [world.record().await, world.record().await, world.record().await, world.record().await];
    assert_eq!(told.clone().map(|record| record.count), [1, 1, 9, 9]);
    let mut ports = told.map(|record| record.port.unwrap());
    ports.sort_unstable();
    assert_eq!(ports, [22, 22, 25, 25]);
}

#[tokio::test]
async fn one_agents_flood_loses_its_own_refusals_and_nothing_else() {
    let many = Settings { fold: Duration::from_secs(3), ..settings() };
    let mut world = World::with(many, Some(allow("a.example.com")), &[]).await;
    let server = world.host("a.example.com", 443).await;
    let mut client = world.client("a.example.com", 443).await;
    client.write_all(&client_hello(None)).await.unwrap();
    let upstream = accept(&server).await;
    for host in 0..700 {
        resolve(&world.doors, &format!("x{host}.example.org")).await.unwrap_err();
    }
    drop((client, upstream));
    let other = world.another(allow("a.example.com")).await;
    resolve_soon(&other, "a.example.com").await;
    resolve(&other, "b.example.com").await.unwrap_err();
    let (mut refused, mut passed, mut of_other, mut lost) = (0, 0, 0, 0);
    let mut attempts = 0;
    while attempts + lost < 700 || passed == 0 || of_other == 0 {
        match world.heard_all().await {
            FromGate::Egress { agent, .. } if agent != world.agent => of_other += 1,
            FromGate::Egress { connection, .. } if connection.port.is_some() => passed += 1,
            FromGate::Egress { connection, .. } => {
                refused += 1;
                attempts += u64::from(connection.count);
            }
            FromGate::EgressLost { agent, count } => {
                assert_eq!(agent, world.agent);
                lost += count;
            }
            _ => {}
        }
    }
    assert_eq!((attempts + lost, passed), (700, 1));
    assert!(refused >= 200, "{refused}");
}

#[tokio::test]
async fn what_is_left_is_told_when_the_gate_ends() {
    let long = Settings { fold: Duration::from_secs(100), ..settings() };
    for by_control in [true, false] {
        let mut world = World::with(long, Some(allow("a.example.com")), &[]).await;
        let server = world.host("a.example.com", 443).await;
        let mut client = world.client("a.example.com", 443).await;
        client.write_all(&client_hello(None)).await.unwrap();
        let _upstream = accept(&server).await;
        for _ in 0..3 {
            let mut client = world.client_at("93.184.216.34:22").await;
            assert_eq!(rest(&mut client).await, None);
        }
        let _held = world.client("a.example.com", 443).await;
        if by_control {
            world.to_gate.shutdown().await.unwrap();
        } else {
            rustix::net::shutdown(&*world.sockets, rustix::net::Shutdown::Both).unwrap();
        }
        let mut told = Vec::new();
        while told.len() < 4 {
            let record = world.record().await;
            told.push((record.port.unwrap(), record.outcome, record.count));
        }
        told.sort_by_key(|(port, outcome, count)| (*port, *outcome != Outcome::Passed, *count));
        let expected = [
            (22, Outcome::Denied, 1),
            (22, Outcome::Denied, 2),
            (443, Outcome::Passed, 1),
            (443, Outcome::Failed, 1),
        ];
        assert_eq!(told, expected);
        assert!(world.from_gate.next_line().await.unwrap().is_none());
        world.running.await.unwrap().unwrap();
    }
}
