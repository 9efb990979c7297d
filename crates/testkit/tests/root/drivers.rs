//! Agents whose boundary an OCI runtime makes: allowed by node.toml, chosen by name, and like all others.

use std::fs;
use testkit::World;

const PATH: &str = "/usr/bin/runc";

#[test]
fn a_runtime_is_chosen_by_name_where_the_node_allows_it() {
    if !testkit::can_run() {
        return;
    }
    let world = World::prepare();
    let path = world.dir().join("etc/node.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("drivers = [\"builtin\", \"runc\"]\n{text}")).unwrap();
    world.up();
    world.provide_image();

    world.create("second", &["--driver", "runc"]);
    let shown = world.cli(&["show", "second", "-o", "json"]).json();
    assert_eq!((&shown["driver"], &shown["claim"]), (&"runc".into(), &"sandboxed (container)".into()));
    assert_eq!(world.sh("second", "echo kept > ~/file; id -u; hostname").out, "1000\nsecond\n");
    world.cli(&["pause", "second"]).ok();
    world.cli(&["resume", "second"]).ok();
    let report = world.cli(&["verify", "second", "-o", "json"]).json();
    assert_eq!((&report["claim"], &report["not_probed"]), (&"sandboxed (container)".into(), &().into()));
    // The same disk in another life.
    world.cli(&["stop", "second"]).ok();
    world.cli(&["start", "second"]).ok();
    assert_eq!(world.sh("second", "cat ~/file").out, "kept\n");
    world.cli(&["rm", "second"]).ok();

    // A name that is not on the list is no driver, least of all a path.
    let refused = world.cli(&["create", "--driver", PATH]);
    assert!(refused.err.contains("expected builtin, runc or runsc"), "{}", refused.err);
}

#[test]
fn a_node_that_allows_no_runtime_uses_none() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    let refused = world.cli(&["create", "--name", "second", "--image", "debian", "--driver", "runc"]);
    let shown = world.cli(&["show", "second", "-o", "json"]).json();
    let said = format!("{}{shown}", refused.err);
    assert!(said.contains("add it to drivers in node.toml"), "{said}");
    assert_eq!(shown["claim"], "none");
}
