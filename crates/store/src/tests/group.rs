//! Changes that are committed together.

use super::engine::Engine;
use super::{World, both, new_account};
use crate::Error;
use crate::change::Actor;
use crate::db::query;
use model::audit::EventKind;
use serde_json::json;
use std::collections::BTreeSet;

/// All accounts that there are, each with its event.
async fn accounts(world: &World) -> BTreeSet<String> {
    let of = async |sql| -> Vec<String> {
        let rows = query(sql).fetch_all(&world.store.0.reader).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let made = of("SELECT id FROM accounts ORDER BY id").await;
    let told = of("SELECT subject FROM events WHERE kind = 'account.created' ORDER BY subject").await;
    assert_eq!(made, told, "all of a change or nothing of it");
    of("SELECT name FROM accounts").await.into_iter().collect()
}

both!(changes_at_once_are_each_made_or_not, flavor = "multi_thread");
async fn changes_at_once_are_each_made_or_not(engine: Engine) {
    let world = World::on(engine).await;
    let before = accounts(&world).await.len();
    let mut tasks = Vec::new();
    for index in 0..200 {
        let store = world.store.clone();
        // Each name twice: one of the two fails in the middle of a transaction that others are in.
        let name = format!("account-{}", index / 2);
        tasks.push(tokio::spawn(async move {
            (store.create_account(Actor::System, &new_account(&name)).await, name)
        }));
    }
    let mut kept = BTreeSet::new();
    for (index, task) in tasks.into_iter().enumerate() {
        // Some clients hang up.
        if index % 7 == 0 {
            task.abort();
        }
        if let Ok((Ok(_), name)) = task.await {
            assert!(kept.insert(name), "a name was given twice");
        }
    }
    // Those of whom nobody waits any more may still be under way.
    world.store.create_account(Actor::System, &new_account("last")).await.unwrap();
    let there = accounts(&world).await;
    assert!(kept.is_subset(&there), "what was said to be made is there");
    assert_eq!(there.len(), before + 101, "who hangs up and who is refused takes nothing of others along");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_takes_back_all_that_is_committed_together() {
    let world = World::on(Engine::Sqlite).await;
    let pages = world.count("PRAGMA page_count").await + 4;
    let limit = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
    query(limit).execute(world.store.0.writer.pool()).await.unwrap();
    let make = |index: usize| {
        let (store, name) = (world.store.clone(), format!("account-{index}"));
        tokio::spawn(
            async move { store.create_account(Actor::System, &new_account(&name)).await.map(|_| name) },
        )
    };
    let (mut kept, mut refused) = (BTreeSet::new(), 0);
    for task in (0..500).map(make).collect::<Vec<_>>() {
        match task.await.unwrap() {
            Ok(name) => drop(kept.insert(name)),
            Err(Error::DiskFull | Error::Undone) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0, "the disk was to be full");
    let there = accounts(&world).await;
    let made: BTreeSet<_> = there.into_iter().filter(|name| name.starts_with("account-")).collect();
    assert_eq!(made, kept, "what failed is not there, and the rest is");
}

both!(what_was_begun_and_left_is_undone_and_in_nobodys_way);
async fn what_was_begun_and_left_is_undone_and_in_nobodys_way(engine: Engine) {
    let world = World::on(engine).await;
    let before = accounts(&world).await;
    let mut left = world.store.change(Actor::System).await.unwrap();
    left.event(None, EventKind::AccountCreated, "acc_nobody", json!({}));
    left.flush().await.unwrap();
    drop(left);
    assert_eq!(accounts(&world).await, before);
    world.store.create_account(Actor::System, &new_account("after")).await.unwrap();
    assert_eq!(accounts(&world).await.len(), before.len() + 1);
    // One that may be lost with the power does not take with it what may not.
    let (soon, now) = (world.store.repeatable_change(Actor::System).await.unwrap(), world.store.clone());
    let durable = tokio::spawn(async move { now.change(Actor::System).await.map(drop) });
    soon.commit_bookkeeping().await.unwrap();
    durable.await.unwrap().unwrap();
}

both!(who_tells_of_what_is_not_committed_waits_for_the_commit);
async fn who_tells_of_what_is_not_committed_waits_for_the_commit(engine: Engine) {
    let world = World::on(engine).await;
    let held = world.store.change(Actor::System).await.unwrap();
    let change = || {
        let store = world.store.clone();
        async move { store.change(Actor::System).await.unwrap() }
    };
    let (first, second, third) = (change(), change(), change());
    let makes = tokio::spawn(async move {
        let mut change = first.await;
        change.event(None, EventKind::AccountCreated, "acc_nobody", json!({}));
        change.commit().await
    });
    tokio::task::yield_now().await;
    let reads = tokio::spawn(async move { second.await.settle().await });
    tokio::task::yield_now().await;
    let ends = tokio::spawn(async move {
        let mut change = third.await;
        // As SQLite does by itself when the disk is full.
        change.db().await.unwrap().script("ROLLBACK").await.unwrap();
    });
    tokio::task::yield_now().await;
    drop(held);
    ends.await.unwrap();
    for told in [makes.await.unwrap(), reads.await.unwrap()] {
        assert!(matches!(told, Err(Error::Undone)), "{told:?}");
    }
    accounts(&world).await;
    world.store.create_account(Actor::System, &new_account("after")).await.unwrap();
}
