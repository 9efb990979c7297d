//! The log of what left agents.

use super::events;
use crate::tests::world::{Machine, World};
use model::AgentId;
use model::agent::Observed;
use model::clock::Clock;
use model::egress::{Connection, EgressReport, LogEntry, Lost, Outcome, Record};
use model::policy::Protocol;
use serde_json::{Value, json};
use std::time::Duration;
use time::Duration as Span;

async fn world() -> (World, Machine, String) {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 8).await;
    world.image().await;
    let id = world.agent("a").await;
    (world, machine, id)
}

fn connection(world: &World, host: &str, outcome: Outcome) -> Connection {
    Connection {
        credentials: Vec::new(),
        at: world.clock.now() - Span::seconds(3),
        host: host.to_owned(),
        port: Some(443),
        address: Some("192.0.2.1:443".parse().unwrap()),
        protocol: Some(Protocol::Tls),
        outcome,
        by: "bundle github".to_owned(),
        sent: 10,
        received: 20,
        duration_ms: 3000,
        end: Some("closed".to_owned()),
        count: 1,
    }
}

fn report(agent: &str, connections: Vec<Connection>) -> EgressReport {
    let agent = agent.parse().unwrap();
    let records =
        connections.into_iter().map(|connection| Record { agent, account: None, connection }).collect();
    EgressReport { records, ..EgressReport::default() }
}

/// Reports connections to these hosts, in this order.
async fn passed(world: &World, machine: &Machine, agent: &str, hosts: &[&str]) {
    let connections = hosts.iter().map(|host| connection(world, host, Outcome::Passed)).collect();
    machine.egress(world, &report(agent, connections)).await;
}

async fn denied(world: &World, machine: &Machine, agent: &str, hosts: &[&str]) {
    let connections = hosts.iter().map(|host| connection(world, host, Outcome::Denied)).collect();
    machine.egress(world, &report(agent, connections)).await;
}

async fn log(world: &World, query: &str) -> Value {
    world.get(&format!("/v1/egress/log{query}")).await.expect(200)
}

fn hosts(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|item| item["host"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn the_log_is_read_by_pages_newest_first() {
    let (world, machine, id) = world().await;
    let other = world.agent("b").await;
    passed(&world, &machine, &id, &["1.example", "2.example", "3.example"]).await;
    denied(&world, &machine, &other, &["4.example"]).await;
    passed(&world, &machine, &id, &["5.example"]).await;
    let whole = log(&world, "").await;
    assert_eq!(hosts(&whole), ["5.example", "4.example", "3.example", "2.example", "1.example"]);
    assert!(whole.get("next").is_none());
    let entry: LogEntry = serde_json::from_value(whole["items"][4].clone()).unwrap();
    assert_eq!(entry.connection, connection(&world, "1.example", Outcome::Passed));
    assert_eq!(entry.agent.to_string(), id);
    assert_eq!(hosts(&log(&world, "?agent=b").await), ["4.example"]);
    assert_eq!(hosts(&log(&world, "?outcome=denied").await), ["4.example"]);
    assert_eq!(hosts(&log(&world, "?outcome=passed&agent=b").await), [""; 0]);
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = log(&world, &format!("?agent={id}&limit=3{cursor}")).await;
        seen.extend(hosts(&page).into_iter().map(str::to_owned));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["5.example", "3.example", "2.example", "1.example"]);
    for (query, field) in [
        ("?limit=0", "limit"),
        ("?limit=201", "limit"),
        ("?cursor=x", "cursor"),
        ("?outcome=lost", "outcome"),
        ("?after=-1", "after"),
        ("?after=0&cursor=MQ", "cursor"),
        ("?wait=1", "wait"),
        ("?after=0&wait=61", "wait"),
        ("?host=a", "host"),
    ] {
        let answer = world.get(&format!("/v1/egress/log{query}")).await;
        assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some(field)), "{query}");
    }
    assert_eq!(world.get("/v1/egress/log?agent=nobody").await.problem().0, "NOT_FOUND");
}

#[tokio::test]
async fn the_log_is_followed() {
    let (world, machine, id) = world().await;
    let other = world.agent("b").await;
    assert_eq!(log(&world, "?after=0").await["items"], json!([]));
    passed(&world, &machine, &id, &["1.example", "2.example", "3.example"]).await;
    let first = log(&world, "?after=0&limit=2").await;
    assert_eq!(hosts(&first), ["1.example", "2.example"]);
    let last = |page: &Value| page["items"].as_array().unwrap().last().unwrap()["id"].as_u64().unwrap();
    let rest = log(&world, &format!("?after={}&wait=60", last(&first))).await;
    assert_eq!(hosts(&rest), ["3.example"]);
    // Another agent's records are not what is waited for.
    let began = std::time::Instant::now();
    let query = format!("?agent=a&outcome=passed&after={}&wait=30", last(&rest));
    let later = async {
        tokio::task::yield_now().await;
        passed(&world, &machine, &other, &["4.example"]).await;
        denied(&world, &machine, &id, &["5.example"]).await;
        passed(&world, &machine, &id, &["6.example"]).await;
    };
    let (page, ()) = tokio::join!(log(&world, &query), later);
    assert_eq!(hosts(&page), ["6.example"]);
    let ending = async {
        tokio::task::yield_now().await;
        world.app.ending.cancel();
    };
    let query = format!("?after={}&wait=30", last(&page));
    let (page, ()) = tokio::join!(log(&world, &query), ending);
    assert_eq!(page["items"], json!([]));
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn nodes_tell_of_their_own_agents_and_accounts_hear_of_theirs() {
    let (world, machine, id) = world().await;
    let far = Machine::enrolled(&world, "node-2", 1).await;
    let nobody = AgentId::new().to_string();
    for (from, agent) in [(&far, &id), (&machine, &nobody)] {
        passed(&world, from, agent, &["forged.example"]).await;
        denied(&world, from, agent, &["forged.example"]).await;
        let lost = vec![Lost { agent: agent.parse().unwrap(), account: None, count: 3 }];
        from.egress(&world, &EgressReport { lost, ..EgressReport::default() }).await;
    }
    assert_eq!(log(&world, "").await["items"], json!([]));
    let known = world.get("/v1/events?limit=200").await.expect(200).to_string();
    assert!(!known.contains("egress."), "{known}");

    passed(&world, &machine, &id, &["1.example"]).await;
    let theirs = world.call_as(&world.other, "GET", "/v1/egress/log", None).await.expect(200);
    assert_eq!(theirs["items"], json!([]));
    let theirs = world.call_as(&world.other, "GET", "/v1/egress/log?after=0", None).await.expect(200);
    assert_eq!(theirs["items"], json!([]));
    for key in ["a", &id] {
        let path = format!("/v1/egress/log?agent={key}");
        assert_eq!(world.call_as(&world.other, "GET", &path, None).await.problem().0, "NOT_FOUND");
    }
}

#[tokio::test]
async fn what_nodes_say_is_cut_and_cleaned() {
    let (world, machine, id) = world().await;
    let hostile = Connection {
        at: world.clock.now() + Span::days(9),
        host: format!("\u{1b}[2J\u{202e}{}", "é".repeat(400)),
        by: format!("rule\n1\u{0}{}", "é".repeat(200)),
        end: Some("\u{9b}31m\u{7f}".to_owned()),
        sent: u64::MAX,
        received: u64::MAX,
        duration_ms: u64::MAX,
        count: 0,
        ..connection(&world, "", Outcome::Failed)
    };
    machine.egress(&world, &report(&id, vec![hostile])).await;
    let entry = log(&world, "").await["items"][0].clone();
    let entry: LogEntry = serde_json::from_value(entry).unwrap();
    let Connection { at, host, by, end, sent, received, duration_ms, count, .. } = entry.connection;
    assert!(host.len() <= 253 && host.chars().all(|c| c.is_ascii_graphic()), "{host}");
    assert!(host.starts_with("?[2J??"));
    assert!(by.starts_with("rule 1 é") && by.len() <= model::egress::MAX_TEXT, "{by}");
    assert_eq!(end.as_deref(), Some(" 31m "));
    assert!(at <= world.clock.now());
    assert_eq!((sent, received, duration_ms, count), ((1 << 53) - 1, (1 << 53) - 1, (1 << 53) - 1, 1));

    let post = async |body: Value| world.call_as(&machine.token, "POST", "/node/v1/egress", Some(body)).await;
    let one = serde_json::to_value(&report(&id, vec![connection(&world, "a", Outcome::Passed)]).records[0])
        .unwrap();
    let many = json!({"records": vec![one.clone(); model::egress::MAX_RECORDS + 1]});
    assert_eq!(post(many).await.problem(), ("VALIDATION_ERROR", Some("records")));
    post(json!({"records": vec![one; model::egress::MAX_RECORDS]})).await.expect(204);
    for (body, field) in [
        (json!({"records": [{"agent": id}]}), "records[0].connection"),
        (json!({"records": {}}), "records"),
        (json!({"questions": [{"agent": "x", "questions": []}]}), "questions[0].agent"),
        (json!({"log": []}), "log"),
    ] {
        assert_eq!(post(body).await.problem(), ("VALIDATION_ERROR", Some(field)));
    }
}

#[tokio::test]
async fn what_is_refused_is_told_to_the_ledger_once_in_a_while() {
    let (mut world, machine, id) = world().await;
    let again = Connection {
        count: 5,
        by: "unknown".to_owned(),
        ..connection(&world, "no.example", Outcome::Denied)
    };
    let other_port = Connection { port: Some(80), ..again.clone() };
    let lookup = Connection { port: None, ..again.clone() };
    let all = vec![
        again.clone(),
        again.clone(),
        other_port,
        lookup,
        connection(&world, "ok.example", Outcome::Passed),
    ];
    machine.egress(&world, &report(&id, all)).await;
    let told = events(&world, "egress.denied").await;
    assert_eq!(told.len(), 3);
    let expected = json!({"host": "no.example", "port": 443, "by": "unknown", "count": 10});
    assert!(told.iter().any(|event| event["detail"] == expected), "{told:?}");
    assert!(
        told.iter().all(|event| event["subject"] == json!(id) && event["actor"] == machine.id.to_string())
    );
    // Neither within ten minutes, nor after a restart in between.
    world.clock.forward(Span::minutes(9));
    machine.egress(&world, &report(&id, vec![again.clone()])).await;
    world.switch(world.config.mode).await;
    machine.egress(&world, &report(&id, vec![again.clone()])).await;
    assert_eq!(events(&world, "egress.denied").await.len(), 3);
    world.clock.forward(Span::minutes(1));
    machine.egress(&world, &report(&id, vec![again])).await;
    assert_eq!(events(&world, "egress.denied").await.len(), 4);

    // Whatever an agent tries, its ledger does not grow with it; another's does.
    let names: Vec<String> = (0..100).map(|n| format!("h{n}.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.clock.forward(Span::minutes(10));
    for chunk in names.chunks(7) {
        denied(&world, &machine, &id, chunk).await;
    }
    assert_eq!(events(&world, "egress.denied").await.len(), 24);
    let other = world.agent("b").await;
    denied(&world, &machine, &other, &["h0.example"]).await;
    assert_eq!(events(&world, "egress.denied").await.len(), 25);
    world.clock.forward(Span::minutes(10));
    denied(&world, &machine, &id, &names).await;
    assert_eq!(events(&world, "egress.denied").await.len(), 45);
    // A clock that is set back is no reason to be silent until it is there again.
    world.clock.forward(Span::days(-1));
    denied(&world, &machine, &id, &["back.example"]).await;
    assert_eq!(events(&world, "egress.denied").await.len(), 46);

    let lost = |count| EgressReport {
        lost: vec![Lost { agent: id.parse().unwrap(), account: None, count }],
        ..EgressReport::default()
    };
    for count in [0, 7, 8] {
        machine.egress(&world, &lost(count)).await;
    }
    let told = events(&world, "egress.log_lost").await;
    assert_eq!((told.len(), &told[0]["detail"]), (1, &json!({"count": 7})));
    world.clock.forward(Span::minutes(10));
    machine.egress(&world, &lost(9)).await;
    assert_eq!(events(&world, "egress.log_lost").await.len(), 2);
}

#[tokio::test]
async fn the_log_outlives_its_agent_and_ends_with_its_time() {
    let (mut world, mut machine, id) = world().await;
    passed(&world, &machine, &id, &["1.example"]).await;
    world.call_as(&world.key, "DELETE", "/v1/agents/a", None).await.expect(200);
    machine.saw(&world, &id, 2, Observed::Destroyed).await;
    // What ended with the agent comes when it is gone.
    passed(&world, &machine, &id, &["2.example"]).await;
    world.switch(world.config.mode).await;
    assert_eq!(hosts(&log(&world, &format!("?agent={id}")).await), ["2.example", "1.example"]);
    assert_eq!(world.app.keep_egress, Span::days(30));
    world.clock.forward(Span::days(29));
    machine.renew(&world).await;
    // One that began before the others is not older for that.
    let long = Connection {
        at: world.clock.now() - Span::days(40),
        ..connection(&world, "3.example", Outcome::Passed)
    };
    machine.egress(&world, &report(&id, vec![long])).await;
    assert_eq!(world.app.store.cut_egress_log(world.app.keep_egress).await.unwrap(), 0);
    world.clock.forward(Span::days(1));
    assert_eq!(world.app.store.cut_egress_log(world.app.keep_egress).await.unwrap(), 2);
    let left = log(&world, "").await;
    assert_eq!(hosts(&left), ["3.example"]);
    world.clock.forward(Span::days(30));
    machine.renew(&world).await;
    assert_eq!(world.app.store.cut_egress_log(world.app.keep_egress).await.unwrap(), 1);
    // Who follows misses nothing: no number is given again.
    passed(&world, &machine, &id, &["4.example"]).await;
    let query = format!("?after={}", left["items"][0]["id"]);
    assert_eq!(hosts(&log(&world, &query).await), ["4.example"]);
}

#[tokio::test]
async fn of_one_agent_so_many_records_are_kept() {
    let (world, mut machine, id) = world().await;
    let other = world.agent("b").await;
    passed(&world, &machine, &other, &["other.example"]).await;
    let some = report(&id, vec![connection(&world, "old.example", Outcome::Passed); 500]);
    for _ in 0..40 {
        machine.egress(&world, &some).await;
    }
    let count = async || {
        let filter =
            store::EgressFilter { account: world.account().await, agent: id.parse().ok(), outcome: None };
        world.app.store.egress_log(&filter, None, 1_000_000).await.unwrap().items.len()
    };
    assert_eq!(count().await, 20_000);
    passed(&world, &machine, &id, &["1.example", "2.example", "3.example"]).await;
    assert_eq!(count().await, 20_000);
    assert_eq!(hosts(&log(&world, "?limit=3").await), ["3.example", "2.example", "1.example"]);
    assert_eq!(hosts(&log(&world, "?agent=b").await), ["other.example"], "another's are its own");
    // What is cut by age makes room.
    world.clock.forward(Span::days(31));
    machine.renew(&world).await;
    assert_eq!(world.app.store.cut_egress_log(world.app.keep_egress).await.unwrap(), 20_001);
    machine.egress(&world, &some).await;
    assert_eq!(count().await, 500);
}
