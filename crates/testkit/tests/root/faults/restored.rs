//! A database of yesterday beside agents of today.

use super::eventually;
use testkit::World;

#[test]
fn a_restore_ends_no_agent_and_brings_none_back() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("stays", &[]);
    world.create("goes", &[]);
    let boot = "cat /proc/1/stat | cut -d' ' -f22";
    let started = world.sh("stays", boot).ok().out;
    let receipt = world.dir().join("receipt");
    let chained = || world.cli(&["audit", "receipt"]).ok().json();
    eventually("both agents are in the chain", || chained()["checkpoint"]["seq"].as_u64() >= Some(5));
    std::fs::write(&receipt, chained().to_string()).unwrap();
    let file = world.dir().join("backup");
    let (file, receipt) = (file.to_str().unwrap(), receipt.to_str().unwrap());
    world.cli(&["backup", file]).ok();
    world.cli(&["rm", "-f", "goes"]).ok();
    world.create("later", &[]);

    // Nothing is replaced that nobody asked to.
    assert_ne!(world.cli(&["restore", file]).code, 0);
    world.cli(&["restore", file, "--replace"]).ok();
    let state =
        |name: &str| world.cli(&["show", name, "-o", "json"]).json()["state"].as_str().map(str::to_owned);
    eventually("the node has spoken", || state("goes").as_deref() == Some("failed"));
    eventually("what ran is in reach", || world.sh("stays", boot).out == started);
    assert_eq!(world.cli(&["show", "later"]).code, 3, "nobody knows of one that was made after the backup");
    eventually("it is an orphan", || world.cli(&["events", "-o", "json"]).ok().out.contains("agent.orphan"));
    world.cli(&["audit", "verify", "--against", receipt]).ok();
}
