//! The ledger against those who would write it anew, and those who write at the same time.

use super::*;
use crate::Chaining;
use ::ledger::{Fault, Walk};

async fn chained(store: &Store) -> usize {
    let mut sum = 0;
    loop {
        match store.chain_events("one").await.unwrap() {
            Chaining::Done { events, more } => {
                sum += events;
                if !more {
                    return sum;
                }
            }
            Chaining::Elsewhere => panic!("nobody else has the lease"),
        }
    }
}

/// Follows the chain of the account, or of the installation.
async fn followed(world: &World, account: Option<AccountId>) -> Result<u64, Fault> {
    let installation = world.store.installation().await.unwrap().unwrap().id;
    let chain = account.map_or("installation".to_owned(), |account| account.to_string());
    let mut walk = Walk::new(&installation, &chain);
    for entry in world.store.ledger_entries(account, 0, 10_000).await.unwrap() {
        walk.step(&entry)?;
    }
    walk.end()
}

both!(every_event_is_chained_once);
async fn every_event_is_chained_once(engine: Engine) {
    let world = World::on(engine).await;
    world.agent("a").await;
    let events = world.count("SELECT count(*) FROM events").await;
    assert_eq!(chained(&world.store).await as i64, events);
    assert_eq!(chained(&world.store).await, 0);
    let (ours, others) =
        (followed(&world, Some(world.account)).await.unwrap(), followed(&world, None).await.unwrap());
    assert!(ours > 0 && others > 0);
    assert_eq!((ours + others) as i64, events);
    let head = world.store.ledger_head(Some(world.account)).await.unwrap().unwrap();
    assert_eq!(head.0, ours);
}

both!(what_was_written_stays_as_it_is);
async fn what_was_written_stays_as_it_is(engine: Engine) {
    let world = World::on(engine).await;
    let refused = async |sql: &'static str| {
        assert!(world.raw(sql, &[]).await.is_err(), "{sql}");
    };
    refused("DELETE FROM ledger_waiting").await;
    refused("UPDATE ledger_waiting SET event = 'x'").await;
    refused("UPDATE events SET source = 'x'").await;
    refused("DELETE FROM events").await;
    chained(&world.store).await;
    refused("UPDATE ledger SET hash = event").await;
    refused("DELETE FROM ledger").await;
    followed(&world, None).await.unwrap();
}

both!(one_process_chains_for_all_and_another_takes_over);
async fn one_process_chains_for_all_and_another_takes_over(engine: Engine) {
    let world = World::on(engine).await;
    let twin = world.twin(None).await;
    chained(&world.store).await;
    world.agent("a").await;
    assert_eq!(twin.chain_events("two").await.unwrap(), Chaining::Elsewhere);
    world.clock.0.fetch_add(11_000, Ordering::SeqCst);
    assert!(matches!(twin.chain_events("two").await.unwrap(), Chaining::Done { events: 1.., .. }));
    assert_eq!(world.store.chain_events("one").await.unwrap(), Chaining::Elsewhere);
    followed(&world, Some(world.account)).await.unwrap();
}

both!(an_event_says_from_where_and_by_which_request);
async fn an_event_says_from_where_and_by_which_request(engine: Engine) {
    let world = World::on(engine).await;
    let address = "::ffff:192.0.2.7".parse().ok();
    let new = new_account("x");
    let made = crate::asked_from(address, "req_1", world.store.create_account(Actor::System, &new));
    let account = made.await.unwrap();
    chained(&world.store).await;
    let ours = world.store.ledger_entries(Some(account), 0, 10).await.unwrap();
    let record = ours[0].record.as_ref().unwrap();
    assert_eq!((record.source.as_deref(), record.request.as_deref()), (Some("192.0.2.7"), Some("req_1")));
    let first = &world.store.ledger_entries(None, 0, 10).await.unwrap()[0];
    let record = first.record.as_ref().unwrap();
    assert_eq!((record.source.as_deref(), record.request.as_deref()), (Some("local"), None));
}

both!(large_events_are_read_a_few_at_a_time);
async fn large_events_are_read_a_few_at_a_time(engine: Engine) {
    let world = World::on(engine).await;
    chained(&world.store).await;
    let before = followed(&world, Some(world.account)).await.unwrap();
    let large = format!("\"{}\"", "x".repeat(3 << 20));
    for number in 0..4 {
        let insert = "INSERT INTO events (id, account, at, kind, actor, subject, detail)
            VALUES ($1, $2, 0, 'agent.policy_changed', 'system', 'a', $3)";
        let ids = [format!("evt_{number}"), world.account.to_string(), large.clone()];
        world.raw(insert, &ids).await.unwrap();
    }
    // One at a time, for two are too large together.
    for left in (0..4).rev() {
        let step = world.store.chain_events("one").await.unwrap();
        assert_eq!(step, Chaining::Done { events: 1, more: left > 0 });
    }
    let read = world.store.ledger_entries(Some(world.account), before, 1000).await.unwrap();
    assert_eq!(read.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [before + 1]);
    assert!(world.store.ledger_entries(Some(world.account), before + 4, 1000).await.unwrap().is_empty());
}
