//! What only a server does: it is used by several processes, and goes away.

use super::engine::Engine;
use super::*;
use crate::{Changed, Server, UrlFault};
use std::collections::BTreeSet;
use tokio::sync::mpsc;

/// A second process, and what it hears.
async fn listener(world: &World) -> (Store, mpsc::UnboundedReceiver<(u64, Changed)>) {
    let Engine::Postgres(database) = &world.engine else { unreachable!("a server") };
    let (tell, heard) = mpsc::unbounded_channel();
    let on_commit: OnCommit = Arc::new(move |number, changed| drop(tell.send((number, changed))));
    let server = Server::new(&database.url(), None).unwrap();
    (Store::connect(&server, world.clock.clone(), on_commit).await.unwrap(), heard)
}

fn cut(world: &World) {
    let Engine::Postgres(database) = &world.engine else { unreachable!("a server") };
    database.cut();
}

fn psql(world: &World, sql: &str) -> String {
    let Engine::Postgres(database) = &world.engine else { unreachable!("a server") };
    database.psql(sql)
}

#[tokio::test]
async fn each_process_hears_what_others_change() {
    let Some(engine) = Engine::postgres() else { return eprintln!("skipped: PostgreSQL is not installed") };
    let world = World::on(engine).await;
    let (other, mut heard) = listener(&world).await;
    let agent = world.agent("a").await;
    let mut last = 0;
    for expected in ["Agent", "Node"] {
        let (number, changed) = heard.recv().await.unwrap();
        assert!(number > 0 && number >= last);
        last = number;
        match changed {
            Changed::AgentElsewhere { agent: id, deadline: false } if expected == "Agent" => {
                assert_eq!(id, agent.spec.id);
                // What is told is there already.
                assert_eq!(other.agent(id).await.unwrap(), agent);
            }
            Changed::Node(node) => assert_eq!(node, world.node),
            changed => panic!("{changed:?}"),
        }
    }
    // The other way round, numbers go on growing, and nobody hears of himself as of another.
    world.changed.lock().unwrap().clear();
    other.order(Actor::System, agent.spec.id, Verb::Destroy, &Order::default()).await.unwrap();
    loop {
        let (number, changed) = heard.recv().await.unwrap();
        assert!(number > last);
        match changed {
            Changed::Agent(told) => break assert_eq!(told.spec.id, agent.spec.id),
            Changed::Node(_) | Changed::Questions(_) => {}
            changed => panic!("{changed:?}"),
        }
    }
    assert!(heard.try_recv().is_err());
}

#[tokio::test]
async fn who_did_not_hear_is_told_so() {
    let Some(engine) = Engine::postgres() else { return eprintln!("skipped: PostgreSQL is not installed") };
    let world = World::on(engine).await;
    let (_other, mut heard) = listener(&world).await;
    cut(&world);
    let (_, changed) = heard.recv().await.unwrap();
    assert!(matches!(changed, Changed::Anything), "{changed:?}");
    let agent = loop {
        // The connection that was cut is noticed by its first use.
        if let Ok((agent, _)) = world.create(world.new_agent("a"), place).await {
            break agent;
        }
    };
    let (_, changed) = heard.recv().await.unwrap();
    assert!(
        matches!(changed, Changed::AgentElsewhere { agent: id, .. } if id == agent.spec.id),
        "{changed:?}"
    );
}

#[tokio::test]
async fn a_change_whose_connection_is_lost_is_not_made() {
    let Some(engine) = Engine::postgres() else { return eprintln!("skipped: PostgreSQL is not installed") };
    let world = World::on(engine).await;
    let before = world.count("SELECT count(*) FROM events").await;
    let mut change = world.store.change(Actor::System).await.unwrap();
    change.event(None, model::audit::EventKind::NodeLevels, world.node, json!({}));
    change.flush().await.unwrap();
    cut(&world);
    let error = change.commit().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. } | Error::Undone), "{error}");
    world.store.create_account(Actor::System, &new_account("after")).await.unwrap();
    let events = psql(&world, "SELECT count(*) FROM events WHERE kind = 'node.levels'");
    assert_eq!(events.trim(), "0");
    assert!(world.count("SELECT count(*) FROM events").await > before);
}

/// It has the lock that all who write wait for.
#[tokio::test]
async fn a_process_that_stands_still_is_put_out() {
    let Some(engine) = Engine::postgres() else { return eprintln!("skipped: PostgreSQL is not installed") };
    let world = World::on(engine).await;
    let twin = world.twin(Some(std::time::Duration::from_millis(100))).await;
    let mut still = twin.change(Actor::System).await.unwrap();
    still.event(None, model::audit::EventKind::NodeLevels, world.node, json!({}));
    still.flush().await.unwrap();
    world.store.create_account(Actor::System, &new_account("after")).await.unwrap();
    let error = still.commit().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. } | Error::Undone), "{error}");
    assert_eq!(world.count("SELECT count(*) FROM events WHERE kind = 'node.levels'").await, 0);
    twin.create_account(Actor::System, &new_account("again")).await.unwrap();
}

#[tokio::test]
async fn a_server_that_crashes_comes_back_with_all_that_was_told() {
    let Some(engine) = Engine::alone() else { return eprintln!("skipped: PostgreSQL is not installed") };
    let world = World::on(engine).await;
    let Engine::Postgres(database) = world.engine.clone() else { unreachable!("a server") };
    world.store.create_account(Actor::System, &new_account("before")).await.unwrap();
    let held = world.store.change(Actor::System).await.unwrap();
    tokio::task::spawn_blocking(move || database.crash()).await.unwrap();
    let error = held.commit_bookkeeping().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. } | Error::Undone), "{error}");
    let made = loop {
        match world.store.create_account(Actor::System, &new_account("after")).await {
            Ok(made) => break made,
            Err(error) => assert!(matches!(error, Error::Unreachable { .. } | Error::Undone), "{error}"),
        }
    };
    assert!(world.store.account_exists(made).await.unwrap());
    assert_eq!(world.count("SELECT count(*) FROM accounts WHERE name = 'before'").await, 1);
}

/// Two processes write at once, and connections of both are cut all the while.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_while_connections_are_cut() {
    let Some(engine) = Engine::postgres() else { return eprintln!("skipped: PostgreSQL is not installed") };
    let world = World::on(engine).await;
    let twin = world.twin(None).await;
    let mut tasks = Vec::new();
    for index in 0..200 {
        let store = if index % 2 == 0 { world.store.clone() } else { twin.clone() };
        let name = format!("account-{index}");
        tasks.push(tokio::spawn(async move {
            (store.create_account(Actor::System, &new_account(&name)).await, name)
        }));
    }
    let Engine::Postgres(database) = world.engine.clone() else { unreachable!("a server") };
    let cutting = tokio::task::spawn_blocking(move || {
        for _ in 0..5 {
            database.cut();
        }
    });
    let (mut made, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    for task in tasks {
        match task.await.unwrap() {
            (Ok(_), name) => drop(made.insert(name)),
            (Err(Error::Unanswered), name) => drop(unknown.insert(name)),
            (Err(Error::Unreachable { .. } | Error::Undone | Error::Busy), _) => {}
            (Err(error), name) => panic!("{name}: {error}"),
        }
    }
    cutting.await.unwrap();
    let names = psql(&world, "SELECT name FROM accounts WHERE name LIKE 'account-%'");
    let there: BTreeSet<String> = names.lines().map(str::to_owned).collect();
    assert!(made.is_subset(&there), "what was said to be made is there");
    let known: BTreeSet<String> = made.union(&unknown).cloned().collect();
    assert!(there.is_subset(&known), "what was said not to be made is not");
    let untold = "SELECT count(*) FROM accounts a WHERE 1 <>
        (SELECT count(*) FROM events e WHERE e.kind = 'account.created' AND e.subject = a.id)";
    assert_eq!(psql(&world, untold).trim(), "0", "each with its event");
}

#[tokio::test]
async fn a_text_that_cannot_be_kept_says_so() {
    let Some(engine) = Engine::postgres() else { return eprintln!("skipped: PostgreSQL is not installed") };
    let world = World::on(engine).await;
    let found = world.store.secret(world.account, "a\0b").await;
    assert!(matches!(found, Err(Error::Text)), "{found:?}");
    world.agent("after").await;
}

#[test]
fn urls_name_a_database_that_nobody_reads_along_with() {
    let check = |url: &str, expected: Result<&str, UrlFault>| {
        let found = Server::new(url, Some("swordfish")).map(|server| {
            let said = format!("{server:?}");
            assert!(!said.contains("swordfish"), "{said}");
            server.place()
        });
        assert_eq!(found, expected.map(str::to_owned), "{url}");
    };
    check("postgres://me@db.example/cofferdam", Ok("cofferdam at db.example:5432"));
    check("postgresql://me@db.example:7/c?sslmode=verify-ca", Ok("c at db.example:7"));
    check("postgres://me@localhost/c?sslmode=disable", Ok("c at localhost:5432"));
    check("postgres://me@127.0.0.1/c", Ok("c at 127.0.0.1:5432"));
    check("postgres://me@%2Frun%2Fpostgresql/c", Ok("c at /run/postgresql"));
    for weak in ["disable", "allow", "prefer", "require"] {
        check(&format!("postgres://me@db.example/c?sslmode={weak}"), Err(UrlFault::Clear));
    }
    check("postgres://db.example/c", Err(UrlFault::Incomplete));
    check("postgres://me@db.example", Err(UrlFault::Incomplete));
    for odd in
        ["", "mysql://me@db/c", "/var/lib/c.db", "postgres://me@db:port/c", "postgres://me@db/c?sslmode=no"]
    {
        check(odd, Err(UrlFault::Form));
    }
}
