//! A second installation on the same machine, whose owner moved its directories and nothing else.

use std::fs;
use testkit::{Ran, World};

#[test]
fn a_second_installation_is_refused_before_it_does_harm() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("one", &[]);
    world.sh("one", "true").ok();
    let second = world.dir().join("second");
    let (etc, run, data) = (second.join("etc"), second.join("run"), second.join("data"));
    fs::create_dir_all(&etc).unwrap();
    // It says nothing of its directories: those are where its environment has them.
    for name in ["control.toml", "node.toml"] {
        let text = fs::read_to_string(world.dir().join("etc").join(name)).unwrap();
        let moved = ["data = ", "run = ", "control = "];
        let kept = text.lines().filter(|line| !moved.iter().any(|key| line.starts_with(key)));
        fs::write(etc.join(name), kept.collect::<Vec<_>>().join("\n")).unwrap();
    }
    let there = |args: &[&str]| -> Ran {
        let mut command = world.command(args);
        command.env("COFFERDAM_ETC", &etc).env("COFFERDAM_RUN", &run).env("COFFERDAM_DATA", &data);
        command.output().unwrap().into()
    };
    let contexts = || fs::read_to_string(world.dir().join("home/.config/cofferdam/config.toml")).unwrap();
    let (before, gate) = (contexts(), world.pid_of("gate"));
    for command in ["up", "setup"] {
        let refused = there(if command == "up" { &["up", "--detach"] } else { &["setup"] });
        assert_eq!(refused.code, 4, "{refused:?}");
        for said in ["listen (", "guard (", "cgroup (", "uid_first (", "gate_uid_first (", "IN_USE"] {
            assert!(refused.err.contains(said), "{said}: {}", refused.err);
        }
        assert!(!refused.err.contains("data ("), "it has its own: {}", refused.err);
    }
    assert!(!data.exists(), "nothing was made");
    let purged = there(&["down", "--purge", "--yes"]).ok();
    assert!(purged.out.contains("its data is removed"), "{purged:?}");
    assert!(!etc.exists() && !run.exists());
    assert_eq!(contexts(), before);
    assert!(gate.is_some() && world.pid_of("gate") == gate, "the gate lives");
    world.sh("one", "true").ok();
}
