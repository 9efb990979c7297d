//! What left agents, in the database: that it stays cheap however much there is, and right whoever writes.

use super::*;
use crate::{EgressFilter, Watched};
use model::egress::{Connection, Decision, EgressReport, Outcome, Question, Record, Waiting};
use model::policy::{Preset, Unknown};

fn connection(world: &World, outcome: Outcome) -> Connection {
    Connection {
        credentials: Vec::new(),
        at: world.store.now(),
        host: "a \"quoted\" \\ host".to_owned(),
        port: None,
        address: None,
        protocol: None,
        outcome,
        by: "unknown".to_owned(),
        sent: u64::MAX,
        received: 0,
        duration_ms: 1,
        end: None,
        count: 1,
    }
}

fn records(world: &World, agent: AgentId, outcome: Outcome, count: usize) -> EgressReport {
    let record = Record { agent, account: None, connection: connection(world, outcome) };
    EgressReport { records: vec![record; count], ..EgressReport::default() }
}

/// An agent that asks about what it does not know.
async fn asking(world: &World, name: &str) -> Agent {
    let mut policy = Policy::default_of(false);
    (policy.egress.preset, policy.egress.unknown) = (Preset::Allowlist, Unknown::Hold);
    let new = NewAgent { policy: Some(policy), ..world.new_agent(name) };
    world.create(new, place).await.unwrap().0
}

fn asks(world: &World, agent: &Agent, hosts: &[&str]) -> EgressReport {
    let asked = world.store.now();
    let question = |host: &&str| Question {
        host: (*host).to_owned(),
        port: 443,
        asked,
        until: asked + Duration::minutes(2),
    };
    let waiting =
        Waiting { agent: agent.spec.id, account: None, questions: hosts.iter().map(question).collect() };
    EgressReport { questions: Some(vec![waiting]), ..EgressReport::default() }
}

fn filter(world: &World) -> EgressFilter {
    EgressFilter { account: world.account, agent: None, outcome: None }
}

both!(a_record_comes_back_as_it_was);
async fn a_record_comes_back_as_it_was(engine: Engine) {
    let world = World::on(engine).await;
    let agent = world.agent("a").await;
    world.store.record_egress(world.node, &records(&world, agent.spec.id, Outcome::Failed, 1)).await.unwrap();
    let page = world.store.egress_log(&filter(&world), None, 10).await.unwrap();
    assert_eq!(page.items[0].connection, connection(&world, Outcome::Failed));
    assert!(!page.more && page.items[0].agent == agent.spec.id);
}

both!(secrets_that_were_used_are_told_once_in_a_while);
async fn secrets_that_were_used_are_told_once_in_a_while(engine: Engine) {
    let world = World::on(engine).await;
    let agent = world.agent("a").await.spec.id;
    let record = async |host: &str| {
        let used = Connection {
            credentials: vec!["openai".parse().unwrap()],
            host: host.to_owned(),
            ..connection(&world, Outcome::Passed)
        };
        let records = vec![Record { agent, account: None, connection: used }];
        let report = EgressReport { records, ..EgressReport::default() };
        world.store.record_egress(world.node, &report).await.unwrap();
        world.count("SELECT count(*) FROM events WHERE kind = 'secret.used'").await
    };
    assert_eq!(record("a.example").await, 1);
    assert_eq!(record("a.example").await, 1);
    assert_eq!(record("b.example").await, 2);
    for number in 0..30 {
        record(&format!("{number}.example")).await;
    }
    assert_eq!(record("c.example").await, 20, "an agent does not fill the ledger");
    world.clock.0.fetch_add(600_000, Ordering::SeqCst);
    assert_eq!(record("a.example").await, 21);
}

both!(records_are_counted_by_the_database_itself);
/// The count is what the number of an agent's records is limited by; nothing may get past it.
async fn records_are_counted_by_the_database_itself(engine: Engine) {
    let world = World::on(engine).await;
    let (one, two) = (world.agent("a").await.spec.id, world.agent("b").await.spec.id);
    for (agent, count) in [(one, 3), (two, 2)] {
        world.store.record_egress(world.node, &records(&world, agent, Outcome::Passed, count)).await.unwrap();
    }
    let told = async || -> Vec<i64> {
        let counts = query("SELECT records FROM egress_counts ORDER BY agent");
        let rows = counts.fetch_all(&world.store.0.reader).await.unwrap();
        rows.iter().map(|row| row.get("records")).collect()
    };
    assert_eq!(told().await, [3, 2]);
    world.raw("DELETE FROM egress_log WHERE id <> 1 AND agent = $1", &[one.to_string()]).await.unwrap();
    assert_eq!(told().await, [1, 2]);
    world.raw("DELETE FROM egress_log", &[]).await.unwrap();
    assert!(told().await.is_empty());
    let odd = "INSERT INTO egress_log (agent, account, stored_at, outcome, record) VALUES ('a', 'b', 1, 'odd', '{}')";
    refused(world.raw(odd, &[]).await, "CHECK");
}

both!(refusals_are_cut_before_what_passed);
/// An agent makes refusals at will: they may not push out what passed.
async fn refusals_are_cut_before_what_passed(engine: Engine) {
    let world = World::on(engine).await;
    let agent = world.agent("a").await.spec.id;
    for (outcome, count) in [(Outcome::Passed, 3), (Outcome::Denied, 19_000), (Outcome::Failed, 2_000)] {
        world.store.record_egress(world.node, &records(&world, agent, outcome, count)).await.unwrap();
    }
    assert_eq!(world.count("SELECT count(*) FROM egress_log").await, 20_000);
    assert_eq!(world.count("SELECT count(*) FROM egress_log WHERE outcome = 'passed'").await, 3);
    assert_eq!(world.count("SELECT min(id) FROM egress_log WHERE outcome <> 'passed'").await, 1_007);
}

both!(an_answer_opens_no_policy_that_asks_nobody);
/// Somebody shut the agent in while a question was still listed: an answer does not open it again, nor does its node's word.
async fn an_answer_opens_no_policy_that_asks_nobody(engine: Engine) {
    let world = World::on(engine).await;
    let agent = asking(&world, "a").await;
    world.store.record_egress(world.node, &asks(&world, &agent, &["one.example"])).await.unwrap();
    let id = world.store.questions(world.account, None).await.unwrap()[0].id;
    let shut = Policy::nothing();
    world.store.set_policy(Actor::System, agent.spec.id, &shut, &NONE, None, None).await.unwrap();
    for decision in [Decision::Agent, Decision::Always] {
        let answered = world.store.answer_question(Actor::System, world.account, id, decision, None).await;
        assert!(matches!(answered, Err(Error::NotFound { what: "question" })), "{answered:?}");
    }
    assert_eq!(world.store.agent(agent.spec.id).await.unwrap().policy, Some(shut));
    assert_eq!(world.count("SELECT count(*) FROM egress_remembered").await, 0);
    // Told of once more, it is no question any longer.
    world.store.record_egress(world.node, &asks(&world, &agent, &["two.example"])).await.unwrap();
    assert_eq!(world.store.questions(world.account, None).await.unwrap(), []);
}

/// Every way to read or cut the log is by an index that gives the order as well, and a node that nobody looks at costs nothing.
#[tokio::test]
async fn nothing_is_walked_through() {
    let world = World::on(Engine::Sqlite).await;
    let plans = [
        "SELECT id, agent, record FROM egress_log WHERE account = $1 AND id < $2 ORDER BY id DESC LIMIT 9",
        "SELECT id, agent, record FROM egress_log WHERE account = $1 AND outcome = $2 AND id < $3 ORDER BY id DESC LIMIT 9",
        "SELECT id, agent, record FROM egress_log WHERE agent = $1 AND account || '' = $2 AND id > $3 ORDER BY id LIMIT 9",
        "SELECT id, agent, record FROM egress_log
         WHERE agent = $1 AND account || '' = $2 AND outcome || '' = $3 AND id > $4 ORDER BY id LIMIT 9",
        "SELECT id FROM egress_log WHERE agent = $1 ORDER BY id LIMIT 9",
        "SELECT id FROM egress_log WHERE agent = $1 AND outcome <> 'passed' ORDER BY id LIMIT 9",
        "SELECT id FROM egress_log WHERE stored_at <= $1 ORDER BY stored_at LIMIT 9",
        "SELECT at, detail FROM events WHERE subject = $1 AND kind = $2 ORDER BY rowid DESC LIMIT 9",
        "SELECT id FROM egress_questions WHERE node = $1",
        crate::egress::ATTENTION,
    ];
    for sql in plans {
        let plan = query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")));
        let rows = plan.fetch_all(&world.store.0.reader).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        let walks = |step: &&String| step.starts_with("SCAN") || step.contains("TEMP B-TREE");
        assert_eq!(plan.iter().find(walks), None, "{sql}: {plan:#?}");
    }
}

both!(who_wait_are_told_of_what_they_wait_for);
async fn who_wait_are_told_of_what_they_wait_for(engine: Engine) {
    let world = World::on(engine).await;
    let agent = asking(&world, "a").await;
    let heard = || {
        let changed = std::mem::take(&mut *world.changed.lock().unwrap());
        let told = |changed: &crate::Changed| match changed {
            crate::Changed::EgressLog(account) => Some(("log", account.to_string())),
            crate::Changed::Questions(account) => Some(("questions", account.to_string())),
            crate::Changed::Node(node) => Some(("node", node.to_string())),
            _ => None,
        };
        changed.iter().filter_map(told).collect::<Vec<_>>()
    };
    let (mine, node) = (world.account.to_string(), world.node.to_string());
    heard();
    world.store.record_egress(world.node, &records(&world, agent.spec.id, Outcome::Passed, 9)).await.unwrap();
    assert_eq!(heard(), [("log", mine.clone())]);
    let report = asks(&world, &agent, &["one.example", "two.example"]);
    world.store.record_egress(world.node, &report).await.unwrap();
    assert_eq!(heard(), [("questions", mine.clone())]);
    world.store.record_egress(world.node, &report).await.unwrap();
    assert_eq!(heard(), []);
    world.store.watch(Watched::Account(world.account)).await.unwrap();
    world.store.watch(Watched::Agent(agent.spec.id)).await.unwrap();
    assert_eq!(heard(), [("node", node.clone())]);

    let waits = world.store.questions(world.account, None).await.unwrap();
    let decide = async |id, decision| {
        world.store.answer_question(Actor::System, world.account, id, decision, None).await
    };
    let rev = world.store.rev(world.node).await.unwrap();
    decide(waits[0].id, Decision::Deny).await.unwrap();
    assert_eq!(heard(), [("node", node.clone()), ("questions", mine.clone())]);
    assert_eq!(world.store.rev(world.node).await.unwrap(), rev + 1);
    assert!(matches!(decide(waits[0].id, Decision::Once).await, Err(Error::Answered { .. })));
    world.store.order(Actor::System, agent.spec.id, Verb::Destroy, &Order::default()).await.unwrap();
    assert!(heard().contains(&("questions", mine)));
    assert!(matches!(decide(waits[1].id, Decision::Once).await, Err(Error::NotFound { .. })));
    assert_eq!(world.count("SELECT count(*) FROM egress_questions").await, 0);
}

both!(decisions_and_new_agents_at_once);
/// Of two who decide at once, one does; and what is made meanwhile either had the rule from the start or gets it.
async fn decisions_and_new_agents_at_once(engine: Engine) {
    let world = World::on(engine).await;
    let agent = asking(&world, "a").await;
    world.store.record_egress(world.node, &asks(&world, &agent, &["one.example"])).await.unwrap();
    let id = world.store.questions(world.account, None).await.unwrap()[0].id;
    let decide = || world.store.answer_question(Actor::System, world.account, id, Decision::Always, None);
    let make = async {
        let new = world.new_agent("b");
        let name = new.spec.name.clone();
        let make = |found: Found<'_>| {
            let mut policy = agent.policy.clone().unwrap();
            let hosts: Vec<_> = found.remembered.iter().map(|(host, port)| (&**host, *port)).collect();
            policy.allow_asked(&hosts);
            Ok::<_, Error>((NewAgent { policy: Some(policy), ..new }, world.node))
        };
        let image = world.image.to_string();
        let asked = Asked { account: world.account, name: &name, image: &image, secrets: &[], source: None };
        world.store.create_agent(Actor::System, asked, make, None).await.unwrap().0
    };
    let (first, made, second) = tokio::join!(decide(), make, decide());
    assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    for id in [agent.spec.id, made.spec.id] {
        let rules = world.store.agent(id).await.unwrap().policy.unwrap().egress.rules;
        assert_eq!((rules.len(), &*rules[0].host), (1, "one.example"));
    }
    assert_eq!(world.count("SELECT count(*) FROM egress_remembered").await, 1);
    assert_eq!(world.count("SELECT count(*) FROM events WHERE kind = 'egress.answered'").await, 1);
}

both!(who_looks_on_is_told_when_to_say_so_again);
async fn who_looks_on_is_told_when_to_say_so_again(engine: Engine) {
    let world = World::on(engine).await;
    let agent = asking(&world, "a").await;
    let watch = async |watched| world.store.watch(watched).await.unwrap().as_secs();
    let later = |seconds: i64| world.clock.0.fetch_add(seconds * 1000, Ordering::SeqCst);
    let (one, all) = (Watched::Agent(agent.spec.id), Watched::Account(world.account));
    assert_eq!(watch(one).await, 45);
    later(40);
    assert_eq!(watch(one).await, 5);
    let rev = world.store.rev(world.node).await.unwrap();
    later(6);
    assert_eq!((watch(one).await, watch(all).await), (45, 45));
    assert_eq!(world.store.rev(world.node).await.unwrap(), rev + 2);
    // Whoever looks after all looks after each.
    later(30);
    assert_eq!((watch(all).await, watch(one).await), (15, 15));
    // A clock that is set back leaves nobody watched for longer than there is anybody.
    later(-3600);
    assert_eq!(watch(one).await, 45);
    let until = world.store.desired(world.node, None).await.unwrap().attention[0].watched_until.unwrap();
    assert!(until - world.store.now() > Duration::hours(1), "the account is still noted as of then");
    assert_eq!(watch(all).await, 45);
    let until = world.store.desired(world.node, None).await.unwrap().attention[0].watched_until.unwrap();
    assert_eq!(until - world.store.now(), Duration::seconds(90));
    // Nobody looks after an agent that is to be no more.
    world.store.order(Actor::System, agent.spec.id, Verb::Destroy, &Order::default()).await.unwrap();
    let rev = world.store.rev(world.node).await.unwrap();
    later(80);
    watch(one).await;
    assert_eq!(world.store.rev(world.node).await.unwrap(), rev);
}
