//! Questions: what waits on nodes, who looks, and what is decided.

mod answers;
mod log;

use super::world::{Machine, World};
use model::AgentId;
use model::agent::Observed;
use model::clock::Clock;
use model::egress::{Answer, Attention, EgressReport, Question, Waiting};
use model::policy::{Action, Policy, Rule};
use serde_json::{Value, json};
use std::time::Duration;
use time::Duration as Span;

/// A policy that asks about what it does not know.
fn asks() -> Value {
    json!({"version": 1, "egress": {"preset": "allowlist", "bundles": ["github"], "unknown": "hold"}})
}

async fn world() -> (World, Machine) {
    let world = World::new().await;
    let machine = Machine::enrolled(&world, "node-1", 12).await;
    world.image().await;
    (world, machine)
}

/// Makes an agent that asks.
async fn agent(world: &World, name: &str) -> String {
    let made = json!({"name": name, "image": "debian", "policy": asks()});
    world.post("/v1/agents", made).await.expect(201)["id"].as_str().unwrap().to_owned()
}

fn question(world: &World, host: &str) -> Question {
    // A node knows its questions to the last digit.
    let asked = world.clock.now() - Span::nanoseconds(1);
    Question { host: host.to_owned(), port: 443, asked, until: asked + Span::minutes(2) }
}

fn waiting(agent: &str, questions: Vec<Question>) -> EgressReport {
    let waiting = Waiting { agent: agent.parse().unwrap(), account: None, questions };
    EgressReport { questions: Some(vec![waiting]), ..EgressReport::default() }
}

/// Lets an agent ask about this host.
pub(super) async fn asks_about(world: &World, machine: &Machine, agent: &str, host: &str) {
    machine.egress(world, &waiting(agent, vec![question(world, host)])).await;
}

/// Lets an agent ask about these hosts, and tells the ids of the questions.
pub(super) async fn asked(world: &World, machine: &Machine, agent: &str, hosts: &[&str]) -> Vec<String> {
    let questions = hosts.iter().map(|host| question(world, host)).collect();
    machine.egress(world, &waiting(agent, questions)).await;
    let items = list(world, "").await["items"].clone();
    let id = |host: &&str| {
        let item = items.as_array().unwrap().iter().find(|item| item["host"] == **host);
        item.unwrap_or_else(|| panic!("{host} does not wait: {items}"))["id"].as_str().unwrap().to_owned()
    };
    hosts.iter().map(id).collect()
}

async fn list(world: &World, query: &str) -> Value {
    world.get(&format!("/v1/egress/questions{query}")).await.expect(200)
}

async fn answer(world: &World, id: &str, decision: &str) -> Value {
    world.post(&format!("/v1/egress/questions/{id}/answer"), json!({"decision": decision})).await.expect(200)
}

async fn policy(world: &World, agent: &str) -> Policy {
    let policy = world.get(&format!("/v1/agents/{agent}/policy")).await.expect(200);
    serde_json::from_value(policy).unwrap()
}

async fn attention(world: &World, machine: &Machine) -> Vec<Attention> {
    machine.desired(world, "").await.attention
}

fn allow(host: &str) -> Rule {
    Rule::of(Action::Allow, host, Some(443))
}

async fn events(world: &World, kind: &str) -> Vec<Value> {
    let events = world.get("/v1/events?limit=200").await.expect(200);
    events["items"].as_array().unwrap().iter().filter(|event| event["kind"] == kind).cloned().collect()
}

#[tokio::test]
async fn a_question_is_there_until_its_node_lists_it_no_more() {
    let (world, machine) = world().await;
    let id = agent(&world, "a").await;
    let (one, two) = (question(&world, "one.example"), question(&world, "2001:db8::1"));
    machine.egress(&world, &waiting(&id, vec![one.clone(), two.clone()])).await;
    let listed = list(&world, "").await;
    let items = listed["items"].as_array().unwrap();
    assert_eq!(items.len(), 2);
    let item = items.iter().find(|item| item["host"] == "one.example").unwrap();
    assert_eq!((&item["agent"], &item["name"], &item["port"]), (&json!(id), &json!("a"), &json!(443)));
    assert_eq!(list(&world, "?agent=a").await, listed);
    // The same once more is no news; no word on questions is none either.
    machine.egress(&world, &waiting(&id, vec![two.clone(), one.clone()])).await;
    machine.egress(&world, &EgressReport::default()).await;
    assert_eq!(list(&world, "").await, listed);
    assert_eq!(events(&world, "egress.asked").await.len(), 2);

    machine.egress(&world, &waiting(&id, vec![one])).await;
    let left = list(&world, "").await;
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_ne!(left["revision"], listed["revision"]);
    machine.egress(&world, &EgressReport { questions: Some(Vec::new()), ..Default::default() }).await;
    assert_eq!(list(&world, "").await["items"], json!([]));
    let told = events(&world, "egress.asked").await;
    assert!(told.iter().any(|event| event["detail"] == json!({"host": "one.example", "port": 443})));
    assert!(
        told.iter().all(|event| event["subject"] == json!(id) && event["actor"] == machine.id.to_string())
    );
}

#[tokio::test]
async fn a_question_is_over_with_its_time_also_when_its_node_is_gone() {
    let (world, machine) = world().await;
    let id = agent(&world, "a").await;
    let waits = asked(&world, &machine, &id, &["one.example"]).await;
    world.clock.forward(Span::seconds(121));
    assert_eq!(list(&world, "").await["items"], json!([]));
    let late =
        world.post(&format!("/v1/egress/questions/{}/answer", waits[0]), json!({"decision": "once"})).await;
    assert_eq!(late.problem().0, "NOT_FOUND");
    assert!(late.json["remedy"].as_str().unwrap().contains("/v1/egress/questions"), "{}", late.json);
    world.clock.forward(Span::hours(2));
    assert!(world.app.store.remove_expired().await.unwrap() >= 1);

    // A node whose clock is wrong says how long, if not until when.
    let now = world.clock.now();
    for asked in [now - Span::days(400), now + Span::days(400)] {
        let odd = Question { asked, until: asked + Span::seconds(100), ..question(&world, "odd.example") };
        machine.egress(&world, &waiting(&id, vec![odd])).await;
        let item = list(&world, "").await["items"][0].clone();
        let until = item["until"].as_str().unwrap();
        let format = &time::format_description::well_known::Rfc3339;
        let left = time::OffsetDateTime::parse(until, format).unwrap() - now;
        assert!(left > Span::seconds(99) && left <= Span::seconds(100), "{left}");
    }
    let forever = Question { until: now + Span::days(9), ..question(&world, "forever.example") };
    machine.egress(&world, &waiting(&id, vec![forever])).await;
    assert_eq!(list(&world, "").await["items"].as_array().unwrap().len(), 1);
    world.clock.forward(Span::minutes(11));
    assert_eq!(list(&world, "").await["items"], json!([]));
}

#[tokio::test]
async fn only_what_can_become_a_rule_is_a_question() {
    let (world, machine) = world().await;
    let id = agent(&world, "a").await;
    let hosts = [
        "*.com",
        "*",
        "",
        "10.0.0.0/8",
        "UPPER.example",
        "a.example.",
        "a b",
        "a\u{1b}[2J",
        "::ffff:10.0.0.1",
        "0x7f.1",
        "2001:DB8::1",
        "[::1]",
        "münchen.example",
        "a:443",
    ];
    let mut questions: Vec<Question> = hosts.iter().map(|host| question(&world, host)).collect();
    questions.push(Question { port: 0, ..question(&world, "port.example") });
    machine.egress(&world, &waiting(&id, questions)).await;
    assert_eq!(list(&world, "").await["items"], json!([]));

    // As many as there may be at once, however they are told.
    let many = |from: usize| (from..from + 40).map(|n| question(&world, &format!("h{n}.example"))).collect();
    let mut report = waiting(&id, many(0));
    report.questions.as_mut().unwrap().extend(waiting(&id, many(100)).questions.unwrap());
    machine.egress(&world, &report).await;
    assert_eq!(list(&world, "").await["items"].as_array().unwrap().len(), model::egress::MAX_QUESTIONS);
    // Nor does an agent fill the ledger with them.
    for round in 0..5 {
        machine.egress(&world, &waiting(&id, many(1000 * round))).await;
    }
    assert_eq!(events(&world, "egress.asked").await.len(), 60);
}

#[tokio::test]
async fn nodes_ask_for_their_own_agents_only() {
    let (world, machine) = world().await;
    let id = agent(&world, "a").await;
    let other = Machine::enrolled(&world, "node-2", 1).await;
    other.egress(&world, &waiting(&id, vec![question(&world, "evil.example")])).await;
    let nobody = AgentId::new().to_string();
    machine.egress(&world, &waiting(&nobody, vec![question(&world, "evil.example")])).await;
    assert_eq!(list(&world, "").await["items"], json!([]));
    assert!(events(&world, "egress.asked").await.is_empty());
    let waits = asked(&world, &machine, &id, &["one.example"]).await;
    // What another node says of all its questions, which are none, is not about these.
    other.egress(&world, &EgressReport { questions: Some(Vec::new()), ..Default::default() }).await;
    assert_eq!(list(&world, "").await["items"][0]["id"], waits[0]);

    // Nor does another account see, answer or look after them.
    let theirs = world.call_as(&world.other, "GET", "/v1/egress/questions", None).await.expect(200);
    assert_eq!(theirs["items"], json!([]));
    let path = format!("/v1/egress/questions?agent={id}");
    assert_eq!(world.call_as(&world.other, "GET", &path, None).await.problem().0, "NOT_FOUND");
    for (id, decision) in [(waits[0].as_str(), "once"), ("x", "once"), ("qst_", "deny")] {
        let path = format!("/v1/egress/questions/{id}/answer");
        let body = json!({"decision": decision});
        assert_eq!(world.call_as(&world.other, "POST", &path, Some(body)).await.problem().0, "NOT_FOUND");
    }
    let path = format!("/v1/egress/questions/{}/answer", waits[0]);
    assert_eq!(world.post(&path, json!({"decision": "perhaps"})).await.problem().1, Some("decision"));
    assert_eq!(list(&world, "").await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn who_looks_is_told_to_the_nodes() {
    let (world, machine) = world().await;
    let (one, two) = (agent(&world, "a").await, agent(&world, "b").await);
    let far = Machine::enrolled(&world, "node-2", 1).await;
    assert!(attention(&world, &machine).await.is_empty());
    let before = machine.desired(&world, "").await;
    let far_before = far.desired(&world, "").await.rev;

    // The node that waits hears of it at once, beside agents that did not change.
    let query = format!("?rev={}&epoch={}&wait=30", before.rev, before.database_epoch);
    let began = std::time::Instant::now();
    let look = async {
        tokio::task::yield_now().await;
        list(&world, "?agent=a").await
    };
    let (told, _) = tokio::join!(machine.desired(&world, &query), look);
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(told.rev > before.rev && told.agents.is_empty());
    let until = told.attention[0].watched_until.unwrap();
    assert_eq!(told.attention.len(), 1);
    assert_eq!((told.attention[0].agent.to_string(), &told.attention[0].answers), (one.clone(), &Vec::new()));
    let left = until - world.clock.now();
    assert!(left > Span::seconds(89) && left <= Span::seconds(90), "{left}");

    // It is not noted anew while half of it is left, and then once.
    world.clock.forward(Span::seconds(44));
    list(&world, "?agent=a").await;
    assert_eq!(machine.desired(&world, "").await.rev, told.rev);
    world.clock.forward(Span::seconds(2));
    list(&world, "?agent=a").await;
    list(&world, "?agent=a").await;
    let again = machine.desired(&world, "").await;
    assert_eq!(again.rev, told.rev + 1);
    assert_eq!(again.attention[0].watched_until.unwrap() - until, Span::seconds(46));

    // Of all agents, also of those that are made meanwhile.
    list(&world, "").await;
    let third = agent(&world, "c").await;
    let mut watched: Vec<String> =
        attention(&world, &machine).await.iter().map(|one| one.agent.to_string()).collect();
    watched.sort();
    assert_eq!(watched, [one.clone(), two.clone(), third.clone()]);
    // Who looks after all looks after each.
    let rev = machine.desired(&world, "").await.rev;
    list(&world, "?agent=b").await;
    assert_eq!(machine.desired(&world, "").await.rev, rev);
    // Nobody looks after what is to be no more.
    world.call_as(&world.key, "DELETE", "/v1/agents/c", None).await.expect(200);
    assert_eq!(attention(&world, &machine).await.len(), 2);

    // It ends by itself.
    world.clock.forward(Span::seconds(91));
    assert!(attention(&world, &machine).await.is_empty());
    // A node without agents of the account hears nothing of all that.
    assert_eq!(far.desired(&world, "").await.rev, far_before);
    assert!(attention(&world, &far).await.is_empty());
}

#[tokio::test]
async fn a_question_is_heard_of_at_once() {
    let (world, machine) = world().await;
    let id = agent(&world, "a").await;
    let empty = list(&world, "").await;
    let query = format!("?since={}&wait=30", empty["revision"]);
    let began = std::time::Instant::now();
    let ask = async {
        tokio::task::yield_now().await;
        asked(&world, &machine, &id, &["one.example"]).await
    };
    let (heard, waits) = tokio::join!(list(&world, &query), ask);
    assert_eq!(heard["items"][0]["id"], waits[0]);
    // Another agent's questions change nothing for who looks after one.
    agent(&world, "b").await;
    let other = list(&world, "?agent=b").await;
    let same = list(&world, &format!("?agent=b&since={}&wait=0", other["revision"])).await;
    assert_eq!(same, other);
    // An answer is a change as well.
    let query = format!("?since={}&wait=30", heard["revision"]);
    let decide = async {
        tokio::task::yield_now().await;
        answer(&world, &waits[0], "once").await
    };
    let (after, _) = tokio::join!(list(&world, &query), decide);
    assert_eq!((&after["items"], &after["revision"]), (&json!([]), &empty["revision"]));
    let ending = async {
        tokio::task::yield_now().await;
        world.app.ending.cancel();
    };
    let query = format!("?since={}&wait=30", after["revision"]);
    tokio::join!(list(&world, &query), ending);
    assert!(began.elapsed() < Duration::from_secs(10));
    for (query, field) in
        [("?wait=61", "wait"), ("?since=-1", "since"), ("?agent=a&agent=b", "agent"), ("?all=1", "all")]
    {
        let answer = world.get(&format!("/v1/egress/questions{query}")).await;
        assert_eq!(answer.problem(), ("VALIDATION_ERROR", Some(field)), "{query}");
    }
}

#[tokio::test]
async fn what_is_destroyed_asks_nothing() {
    let (world, machine) = world().await;
    let id = agent(&world, "a").await;
    let waits = asked(&world, &machine, &id, &["one.example", "two.example"]).await;
    answer(&world, &waits[0], "once").await;
    world.call_as(&world.key, "DELETE", "/v1/agents/a", None).await.expect(200);
    assert_eq!(list(&world, "").await["items"], json!([]));
    assert!(attention(&world, &machine).await.is_empty());
    let path = format!("/v1/egress/questions/{}/answer", waits[1]);
    assert_eq!(world.post(&path, json!({"decision": "once"})).await.problem().0, "NOT_FOUND");
    // Its gate may not have heard of it.
    machine.egress(&world, &waiting(&id, vec![question(&world, "three.example")])).await;
    assert_eq!(list(&world, &format!("?agent={id}")).await["items"], json!([]));
}

#[tokio::test]
async fn a_restart_forgets_nothing() {
    let (mut world, machine) = world().await;
    let id = agent(&world, "a").await;
    let waits = asked(&world, &machine, &id, &["once.example", "later.example"]).await;
    answer(&world, &waits[0], "once").await;
    let (open, told) = (list(&world, "").await, attention(&world, &machine).await);
    world.switch(world.config.mode).await;
    assert_eq!(list(&world, "").await, open);
    assert_eq!(attention(&world, &machine).await, told);
    let query = format!("?since={}&wait=0", open["revision"]);
    assert_eq!(list(&world, &query).await["revision"], open["revision"]);
    answer(&world, &waits[1], "always").await;
    world.switch(world.config.mode).await;
    agent(&world, "b").await;
    assert_eq!(policy(&world, "b").await.egress.rules, [allow("later.example")]);
}

#[tokio::test]
async fn a_node_full_of_questions_can_tell_of_them() {
    let (world, machine) = world().await;
    let id = agent(&world, "a").await;
    // Long names, for a hundred agents and for a thousand.
    let name = format!("{}example", format!("{}.", "x".repeat(60)).repeat(4));
    let questions = vec![question(&world, &name[..240]); model::egress::MAX_QUESTIONS];
    let send = async |agents: usize| {
        let agents = (1..agents).map(|_| AgentId::new()).chain([id.parse().unwrap()]);
        let waiting =
            agents.map(|agent| Waiting { agent, account: None, questions: questions.clone() }).collect();
        let report = EgressReport { questions: Some(waiting), ..EgressReport::default() };
        let body = serde_json::to_value(&report).unwrap();
        world.call_as(&machine.token, "POST", "/node/v1/egress", Some(body)).await
    };
    assert_eq!(send(1000).await.problem().0, "TOO_LARGE");
    send(100).await.expect(204);
    assert_eq!(list(&world, "").await["items"].as_array().unwrap().len(), 1);
}
