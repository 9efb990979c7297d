//! The levels below a container, and what the mode of an installation refuses.

use std::fs;
use testkit::World;

/// What a program sees of who it is.
fn ids(world: &World, agent: &str) -> String {
    world.sh(agent, "id -un; id -u; id -G").ok().out
}

#[test]
fn a_life_without_an_image() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    for (level, claim) in [
        ("process", "isolated workspace with guardrails (OS user)"),
        ("workspace", "isolated workspace (no boundary)"),
    ] {
        let name = format!("a-{level}");
        world.cli(&["create", "--name", &name, "--level", level, "-e", "GREETING=hello"]).ok();
        let said = world.sh(&name, "echo $GREETING $(id -un) $PWD; echo kept > file").ok().out;
        assert_eq!(said, "hello agent /home/agent\n", "{level}");
        let shown = world.cli(&["show", &name, "-o", "json"]).json();
        assert_eq!(shown["claim"], claim, "{shown}");
        assert!(shown.get("image").is_none(), "{shown}");
        let listed = world.cli(&["ls"]).ok();
        assert!(listed.out.contains(claim) && !listed.out.contains("sandboxed"), "{}", listed.out);
        assert_eq!(listed.err.contains("no boundary"), level == "workspace", "{}", listed.err);
        // Nobody is root, and nothing of the system can be changed.
        let refused = world.cli(&["exec", "-u", "root", &name, "--", "true"]);
        assert!(refused.code != 0 && refused.err.contains("root"), "{level}: {}", refused.err);
        for path in ["/etc/x", "/usr/x", "/x", "/var/x", "/opt/x", "/home/x"] {
            assert_ne!(world.sh(&name, &format!("touch {path}")).code, 0, "{level}: {path}");
        }
        // A folder in and out.
        let folder = world.dir().join("home/project");
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("one"), "content").expect("a file");
        world.cli(&["cp", &folder.display().to_string(), &format!("{name}:/home/agent/")]).ok();
        assert_eq!(world.sh(&name, "cat project/one; stat -c %U project/one").ok().out, "contentagent\n");
        // The same user, and the same home, over a stop.
        let before = ids(&world, &name);
        world.cli(&["pause", &name]).ok();
        world.cli(&["resume", &name]).ok();
        world.cli(&["stop", &name]).ok();
        world.cli(&["start", &name]).ok();
        assert_eq!(ids(&world, &name), before, "{level}");
        assert_eq!(world.sh(&name, "cat file").ok().out, "kept\n");
    }
    assert_ne!(ids(&world, "a-process"), ids(&world, "a-workspace"));
    // Of one account, workspaces are one user; processes are each their own. So it is with what was made ahead.
    crate::faults::eventually("boundaries are ready", || world.blanks(testkit::Blanks::Whole) >= 2);
    world.cli(&["create", "--name", "b-workspace", "--level", "0"]).ok();
    world.cli(&["create", "--name", "b-process", "--level", "1"]).ok();
    assert_eq!(ids(&world, "a-workspace"), ids(&world, "b-workspace"));
    assert_ne!(ids(&world, "a-process"), ids(&world, "b-process"));
    for agent in ["a-process", "b-process", "a-workspace", "b-workspace"] {
        world.cli(&["rm", "-f", agent]).ok();
    }
}

#[test]
fn os_users_do_not_see_each_other() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    let secret = world.dir().join("secret");
    fs::write(&secret, "treasure").expect("a file of the host's that anybody may read");
    for name in ["one", "two"] {
        world.cli(&["create", "--name", name, "--level", "process"]).ok();
    }
    world.sh("one", "echo treasure > treasure; chmod 777 . treasure; echo treasure > /tmp/treasure").ok();
    let path = secret.display();
    let look = format!(
        "cat {path} /home/*/treasure /tmp/treasure /root/* /etc/shadow /run/cofferdam/* /proc/*/environ 2>/dev/null \
         | grep -a treasure; ls /proc | grep -c '^[0-9]'"
    );
    let seen = world.sh("two", &look).out;
    assert!(!seen.contains("treasure"), "{seen}");
    let processes: u32 = seen.trim().parse().expect("a number");
    assert!(processes < 8, "{processes} processes are seen");
    // Programs that give their owner's rights give none.
    assert_ne!(world.sh("two", "echo | su root -c true").code, 0);
}

#[test]
fn a_managed_installation_refuses_what_is_no_boundary() {
    if !testkit::can_run() {
        return;
    }
    let world = World::prepare();
    let config = world.dir().join("etc/control.toml");
    let text = fs::read_to_string(&config).expect("a configuration");
    fs::write(&config, format!("mode = \"managed\"\n{text}")).expect("written");
    world.up();
    world.provide_image();
    for refused in [&["--level", "process"][..], &["--level", "workspace"], &["--unrestricted", "--yes"]] {
        let ran = world.cli(&[&["create", "--name", "no"], refused].concat());
        assert!(ran.code == 4 && ran.err.contains("managed"), "{refused:?}: {}", ran.err);
    }
    world.cli(&["create", "--name", "yes"]).ok();
    assert_eq!(world.cli(&["show", "yes", "-o", "json"]).json()["level"], "container");
}

#[test]
fn an_unrestricted_agent_takes_a_word() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    let ran = world.cli(&["create", "--name", "wild", "--unrestricted"]);
    assert!(ran.code == 2 && ran.err.contains("unrestricted"), "{}", ran.err);
    assert_eq!(world.cli(&["ls", "-q"]).ok().out, "", "nothing was made");
    let made = world.cli(&["create", "--name", "wild", "--unrestricted", "--yes"]).ok();
    let listed = world.cli(&["ls"]).ok();
    let shown = world.cli(&["show", "wild"]).ok();
    for said in [made.err, listed.err, shown.err] {
        assert!(said.contains("warning: wild: unrestricted"), "{said}");
    }
}
