//! Transfers against what the tables themselves allow, and against those who were faster.

use super::*;
use crate::{EgressFilter, Transfer};
use model::UserId;
use model::agent::Desired;
use model::egress::{Connection, EgressReport, Lost, Outcome, Question, Record, Waiting};
use model::people::Role;
use model::transfer::Obstacle;

/// Somebody who belongs to both accounts.
pub(super) async fn both_accounts(world: &World) -> (AccountId, UserId) {
    let other = world.store.create_account(Actor::System, &new_account("other")).await.unwrap();
    let person = UserId::new();
    let ids = [person.to_string(), other.to_string()];
    let user = "INSERT INTO users (id, email, personal, created_at) VALUES ($1, 'ada@example.com', $2, 0)";
    world.raw(user, &ids).await.unwrap();
    let member = "INSERT INTO memberships (account, person, role, created_at) VALUES ($2, $1, 'member', 0)";
    world.raw(member, &ids).await.unwrap();
    image(&world.store, other).await;
    (other, person)
}

pub(super) fn to(world: &World, agent: &Agent, to: AccountId, person: UserId) -> Transfer {
    let (agent, from) = (agent.spec.id, world.account);
    Transfer { agent, from, to, person, least: Role::Member, if_match: None, idempotency: None }
}

both!(what_a_backup_had_is_not_given_away_before_its_node_has_spoken);
async fn what_a_backup_had_is_not_given_away_before_its_node_has_spoken(engine: Engine) {
    let world = World::on(engine).await;
    let (other, person) = both_accounts(&world).await;
    let agent = world.agent("a").await;
    world.saw(&agent, 1, Observed::Running).await;
    world.raw("UPDATE agents SET restored = 1", &[]).await.unwrap();
    let refused = world.store.transfer(Actor::System, &to(&world, &agent, other, person)).await;
    assert!(matches!(refused, Err(Error::Restored)), "{refused:?}");
}

both!(one_period_ends_where_the_next_begins);
async fn one_period_ends_where_the_next_begins(engine: Engine) {
    let world = World::on(engine).await;
    let (other, person) = both_accounts(&world).await;
    let agent = world.agent("a").await;
    let running = world.saw(&agent, 1, Observed::Running).await;
    world.clock.0.store(5000, Ordering::SeqCst);
    let moved = world.store.transfer(Actor::System, &to(&world, &agent, other, person)).await.unwrap();
    assert_eq!((moved.from, moved.agent.spec.account), (world.account, other));
    assert_eq!((moved.agent.state, moved.agent.desired), (AgentState::Starting, Desired::Running));
    assert!(moved.agent.token_epoch > running.token_epoch && moved.agent.generation > running.generation);
    assert_eq!(moved.agent.workspace_url, None);
    assert_eq!(moved.agent.spec.image_digest, agent.spec.image_digest);
    assert_ne!(moved.agent.spec.image, agent.spec.image);
    assert_eq!(world.store.agent(agent.spec.id).await.unwrap(), moved.agent);
    let one = "SELECT count(*) FROM state_periods a JOIN state_periods b ON b.agent = a.agent AND b.ordinal = a.ordinal + 1
        WHERE a.closed_at = b.opened_at AND a.account <> b.account AND a.state = 'running' AND b.state = 'starting'
            AND b.closed_at IS NULL";
    assert_eq!(world.count(one).await, 1);
    let gaps = "SELECT count(*) FROM state_periods a JOIN state_periods b ON b.agent = a.agent AND b.ordinal = a.ordinal + 1
        WHERE a.closed_at IS NULL OR a.closed_at <> b.opened_at";
    assert_eq!(world.count(gaps).await, 0);
    assert_eq!(
        world.count("SELECT count(DISTINCT account) FROM events WHERE kind = 'agent.transferred'").await,
        2
    );
    // It keeps its slot and its node, whose next word is about the other account's agent.
    assert_eq!(world.count("SELECT count(*) FROM node_slots WHERE agent IS NOT NULL").await, 1);
    let desired = world.store.desired(world.node, None).await.unwrap();
    assert_eq!((desired.agents[0].spec.account, desired.agents[0].transfers), (other, 1));
    // A report on the boundary of before says nothing of it.
    assert_eq!(world.saw(&agent, 1, Observed::Failed).await.state, AgentState::Starting);
    let there = world.saw(&agent, moved.agent.generation, Observed::Running).await;
    assert_eq!(there.state, AgentState::Running);
    // It may go back, too, and its past is two accounts'.
    let moved = Transfer { from: other, to: world.account, ..to(&world, &agent, other, person) };
    assert!(matches!(world.store.transfer(Actor::System, &moved).await, Err(Error::MembershipEnded)));
}

both!(all_that_is_in_the_way_is_told_and_nothing_changes);
async fn all_that_is_in_the_way_is_told_and_nothing_changes(engine: Engine) {
    let world = World::on(engine).await;
    let (other, person) = both_accounts(&world).await;
    let agent = world.agent("a").await;
    let rev = world.store.rev(world.node).await.unwrap();
    // Not there yet, without its image, with its name taken, and one too many.
    world.raw("UPDATE images SET deleted_at = 1 WHERE account = $1", &[other.to_string()]).await.unwrap();
    let quota = model::quota::Quota { agents: Some(0), ..Default::default() };
    world.store.set_quota(Actor::System, other, &quota).await.unwrap();
    let result = world.store.transfer(Actor::System, &to(&world, &agent, other, person)).await;
    let Err(Error::Stays { obstacles }) = result else { panic!("{result:?}") };
    let found = |wanted: fn(&Obstacle) -> bool| obstacles.iter().any(wanted);
    assert!(found(|it| matches!(it, Obstacle::Moving(AgentState::Provisioning))), "{obstacles:?}");
    assert!(found(|it| matches!(it, Obstacle::Image(_))) && found(|it| matches!(it, Obstacle::Quota(_))));
    assert_eq!(obstacles.len(), 3, "{obstacles:?}");
    assert_eq!(world.store.agent(agent.spec.id).await.unwrap(), agent);
    assert_eq!(world.store.rev(world.node).await.unwrap(), rev);
    assert_eq!(world.count("SELECT count(*) FROM transfers").await, 0);
    // On a node of the account's own.
    let own = enrolled(&world.store, "node-2", 1).await;
    let tenant = "UPDATE nodes SET account = $1, tenant = $1 WHERE id = $2";
    world.raw(tenant, &[world.account.to_string(), own.to_string()]).await.unwrap();
    let place: Place = |candidates| candidates.iter().find(|node| !node.shared).map(|node| node.node);
    let (dedicated, _) = world.create(world.new_agent("b"), place).await.unwrap();
    let result = world.store.transfer(Actor::System, &to(&world, &dedicated, other, person)).await;
    let Err(Error::Stays { obstacles }) = result else { panic!("{result:?}") };
    assert!(obstacles.contains(&Obstacle::Dedicated), "{obstacles:?}");
}

both!(who_belongs_to_one_alone_moves_nothing);
async fn who_belongs_to_one_alone_moves_nothing(engine: Engine) {
    let world = World::on(engine).await;
    let (other, person) = both_accounts(&world).await;
    let agent = world.agent("a").await;
    world.saw(&agent, 1, Observed::Running).await;
    let admins = Transfer { least: Role::Admin, ..to(&world, &agent, other, person) };
    assert!(matches!(world.store.transfer(Actor::System, &admins).await, Err(Error::RoleLowered)));
    let stranger = to(&world, &agent, other, UserId::new());
    assert!(matches!(world.store.transfer(Actor::System, &stranger).await, Err(Error::MembershipEnded)));
    let theirs = Transfer { from: other, to: other, ..to(&world, &agent, other, person) };
    assert!(matches!(world.store.transfer(Actor::System, &theirs).await, Err(Error::NotFound { .. })));
    assert_eq!(world.count("SELECT count(*) FROM transfers").await, 0);
}

both!(of_many_at_once_one_is_made_and_it_is_whole);
async fn of_many_at_once_one_is_made_and_it_is_whole(engine: Engine) {
    let world = World::on(engine).await;
    let (other, person) = both_accounts(&world).await;
    for (number, verb) in [Verb::Stop, Verb::Pause, Verb::Destroy].into_iter().enumerate() {
        let agent = world.agent(&format!("a{number}")).await;
        world.saw(&agent, 1, Observed::Running).await;
        let transfer = to(&world, &agent, other, person);
        let order = Order::default();
        let (moved, again, ordered) = tokio::join!(
            world.store.transfer(Actor::System, &transfer),
            world.store.transfer(Actor::System, &transfer),
            world.store.order(Actor::System, agent.spec.id, verb, &order),
        );
        assert!(moved.is_err() || again.is_err(), "twice");
        let now = world.store.agent(agent.spec.id).await.unwrap();
        let went = moved.is_ok() || again.is_ok();
        assert_eq!(now.spec.account == other, went, "{verb:?}: {ordered:?}");
        let open =
            "SELECT count(*) FROM state_periods p JOIN agents a ON a.id = p.agent AND a.account = p.account
                AND a.state = p.state WHERE p.closed_at IS NULL";
        assert_eq!(world.count(open).await, number as i64 + 1);
        world.store.order(Actor::System, agent.spec.id, Verb::Destroy, &order).await.unwrap();
    }
}

fn connection(world: &World) -> Connection {
    Connection {
        at: world.store.now(),
        host: "late.example".to_owned(),
        port: Some(443),
        address: None,
        protocol: None,
        outcome: Outcome::Denied,
        by: "unknown".to_owned(),
        credentials: Vec::new(),
        sent: 0,
        received: 0,
        duration_ms: 0,
        end: None,
        count: 1,
    }
}

both!(what_the_gate_before_tells_late_is_not_the_new_owners);
async fn what_the_gate_before_tells_late_is_not_the_new_owners(engine: Engine) {
    let world = World::on(engine).await;
    let (other, person) = both_accounts(&world).await;
    let policy = Policy::default_of(false);
    let (agent, _) =
        world.create(NewAgent { policy: Some(policy), ..world.new_agent("a") }, place).await.unwrap();
    let id = agent.spec.id;
    world.saw(&agent, 1, Observed::Running).await;
    world.store.transfer(Actor::System, &to(&world, &agent, other, person)).await.unwrap();
    let stranger = world.store.create_account(Actor::System, &new_account("third")).await.unwrap();
    let asked = world.store.now();
    let tell = async |account: Option<AccountId>| {
        let question = Question {
            host: "late.example".to_owned(),
            port: 443,
            asked,
            until: asked + Duration::minutes(2),
        };
        let report = EgressReport {
            records: vec![Record { agent: id, account, connection: connection(&world) }],
            lost: vec![Lost { agent: id, account, count: 1 }],
            questions: Some(vec![Waiting { agent: id, account, questions: vec![question] }]),
        };
        world.store.record_egress(world.node, &report).await.unwrap();
        let mut seen = Vec::new();
        for account in [world.account, other, stranger] {
            let filter = EgressFilter { account, agent: None, outcome: None };
            let log = world.store.egress_log(&filter, None, 10).await.unwrap();
            seen.push((log.items.len(), world.store.questions(account, None).await.unwrap().len()));
        }
        seen
    };
    // By the gate before: the log is that account's, and nobody is asked. By no gate that it ever had, or that is not named: nothing.
    assert_eq!(tell(Some(world.account)).await, [(1, 0), (0, 0), (0, 0)]);
    assert_eq!(tell(Some(stranger)).await, [(1, 0), (0, 0), (0, 0)]);
    assert_eq!(tell(None).await, [(1, 0), (0, 0), (0, 0)]);
    assert_eq!(tell(Some(other)).await, [(1, 0), (1, 1), (0, 0)]);
    let theirs = "SELECT count(*) FROM events WHERE kind LIKE 'egress.%' AND account NOT IN
        (SELECT account FROM agents UNION SELECT from_account FROM transfers)";
    assert_eq!(world.count(theirs).await, 0);
}

both!(an_agent_that_went_is_not_found_by_who_found_it_before);
async fn an_agent_that_went_is_not_found_by_who_found_it_before(engine: Engine) {
    let world = World::on(engine).await;
    let (other, person) = both_accounts(&world).await;
    let agent = world.agent("a").await;
    world.saw(&agent, 1, Observed::Running).await;
    let key = query("SELECT id FROM api_keys WHERE account = $1")
        .bind(world.account.to_string())
        .fetch_one(&world.store.0.reader)
        .await
        .unwrap();
    let key = Actor::Key { key: key.parsed("id").unwrap(), role: Role::Owner };
    world.store.transfer(Actor::System, &to(&world, &agent, other, person)).await.unwrap();
    // Whoever looked it up before, and acts only now.
    let gone = |result: Result<Agent, Error>| matches!(result, Err(Error::NotFound { .. }));
    for verb in [Verb::Stop, Verb::Destroy, Verb::Start] {
        assert!(gone(world.store.order(key, agent.spec.id, verb, &Order::default()).await), "{verb:?}");
    }
    let policy = Policy::nothing();
    assert!(gone(world.store.set_policy(key, agent.spec.id, &policy, &NONE, None, None).await));
}

/// What happens to an agent of two accounts.
#[derive(Debug, Clone)]
enum Life {
    Order(Verb),
    Report(Observed),
    /// Milliseconds; clocks may be set back.
    Clock(i64),
    Give,
}

fn lives() -> impl Strategy<Value = Vec<Life>> {
    let verbs = [Verb::Pause, Verb::Resume, Verb::Stop, Verb::Start, Verb::Start];
    let sights =
        [Observed::Running, Observed::Running, Observed::Paused, Observed::Stopped, Observed::Failed];
    let life = prop_oneof![
        3 => proptest::sample::select(verbs.to_vec()).prop_map(Life::Order),
        4 => proptest::sample::select(sights.to_vec()).prop_map(Life::Report),
        2 => (-5_000i64..20_000).prop_map(Life::Clock),
        3 => Just(Life::Give),
    ];
    proptest::collection::vec(life, 1..30)
}

async fn live_in_two(engine: Engine, lives: Vec<Life>) {
    let world = World::on(engine).await;
    let (other, person) = both_accounts(&world).await;
    let ids = [person.to_string(), world.account.to_string()];
    let member = "INSERT INTO memberships (account, person, role, created_at) VALUES ($2, $1, 'admin', 0)";
    world.raw(member, &ids).await.unwrap();
    let mut agent = world.agent("a").await;
    let mut given = 0;
    for life in lives {
        match life {
            Life::Clock(by) => drop(world.clock.0.fetch_add(by, Ordering::SeqCst)),
            Life::Order(verb) => {
                let _ = world.store.order(Actor::System, agent.spec.id, verb, &Order::default()).await;
            }
            Life::Report(observed) => drop(world.saw(&agent, agent.generation, observed).await),
            Life::Give => {
                let (from, to) =
                    if agent.spec.account == other { (other, world.account) } else { (world.account, other) };
                let transfer = Transfer { from, ..to_account(&agent, to, person) };
                match world.store.transfer(Actor::System, &transfer).await {
                    Ok(moved) => {
                        given += 1;
                        assert!(moved.agent.token_epoch > agent.token_epoch);
                        assert!(moved.agent.generation > agent.generation);
                    }
                    Err(Error::Stays { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
        agent = world.store.agent(agent.spec.id).await.unwrap();
    }
    let rows = query(
        "SELECT account, state, opened_at, closed_at FROM state_periods WHERE agent = $1 ORDER BY ordinal",
    )
    .bind(agent.spec.id.to_string())
    .fetch_all(&world.store.0.reader)
    .await
    .unwrap();
    let periods: Vec<(String, String, i64, Option<i64>)> = rows
        .iter()
        .map(|row| (row.get("account"), row.get("state"), row.get("opened_at"), row.get("closed_at")))
        .collect();
    let mut moves = 0;
    for pair in periods.windows(2) {
        assert_eq!(pair[0].3, Some(pair[1].2), "a gap or an overlap");
        assert!(pair[0].3 >= Some(pair[0].2), "time runs forwards");
        moves += u64::from(pair[0].0 != pair[1].0);
        assert!(pair[0].0 != pair[1].0 || pair[0].1 != pair[1].1, "a period that nothing ended");
    }
    let last = periods.last().unwrap();
    assert_eq!(
        (last.0.clone(), last.1.as_str(), last.3),
        (agent.spec.account.to_string(), agent.state.as_str(), None)
    );
    assert_eq!((moves, agent.transfers), (given, given), "each account pays for its own, to the instant");
    let told = "SELECT count(*) FROM events WHERE kind = 'agent.transferred'";
    assert_eq!(world.count(told).await as u64, 2 * given);
    // The row, the spec that its node is told, and the image are of one account.
    let whole = "SELECT count(*) FROM agents a JOIN images i ON i.id = a.image AND i.account = a.account
        WHERE a.spec ->> 'account' = a.account AND a.spec ->> 'image' = a.image";
    assert_eq!(world.count(whole).await, 1);
}

fn to_account(agent: &Agent, to: AccountId, person: UserId) -> Transfer {
    let (agent, from) = (agent.spec.id, agent.spec.account);
    Transfer { agent, from, to, person, least: Role::Member, if_match: None, idempotency: None }
}

fn random_lives_in_two(engine: &Engine, cases: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(lives in lives())| {
        runtime.block_on(live_in_two(engine.another(), lives));
    });
}

#[test]
fn accounts_share_an_agents_life_without_gap_or_overlap() {
    random_lives_in_two(&Engine::Sqlite, 48);
}

#[test]
fn accounts_share_an_agents_life_on_a_server() {
    match Engine::postgres() {
        Some(engine) => random_lives_in_two(&engine, 8),
        None => eprintln!("skipped: PostgreSQL is not installed"),
    }
}
