//! Boundaries that an OCI runtime makes: the same in every way that can be told from outside and from inside, and
//! nothing left of a runtime that fails.

use crate::{World, chain, ended_children, kill_9, lease, until};
use model::agent::Level;
use model::evidence::{Claim, Control, State, claim, with_probe};
use model::probe::{Outcome, attempts_of};
use model::{AgentSpec, Driver, ExitReason};
use sandbox::Sandbox;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const RUNTIMES: [Driver; 1] = [Driver::Runc];

fn spec(world: &World, driver: Driver, script: Option<&str>) -> AgentSpec {
    AgentSpec { driver: Some(driver), ..world.spec(script) }
}

/// What there is of each runtime, which in CI is all.
fn with_each(test: &str, check: impl Fn(&World, &Sandbox, Driver)) {
    for driver in RUNTIMES {
        let Some(world) = World::new(test) else { return };
        let there = world.config.runtimes.iter().any(|dir| dir.join(driver.as_str()).exists());
        if !there {
            assert!(std::env::var_os("CI").is_none(), "{test} needs {driver}");
            eprintln!("skipped: {test} needs {driver}");
            continue;
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
}

#[test]
fn a_runtime_makes_the_same_boundary() {
    with_each("a_runtime_makes_the_same_boundary", |world, sandbox, driver| {
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
    with_each("ends_with_a_runtime_have_reasons", |world, sandbox, driver| {
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
        let error = chain(&sandbox.launch(&spec, lease(), 0, &world.channel(&spec), None).unwrap_err());
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
    let error = chain(&sandbox.launch(&spec, lease(), 0, &world.channel(&spec), None).unwrap_err());
    assert!(error.contains("others than root may change it"), "{error}");
}

#[test]
fn a_runtime_that_hangs_is_ended() {
    with_each("a_runtime_that_hangs_is_ended", |world, sandbox, driver| {
        let spec = spec(world, driver, None);
        sandbox.create_volume(spec.volume, spec.resources.disk).unwrap();
        std::thread::scope(|scope| {
            let launch = scope.spawn(|| sandbox.launch(&spec, lease(), 0, &world.channel(&spec), None));
            let frozen = |path: &PathBuf| fs::write(path.join("cgroup.freeze"), "1").is_ok();
            // The agent's and the runtime's own, both as soon as they are there.
            until("it is at work", || world.cgroups().iter().filter(|path| frozen(path)).count() == 2);
            let error = chain(&launch.join().unwrap().unwrap_err());
            assert!(error.contains("within 10 s"), "{error}");
        });
        assert_eq!(fs::read_dir(world.config.run.join("blanks")).unwrap().count(), 0);
    });
}

/// Two nodes in one process, as here, collect each other's children, which on a busy machine takes them until their patience
/// ends. To be run by name.
#[test]
#[ignore = "its two nodes share a process, and wait for each other on a busy machine"]
fn a_node_that_dies_under_a_runtime_leaves_nothing_to_the_next() {
    with_each("a_node_that_dies_under_a_runtime_leaves_nothing_to_the_next", |world, sandbox, driver| {
        let spec = spec(world, driver, None);
        sandbox.create_volume(spec.volume, spec.resources.disk).unwrap();
        for round in 0..12 {
            // Another node of the same installation starts, and sweeps, at another instant each time.
            std::thread::scope(|scope| {
                let launch = scope.spawn(|| sandbox.launch(&spec, lease(), 0, &world.channel(&spec), None));
                std::thread::sleep(Duration::from_millis(round * 8));
                world.sandbox().sweep(&[]);
                if let Ok(boundary) = launch.join().unwrap() {
                    boundary.kill().unwrap();
                    boundary.cleanup().unwrap();
                }
            });
            sandbox.sweep(&[]);
            world.assert_clean();
            assert_eq!(fs::read_dir(world.config.run.join("blanks")).unwrap().count(), 0);
        }
    });
}
