//! Marks change with whatever is shown of an agent, and are read together.

use super::*;

/// Columns of agents of which nothing is shown.
const HIDDEN: [&str; 7] = [
    "node_rev",
    "secrets_revision",
    "secrets_delivered",
    "watched_until",
    "token_epoch",
    "last_activity",
    "observation",
];

/// Every statement of this crate that changes agents, as far as its `WHERE`.
fn statements(folder: &std::path::Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            statements(&path, found);
        } else if !path.components().any(|part| part.as_os_str().to_string_lossy().starts_with("tests")) {
            let text = std::fs::read_to_string(&path).unwrap();
            let parts = text.split("UPDATE agents SET").skip(1);
            found.extend(parts.map(|part| part.split("WHERE").next().unwrap_or_default().to_owned()));
        }
    }
}

#[test]
fn whatever_is_shown_raises_the_mark() {
    let mut found = Vec::new();
    statements(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut found);
    assert!(found.len() > 5, "{found:?}");
    for statement in found {
        let raises = statement.contains("shown = shown + 1");
        let names =
            statement.split(" = ").map(|part| part.rsplit([' ', ',', '(', '\n']).next().unwrap_or_default());
        let count = statement.matches(" = ").count();
        let hidden = names.take(count).all(|name| HIDDEN.contains(&name) || name == "id");
        assert!(
            raises || hidden,
            "this may change what is shown of an agent, and has to say `shown = shown + 1`:{statement}"
        );
    }
}

both!(a_mark_is_as_new_as_its_row);
async fn a_mark_is_as_new_as_its_row(engine: Engine) {
    let world = World::on(engine).await;
    let (account, agent) = (world.account, world.agent("one").await);
    let id = agent.spec.id;
    let first = world.store.mark(id).await.unwrap().unwrap();
    assert_eq!((first.agent, first.account), (id, account));
    world.store.order(Actor::System, id, Verb::Stop, &Order::default()).await.unwrap();
    let second = world.store.mark(id).await.unwrap().unwrap();
    assert!(second.shown > first.shown);
    assert_eq!(world.store.mark(AgentId::new()).await.unwrap(), None);
    // Many at once, of which some are the same and some are not there.
    let asked = (0..200).map(|at| world.store.mark(if at % 3 == 0 { AgentId::new() } else { id }));
    let found = futures_util::future::join_all(asked).await;
    for (at, found) in found.into_iter().enumerate() {
        assert_eq!(found.unwrap(), (at % 3 != 0).then_some(second), "{at}");
    }
    let page = world.store.marks(account, &AgentFilter::default(), None, 10).await.unwrap();
    assert_eq!((page.items, page.more), (vec![second], false));
    let read = world.store.agents_of(&[id, AgentId::new()]).await.unwrap();
    assert_eq!(read.iter().map(|agent| agent.spec.id).collect::<Vec<_>>(), [id]);
}
