//! Machines on which it cannot work: `up` and `doctor` say what is missing and what helps, and nothing is half-made.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use testkit::{Leftovers, Ran, World};

/// A command of this world, run by a shell after what the script does to its surroundings.
fn within(world: &World, unshare: &[&str], script: &str, args: &[&str]) -> Ran {
    let inner = world.command(args);
    let mut command = Command::new("unshare");
    command.args(unshare).args(["sh", "-euc", &format!("{script}\nexec \"$@\""), "sh"]);
    command.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.output().expect("unshare starts").into()
}

/// Nothing was made: no process, no cgroup, no runtime directory, no data.
fn nothing_made(world: &World) {
    assert_eq!(world.leftovers(), Leftovers::default());
    assert!(!world.dir().join("run").exists(), "a runtime directory");
    for part in ["data", "home"] {
        let left: Vec<_> = fs::read_dir(world.dir().join(part)).expect("it is there").flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// `up` refuses with that; `doctor` says the same, and leaves with 1.
fn refused(world: &World, up: &Ran, doctor: &Ran, what: &str, remedy: &str) {
    assert_eq!(up.code, 5, "{up:?}");
    assert!(up.err.contains(what) && up.err.contains(remedy), "{up:?}");
    assert_eq!(doctor.code, 1, "{doctor:?}");
    assert!(doctor.out.contains(what) && doctor.out.contains(remedy), "{doctor:?}");
    nothing_made(world);
}

fn set_jail(world: &World, jail: &Path) {
    let path = world.dir().join("etc/node.toml");
    let text = fs::read_to_string(&path).expect("node.toml");
    let kept: String =
        text.lines().filter(|line| !line.starts_with("jail")).map(|line| format!("{line}\n")).collect();
    fs::write(&path, format!("{kept}jail = \"{}\"\n", jail.display())).expect("node.toml");
}

#[test]
fn a_jail_that_cannot_work_is_refused() {
    if !testkit::can_run() {
        return;
    }
    let world = World::prepare();
    let own = std::env::current_exe().expect("this program");
    for (jail, what) in [
        (Path::new("/nonexistent/cofferdam-jail"), "/nonexistent/cofferdam-jail is missing"),
        // Built by cargo as it comes: with a dynamic linker.
        (&own, "is linked dynamically"),
        (Path::new("/etc/passwd"), "/etc/passwd is no 64-bit ELF program"),
    ] {
        set_jail(&world, jail);
        refused(
            &world,
            &world.cli(&["up", "--detach"]),
            &world.cli(&["doctor"]),
            what,
            "`jail` in node.toml",
        );
    }
    set_jail(&world, &world.programs().join("cofferdam-jail"));
    world.up();
}

#[test]
fn read_only_cgroups_are_refused() {
    if !testkit::can_run() {
        return;
    }
    let world = World::prepare();
    let script = "awk '$3 ~ /^cgroup/ { print $2 }' /proc/self/mounts | while read -r point; do\n\
                  mount -o remount,bind,ro \"$point\"\ndone";
    let run = |args: &[&str]| within(&world, &["--mount"], script, args);
    refused(&world, &run(&["up", "--detach"]), &run(&["doctor"]), "Read-only file system", "remount");
    world.up();
}

#[test]
fn a_machine_without_user_namespaces_is_refused() {
    if !testkit::can_run() {
        return;
    }
    let world = World::prepare();
    // The limit is one of the namespace that it is set in, and of those beneath.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces";
    let run = |args: &[&str]| within(&world, &["--user", "--map-root-user"], script, args);
    let remedy = "sysctl -w user.max_user_namespaces=";
    refused(&world, &run(&["up", "--detach"]), &run(&["doctor"]), "user namespace", remedy);
}

#[test]
fn others_than_root_are_told_to_be_root() {
    if !testkit::can_run() {
        return;
    }
    let world = World::prepare_with_programs();
    for part in ["bin", "etc"] {
        fs::set_permissions(world.dir().join(part), fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    for (args, code, remedy) in [
        (&["up", "--detach"] as &[&str], 4, "sudo cofferdam up"),
        (&["down"], 4, "sudo cofferdam down"),
        (&["doctor"], 1, "sudo cofferdam doctor"),
    ] {
        let ran: Ran = world.command(args).uid(65534).gid(65534).output().expect("cofferdam starts").into();
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(format!("{}{}", ran.out, ran.err).contains(remedy), "{ran:?}");
    }
    assert_eq!(world.leftovers(), Leftovers::default());
    assert_eq!(fs::read_dir(world.dir().join("data")).expect("data").count(), 0);
}

#[test]
fn a_port_that_is_taken_is_named() {
    if !testkit::can_run() {
        return;
    }
    let world = World::prepare();
    for (port, key) in
        [(world.control_port, "`listen` in control.toml"), (world.guard_port, "`guard` in node.toml")]
    {
        let taken = TcpListener::bind(("127.0.0.1", port)).expect("the port");
        let ran = world.cli(&["up", "--detach"]);
        assert_eq!(ran.code, 5, "{ran:?}");
        assert!(ran.err.contains(&format!("127.0.0.1:{port}")) && ran.err.contains(key), "{ran:?}");
        drop(taken);
        let left = world.leftovers();
        assert!(left.processes.is_empty() && left.mounts.is_empty() && left.files.is_empty(), "{left:?}");
    }
    world.up();
    world.cli(&["ls"]).ok();
}

#[test]
fn what_a_killed_test_left_is_swept_by_its_name() {
    if !testkit::can_run() {
        return;
    }
    let mut child = Command::new("true").spawn().expect("a child");
    let name = format!("cofferdam-test-{}-0", child.id());
    child.wait().expect("it ends");
    let table = fs::read_to_string("/proc/self/mounts").expect("the mounts");
    let groups: Vec<_> = table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let point = Path::new(fields[1]);
            // One hierarchy with cgroup.kill, and one without where there are such.
            let wanted = fields[2] == "cgroup2" || (fields[2] == "cgroup" && point.ends_with("pids"));
            wanted.then(|| point.join(&name).join("agent"))
        })
        .collect();
    assert!(!groups.is_empty());
    let mut sleeper = Command::new("sleep").arg("1000").spawn().expect("sleep");
    for group in &groups {
        fs::create_dir_all(group).expect("a cgroup");
        fs::write(group.join("cgroup.procs"), sleeper.id().to_string()).expect("it moves");
    }
    // A loop device on a disk of a directory that is gone.
    let dir = std::env::temp_dir().join(&name);
    fs::create_dir(&dir).expect("a directory");
    let file = dir.join("disk");
    fs::File::create(&file).and_then(|file| file.set_len(1 << 20)).expect("a disk");
    let device = Command::new("losetup").args(["--find", "--show"]).arg(&file).output().expect("losetup");
    assert!(device.status.success(), "{device:?}");
    fs::remove_dir_all(&dir).expect("it goes");
    let holds = |entry: fs::DirEntry| {
        fs::read_to_string(entry.path().join("loop/backing_file")).is_ok_and(|file| file.contains(&name))
    };
    super::eventually("the sweep", || {
        testkit::remove_stale_worlds();
        // The test is its parent.
        let _ = sleeper.try_wait();
        let groups = groups.iter().any(|group| group.exists() || group.parent().is_some_and(Path::exists));
        !groups && !fs::read_dir("/sys/block").expect("block devices").flatten().any(holds)
    });
    assert!(!sleeper.wait().expect("it was ended").success());
}
