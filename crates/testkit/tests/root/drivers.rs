//! Agents whose boundary an OCI runtime makes: allowed by node.toml, chosen by name, and like all others.

use testkit::World;

const PATH: &str = "/usr/bin/runc";

#[test]
fn a_runtime_is_chosen_by_name_where_the_node_allows_it() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start_with("drivers = [\"builtin\", \"runc\"]");
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
fn a_kernel_of_its_own_is_evidence() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start_with("drivers = [\"builtin\", \"runsc\"]\ndriver = \"runsc\"");
    world.create("second", &["--memory", "512MiB"]);
    let shown = world.cli(&["show", "second", "-o", "json"]).json();
    assert_eq!(shown["claim"], "sandboxed (container)", "{shown}");
    assert!(shown.to_string().contains("kernel_boundary"), "{shown}");
    let kernel = std::fs::read_to_string("/proc/version").unwrap();
    assert_ne!(world.sh("second", "cat /proc/version").ok().out, kernel);
    assert_eq!(world.sh("second", "echo kept > ~/file; id -u; hostname").out, "1000\nsecond\n");
    // Trees both ways.
    let tree = world.dir().join("tree");
    std::fs::create_dir_all(tree.join("below/it")).unwrap();
    std::fs::write(tree.join("below/it/file"), "from outside\n").unwrap();
    world.cli(&["cp", tree.to_str().unwrap(), "second:/home/agent/tree"]).ok();
    assert_eq!(world.sh("second", "cat ~/tree/below/it/file").ok().out, "from outside\n");
    let back = world.dir().join("back");
    world.cli(&["cp", "second:/home/agent/tree", back.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read(back.join("below/it/file")).unwrap(), b"from outside\n");
    // The probe is one for the host's kernel, and says so.
    let report = world.cli(&["verify", "second", "-o", "json"]).json();
    assert!(report["not_probed"].to_string().contains("another kernel"), "{report}");
    world.cli(&["stop", "second"]).ok();
    world.cli(&["start", "second"]).ok();
    assert_eq!(world.sh("second", "cat ~/file").out, "kept\n");
    // The same disk under the host's kernel is another agent's business; the driver stays for life.
    world.cli(&["rm", "second"]).ok();
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
