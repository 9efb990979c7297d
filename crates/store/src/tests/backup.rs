//! Backups: of either database into either, whole, and letting nobody in who was let in before.

use super::*;
use crate::backup::{LEFT, TABLES};
use crate::{Archive, BackupError};
use std::collections::BTreeSet;
use std::io::Cursor;

fn engines() -> Vec<Engine> {
    [Some(Engine::Sqlite), Engine::postgres()].into_iter().flatten().collect()
}

async fn taken(store: &Store) -> Vec<u8> {
    let mut file = Vec::new();
    store.backup(&mut file).await.unwrap();
    file
}

async fn empty(engine: &Engine, clock: &Arc<HeldClock>) -> (Store, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let store = engine.another().open(directory.path(), clock.clone(), Arc::new(|_, _| {}), None).await;
    (store, directory)
}

/// The rows of the tables that a restore changes nothing in.
fn unchanged(file: &[u8]) -> Vec<String> {
    let changed = ["installation", "agents", "nodes", "events"];
    let mut table = String::new();
    let mut rows = BTreeSet::new();
    for line in std::str::from_utf8(file).unwrap().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        match line["table"].as_str() {
            Some(name) => table = name.to_owned(),
            None if line.is_array() && !changed.contains(&&*table) => {
                rows.insert(format!("{table} {line}"));
            }
            None => {}
        }
    }
    rows.into_iter().collect()
}

#[tokio::test]
async fn each_table_is_in_a_backup_or_left_out_on_purpose() {
    let world = World::on(Engine::Sqlite).await;
    let rows = query(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE '\\_%' ESCAPE '\\'",
    );
    let rows = rows.fetch_all(&world.store.0.reader).await.unwrap();
    let there: BTreeSet<String> = rows.iter().map(|row| row.text("name").unwrap()).collect();
    let told: BTreeSet<String> = TABLES.iter().chain(LEFT).map(|name| (*name).to_owned()).collect();
    assert_eq!(there, told, "say in store/src/backup.rs whether a backup holds a table");
    assert_eq!(told.len(), TABLES.len() + LEFT.len(), "a table is told of twice");
    // Nothing comes before what it refers to.
    let keys = "SELECT t.name, k.\"table\" AS other FROM sqlite_schema t JOIN pragma_foreign_key_list(t.name) k WHERE t.type = 'table'";
    for row in query(keys).fetch_all(&world.store.0.reader).await.unwrap() {
        let (name, other) = (row.text("name").unwrap(), row.text("other").unwrap());
        let place = |name: &str| TABLES.iter().position(|known| *known == name);
        if let Some(own) = place(&name) {
            assert!(
                place(&other).is_some_and(|other| other < own || name == TABLES[other]),
                "{name} refers to {other}"
            );
        }
    }
}

#[tokio::test]
async fn what_was_backed_up_is_there_again_in_either_database() {
    for from in engines() {
        let world = World::on(from.clone()).await;
        let (running, gone) = (world.agent("a").await, world.agent("b").await);
        world.store.order(Actor::System, gone.spec.id, Verb::Destroy, &Order::default()).await.unwrap();
        let file = taken(&world.store).await;
        let text = String::from_utf8(file.clone()).unwrap();
        assert!(!text.contains("\"api_keys\"") && !text.contains("\"callback_tokens\""));
        for into in engines() {
            let (store, _directory) = empty(&into, &world.clock).await;
            let archive = Archive::check(Cursor::new(file.clone())).unwrap();
            let restored = store.restore(archive, false).await.unwrap();
            assert!(restored.database_epoch > 1);
            let known = store.installation().await.unwrap().unwrap();
            assert_eq!(known.database_epoch, restored.database_epoch);
            assert_eq!(unchanged(&taken(&store).await), unchanged(&file));
            let agent = store.agent(running.spec.id).await.unwrap();
            assert!(agent.restored && agent.token_epoch > running.token_epoch);
            assert_eq!((agent.desired, &agent.spec), (running.desired, &running.spec));
            // Nobody is let in, and the ledger tells of it.
            for (sql, expected) in [
                ("SELECT count(*) AS count FROM api_keys", 0),
                ("SELECT count(*) AS count FROM signing_keys", 0),
                ("SELECT count(*) AS count FROM events WHERE kind = 'installation.restored'", 2),
            ] {
                let row = query(sql).fetch_one(&store.0.reader).await.unwrap();
                assert_eq!(row.number("count").unwrap(), expected, "{sql}");
            }
            // What is kept for ever still is, and the node is asked before anything is ordered.
            let refused = query("DELETE FROM events").execute(store.0.writer.pool()).await;
            assert!(refused.is_err());
            let stop = store.order(Actor::System, agent.spec.id, Verb::Stop, &Order::default()).await;
            assert!(matches!(stop, Err(Error::Restored)), "{stop:?}");
            // It is there now: nothing is put over it that was not asked for.
            let archive = Archive::check(Cursor::new(file.clone())).unwrap();
            assert!(matches!(store.restore(archive, false).await, Err(BackupError::NotEmpty)));
            let archive = Archive::check(Cursor::new(file.clone())).unwrap();
            let again = store.restore(archive, true).await.unwrap();
            assert!(again.database_epoch > restored.database_epoch);
            assert_eq!(unchanged(&taken(&store).await), unchanged(&file));
            store.close().await;
        }
    }
}

#[tokio::test]
async fn a_backup_that_is_not_whole_changes_nothing() {
    let world = World::on(Engine::Sqlite).await;
    world.agent("a").await;
    let file = taken(&world.store).await;
    let refused = |file: Vec<u8>| Archive::check(Cursor::new(file)).err().expect("refused");
    let text = String::from_utf8(file.clone()).unwrap();
    assert!(matches!(refused(text.replace("node-1", "node-2").into_bytes()), BackupError::Digest));
    assert!(matches!(refused(file[..file.len() / 2].to_vec()), BackupError::NoBackup(_)));
    assert!(matches!(refused([&*file, b"{}\n"].concat()), BackupError::NoBackup(_)));
    assert!(matches!(refused(b"{}\n".to_vec()), BackupError::NoBackup(_)));
    assert!(matches!(refused(Vec::new()), BackupError::NoBackup(_)));
    // Another installation is not put in the place of this one.
    let other = World::on(Engine::Sqlite).await;
    let archive = Archive::check(Cursor::new(file)).unwrap();
    assert!(matches!(other.store.restore(archive, true).await, Err(BackupError::OtherInstallation)));
    assert_ne!(other.store.installation().await.unwrap(), world.store.installation().await.unwrap());
}

async fn a_restored_agent_is_as_its_node_says(engine: Engine) {
    let world = World::on(engine.clone()).await;
    let ids = [world.agent("a").await.spec.id, world.agent("b").await.spec.id];
    let file = taken(&world.store).await;
    let (store, _directory) = empty(&engine, &world.clock).await;
    store.restore(Archive::check(Cursor::new(file)).unwrap(), false).await.unwrap();
    assert!(store.desired(world.node, None).await.unwrap().agents.iter().all(|agent| agent.restored));
    let saw = |id, observed| ObservedAgent {
        id,
        generation: 1,
        observed,
        reason: None,
        evidence: Vec::new(),
        observation: None,
        workspace_url: None,
        last_activity: None,
    };
    let agents = vec![saw(ids[0], Observed::Paused), saw(ids[1], Observed::Destroyed)];
    store.observe(world.node, &ObservedState { agents, ..ObservedState::default() }).await.unwrap();
    let [kept, gone] = [store.agent(ids[0]).await.unwrap(), store.agent(ids[1]).await.unwrap()];
    assert_eq!((kept.state, kept.desired, kept.generation), (AgentState::Paused, model::Desired::Paused, 1));
    assert_eq!((gone.state, gone.restored), (AgentState::Failed, false));
    assert!(!kept.restored);
    store.order(Actor::System, ids[0], Verb::Stop, &Order::default()).await.unwrap();
}
both!(a_restored_agent_is_as_its_node_says);
