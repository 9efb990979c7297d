//! The ledger over the API: an account follows its chain, and holds it against a receipt.

use super::world::{Machine, World};
use ledger::{Entry, Receipt, Walk};
use serde_json::Value;

async fn read(world: &World, path: &str) -> Vec<Entry> {
    serde_json::from_value(world.get(path).await.expect(200)).unwrap()
}

async fn receipt(world: &World, path: &str) -> Receipt {
    let receipt: Receipt = serde_json::from_value(world.get(path).await.expect(200)).unwrap();
    receipt.verify().unwrap();
    receipt
}

fn follow(receipt: &Receipt, entries: &[Entry]) -> u64 {
    let mut walk = Walk::new(&receipt.checkpoint.installation, &receipt.checkpoint.chain);
    walk.expect(&receipt.checkpoint).unwrap();
    entries.iter().try_for_each(|entry| walk.step(entry)).unwrap();
    walk.end().unwrap()
}

#[tokio::test]
async fn an_account_follows_its_chain_and_nobody_elses() {
    let world = World::new().await;
    let _machine = Machine::enrolled(&world, "node-1", 2).await;
    world.image().await;
    let id = world.agent("mine").await;
    while !matches!(
        world.app.store.chain_events("test").await.unwrap(),
        store::Chaining::Done { events: 0, .. }
    ) {}
    let entries = read(&world, "/v1/audit/entries").await;
    let receipt = receipt(&world, "/v1/audit/receipt").await;
    assert_eq!(follow(&receipt, &entries), entries.len() as u64);
    let mut records = entries.iter().filter_map(|entry| entry.record.as_ref());
    let made = records.find(|record| record.subject == id && record.kind == "agent.created").unwrap();
    assert_eq!(made.source.as_deref(), Some("local"));
    assert!(made.request.as_deref().unwrap().starts_with("req_"));
    let last = entries.last().unwrap().seq;
    assert!(read(&world, &format!("/v1/audit/entries?after={last}")).await.is_empty());
    assert_eq!(read(&world, "/v1/audit/entries?after=1&entries=1").await[0].seq, 2);
    // The installation's own is its operator's to see.
    let own = read(&world, "/v1/audit/entries?chain=installation").await;
    let all = self::receipt(&world, "/v1/audit/receipt?chain=installation").await;
    assert_eq!(follow(&all, &own), own.len() as u64);
    let path = "/v1/audit/entries?chain=installation";
    world.call_as(&world.other, "GET", path, None).await.expect(403);
    let theirs = world.call_as(&world.other, "GET", "/v1/audit/entries", None).await.expect(200);
    assert!(!theirs.to_string().contains(&id) && theirs.as_array().is_some_and(|all| !all.is_empty()));
    assert_eq!(world.get("/v1/audit/entries?chain=x").await.problem(), ("VALIDATION_ERROR", Some("chain")));
    let _: Value = world.get("/v1/audit/entries?limit=2").await.expect(400);
}
