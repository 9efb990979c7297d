//! Connections that wait until somebody decides on them.

use super::world::*;
use crate::egress::Settings;
use crate::limits;
use model::egress::{Attention, MAX_QUESTIONS, Outcome, Question};
use model::gate_api::{ToGate, ToGateSockets};
use serde_json::json;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// A world in which a person decides on all hosts, and is there.
async fn watched() -> World {
    let mut world = World::new(holding(json!([]))).await;
    world.watch().await;
    world
}

fn about(question: &Question) -> (&str, u16) {
    (&question.host, question.port)
}

/// Whether a client is still neither answered nor cut.
async fn waits(client: &TcpStream) -> bool {
    tokio::time::timeout(Duration::from_millis(30), client.readable()).await.is_err()
}

fn denied(by: &str) -> (Outcome, String) {
    (Outcome::Denied, by.to_owned())
}

#[tokio::test]
async fn what_somebody_allows_passes_once() {
    let mut world = watched().await;
    let server = world.host("a.example.com", 443).await;
    let hello = client_hello(Some("a.example.com"));
    let before = OffsetDateTime::now_utc();
    let mut client = world.client_soon("a.example.com", 443).await;
    client.write_all(&hello).await.unwrap();
    let question = world.question().await;
    assert_eq!(about(&question), ("a.example.com", 443));
    assert_eq!(question.until - question.asked, settings().hold);
    assert!((question.asked - before).abs() < Duration::from_secs(2), "{question:?}");
    assert_eq!(question.asked.nanosecond() % 1_000_000, 0);
    // Nobody is asked for anything meanwhile.
    assert!(waits(&client).await);
    assert!(world.node.asked.lock().unwrap().is_empty());
    world.answer(&question, true).await;
    let mut upstream = accept(&server).await;
    assert_eq!(read(&mut upstream, hello.len()).await, hello);
    assert_eq!(world.questions().await, []);
    // It goes on for as long as nothing denies it.
    world.set(Some(holding(json!([{"action": "allow", "host": "b.example.com"}])))).await;
    assert!(waits(&client).await);
    upstream.write_all(b"answer").await.unwrap();
    assert_eq!(read(&mut client, 6).await, b"answer");
    // The next one is another question.
    let mut next = world.client("a.example.com", 443).await;
    next.write_all(&hello).await.unwrap();
    let later = world.question().await;
    assert!(about(&later) == about(&question) && later.asked > question.asked);
    assert!(waits(&next).await);
    // Both end when a rule says so.
    world.set(Some(holding(json!([{"action": "deny", "host": "a.example.com"}])))).await;
    assert_eq!((rest(&mut client).await, rest(&mut next).await), (None, None));
    let mut told = [world.outcome().await, world.outcome().await];
    told.sort_by_key(|(outcome, _)| *outcome == Outcome::Denied);
    assert_eq!(told, [(Outcome::Passed, "once".to_owned()), denied("rule 1")]);
    assert_eq!(world.questions().await, []);
}

#[tokio::test]
async fn all_that_wait_for_one_host_and_port_pass_together() {
    let mut world = watched().await;
    let server = world.host("a.example.com", 443).await;
    let hello = client_hello(None);
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = world.client_soon("a.example.com", 443).await;
        client.write_all(&hello).await.unwrap();
        clients.push(client);
    }
    let question = world.question().await;
    let other = world.client("a.example.com", 8443).await;
    let both = world.questions().await;
    let expected = [("a.example.com", 443), ("a.example.com", 8443)];
    assert_eq!(both.iter().map(about).collect::<Vec<_>>(), expected);
    world.answer(&question, true).await;
    for _ in 0..5 {
        accept(&server).await;
    }
    assert_eq!(about(&world.question().await), expected[1]);
    assert!(waits(&other).await);
}

#[tokio::test]
async fn what_somebody_refuses_is_refused_for_a_while_without_a_question() {
    let mut world = watched().await;
    let server = world.host("a.example.com", 443).await;
    let mut client = world.client_soon("a.example.com", 443).await;
    let question = world.question().await;
    world.answer(&question, false).await;
    assert_eq!(rest(&mut client).await, None);
    assert_eq!(world.outcome().await, denied("once"));
    assert_eq!(world.questions().await, []);
    let begun = Instant::now();
    let mut client = world.client("a.example.com", 443).await;
    assert_eq!(rest(&mut client).await, None);
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(world.outcome().await, denied("once"));
    // Another port is another question.
    let _other = world.client("a.example.com", 22).await;
    assert_eq!(about(&world.question().await), ("a.example.com", 22));
    // Another policy forgets it.
    world.set(Some(holding(json!([{"action": "allow", "host": "b.example.com"}])))).await;
    resolve_soon(&world.doors, "b.example.com").await;
    let mut client = world.client("a.example.com", 443).await;
    client.write_all(&client_hello(None)).await.unwrap();
    let questions = world.questions().await;
    let [_, again] = &questions[..] else { panic!("{questions:?}") };
    assert!(about(again) == about(&question) && again.asked > question.asked);
    world.answer(again, true).await;
    accept(&server).await;
}

#[tokio::test]
async fn without_an_answer_it_is_refused_when_its_time_is_over() {
    let short = Settings { hold: Duration::from_millis(400), ..settings() };
    let mut world = World::with(short, Some(holding(json!([]))), &[]).await;
    world.watch().await;
    let mut first = world.client_soon("a.example.com", 443).await;
    let begun = Instant::now();
    let question = world.question().await;
    assert_eq!(question.until - question.asked, Duration::from_millis(400));
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Who comes later waits as long as the question does.
    let mut second = world.client("a.example.com", 443).await;
    assert_eq!((rest(&mut first).await, rest(&mut second).await), (None, None));
    let waited = begun.elapsed();
    assert!((300..550).contains(&waited.as_millis()), "{waited:?}");
    let record = world.record().await;
    assert_eq!((record.outcome, record.by.as_str()), (Outcome::Denied, "unknown"));
    assert!((150..550).contains(&record.duration_ms), "{record:?}");
    assert_eq!(world.questions().await, []);
    let _third = world.client("a.example.com", 443).await;
    assert!(world.question().await.asked > question.asked);
}

#[tokio::test]
async fn a_policy_that_names_the_host_releases_it() {
    let mut world = watched().await;
    let server = world.host("a.example.com", 443).await;
    let hello = client_hello(Some("a.example.com"));
    let mut client = world.client_soon("a.example.com", 443).await;
    client.write_all(&hello).await.unwrap();
    let mut other = world.client_soon("b.example.com", 443).await;
    while world.questions().await.len() < 2 {}
    world.set(Some(holding(json!([{"action": "allow", "host": "a.example.com"}])))).await;
    let mut upstream = accept(&server).await;
    assert_eq!(read(&mut upstream, hello.len()).await, hello);
    assert_eq!(about(&world.question().await), ("b.example.com", 443));
    drop(upstream);
    drop(client);
    assert_eq!(world.outcome().await, (Outcome::Passed, "rule 1".to_owned()));
    assert!(waits(&other).await);
    world.set(Some(allow("a.example.com"))).await;
    assert_eq!(rest(&mut other).await, None);
    assert_eq!(world.outcome().await, denied("preset none"));
    assert_eq!(world.questions().await, []);
}

#[tokio::test]
async fn where_nobody_is_there_nothing_waits() {
    let mut world = World::new(holding(json!([{"action": "allow", "host": "b.example.com"}]))).await;
    let refused = async |world: &mut World| {
        assert_eq!(resolve(&world.doors, "a.example.com").await, Err(5));
        let begun = Instant::now();
        let mut client = world.client_at("93.184.216.34:443").await;
        assert_eq!(rest(&mut client).await, None);
        assert!(begun.elapsed() < Duration::from_secs(1));
    };
    refused(&mut world).await;
    let record = world.record().await;
    assert_eq!((record.host.as_str(), record.port, record.by.as_str()), ("a.example.com", None, "unknown"));
    assert_eq!(world.outcome().await, denied("unknown"));
    // What is allowed has its address nevertheless.
    resolve(&world.doors, "b.example.com").await.unwrap();
    // Somebody was there, or looks after another agent.
    world.attend(OffsetDateTime::now_utc() - Duration::from_secs(1), Vec::new()).await;
    refused(&mut world).await;
    let watched_until = Some(OffsetDateTime::now_utc() + Duration::from_secs(60));
    let other = Attention { agent: model::AgentId::new(), watched_until, answers: Vec::new() };
    world.tell(&ToGate::Attention { agents: vec![other] }).await;
    refused(&mut world).await;
    // Who waits already goes on when they leave, and may be let pass by who comes back.
    world.watch().await;
    let address = resolve_soon(&world.doors, "a.example.com").await;
    let server = world.host("a.example.com", 443).await;
    let mut client = connect(&world.doors, std::net::SocketAddr::new(address, 443)).await;
    client.write_all(&client_hello(None)).await.unwrap();
    let question = world.question().await;
    world.tell(&ToGate::Attention { agents: Vec::new() }).await;
    while resolve(&world.doors, "c.example.com").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(waits(&client).await);
    refused(&mut world).await;
    world.answer(&question, true).await;
    accept(&server).await;
}

#[tokio::test]
async fn a_client_that_goes_away_gives_up_its_place() {
    let mut world = watched().await;
    for reset in [false, true] {
        let mut gone = world.client_soon("a.example.com", 443).await;
        gone.write_all(&client_hello(None)).await.unwrap();
        world.question().await;
        // More of what nobody reads.
        gone.write_all(&[7; 5000]).await.unwrap();
        let stays = world.client("a.example.com", 443).await;
        assert!(waits(&gone).await && waits(&stays).await);
        if reset {
            gone.set_zero_linger().unwrap();
        }
        drop(gone);
        assert_eq!(world.outcome().await, denied("the client, which gave up"));
        assert!(waits(&stays).await);
        drop(stays);
        // The question goes with the last of them.
        assert_eq!(world.questions().await, []);
    }
    // And with the agent's boundary.
    let mut client = world.client("a.example.com", 443).await;
    world.question().await;
    say(&world.sockets, &ToGateSockets::Closed { agent: world.agent }, &[]);
    assert_eq!(rest(&mut client).await, None);
    assert_eq!(world.questions().await, []);
}

#[tokio::test]
async fn an_answer_to_another_question_is_none() {
    let mut world = watched().await;
    let client = world.client_soon("a.example.com", 443).await;
    let question = world.question().await;
    for other in [
        Question { asked: question.asked - Duration::from_millis(1), ..question.clone() },
        Question { port: 80, ..question.clone() },
        Question { host: "b.example.com".into(), ..question.clone() },
    ] {
        for allow in [true, false] {
            world.answer(&other, allow).await;
        }
    }
    assert!(waits(&client).await);
    assert!(world.dialled().is_empty());
    drop(client);
    assert_eq!(world.questions().await, []);
    // It was answered when nobody waited any more; the next one waits again.
    world.answer(&question, true).await;
    let client = world.client("a.example.com", 443).await;
    world.question().await;
    world.answer(&question, false).await;
    assert!(waits(&client).await);
}

#[tokio::test]
async fn so_many_wait_and_no_more() {
    let mut world = watched().await;
    resolve_soon(&world.doors, "a.example.com").await;
    let mut held = Vec::new();
    for _ in 0..limits::HELD_PER_QUESTION {
        held.push(world.client("a.example.com", 443).await);
    }
    world.question().await;
    assert!(waits(&held[held.len() - 1]).await);
    let mut refused = world.client("a.example.com", 443).await;
    assert_eq!(rest(&mut refused).await, None);
    assert_eq!(world.outcome().await, denied("unknown"));
    // As many questions as there may be.
    for port in 1..MAX_QUESTIONS {
        held.push(world.client_at(&format!("93.184.216.34:{}", 1000 + port)).await);
    }
    let mut last = world.questions().await;
    while last.len() < MAX_QUESTIONS {
        last = world.questions().await;
    }
    assert!(last.is_sorted_by_key(|question| question.asked));
    let mut refused = world.client_at("93.184.216.34:999").await;
    assert_eq!(rest(&mut refused).await, None);
    // As many connections as there may be, whatever they wait for.
    for count in 0..limits::HELD_PER_AGENT - held.len() {
        held.push(world.client_at(&format!("93.184.216.34:{}", 1001 + count / 60)).await);
    }
    assert!(waits(&held[held.len() - 1]).await);
    let mut refused = world.client_at("93.184.216.34:1020").await;
    assert_eq!(rest(&mut refused).await, None);
    assert!(waits(&held[held.len() - 1]).await);
    drop(held);
    while !world.questions().await.is_empty() {}
    let _client = world.client("a.example.com", 443).await;
    world.question().await;
}

#[tokio::test]
async fn what_passes_once_speaks_what_a_rule_for_that_port_would_allow() {
    let mut world = watched().await;
    let ssh = world.host("a.example.com", 22).await;
    let http = world.host("a.example.com", 80).await;
    // Whatever it is, with a server that speaks first.
    let mut client = world.client_soon("a.example.com", 22).await;
    let question = world.question().await;
    world.answer(&question, true).await;
    let mut upstream = accept(&ssh).await;
    upstream.write_all(b"SSH-2.0-server\r\n").await.unwrap();
    assert_eq!(read(&mut client, 16).await, b"SSH-2.0-server\r\n");
    client.write_all(b"SSH-2.0-client\r\n").await.unwrap();
    assert_eq!(read(&mut upstream, 16).await, b"SSH-2.0-client\r\n");
    assert_eq!(world.questions().await, []);
    // Requests of HTTP, one after the other.
    let mut client = world.client("a.example.com", 80).await;
    let question = world.question().await;
    world.answer(&question, true).await;
    let get = b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n";
    client.write_all(get).await.unwrap();
    let mut upstream = accept(&http).await;
    for _ in 0..2 {
        assert_eq!(read(&mut upstream, get.len()).await, get);
        upstream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        read(&mut client, 27).await;
        client.write_all(get).await.unwrap();
    }
    assert_eq!(world.questions().await, []);
    // And nothing else there.
    for port in [80, 443] {
        let mut client = world.client("a.example.com", port).await;
        let question = world.question().await;
        world.answer(&question, true).await;
        client.write_all(b"SSH-2.0-client\r\n").await.unwrap();
        assert_eq!(rest(&mut client).await, None);
        assert_eq!(world.questions().await, []);
        let (outcome, by) = world.outcome().await;
        assert_eq!((outcome, by.as_str()), (Outcome::Denied, "unknown"));
    }
}

#[tokio::test]
async fn nobody_is_asked_where_an_answer_would_help_nothing_or_too_much() {
    let policy = holding(json!([
        {"action": "allow", "host": "a.example.com"},
        {"action": "allow", "host": "b.example.com", "ports": [80], "protocol": "http", "methods": ["GET"]},
    ]));
    let mut world = World::new(policy).await;
    world.watch().await;
    resolve_soon(&world.doors, "unknown.example.com").await;
    // What is no TLS at port 443 would not pass by an answer either.
    let mut client = world.client("a.example.com", 443).await;
    client.write_all(b"SSH-2.0-client\r\n").await.unwrap();
    assert_eq!(rest(&mut client).await, None);
    assert_eq!(world.outcome().await, denied("unknown"));
    // Nor is anybody asked about a request that no rule is for where one is for others: an answer would let all of them pass.
    let server = world.host("b.example.com", 80).await;
    let mut client = world.client("b.example.com", 80).await;
    client.write_all(b"POST / HTTP/1.1\r\nHost: b.example.com\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    assert!(read(&mut client, 12).await.ends_with(b"403"));
    assert_eq!(world.outcome().await, denied("unknown"));
    let mut client = world.client("b.example.com", 80).await;
    let get = b"GET / HTTP/1.1\r\nHost: b.example.com\r\n\r\n";
    client.write_all(get).await.unwrap();
    let mut upstream = accept(&server).await;
    assert!(read(&mut upstream, get.len()).await.starts_with(b"GET / "));
    // A port that nobody has is none that could be asked about.
    let mut client = world.client_at("93.184.216.34:0").await;
    assert_eq!(rest(&mut client).await, None);
}
