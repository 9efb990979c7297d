//! The database against those who would get around it: raw SQL, races, clocks, and random lives.

mod backup;
mod egress;
mod engine;
mod group;
mod ledger;
mod marks;
mod people;
mod periods;
mod quotas;
mod schema;
mod secrets;
mod server;
mod transfers;
mod usage;

use crate::agents::{Agent, AgentFilter, Order};
use crate::change::{Actor, OnCommit};
use crate::creation::{Asked, Candidate, Found, NewAgent};
use crate::db::query;
use crate::deadlines::Cause;
use crate::nodes::Enrolment;
use crate::{Error, Fresh, NewAccount, Placeholders, Store};
use engine::Engine;
use model::agent::{AgentSpec, AgentState, ExitReason, Level, Observed, RunAs, Verb};
use model::clock::Clock;
use model::node_api::{Capacity, ObservedAgent, ObservedState};
use model::policy::Policy;
use model::{AccountId, AgentId, ImageId, Name, NodeId, Resources, Span, VolumeId};
use proptest::prelude::*;
use serde_json::json;
use sqlx::Connection;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use time::{Duration, OffsetDateTime};

/// Time in milliseconds after the start of the test.
struct HeldClock(AtomicI64);

const START: i64 = 1_800_000_000_000;

impl Clock for HeldClock {
    fn now(&self) -> OffsetDateTime {
        crate::rows::instant(START + self.0.load(Ordering::SeqCst)).unwrap()
    }
}

/// For policies that put nothing into requests.
const NONE: Placeholders = Placeholders::new();

/// A test on each database. It is a module, with a test for each of them.
macro_rules! both {
    ($name:ident $(, $($how:tt)*)?) => {
        mod $name {
            use crate::tests::engine::Engine;

            #[tokio::test$(($($how)*))?]
            async fn sqlite() {
                super::$name(Engine::Sqlite).await;
            }

            #[tokio::test$(($($how)*))?]
            async fn postgres() {
                match Engine::postgres() {
                    Some(engine) => super::$name(engine).await,
                    None => eprintln!("skipped: PostgreSQL is not installed"),
                }
            }
        }
    };
}
pub(crate) use both;

struct World {
    engine: Engine,
    store: Store,
    clock: Arc<HeldClock>,
    account: AccountId,
    image: ImageId,
    node: NodeId,
    changed: Arc<Mutex<Vec<crate::Changed>>>,
    directory: tempfile::TempDir,
}

type Place = fn(&[Candidate]) -> Option<NodeId>;

fn place(candidates: &[Candidate]) -> Option<NodeId> {
    candidates.first().map(|candidate| candidate.node)
}

impl World {
    async fn on(engine: Engine) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(HeldClock(AtomicI64::new(0)));
        let changed = Arc::new(Mutex::new(Vec::new()));
        let heard = changed.clone();
        let on_commit: OnCommit = Arc::new(move |_, changed| heard.lock().unwrap().push(changed));
        let store = engine.open(directory.path(), clock.clone(), on_commit, None).await;
        let account = store.found(&new_account("default")).await.unwrap().unwrap();
        let node = enrolled(&store, "node-1", 3).await;
        let image = image(&store, account).await;
        Self { engine, store, clock, account, image, node, changed, directory }
    }

    /// A second handle, as a second process would have.
    async fn twin(&self, patience: Option<std::time::Duration>) -> Store {
        let unheard: OnCommit = Arc::new(|_, _| {});
        self.engine.open(self.directory.path(), self.clock.clone(), unheard, patience).await
    }

    fn new_agent(&self, name: &str) -> NewAgent {
        let spec = AgentSpec {
            secrets: Vec::new(),
            id: AgentId::new(),
            name: name.parse().unwrap(),
            account: self.account,
            level: model::agent::Level::Container,
            image: Some(self.image),
            image_digest: Some("ab".repeat(32)),
            volume: VolumeId::new(),
            origin: None,
            run_as: RunAs::Agent,
            main: None,
            env: Default::default(),
            image_config: Default::default(),
            driver: None,
            unrestricted: false,
            resources: Resources::default(),
            keep_scratch: false,
            ttl: None,
            idle_timeout: None,
        };
        NewAgent {
            spec,
            image_name: Some("debian".parse().unwrap()),
            labels: Default::default(),
            policy: None,
            placeholders: Default::default(),
            token: None,
        }
    }

    async fn agent(&self, name: &str) -> Agent {
        self.create(self.new_agent(name), place).await.unwrap().0
    }

    async fn create(&self, new: NewAgent, place: Place) -> Result<(Agent, Fresh), Error> {
        let (name, image) = (new.spec.name.clone(), self.image.to_string());
        let named = crate::secrets_named(&new.spec.secrets, new.policy.as_ref());
        let secrets: Vec<Name> = named.cloned().collect();
        let make = |found: Found<'_>| {
            assert_eq!(found.image.map(|image| image.id), Some(self.image));
            place(found.candidates).map(|node| (new, node)).ok_or(Error::NoCapacity)
        };
        let asked =
            Asked { account: self.account, name: &name, image: &image, secrets: &secrets, source: None };
        self.store.create_agent(Actor::System, asked, make, None).await
    }

    async fn saw(&self, agent: &Agent, generation: u64, observed: Observed) -> Agent {
        let report =
            ObservedState { agents: vec![seen(agent, generation, observed)], ..ObservedState::default() };
        self.store.observe(self.node, &report).await.unwrap();
        self.store.agent(agent.spec.id).await.unwrap()
    }

    /// Runs SQL that no method of the store would.
    async fn raw(&self, sql: &'static str, binds: &[String]) -> Result<u64, Error> {
        let query = binds.iter().fold(query(sql), |query, bind| query.bind(bind));
        query.execute(self.store.0.writer.pool()).await.map(|done| done.rows_affected())
    }

    async fn count(&self, sql: &'static str) -> i64 {
        query(sql).fetch_one(&self.store.0.reader).await.unwrap().get(0)
    }
}

fn new_account(name: &str) -> NewAccount {
    NewAccount { name: name.parse().unwrap(), key: "first".parse().unwrap(), hash: name.to_owned() }
}

async fn enrolled(store: &Store, name: &str, slots: u32) -> NodeId {
    store.add_bootstrap_token(&name.parse().unwrap(), name, Duration::minutes(15)).await.unwrap();
    let enrolment = enrolment(name, &format!("key of {name}"), slots);
    store.enrol(&enrolment).await.unwrap()
}

fn enrolment(token: &str, key: &str, slots: u32) -> Enrolment {
    let capacity = Capacity { slots, cpus: 2.0, memory: 1 << 40 };
    Enrolment { token_hash: token.to_owned(), public_key: key.to_owned(), capacity }
}

async fn image(store: &Store, account: AccountId) -> ImageId {
    let request = model::api::RegisterImage {
        name: "debian".parse().unwrap(),
        digest: "ab".repeat(32),
        size: 1,
        config: Default::default(),
        packages: None,
        voucher: None,
    };
    store.register_image(Actor::System, account, &request, None).await.unwrap().id
}

fn seen(agent: &Agent, generation: u64, observed: Observed) -> ObservedAgent {
    ObservedAgent {
        id: agent.spec.id,
        generation,
        observed,
        reason: Some(ExitReason::Exited { code: 1 }),
        evidence: Vec::new(),
        observation: None,
        workspace_url: None,
        last_activity: None,
    }
}

/// What the database itself says when it refuses.
#[track_caller]
fn refused(result: Result<u64, Error>, why: &str) {
    let Err(Error::Database(sqlx::Error::Database(error))) = result else { panic!("it passed: {result:?}") };
    use sqlx::error::ErrorKind as Kind;
    let kind = match error.kind() {
        Kind::UniqueViolation => "UNIQUE",
        Kind::ForeignKeyViolation => "FOREIGN KEY",
        Kind::NotNullViolation => "NOT NULL",
        Kind::CheckViolation => "CHECK",
        _ => "",
    };
    assert!(kind == why || error.message().contains(why), "{error}");
}

both!(the_database_keeps_tenants_apart);
async fn the_database_keeps_tenants_apart(engine: Engine) {
    let world = World::on(engine).await;
    let other = world.store.create_account(Actor::System, &new_account("other")).await.unwrap();
    let theirs = enrolled(&world.store, "node-2", 1).await;
    world
        .raw(
            "UPDATE nodes SET account = $1, tenant = $1 WHERE id = $2",
            &[other.to_string(), theirs.to_string()],
        )
        .await
        .unwrap();
    let agent = world.agent("a").await;
    let (id, node) = (agent.spec.id.to_string(), theirs.to_string());

    // Onto the other account's node: whichever tenant is written, one constraint or the other refuses.
    let place_at = "UPDATE agents SET node = $1, tenant = $2 WHERE id = $3";
    for (tenant, why) in [
        (other.to_string(), "CHECK"),
        (world.account.to_string(), "FOREIGN KEY"),
        ("shared".to_owned(), "FOREIGN KEY"),
    ] {
        refused(world.raw(place_at, &[node.clone(), tenant, id.clone()]).await, why);
    }
    let copy = "INSERT INTO agents (id, account, node, tenant, name, image, image_name, spec, labels, desired, state,
            generation, observed_generation, token_epoch, evidence, created_at, state_since)
        SELECT $1, account, $2, $3, 'b', image, image_name, spec, labels, desired, state, generation,
            observed_generation, token_epoch, evidence, created_at, state_since FROM agents";
    let new = AgentId::new().to_string();
    refused(world.raw(copy, &[new.clone(), node.clone(), other.to_string()]).await, "CHECK");
    refused(world.raw(copy, &[new, node.clone(), world.account.to_string()]).await, "FOREIGN KEY");
    // Nor into one of its slots, nor by giving the shared node under it away, nor as somebody else's agent.
    refused(
        world.raw("UPDATE node_slots SET agent = $1 WHERE node = $2", &[id.clone(), node.clone()]).await,
        "UNIQUE",
    );
    refused(
        world
            .raw(
                "UPDATE nodes SET account = $1, tenant = $1 WHERE id = $2",
                &[other.to_string(), world.node.to_string()],
            )
            .await,
        "FOREIGN KEY",
    );
    refused(
        world.raw("UPDATE nodes SET tenant = 'shared' WHERE id = $1", std::slice::from_ref(&node)).await,
        "CHECK",
    );
    refused(world.raw("UPDATE nodes SET tenant = NULL WHERE id = $1", &[node]).await, "NOT NULL");
    refused(
        world.raw("UPDATE agents SET account = $1 WHERE id = $2", &[other.to_string(), id]).await,
        "FOREIGN KEY",
    );
    // And a node of another account is never a candidate.
    fn lone(candidates: &[Candidate]) -> Option<NodeId> {
        assert_eq!(candidates.len(), 1, "{candidates:?}");
        Some(candidates[0].node)
    }
    let (placed, _) = world.create(world.new_agent("b"), lone).await.unwrap();
    assert_eq!(placed.node, world.node);
}

both!(slots_are_the_limit);
async fn slots_are_the_limit(engine: Engine) {
    let world = World::on(engine).await;
    for name in ["a", "b", "c"] {
        world.agent(name).await;
    }
    let full = world.create(world.new_agent("d"), place).await;
    assert!(matches!(full, Err(Error::NoCapacity)));
    refused(
        world.raw("INSERT INTO node_slots (node, slot) VALUES ($1, 0)", &[world.node.to_string()]).await,
        "UNIQUE",
    );
    // A machine that offers less keeps what is in use.
    world.store.add_bootstrap_token(&"node-1".parse().unwrap(), "again", Duration::minutes(1)).await.unwrap();
    world.store.enrol(&enrolment("again", "a new key", 1)).await.unwrap();
    assert_eq!(world.count("SELECT count(*) FROM node_slots").await, 3);
}

both!(the_ledger_is_append_only);
async fn the_ledger_is_append_only(engine: Engine) {
    let world = World::on(engine).await;
    let agent = world.agent("a").await;
    refused(world.raw("UPDATE events SET actor = 'nobody'", &[]).await, "append-only");
    refused(world.raw("DELETE FROM events", &[]).await, "append-only");
    refused(world.raw("DELETE FROM state_periods", &[]).await, "append-only");
    refused(world.raw("UPDATE state_periods SET state = 'running'", &[]).await, "only be closed");
    world.saw(&agent, 1, Observed::Running).await;
    let reopen = "UPDATE state_periods SET closed_at = closed_at + 1 WHERE closed_at IS NOT NULL";
    refused(world.raw(reopen, &[]).await, "only be closed");
}

both!(a_change_without_its_event_is_not_stored);
async fn a_change_without_its_event_is_not_stored(engine: Engine) {
    let world = World::on(engine).await;
    let mut change = world.store.change(Actor::System).await.unwrap();
    change.raise(world.node);
    world.changed.lock().unwrap().clear();
    let rev = world.store.rev(world.node).await.unwrap();
    assert!(matches!(change.commit().await, Err(Error::Unaudited)));
    assert_eq!(world.store.rev(world.node).await.unwrap(), rev);
    assert!(world.changed.lock().unwrap().is_empty(), "nobody was told");
}

both!(a_bootstrap_token_has_one_winner);
async fn a_bootstrap_token_has_one_winner(engine: Engine) {
    let world = World::on(engine).await;
    world
        .store
        .add_bootstrap_token(&"node-2".parse().unwrap(), "token", Duration::minutes(15))
        .await
        .unwrap();
    let twin = world.twin(None).await;
    let tries = (0..16).map(|n| {
        let store = if n % 2 == 0 { world.store.clone() } else { twin.clone() };
        tokio::spawn(async move { store.enrol(&enrolment("token", &format!("key {n}"), 1)).await })
    });
    let mut won = 0;
    for attempt in tries.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            Ok(_) => won += 1,
            Err(error) => assert!(matches!(error, Error::TokenRefused), "{error}"),
        }
    }
    assert_eq!(won, 1);
}

both!(a_locked_database_says_so);
async fn a_locked_database_says_so(engine: Engine) {
    let world = World::on(engine).await;
    let twin = world.twin(Some(std::time::Duration::from_millis(50))).await;
    let holding = world.store.change(Actor::System).await.unwrap();
    let error = twin.create_account(Actor::System, &new_account("other")).await.unwrap_err();
    assert!(matches!(error, Error::Locked), "{error}");
    assert!(twin.installation().await.unwrap().is_some(), "readers go on");
    drop(holding);
    twin.create_account(Actor::System, &new_account("other")).await.unwrap();
}

#[tokio::test]
async fn a_full_disk_says_so_and_passes() {
    let world = World::on(Engine::Sqlite).await;
    let pages = world.count("PRAGMA page_count").await;
    // What SQLite answers when it cannot grow is the same whether the disk or this keeps it from growing.
    let limit = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
    query(limit).execute(world.store.0.writer.pool()).await.unwrap();
    let mut full = None;
    for index in 0..2000 {
        let made = world.store.create_account(Actor::System, &new_account(&format!("account-{index}"))).await;
        full = made.err();
        if full.is_some() {
            break;
        }
    }
    assert!(matches!(full, Some(Error::DiskFull)), "{full:?}");
    assert!(world.store.installation().await.unwrap().is_some(), "readers go on");
    let (accounts, told) =
        ("SELECT count(*) FROM accounts", "SELECT count(*) FROM events WHERE kind = 'account.created'");
    assert_eq!(world.count(accounts).await, world.count(told).await, "all or nothing");
    // The limit belongs to the connection, which is another one if SQLite ended its transaction by itself.
    query("PRAGMA max_page_count = 1073741823").execute(world.store.0.writer.pool()).await.unwrap();
    world.store.create_account(Actor::System, &new_account("after")).await.unwrap();
}

both!(a_queue_that_is_too_long_says_so);
async fn a_queue_that_is_too_long_says_so(engine: Engine) {
    let world = World::on(engine).await;
    let twin = world.twin(Some(std::time::Duration::from_millis(100))).await;
    let _holding = twin.change(Actor::System).await.unwrap();
    let error = twin.create_account(Actor::System, &new_account("other")).await.unwrap_err();
    assert!(matches!(error, Error::Busy), "{error}");
}

both!(a_node_cannot_spoil_its_agents_rows);
async fn a_node_cannot_spoil_its_agents_rows(engine: Engine) {
    let world = World::on(engine).await;
    let agent = world.agent("one").await;
    for generation in [u64::MAX, i64::MAX as u64, i64::MAX as u64 + 1, 1 << 53] {
        let after = world.saw(&agent, generation, Observed::Running).await;
        assert_eq!(after, agent, "{generation}");
    }
    // A database that was lost may have given a few orders more.
    let after = world.saw(&agent, agent.generation + 7, Observed::Running).await;
    assert_eq!(after.observed_generation, agent.generation + 7);
    let stopped =
        world.store.order(Actor::System, agent.spec.id, Verb::Destroy, &Order::default()).await.unwrap();
    assert_eq!(stopped.generation, agent.generation + 8);
}

both!(a_node_does_not_fill_the_ledger);
async fn a_node_does_not_fill_the_ledger(engine: Engine) {
    let world = World::on(engine).await;
    let agent = world.agent("one").await;
    let events = "SELECT count(*) FROM events";
    let before = world.count(events).await;
    let flapping = (0..1000).map(|turn| {
        seen(&agent, agent.generation, if turn % 2 == 0 { Observed::Running } else { Observed::Paused })
    });
    let unknown =
        (0..1000).map(|_| ObservedAgent { id: AgentId::new(), ..seen(&agent, 1, Observed::Running) });
    let orphans = (0..1000).map(|_| AgentId::new()).collect();
    let report = ObservedState { agents: flapping.chain(unknown).collect(), orphans, levels: None };
    world.store.observe(world.node, &report).await.unwrap();
    let made = world.count(events).await - before;
    assert!((2..=65).contains(&made), "{made} events of one report");
}

#[tokio::test]
async fn files_that_are_no_database_name_the_fault() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cofferdam.db");
    std::fs::write(&path, "this is a text, and a rather long one, so that it is read as a header".repeat(20))
        .unwrap();
    let clock = Arc::new(HeldClock(AtomicI64::new(0)));
    let Err(error) = Store::open(&path, clock, Arc::new(|_, _| {})).await else { panic!("it opened") };
    assert!(error.to_string().contains("cofferdam.db"), "{error}");
}

both!(terminal_states_stay);
async fn terminal_states_stay(engine: Engine) {
    let world = World::on(engine).await;
    let agent = world.agent("a").await;
    world.store.order(Actor::System, agent.spec.id, Verb::Destroy, &Order::default()).await.unwrap();
    let gone = world.saw(&agent, 2, Observed::Destroyed).await;
    assert_eq!(gone.state, AgentState::Destroyed);
    for generation in [1, 2, 3] {
        for observed in [Observed::Running, Observed::Failed, Observed::Stopped] {
            let still = world.saw(&agent, generation, observed).await;
            assert_eq!((still.state, still.generation), (AgentState::Destroyed, 2));
        }
    }
    for verb in [Verb::Start, Verb::Stop, Verb::Pause, Verb::Resume] {
        let refused = world.store.order(Actor::System, agent.spec.id, verb, &Order::default()).await;
        assert!(matches!(refused, Err(Error::IllegalVerb(_))));
    }
    refused(world.raw("UPDATE agents SET state = 'running'", &[]).await, "stays destroyed");
    refused(world.raw("UPDATE agents SET desired = 'running'", &[]).await, "stays destroyed");
}

fn open_to(host: &str) -> Policy {
    serde_json::from_value(json!({"version": 1, "egress": {"rule": [{"action": "allow", "host": host}]}}))
        .unwrap()
}

both!(a_policy_changes_with_its_event_and_alone);
async fn a_policy_changes_with_its_event_and_alone(engine: Engine) {
    let world = World::on(engine).await;
    let none = world.agent("none").await;
    assert_eq!((&none.policy, none.policy_revision), (&None, 0));
    let mut new = world.new_agent("a");
    new.policy = Some(open_to("one.example"));
    let agent = world.create(new, place).await.unwrap().0;
    let id = agent.spec.id;
    assert_eq!(world.store.agent(id).await.unwrap(), agent);
    assert_eq!((&agent.policy, agent.policy_revision), (&Some(open_to("one.example")), 1));

    let rev = world.store.rev(world.node).await.unwrap();
    world.changed.lock().unwrap().clear();
    let set = async |policy: &str, if_match| {
        world.store.set_policy(Actor::System, id, &open_to(policy), &NONE, if_match, None).await
    };
    let after = set("two.example", Some(1)).await.unwrap();
    let expected = Agent { policy: Some(open_to("two.example")), policy_revision: 2, ..agent.clone() };
    assert_eq!(after, expected, "nothing else changed");
    assert_eq!(world.store.agent(id).await.unwrap(), after);
    assert_eq!(world.store.rev(world.node).await.unwrap(), rev + 1);
    assert_eq!(
        world.changed.lock().unwrap().len(),
        3,
        "who waits for the node, for the agent, and for events"
    );
    let told = world.store.desired(world.node, Some(rev)).await.unwrap();
    assert_eq!(told.agents.len(), 1, "the other has not changed");
    assert_eq!((&told.agents[0].policy, told.agents[0].policy_revision), (&after.policy, 2));
    let ledger = "SELECT count(*) FROM events WHERE kind = 'agent.policy_changed'";
    assert_eq!(world.count(ledger).await, 1);

    assert!(matches!(set("three.example", Some(1)).await, Err(Error::StalePolicy { revision: 2 })));
    assert_eq!(set("two.example", Some(2)).await.unwrap(), after, "the same again");
    assert_eq!(world.store.agent(id).await.unwrap(), after);
    assert_eq!((world.store.rev(world.node).await.unwrap(), world.count(ledger).await), (rev + 1, 1));

    // An order leaves it alone, and it leaves the order alone.
    let stopped = world.store.order(Actor::System, id, Verb::Stop, &Order::default()).await.unwrap();
    let changed = set("three.example", None).await.unwrap();
    let expected = Agent { policy: changed.policy.clone(), policy_revision: 3, ..stopped };
    assert_eq!(changed, expected);
    world.store.order(Actor::System, id, Verb::Destroy, &Order::default()).await.unwrap();
    let refused = set("four.example", None).await;
    assert!(matches!(refused, Err(Error::Ended { state: AgentState::Destroying })), "{refused:?}");
    check_ledger(&world, &world.store.agent(id).await.unwrap()).await;
    assert_eq!(world.count(ledger).await, 2);
}

both!(deadlines_come_in_order);
async fn deadlines_come_in_order(engine: Engine) {
    let world = World::on(engine).await;
    let mut new = world.new_agent("a");
    new.spec.ttl = Some(Span(100));
    new.spec.idle_timeout = Some(Span(10));
    let agent = world.create(new, place).await.unwrap().0;
    let due = async || {
        let due = world.store.deadlines(10).await.unwrap();
        due.iter().map(|due| (due.cause, crate::rows::millis(due.at) - START)).collect::<Vec<_>>()
    };
    assert_eq!(due().await, [(Cause::Ttl, 100_000)], "it does not run yet");
    world.clock.0.store(5_000, Ordering::SeqCst);
    world.saw(&agent, 1, Observed::Running).await;
    assert_eq!(due().await, [(Cause::Idle, 15_000), (Cause::Ttl, 100_000)]);
    let used = |at: i64| {
        let mut seen = seen(&agent, 1, Observed::Running);
        seen.last_activity = crate::rows::instant(START + at);
        ObservedState { agents: vec![seen], ..ObservedState::default() }
    };
    world.clock.0.store(8_000, Ordering::SeqCst);
    world.store.observe(world.node, &used(7_000)).await.unwrap();
    assert_eq!(due().await[0], (Cause::Idle, 17_000));
    // A clock that runs ahead keeps nothing alive, and use is never taken back.
    world.store.observe(world.node, &used(999_000)).await.unwrap();
    world.store.observe(world.node, &used(1_000)).await.unwrap();
    assert_eq!(due().await[0], (Cause::Idle, 18_000));
    world.store.order(Actor::System, agent.spec.id, Verb::Destroy, &Order::default()).await.unwrap();
    assert_eq!(due().await, []);
}

#[derive(Debug, Clone)]
enum Step {
    Order(Verb),
    /// Whether the node acted on the newest order, or on one before.
    Report(Observed, bool),
    /// Milliseconds; clocks may be set back.
    Clock(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let verbs = [Verb::Pause, Verb::Resume, Verb::Stop, Verb::Start, Verb::Start, Verb::Destroy];
    let sights = [
        Observed::Running,
        Observed::Running,
        Observed::Paused,
        Observed::Stopped,
        Observed::Failed,
        Observed::Destroyed,
    ];
    let step = prop_oneof![
        3 => proptest::sample::select(verbs.to_vec()).prop_map(Step::Order),
        3 => (proptest::sample::select(sights.to_vec()), proptest::bool::weighted(0.8))
            .prop_map(|(observed, newest)| Step::Report(observed, newest)),
        2 => (-5_000i64..20_000).prop_map(Step::Clock),
    ];
    proptest::collection::vec(step, 1..40)
}

/// The periods of an agent have neither gap nor overlap, and end in the state that it is in.
async fn check_ledger(world: &World, agent: &Agent) {
    let rows =
        query("SELECT state, opened_at, closed_at FROM state_periods WHERE agent = $1 ORDER BY ordinal")
            .bind(agent.spec.id.to_string())
            .fetch_all(&world.store.0.reader)
            .await
            .unwrap();
    let periods: Vec<(String, i64, Option<i64>)> =
        rows.iter().map(|row| (row.get("state"), row.get("opened_at"), row.get("closed_at"))).collect();
    for pair in periods.windows(2) {
        assert_eq!(pair[0].2, Some(pair[1].1), "a gap or an overlap");
        assert_ne!(pair[0].0, pair[1].0);
    }
    let last = periods.last().unwrap();
    assert_eq!((last.0.as_str(), last.2), (agent.state.as_str(), None));
    assert_eq!(last.1, crate::rows::millis(agent.state_since));
    let told =
        world.store.events(world.account, false, Some(&agent.spec.id.to_string()), None, 500).await.unwrap();
    let moves = told.items.iter().filter(|event| event.detail["from"] != event.detail["to"]).count();
    assert_eq!(moves + 1, periods.len(), "a move without its event");
}

async fn live(engine: Engine, steps: Vec<Step>) {
    let world = World::on(engine).await;
    let mut agent = world.agent("a").await;
    for step in steps {
        let before = agent.clone();
        let rev = world.store.rev(world.node).await.unwrap();
        match step {
            Step::Clock(by) => {
                world.clock.0.fetch_add(by, Ordering::SeqCst);
            }
            Step::Order(verb) => {
                let ordered = world.store.order(Actor::System, agent.spec.id, verb, &Order::default()).await;
                assert!(matches!(ordered, Ok(_) | Err(Error::IllegalVerb(_))), "{ordered:?}");
                agent = world.store.agent(agent.spec.id).await.unwrap();
            }
            Step::Report(observed, newest) => {
                let generation = if newest { agent.generation } else { agent.generation - 1 };
                agent = world.saw(&agent, generation, observed).await;
                if !newest {
                    assert_eq!(
                        (agent.state, agent.desired),
                        (before.state, before.desired),
                        "a stale report"
                    );
                }
            }
        }
        assert_eq!(agent.generation > before.generation, agent.desired != before.desired);
        assert!(agent.state_since >= before.state_since);
        assert!(before.state != AgentState::Destroyed || agent.state == AgentState::Destroyed);
        let raised = world.store.rev(world.node).await.unwrap() > rev;
        let gone = agent.state != before.state && agent.state == AgentState::Destroyed;
        assert_eq!(
            raised,
            gone || agent.generation != before.generation,
            "the node must hear of it, and only then"
        );
    }
    check_ledger(&world, &agent).await;
    let used = world.count("SELECT count(*) FROM node_slots WHERE agent IS NOT NULL").await;
    let miscounted = "SELECT count(*) FROM nodes n WHERE n.free <>
        (SELECT count(*) FROM node_slots s WHERE s.node = n.id AND s.agent IS NULL)";
    assert_eq!(world.count(miscounted).await, 0);
    assert_eq!(used, i64::from(agent.state != AgentState::Destroyed));
    let listed = world.store.agents(world.account, &AgentFilter::default(), None, 10).await.unwrap();
    assert_eq!(listed.items.len(), usize::from(agent.state != AgentState::Destroyed));
}

fn random_lives(engine: &Engine, cases: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in steps())| {
        runtime.block_on(live(engine.another(), steps));
    });
}

#[test]
fn random_lives_keep_the_ledger_whole() {
    random_lives(&Engine::Sqlite, 64);
}

#[test]
fn random_lives_keep_the_ledger_of_a_server_whole() {
    match Engine::postgres() {
        Some(engine) => random_lives(&engine, 16),
        None => eprintln!("skipped: PostgreSQL is not installed"),
    }
}

both!(statements_of_a_batch_keep_their_own_parameters_and_stand_or_fall_together);
async fn statements_of_a_batch_keep_their_own_parameters_and_stand_or_fall_together(engine: Engine) {
    use crate::batch::Batch;
    let world = World::on(engine).await;
    let mut change = world.store.change(Actor::System).await.unwrap();
    let mut batch = Batch::default();
    batch.add("SELECT $2 AS b, $1 AS a").bind(1_i64).bind("two".to_owned());
    batch.add("SELECT $1 AS c UNION ALL SELECT $1 || $2").bind("x".to_owned()).bind("y".to_owned());
    batch.add("SELECT 1 WHERE $1 IS NOT NULL").bind(None::<String>);
    let answers = change.run(batch).await.unwrap();
    assert_eq!((answers.len(), answers[2].len()), (3, 0));
    assert_eq!((answers[0][0].get::<i64, _>("a"), answers[0][0].get::<&str, _>("b")), (1, "two"));
    assert_eq!(answers[1].iter().map(|row| row.get::<&str, _>(0)).collect::<Vec<_>>(), ["x", "xy"]);

    // What was deferred is there for whoever reads, and a row that must change must be there.
    change.event(None, model::audit::EventKind::NodeLevels, world.node, serde_json::json!({}));
    let seen = query("SELECT id FROM events WHERE kind = 'node.levels'");
    assert_eq!(seen.fetch_all(change.db().await.unwrap()).await.unwrap().len(), 1);
    change.deferred.add("UPDATE nodes SET rev = 7 WHERE id = 'none'").or(Error::NoCapacity);
    change.event(None, model::audit::EventKind::AgentDrift, world.node, serde_json::json!({}));
    assert!(matches!(change.commit().await, Err(Error::NoCapacity)));
    assert_eq!(
        world.count("SELECT count(*) FROM events WHERE kind IN ('node.levels', 'agent.drift')").await,
        0
    );
    world.agent("after").await;
}

both!(a_way_is_known_only_from_agents_that_are_there);
async fn a_way_is_known_only_from_agents_that_are_there(engine: Engine) {
    let world = World::on(engine).await;
    let first = world.agent("first").await;
    assert_eq!(first.workspace_url, None);
    let url = Some("http://127.0.0.1:7701".to_owned());
    let seen = ObservedAgent { workspace_url: url.clone(), ..seen(&first, 1, Observed::Running) };
    world
        .store
        .observe(world.node, &ObservedState { agents: vec![seen], ..ObservedState::default() })
        .await
        .unwrap();
    let second = world.agent("second").await;
    assert_eq!(second.workspace_url, url);
    let destroying = Order::default();
    let first = world.store.order(Actor::System, first.spec.id, Verb::Destroy, &destroying).await.unwrap();
    world.saw(&first, first.generation, Observed::Destroyed).await;
    // The node never spoke of the second, whose address was presumed: by now it may be anybody's.
    assert_eq!(world.agent("third").await.workspace_url, None);
}

#[tokio::test]
async fn a_database_from_before_there_were_levels_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cofferdam.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let mut old = sqlx::SqliteConnection::connect_with(&options.foreign_keys(true)).await.unwrap();
    let before = crate::db::sqlite_migrations().iter().take(3).cloned().collect();
    sqlx::migrate::Migrator::with_migrations(before).run(&mut old).await.unwrap();
    let (account, node, image, agent) = (AccountId::new(), NodeId::new(), ImageId::new(), AgentId::new());
    let spec = json!({"id": agent, "name": "a", "account": account, "level": "container", "image": image,
        "image_digest": "ab".repeat(32), "volume": VolumeId::new(), "run_as": "agent", "main": null, "env": {},
        "resources": Resources::default(), "keep_scratch": false, "ttl": null, "idle_timeout": null});
    let rows = format!(
        "INSERT INTO accounts VALUES ('{account}', 'default', 1, 0);
         INSERT INTO nodes (id, name, tenant, cpus, memory, rev, created_at) VALUES ('{node}', 'n', 'shared', 1, 1, 1, 0);
         INSERT INTO images (id, account, name, digest, size, config, created_at)
             VALUES ('{image}', '{account}', 'debian', '{digest}', 1, '{{}}', 0);
         INSERT INTO agents (id, account, node, tenant, name, image, image_name, spec, labels, desired, state, generation,
             observed_generation, token_epoch, evidence, created_at, state_since)
             VALUES ('{agent}', '{account}', '{node}', 'shared', 'a', '{image}', 'debian', '{spec}', '{{}}', 'running',
                 'running', 1, 1, 1, '[]', 0, 0);
         INSERT INTO node_slots VALUES ('{node}', 0, '{agent}')",
        digest = "ab".repeat(32),
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(rows)).execute(&mut old).await.unwrap();
    old.close().await.unwrap();

    let store =
        Store::open(&path, Arc::new(HeldClock(AtomicI64::new(0))), Arc::new(|_, _| {})).await.unwrap();
    let kept = store.agent(agent).await.unwrap();
    assert_eq!((kept.spec.level, kept.spec.image), (Level::Container, Some(image)));
    assert_eq!(kept.image_name.map(|name| name.to_string()).as_deref(), Some("debian"));
    assert_eq!((kept.policy, kept.policy_revision), (None, 0));
    let (used, asked) = (store.quota(account).await.unwrap().used, Resources::default());
    assert_eq!((used.cpus, used.memory, used.disk), (asked.cpus, asked.memory, asked.disk));
    let writer = store.0.writer.pool();
    for check in ["PRAGMA integrity_check", "PRAGMA foreign_key_check"] {
        let found = query(check).fetch_all(writer).await.unwrap();
        let said: Vec<String> = found.iter().map(|row| row.get(0)).collect();
        assert!(said.is_empty() || said == ["ok"], "{check}: {said:?}");
    }
    // From now on there are agents without an image, and none with half of one.
    let update = |set: &str| sqlx::AssertSqlSafe(format!("UPDATE agents SET {set}"));
    assert!(query(update("image = NULL")).execute(writer).await.is_err());
    assert!(query(update("image = 'img_none'")).execute(writer).await.is_err(), "still a foreign key");
    query(update("image = NULL, image_name = NULL")).execute(writer).await.unwrap();
    assert_eq!(store.agent(agent).await.unwrap().image_name, None);
}
