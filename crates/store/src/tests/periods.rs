//! State periods: no gap and no overlap, whatever clocks, crashes and other control processes do.

use super::*;

both!(a_period_begins_where_the_one_before_ended);
async fn a_period_begins_where_the_one_before_ended(engine: Engine) {
    let world = World::on(engine).await;
    let agent = world.agent("a").await;
    world.saw(&agent, 1, Observed::Running).await;
    let again = |ordinal: &'static str, opened: &'static str| {
        format!(
            "INSERT INTO state_periods (agent, ordinal, account, node, state, opened_at)
             SELECT agent, {ordinal}, account, node, 'paused', {opened} FROM state_periods WHERE ordinal = 2"
        )
    };
    let run = async |sql: String| {
        let sql = sqlx::AssertSqlSafe(sql);
        query(sql).execute(world.store.0.writer.pool()).await.map(|done| done.rows_affected())
    };
    // The one that is open has no end: nothing follows it, at its own ordinal or after a hole.
    for (ordinal, opened) in
        [("3", "opened_at"), ("3", "opened_at + 5"), ("99", "opened_at"), ("2", "opened_at")]
    {
        refused(run(again(ordinal, opened)).await, "begins when the one before ends");
    }
    refused(
        run("UPDATE state_periods SET closed_at = opened_at - 1 WHERE closed_at IS NULL".into()).await,
        "CHECK",
    );
    refused(
        run("UPDATE state_periods SET closed_at = opened_at, cpus = 1 WHERE closed_at IS NULL".into()).await,
        "only be closed",
    );
    refused(
        run("UPDATE state_periods SET closed_at = opened_at, cause = 'x' WHERE closed_at IS NULL".into())
            .await,
        "only be closed",
    );
    run("UPDATE state_periods SET closed_at = opened_at + 7 WHERE closed_at IS NULL".into()).await.unwrap();
    for opened in ["opened_at", "opened_at + 6", "opened_at + 8"] {
        refused(run(again("3", opened)).await, "begins when the one before ends");
    }
    run(again("3", "opened_at + 7")).await.unwrap();
}

both!(a_timeline_says_what_caused_each_period);
async fn a_timeline_says_what_caused_each_period(engine: Engine) {
    let world = World::on(engine).await;
    let agent = world.agent("a").await;
    world.clock.0.store(1_000, Ordering::SeqCst);
    world.saw(&agent, 1, Observed::Running).await;
    let order = Order { cause: Some("idle"), ..Order::default() };
    world.store.order(Actor::System, agent.spec.id, Verb::Stop, &order).await.unwrap();
    let page = world.store.timeline(world.account, agent.spec.id, None, 2).await.unwrap();
    assert!(page.more);
    let told: Vec<_> = page.items.iter().map(|it| (it.state, it.cause.as_deref().unwrap())).collect();
    assert_eq!(told, [(AgentState::Stopping, "stop: idle"), (AgentState::Running, "seen running")]);
    assert_eq!(page.items[1].actor, Some(world.node.to_string()));
    assert_eq!(page.items[1].until, Some(page.items[0].from));
    let last =
        world.store.timeline(world.account, agent.spec.id, Some(page.items[1].ordinal), 2).await.unwrap();
    assert_eq!((last.items.len(), last.items[0].cause.as_deref(), last.more), (1, Some("created"), false));
    let other = world.store.create_account(Actor::System, &new_account("other")).await.unwrap();
    assert!(world.store.timeline(other, agent.spec.id, None, 9).await.unwrap().items.is_empty());
}

#[derive(Debug, Clone)]
enum Turn {
    Order(Verb),
    Report(Observed),
    /// Of one of the two processes, in milliseconds.
    Clock(usize, i64),
    /// The process ends in the middle of a change, and another takes its place.
    Crash,
}

fn turns() -> impl Strategy<Value = Vec<(usize, Turn)>> {
    let verbs = [Verb::Pause, Verb::Resume, Verb::Stop, Verb::Start, Verb::Start, Verb::Destroy];
    let sights =
        [Observed::Running, Observed::Running, Observed::Paused, Observed::Stopped, Observed::Failed];
    let turn = prop_oneof![
        6 => proptest::sample::select(verbs.to_vec()).prop_map(Turn::Order),
        6 => proptest::sample::select(sights.to_vec()).prop_map(Turn::Report),
        4 => (0..2_usize, -90_000_i64..60_000).prop_map(|(whose, by)| Turn::Clock(whose, by)),
        1 => Just(Turn::Crash),
    ];
    proptest::collection::vec((0..2_usize, turn), 1..30)
}

/// Two processes on one database, each by a clock of its own.
async fn two_of_them(engine: Engine, turns: Vec<(usize, Turn)>) {
    let world = World::on(engine).await;
    let clocks = [world.clock.clone(), Arc::new(HeldClock(AtomicI64::new(-3_000)))];
    let open = async |clock: &Arc<HeldClock>| {
        let unheard: OnCommit = Arc::new(|_, _| {});
        world.engine.open(world.directory.path(), clock.clone(), unheard, None).await
    };
    let mut stores = [world.store.clone(), open(&clocks[1]).await];
    let id = world.agent("a").await.spec.id;
    for (who, turn) in turns {
        match turn {
            Turn::Clock(whose, by) => {
                clocks[whose].0.fetch_add(by, Ordering::SeqCst);
            }
            Turn::Order(verb) => {
                let ordered = stores[who].order(Actor::System, id, verb, &Order::default()).await;
                assert!(matches!(ordered, Ok(_) | Err(Error::IllegalVerb(_))), "{ordered:?}");
            }
            Turn::Report(observed) => {
                let agent = stores[who].agent(id).await.unwrap();
                let report = ObservedState {
                    agents: vec![seen(&agent, agent.generation, observed)],
                    ..ObservedState::default()
                };
                stores[who].observe(world.node, &report).await.unwrap();
            }
            Turn::Crash => {
                let mut change = stores[who].change(Actor::System).await.unwrap();
                let agent = change.agent(id).await.unwrap().unwrap();
                change.close_period(id, crate::rows::millis(agent.state_since) + 1);
                change.flush().await.unwrap();
                drop(change);
                stores[who] = open(&clocks[who]).await;
            }
        }
    }
    let agent = stores[0].agent(id).await.unwrap();
    check_ledger(&world, &agent).await;
}

fn random_pairs(engine: &Engine, cases: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(turns in turns())| {
        runtime.block_on(two_of_them(engine.another(), turns));
    });
}

#[test]
fn two_processes_keep_the_periods_whole() {
    random_pairs(&Engine::Sqlite, 24);
}

#[test]
fn two_processes_on_a_server_keep_the_periods_whole() {
    match Engine::postgres() {
        Some(engine) => random_pairs(&engine, 12),
        None => eprintln!("skipped: PostgreSQL is not installed"),
    }
}
