//! Boundaries that an OCI runtime makes: the same in every way that can be told from outside and from inside, and
//! nothing left of a runtime that fails.

use crate::{World, chain, channel, config, ended_children, image_of, jail, kill_9, lease, until};
use model::agent::Level;
use model::evidence::{Claim, Control, State, claim, with_probe};
use model::probe::{Outcome, attempts_of};
use model::{AgentSpec, ByteSize, Driver, ExitReason, Resources};
use sandbox::{Boundary, Given, Sandbox};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// All that make a boundary; what is different under a kernel is in its own file.
const RUNTIMES: [Driver; 2] = [Driver::Runc, Driver::Runsc];

pub fn spec(world: &World, driver: Driver, script: Option<&str>) -> AgentSpec {
    let spec = world.spec(script);
    // A kernel takes room of its own.
    let room = Resources { memory: ByteSize(256 << 20), pids: 2048, ..spec.resources };
    let resources = if driver.is_kernel() { room } else { spec.resources };
    AgentSpec { driver: Some(driver), resources, ..spec }
}

/// Looks at one runtime, which in CI is there, and that nothing is left of it then.
pub fn with(driver: Driver, test: &str, check: impl Fn(&World, &Sandbox, Driver)) {
    let Some(world) = World::new(test) else { return };
    if !world.config.runtimes.iter().any(|dir| dir.join(driver.as_str()).exists()) {
        assert!(std::env::var_os("CI").is_none(), "{test} needs {driver}");
        return eprintln!("skipped: {test} needs {driver}");
    }
    let sandbox = world.sandbox();
    check(&world, &sandbox, driver);
    until("all children are collected", || {
        sandbox.sweep(&[]);
        ended_children() == 0
    });
    drop(sandbox);
    world.assert_clean();
}

fn with_each(test: &str, check: impl Fn(&World, &Sandbox, Driver)) {
    for driver in RUNTIMES {
        with(driver, test, &check);
    }
}

#[test]
fn a_runtime_makes_the_same_boundary() {
    with(Driver::Runc, "a_runtime_makes_the_same_boundary", |world, sandbox, driver| {
        let script =
            "cat /proc/self/mountinfo /proc/self/cgroup > ~/seen.new; mv ~/seen.new ~/seen; sleep 1000";
        let spec = spec(world, driver, Some(script));
        let began = Instant::now();
        let boundary = world.launch(sandbox, &spec);
        eprintln!("{driver}: launched in {:?}", began.elapsed());
        assert_eq!(boundary.record().driver, driver);
        let evidence = boundary.inspect_whole();
        for found in &evidence {
            eprintln!("{:18?} {:?} {}", found.control, found.state, found.detail);
        }
        assert_eq!(claim(Level::Container, &evidence), Claim::Container);

        let tried = boundary
            .probe(&spec, Duration::from_secs(20))
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(tried.len(), 2 * attempts_of(Level::Container).count());
        let open = tried.iter().filter(|tried| matches!(tried.outcome, Outcome::Broken | Outcome::Unclear));
        let open: Vec<_> =
            open.map(|tried| format!("{} as {:?}: {}", tried.id, tried.user, tried.detail)).collect();
        assert_eq!(open, [""; 0]);
        let evidence = with_probe(evidence, &tried, &[]);
        let supported = evidence.iter().filter(|found| found.state != State::Unsupported);
        let seen = supported.filter(|found| found.state != State::Probed).map(|found| found.control);
        let seen: Vec<Control> = seen.filter(|control| *control != Control::Landlock).collect();
        assert_eq!(seen, [Control::DiskLimit]);
        // What the runtime was given is what init has.
        let limits = fs::read_to_string(format!("/proc/{}/limits", boundary.record().pid)).unwrap();
        for (name, value) in
            [("Max core file size", "1"), ("Max pending signals", "4096"), ("Max msgqueue size", "0")]
        {
            let line = limits.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            assert!(line[26..].split_whitespace().take(2).all(|limit| limit == value), "{line}");
        }
        let seen = format!("/proc/{}/root/home/agent/seen", boundary.record().pid);
        until("it has looked around", || fs::exists(&seen).unwrap());
        let seen = fs::read_to_string(seen).unwrap();
        let id = boundary.record().boundary.base32();
        for of_the_host in [world.dir.path().to_str().unwrap(), &world.config.cgroup, id.as_str()] {
            assert!(!seen.contains(of_the_host), "{of_the_host} is seen inside: {seen}");
        }
        // It has the descriptors that any init has, and none that the runtime had.
        let descriptors = |boundary: &Boundary| {
            let id = boundary.record().boundary.base32();
            let shown = |path: PathBuf| {
                let target = fs::read_link(&path).unwrap().to_string_lossy().replace(&id, "ID");
                // Sockets and pipes have numbers.
                let kind = if target.starts_with('/') { &target } else { target.split(':').next().unwrap() };
                (path.file_name().unwrap().to_owned(), kind.to_owned())
            };
            let dir = fs::read_dir(format!("/proc/{}/fd", boundary.record().pid)).unwrap();
            dir.map(|entry| shown(entry.unwrap().path())).collect::<BTreeSet<(OsString, String)>>()
        };
        let builtin = world.launch(sandbox, &world.spec(Some(script)));
        until("the other has looked around", || {
            fs::exists(format!("/proc/{}/root/home/agent/seen", builtin.record().pid)).unwrap()
        });
        assert_eq!(descriptors(&boundary), descriptors(&builtin));
        builtin.kill().unwrap();
        builtin.cleanup().unwrap();
        // Nothing of the runtime is left while the agent runs.
        assert_eq!(fs::read_dir(world.config.run.join("blanks")).unwrap().count(), 0);

        let used = boundary.stats().cpu_usec;
        boundary.freeze().unwrap();
        assert!(boundary.is_frozen());
        boundary.thaw().unwrap();
        assert!(boundary.stats().cpu_usec >= used);
        // As a node that was started again finds it.
        let record = boundary.record().clone();
        drop(boundary);
        assert_eq!(sandbox.find(spec.id), Some(record.clone()));
        assert!(sandbox.sweep(&[spec.id]).is_empty());
        let boundary = sandbox.adopt(&record).unwrap().unwrap();
        assert_eq!(claim(Level::Container, &boundary.inspect()), Claim::Container);
        boundary.freeze().unwrap();
        boundary.kill().unwrap();
        assert_eq!(boundary.exit_reason(), ExitReason::Requested);
        boundary.cleanup().unwrap();
    });
}

#[test]
fn ends_with_a_runtime_have_reasons() {
    with(Driver::Runc, "ends_with_a_runtime_have_reasons", |world, sandbox, driver| {
        let check = |script: &str, expected: ExitReason| {
            let spec = spec(world, driver, Some(script));
            let boundary = world.launch(sandbox, &spec);
            boundary.wait_exit().unwrap();
            assert_eq!(boundary.exit_reason(), expected, "{script}");
            boundary.cleanup().unwrap();
        };
        check("exit 7", ExitReason::Exited { code: 7 });
        check("kill -15 $$", ExitReason::Signaled { signal: 15 });
        check("head -c 200000000 /dev/zero | tail -c 150000000", ExitReason::OutOfMemory);
        let boundary = world.launch(sandbox, &spec(world, driver, None));
        kill_9(boundary.record().pid);
        boundary.wait_exit().unwrap();
        assert!(matches!(boundary.exit_reason(), ExitReason::Lost { detail } if detail.contains("signal 9")));
        boundary.cleanup().unwrap();
    });
}

#[test]
fn a_runtime_that_fails_leaves_nothing() {
    let Some(mut world) = World::new("a_runtime_that_fails_leaves_nothing") else { return };
    let fakes = world.dir.path().join("fakes");
    fs::create_dir(&fakes).unwrap();
    world.config.runtimes = vec![fakes.clone()];
    let sandbox = world.sandbox();
    let spec = spec(&world, Driver::Runc, None);
    sandbox.create_volume(spec.volume, spec.resources.disk).unwrap();
    let check = |program: Option<&str>, expected: &str| {
        let _ = fs::remove_file(fakes.join("runc"));
        if let Some(program) = program {
            symlink(program, fakes.join("runc")).unwrap();
        }
        let error = world.attempt(&sandbox, &spec).unwrap_err();
        assert!(error.contains(expected), "{error}");
        world.assert_clean();
        assert_eq!(fs::read_dir(world.config.run.join("blanks")).unwrap().count(), 0);
        until("all children are collected", || ended_children() == 0);
    };
    check(None, "there is no runc in");
    check(Some("/etc/passwd"), "it is no program");
    check(Some("/bin/false"), "exit status: 1");
    // It says that all went well, and made nothing.
    check(Some("/bin/echo"), "it said nothing");
    // It says why it cannot.
    check(Some("/bin/cat"), "unrecognized option '--root'");
    fs::remove_file(fakes.join("runc")).unwrap();
    fs::copy("/bin/true", fakes.join("runc")).unwrap();
    std::os::unix::fs::chown(fakes.join("runc"), Some(1000), None).unwrap();
    let error = world.attempt(&sandbox, &spec).unwrap_err();
    assert!(error.contains("others than root may change it"), "{error}");
}

/// As with CVE-2021-30465: names at which something is mounted are the image's, and may be links to anywhere.
#[test]
fn a_runtime_mounts_through_no_link() {
    with_each("a_runtime_mounts_through_no_link", |world, sandbox, driver| {
        let outside = world.dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        for name in ["proc", "dev", "sys", "run", "tmp"] {
            let place = world.dir.path().join("root").join(name);
            fs::remove_dir(&place).unwrap();
            symlink(Path::new("/../../../..").join(outside.strip_prefix("/").unwrap()), &place).unwrap();
            let image = image_of(world.dir.path(), &world.config.images);
            let spec = AgentSpec { image_digest: Some(image), ..spec(world, driver, None) };
            match world.attempt(sandbox, &spec) {
                Err(why) => assert!(why.contains("no directory"), "{name}: {why}"),
                // A kernel mounts its own, and what it finds under a name is its own too.
                Ok(boundary) => {
                    assert!(driver.is_kernel(), "{name}");
                    boundary.kill().unwrap();
                    boundary.cleanup().unwrap();
                }
            }
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{name}");
            world.assert_clean();
            fs::remove_file(&place).unwrap();
            fs::create_dir(&place).unwrap();
        }
        fs::remove_dir(&outside).unwrap();
    });
}

#[test]
fn a_runtime_that_hangs_is_ended() {
    with(Driver::Runc, "a_runtime_that_hangs_is_ended", |world, sandbox, driver| {
        let spec = spec(world, driver, None);
        sandbox.create_volume(spec.volume, spec.resources.disk).unwrap();
        std::thread::scope(|scope| {
            let launch = scope
                .spawn(|| sandbox.launch(&spec, &Given::default(), lease(), 0, &world.channel(&spec), None));
            let frozen = |path: &PathBuf| fs::write(path.join("cgroup.freeze"), "1").is_ok();
            // The agent's and the runtime's own, both as soon as they are there.
            until("it is at work", || world.cgroups().iter().filter(|path| frozen(path)).count() == 2);
            let error = chain(&launch.join().unwrap().unwrap_err());
            assert!(error.contains("did not make the boundary within"), "{error}");
        });
        assert_eq!(fs::read_dir(world.config.run.join("blanks")).unwrap().count(), 0);
    });
}

/// What there is once a runtime is at work, in this order: instants at which a node may die.
const STAGES: [&str; 5] = ["nothing", "a workshop", "a bundle", "a runtime's state", "an init"];

/// Whether a launch has come as far as that.
fn has_come_to(stage: usize, world: &World) -> bool {
    let entries = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let any = |name: &str| entries(world.config.run.join("blanks")).any(|dir| dir.join(name).exists());
    let filled = |name: &str| {
        entries(world.config.run.join("blanks")).any(|dir| entries(dir.join(name)).next().is_some())
    };
    // Some are over before anybody looks.
    (stage..STAGES.len()).any(|stage| match stage {
        0 => true,
        1 => any("state"),
        2 => any("bundle/config.json") || any("exchange/init"),
        3 => filled("state") || any("exchange/channel"),
        _ => any("pid") || entries(world.config.run.join("agents")).next().is_some(),
    })
}

/// Processes of this world: children of this process, and whoever has its directory on the command line.
fn processes_of(world: &World) -> BTreeSet<u32> {
    let (dir, us) = (world.dir.path().to_str().unwrap(), std::process::id().to_string());
    let of_it = |entry: &fs::DirEntry| {
        let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let stat = String::from_utf8_lossy(&read("stat")).into_owned();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1).map(str::to_owned));
        parent.as_ref() == Some(&us) || String::from_utf8_lossy(&read("cmdline")).contains(dir)
    };
    let found = fs::read_dir("/proc").unwrap().flatten().filter(of_it);
    found.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Tells [`a_node_that_is_killed`] what to launch, and where.
const ORDER: &str = "COFFERDAM_TEST_ORDER";

/// The node of the next test, in a process of its own: launches, and waits for its end.
#[test]
#[ignore = "a_node_that_dies_under_a_runtime_leaves_nothing_to_the_next starts it"]
fn a_node_that_is_killed() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let (dir, cgroup, spec): (PathBuf, String, AgentSpec) = serde_json::from_str(&order).unwrap();
    let config = config(&dir, cgroup, jail().unwrap());
    let channel = channel(&config, &spec);
    let launched = Sandbox::new(config).unwrap().launch(&spec, &Given::default(), lease(), 0, &channel, None);
    // That it was too slow is as good an end as any.
    let _boundary = launched.unwrap_or_else(|error| panic!("{}", chain(&error)));
    loop {
        std::thread::park();
    }
}

#[test]
fn a_node_that_dies_under_a_runtime_leaves_nothing_to_the_next() {
    with_each("a_node_that_dies_under_a_runtime_leaves_nothing_to_the_next", |world, sandbox, driver| {
        let spec = spec(world, driver, None);
        sandbox.create_volume(spec.volume, spec.resources.disk).unwrap();
        let order = serde_json::to_string(&(world.dir.path(), &world.config.cgroup, &spec)).unwrap();
        let before = processes_of(world);
        for (stage, name) in STAGES.iter().enumerate() {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "oci::a_node_that_is_killed", "--ignored"]).env(ORDER, &order);
            let mut node = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let ended = |node: &mut Child| node.try_wait().unwrap().is_some();
            let patience = Instant::now() + Duration::from_secs(60);
            while !has_come_to(stage, world) && !ended(&mut node) {
                assert!(Instant::now() < patience, "{driver}: {name}: not within a minute");
                std::thread::yield_now();
            }
            node.kill().unwrap();
            node.wait().unwrap();
            // The next one begins with this. What it may not end is an agent, which only node's orders end.
            let said = sandbox.sweep(&[]);
            if let Some(record) = sandbox.find(spec.id)
                && let Some(boundary) = sandbox.adopt(&record).unwrap()
            {
                boundary.kill().unwrap();
                boundary.cleanup().unwrap();
            }
            eprintln!("{driver}: killed at {name}: {said:?}");
            assert_eq!(fs::read_dir(world.config.run.join("blanks")).unwrap().count(), 0);
            world.assert_clean();
            let patience = Instant::now() + Duration::from_secs(60);
            loop {
                sandbox.sweep(&[]);
                let left: Vec<u32> = processes_of(world).difference(&before).copied().collect();
                if left.is_empty() {
                    break;
                }
                let shown = left.iter().map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")));
                let shown: Vec<_> = shown.flatten().collect();
                assert!(Instant::now() < patience, "{driver}: {name}: {shown:?}");
                std::thread::yield_now();
            }
        }
    });
}
