//! Usage: days add up to the periods that they are made of, are counted once, and stay.

use super::transfers::{both_accounts, to};
use super::*;
use model::usage::{Amounts, DAY, Size, spent};
use model::usage_api::{Day, UsageBy};

/// As far as anything here goes.
const EVER: (Day, Day) = (Day(0), Day(40_000));

fn on(world: &World, by: i64) {
    world.clock.0.fetch_add(by, Ordering::SeqCst);
}

/// Counts all that is over; tells how many days.
async fn count_all(store: &Store) -> usize {
    let mut days = 0;
    loop {
        match store.count_usage().await {
            Ok(Some(_)) => days += 1,
            Ok(None) => return days,
            Err(Error::Overtaken) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

async fn told(store: &Store, account: AccountId, by: UsageBy) -> Amounts {
    let mut all = Amounts::default();
    for sum in store.usage(account, EVER.0, EVER.1, by).await.unwrap().into_values() {
        all += sum.amounts;
    }
    all
}

/// What the periods themselves come to, without days.
async fn of_periods(world: &World, account: AccountId) -> Amounts {
    let rows = query("SELECT * FROM state_periods WHERE account = $1")
        .bind(account.to_string())
        .fetch_all(&world.store.0.reader)
        .await
        .unwrap();
    let now = crate::rows::millis(world.store.now());
    let mut all = Amounts::default();
    for row in rows {
        let size = Size { cpus: row.get("cpus"), memory: row.get("memory"), disk: row.get("disk") };
        let until: Option<i64> = row.get("closed_at");
        let (state, from) = (row.parsed("state").unwrap(), row.get("opened_at"));
        all += Amounts::of(size, spent(state, from, until.unwrap_or(now), 0, i64::MAX));
    }
    all
}

both!(a_day_is_counted_once_and_stays);
async fn a_day_is_counted_once_and_stays(engine: Engine) {
    let world = World::on(engine).await;
    assert_eq!(world.store.count_usage().await.unwrap(), None, "there is nothing");
    let agent = world.agent("a").await;
    world.saw(&agent, 1, Observed::Running).await;
    // It began at eight in the morning: sixteen hours are left, and the ten minutes.
    on(&world, 16 * 3_600_000 + 599_999);
    assert_eq!(world.store.count_usage().await.unwrap(), None, "it may still change");
    let before = told(&world.store, world.account, UsageBy::Day).await;
    let twin = world.twin(None).await;
    on(&world, 1);
    let (one, other) = tokio::join!(count_all(&world.store), count_all(&twin));
    assert_eq!(one + other, 1);
    let days = world.store.usage(world.account, EVER.0, EVER.1, UsageBy::Day).await.unwrap();
    let told_days: Vec<_> = days.iter().map(|(day, sum)| (&**day, sum.amounts.running, sum.open)).collect();
    assert_eq!(told_days, [("2027-01-15", 57_600_000, false), ("2027-01-16", 600_000, true)]);
    assert_eq!(told(&world.store, world.account, UsageBy::Day).await.running, before.running + 1);
    // One day alone, from what was counted and from what was not.
    let day = world.store.today();
    for (from, to, running) in [(Day(day.0 - 1), day, 57_600_000), (day, Day(day.0 + 1), 600_000)] {
        let sums = world.store.usage(world.account, from, to, UsageBy::Agent).await.unwrap();
        assert_eq!(sums[&agent.spec.id.to_string()].amounts.running, running);
    }
    refused(world.raw("UPDATE usage_days SET running = 0", &[]).await, "a day that was counted stays");
    refused(world.raw("DELETE FROM usage_days", &[]).await, "a day that was counted stays");
    refused(world.raw("UPDATE usage_mark SET day = day - 1", &[]).await, "days are counted once");
    refused(world.raw("DELETE FROM usage_mark", &[]).await, "days are counted once");
    let again = "INSERT INTO usage_days SELECT * FROM usage_days";
    refused(world.raw(again, &[]).await, "UNIQUE");
    // A clock that stepped back by more than the grace changes nothing of it.
    on(&world, -3_600_000);
    world.store.order(Actor::System, agent.spec.id, Verb::Stop, &Order::default()).await.unwrap();
    on(&world, 3_600_000);
    let day = world.store.usage(world.account, Day(day.0 - 1), day, UsageBy::Day).await.unwrap();
    assert_eq!(day["2027-01-15"].amounts.running, 57_600_000);
}

both!(what_is_gone_still_counts_for_whose_it_was);
async fn what_is_gone_still_counts_for_whose_it_was(engine: Engine) {
    let world = World::on(engine).await;
    let (other, person) = both_accounts(&world).await;
    let agent = world.agent("a").await;
    world.saw(&agent, 1, Observed::Running).await;
    on(&world, DAY);
    let moved = world.store.transfer(Actor::System, &to(&world, &agent, other, person)).await.unwrap().agent;
    let moved = world.saw(&moved, moved.generation, Observed::Running).await;
    on(&world, DAY);
    world.store.order(Actor::System, moved.spec.id, Verb::Destroy, &Order::default()).await.unwrap();
    let moved = world.store.agent(moved.spec.id).await.unwrap();
    world.saw(&moved, moved.generation, Observed::Destroyed).await;
    on(&world, 3 * DAY);
    let sums = async || {
        let mut all = Vec::new();
        for account in [world.account, other] {
            for by in [UsageBy::Day, UsageBy::Agent, UsageBy::Level, UsageBy::Node] {
                let sum = told(&world.store, account, by).await;
                assert_eq!(sum, of_periods(&world, account).await, "{by:?}");
                all.push(sum);
            }
        }
        all
    };
    let before = sums().await;
    assert_eq!(before[0].running, i128::from(DAY));
    assert!(before[4].running >= i128::from(DAY) - 1000 && before[4].kept < 2 * i128::from(DAY));
    assert_eq!(count_all(&world.store).await, 5);
    assert_eq!(sums().await, before);
    let stranger = world.store.create_account(Actor::System, &new_account("stranger")).await.unwrap();
    assert!(world.store.usage(stranger, EVER.0, EVER.1, UsageBy::Agent).await.unwrap().is_empty());
}

#[derive(Debug, Clone)]
enum Turn {
    Order(Verb),
    Report(Observed),
    Later(i64),
    Count,
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let verbs = [Verb::Pause, Verb::Resume, Verb::Stop, Verb::Start, Verb::Destroy];
    let sights =
        [Observed::Running, Observed::Running, Observed::Paused, Observed::Stopped, Observed::Failed];
    let turn = prop_oneof![
        4 => proptest::sample::select(verbs.to_vec()).prop_map(Turn::Order),
        5 => proptest::sample::select(sights.to_vec()).prop_map(Turn::Report),
        5 => (0..DAY + DAY / 2).prop_map(Turn::Later),
        2 => Just(Turn::Count),
    ];
    proptest::collection::vec(turn, 1..25)
}

async fn live_and_count(engine: Engine, turns: Vec<Turn>) {
    let world = World::on(engine).await;
    let id = world.agent("a").await.spec.id;
    for turn in turns {
        match turn {
            Turn::Later(by) => on(&world, by),
            Turn::Count => drop(count_all(&world.store).await),
            Turn::Order(verb) => {
                let _ = world.store.order(Actor::System, id, verb, &Order::default()).await;
            }
            Turn::Report(observed) => {
                let agent = world.store.agent(id).await.unwrap();
                world.saw(&agent, agent.generation, observed).await;
            }
        }
    }
    let expected = of_periods(&world, world.account).await;
    assert_eq!(told(&world.store, world.account, UsageBy::Day).await, expected);
    count_all(&world.store).await;
    for by in [UsageBy::Day, UsageBy::Agent] {
        assert_eq!(told(&world.store, world.account, by).await, expected);
    }
}

fn random_lives(engine: &Engine, cases: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(turns in turns())| {
        runtime.block_on(live_and_count(engine.another(), turns));
    });
}

#[test]
fn days_add_up_to_the_periods() {
    random_lives(&Engine::Sqlite, 24);
}

#[test]
fn days_add_up_to_the_periods_on_a_server() {
    match Engine::postgres() {
        Some(engine) => random_lives(&engine, 8),
        None => eprintln!("skipped: PostgreSQL is not installed"),
    }
}
