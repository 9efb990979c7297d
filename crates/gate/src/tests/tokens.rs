//! Which tokens open which doors.

use super::world::*;
use crate::limits;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use model::gate_api::{Condition, GateAgent, ToGate};
use model::token::{Scope, WorkspaceClaims};
use model::{AccountId, AgentId, Code};
use std::time::Duration;
use tokio::task::JoinSet;

async fn with(world: &World, token: &str) -> (u16, Code) {
    let (status, problem) =
        problem(world.http.get(world.url("execs")).bearer_auth(token).send().await.unwrap()).await;
    (status, problem.code)
}

#[tokio::test]
async fn tokens_that_do_not_open() {
    let world = World::new(nobody).await;
    let good = world.claims(&ALL);
    let check = async |name: &str, token: String, expected: Code| {
        assert_eq!(with(&world, &token).await, (expected.status(), expected), "{name}");
    };
    let signed = |change: fn(&mut WorkspaceClaims)| {
        let mut claims = good.clone();
        change(&mut claims);
        world.key.sign(&claims)
    };
    let denied = Code::Unauthenticated;
    check("expired", signed(|c| (c.iat, c.exp) = (now() - 900, now() - 31)), denied).await;
    check("from the future", signed(|c| (c.iat, c.exp) = (now() + 60, now() + 120)), denied).await;
    check("too long a life", signed(|c| c.exp = c.iat + 3601), denied).await;
    check("negative life", signed(|c| c.iat = c.exp), denied).await;
    check("times that overflow", signed(|c| (c.iat, c.exp) = (i64::MIN, i64::MAX)), denied).await;
    check("another installation", signed(|c| c.iss = "there".into()), denied).await;
    check("an older epoch", signed(|c| c.epoch = 4), denied).await;
    check("another account", signed(|c| c.acc = AccountId::new()), Code::NotFound).await;
    check("another agent", signed(|c| c.aud = AgentId::new()), Code::NotFound).await;
    check("no scope", signed(|c| c.scp.clear()), Code::Forbidden).await;
    check(
        "another scope",
        signed(|c| c.scp = vec![Scope::Files, Scope::Logs, Scope::Ports]),
        Code::Forbidden,
    )
    .await;

    let other = Key { kid: world.key.kid, ..Key::new() };
    check("signed by another key of the same name", other.sign(&good), denied).await;
    check("an unknown key", Key::new().sign(&good), denied).await;
    let kid = Some(world.key.kid.to_string());
    let forged = |header: Header, key: &EncodingKey| jsonwebtoken::encode(&header, &good, key).unwrap();
    // The classic confusion: the public key as the secret of an HMAC.
    let secret = EncodingKey::from_secret(world.key.x.as_bytes());
    check("HS256", forged(Header { kid: kid.clone(), ..Header::new(Algorithm::HS256) }, &secret), denied)
        .await;
    let eddsa = Header::new(Algorithm::EdDSA);
    check("no kid", forged(Header { kid: None, ..eddsa.clone() }, &world.key.private), denied).await;
    let crit = Header { kid: kid.clone(), crit: Some(vec!["b64".into()]), ..eddsa };
    check("an extension", forged(crit, &world.key.private), denied).await;

    let token = world.token(&ALL);
    let (head_and_claims, signature) = token.rsplit_once('.').unwrap();
    let (_, claims) = head_and_claims.split_once('.').unwrap();
    let none = super::world::encode_segment(&format!(r#"{{"alg":"none","kid":"{}"}}"#, world.key.kid));
    check("alg none", format!("{none}.{claims}."), denied).await;
    check("alg none with a signature", format!("{none}.{claims}.{signature}"), denied).await;
    check("no signature", format!("{head_and_claims}."), denied).await;
    check(
        "a changed claim",
        format!("{}A.{signature}", &head_and_claims[..head_and_claims.len() - 1]),
        denied,
    )
    .await;
    check("not a token", "x.y.z".into(), denied).await;
    check("very long", "a".repeat(8000), denied).await;
    check(
        "claims of another shape",
        world.key.sign(&serde_json::json!({"aud": ["a"], "exp": "soon"})),
        denied,
    )
    .await;
}

#[tokio::test]
async fn an_unknown_agent_and_another_look_the_same() {
    let mut world = World::new(nobody).await;
    let elsewhere = AgentId::new();
    let known = GateAgent {
        authority: None,
        id: AgentId::new(),
        channel: "/nowhere".into(),
        token_epoch: 0,
        condition: Condition::Running,
        policy: None,
    };
    world.state_of(vec![known.clone()]).await;
    let ask = async |agent: String| {
        let url = format!("http://127.0.0.1:{}/v1/agents/{agent}/execs", world.port);
        let (status, mut problem) =
            problem(world.http.get(url).bearer_auth(world.token(&ALL)).send().await.unwrap()).await;
        problem.request_id = None;
        (status, problem)
    };
    let unknown = ask(elsewhere.to_string()).await;
    assert_eq!(unknown.0, 404);
    assert_eq!(ask(known.id.to_string()).await, unknown);
    assert_eq!(ask("agt_nonsense".into()).await, unknown);
    assert_eq!(ask(world.agent.to_string()).await, unknown, "a good token for an agent that is gone");
}

#[tokio::test]
async fn tokens_that_open() {
    let world = World::new(done).await;
    let check = async |change: fn(&mut WorkspaceClaims)| {
        let mut claims = world.claims(&[Scope::Files]);
        change(&mut claims);
        let url = world.url("files?path=/x");
        let answer = world.http.delete(url).bearer_auth(world.key.sign(&claims)).send().await.unwrap();
        assert_eq!(answer.status(), 204, "{claims:?}");
    };
    check(|_| {}).await;
    check(|c| c.epoch = 6).await;
    check(|c| (c.iat, c.exp) = (now() - 900, now() - 20)).await;
    check(|c| (c.iat, c.exp) = (now() + 20, now() + 3620)).await;
}

#[tokio::test]
async fn every_resource_asks_for_its_scope() {
    let world = World::new(nobody).await;
    let exec = model::ExecId::new();
    let routes = [
        ("GET", "execs".to_owned(), Scope::Exec),
        ("POST", "execs".into(), Scope::Exec),
        ("GET", "execs/attach".into(), Scope::Exec),
        ("GET", format!("execs/{exec}"), Scope::Exec),
        ("DELETE", format!("execs/{exec}"), Scope::Exec),
        ("POST", format!("execs/{exec}/signal"), Scope::Exec),
        ("GET", format!("execs/{exec}/attach"), Scope::Exec),
        ("GET", "processes".into(), Scope::Exec),
        ("GET", "stats".into(), Scope::Exec),
        ("GET", "files?path=/".into(), Scope::Files),
        ("PUT", "files?path=/a".into(), Scope::Files),
        ("POST", "files?path=/a".into(), Scope::Files),
        ("DELETE", "files?path=/a".into(), Scope::Files),
        ("GET", "tar?path=/".into(), Scope::Files),
        ("PUT", "tar?path=/".into(), Scope::Files),
        ("GET", "logs".into(), Scope::Logs),
        ("GET", "ports/80".into(), Scope::Ports),
    ];
    for (method, route, scope) in routes {
        let call = || world.http.request(method.parse().unwrap(), world.url(&route));
        let (status, _) = problem(call().send().await.unwrap()).await;
        assert_eq!(status, 401, "{method} {route} without a token");
        let others: Vec<Scope> = ALL.into_iter().filter(|other| *other != scope).collect();
        let (status, problem) = problem(call().bearer_auth(world.token(&others)).send().await.unwrap()).await;
        assert_eq!((status, problem.code), (403, Code::Forbidden), "{method} {route} with the other scopes");
    }
}

#[tokio::test]
async fn one_token_and_where_it_may_be() {
    let world = World::new(done).await;
    let token = world.token(&ALL);
    let url = || world.url("files?path=/x");
    let in_query = world.http.delete(format!("{}&token={token}&access_token={token}", url()));
    assert_eq!(problem(in_query.send().await.unwrap()).await.0, 401);
    let twice =
        world.http.delete(url()).bearer_auth(&token).header("authorization", format!("Bearer {token}"));
    assert_eq!(problem(twice.send().await.unwrap()).await.0, 401);
    // Only an upgrade may carry it among its subprotocols.
    let plain =
        world.http.delete(url()).header("sec-websocket-protocol", format!("cofferdam.v1, bearer.{token}"));
    assert_eq!(problem(plain.send().await.unwrap()).await.0, 401);
    let basic = world.http.delete(url()).basic_auth("x", Some(&token));
    assert_eq!(problem(basic.send().await.unwrap()).await.0, 401);
    let lower = world.http.delete(url()).header("authorization", format!("bearer {token}"));
    assert_eq!(lower.send().await.unwrap().status(), 204);
}

#[tokio::test]
async fn a_raised_epoch_cuts_what_is_open() {
    let mut world = World::new(async |mut peer: Peer| {
        peer.request().await;
        peer.reply(::channel::Reply::Streaming).await;
        peer.send(::channel::Kind::Data1, b"so far").await;
        peer.closed().await;
    })
    .await;
    let mut logs = world.get("logs?follow=true").send().await.unwrap();
    assert_eq!(logs.chunk().await.unwrap().unwrap(), "so far");
    // The same state again changes nothing for those who are there.
    world.state(5, Condition::Running).await;
    world.settled().await;
    world.state(6, Condition::Running).await;
    assert!(logs.chunk().await.is_err(), "cut, not ended");
    assert_eq!(with(&world, &world.token(&ALL)).await.1, Code::Unauthenticated);
}

#[tokio::test]
async fn a_token_that_was_good_before_is_looked_at_anew() {
    let mut world = World::new(done).await;
    let token = world.token(&[Scope::Files]);
    // One connection, kept: the client has no other.
    let once = async |world: &World| {
        let answer = world.http.delete(world.url("files?path=/x")).bearer_auth(&token).send().await.unwrap();
        answer.status().as_u16()
    };
    assert_eq!((once(&world).await, once(&world).await), (204, 204));
    assert_eq!(with(&world, &token).await.1, Code::Forbidden, "of its scopes nothing is forgotten");
    let (head, signature) = token.rsplit_once('.').unwrap();
    assert_eq!(with(&world, &format!("{head}.{}", signature.to_lowercase())).await.0, 401);

    let channel = world.socket().to_str().unwrap().to_owned();
    let agent = |token_epoch| GateAgent {
        authority: None,
        id: world.agent,
        channel: channel.clone(),
        token_epoch,
        condition: Condition::Running,
        policy: None,
    };
    let (revoked, back) = (agent(6), agent(5));
    world.tell(&ToGate::Agents { set: vec![revoked], gone: Vec::new() }).await;
    let newer = world.key.sign(&WorkspaceClaims { epoch: 6, ..world.claims(&ALL) });
    world.settled_with(newer).await;
    assert_eq!(once(&world).await, 401, "its epoch is over");
    world.tell(&ToGate::Agents { set: vec![back], gone: Vec::new() }).await;
    world.settled().await;
    assert_eq!(once(&world).await, 204);
    // A key that is no longer accepted takes along what it signed.
    let key = std::mem::replace(&mut world.key, Key::new());
    world.state(5, Condition::Running).await;
    world.settled().await;
    assert_eq!(once(&world).await, 401);
    world.key = key;
    world.state(5, Condition::Running).await;
    world.settled().await;
    assert_eq!(once(&world).await, 204);
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn an_agent_that_control_told_of_first_is_waited_for() {
    let mut world = World::patient(HOUR, nobody).await;
    world.agent = AgentId::new();
    serve_init(world.socket(), done);
    let mut calls = JoinSet::new();
    for _ in 0..=limits::CALLS_AHEAD_OF_ONE {
        calls.spawn(world.http.delete(world.url("files?path=/x")).bearer_auth(world.token(&ALL)).send());
    }
    // All places are taken when one finds none.
    assert_eq!(calls.join_next().await.unwrap().unwrap().unwrap().status(), 404);
    let (id, channel) = (world.agent, world.socket().to_str().unwrap().to_owned());
    let agent = GateAgent {
        authority: None,
        id,
        channel,
        token_epoch: 5,
        condition: Condition::Running,
        policy: None,
    };
    world.tell(&ToGate::Agents { set: vec![agent], gone: Vec::new() }).await;
    for answer in calls.join_all().await {
        assert_eq!(answer.unwrap().status(), 204);
    }
}

#[tokio::test]
async fn an_agent_that_went_away_is_not_waited_for() {
    let mut world = World::patient(HOUR, done).await;
    let (first, other) = (world.agent, AgentId::new());
    let channel = world.socket().to_str().unwrap().to_owned();
    let known = |id| GateAgent {
        authority: None,
        id,
        channel: channel.clone(),
        token_epoch: 5,
        condition: Condition::Running,
        policy: None,
    };
    let news = [
        ToGate::Agents { set: vec![known(other)], gone: vec![first] },
        ToGate::Agents { set: vec![known(first)], gone: Vec::new() },
        world.state_message(vec![known(other)]),
    ];
    for (news, here) in news.into_iter().zip([false, true, false]) {
        world.tell(&news).await;
        world.agent = other;
        world.settled().await;
        world.agent = first;
        let call = world.http.delete(world.url("files?path=/x")).bearer_auth(world.token(&ALL)).send();
        assert_eq!(call.await.unwrap().status(), if here { 204 } else { 404 });
    }
}
