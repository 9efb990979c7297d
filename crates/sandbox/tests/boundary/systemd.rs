//! Boundaries that systemd has made: the same in every way that can be told from outside and from inside, and no unit left
//! of any of them. Where systemd does not run the machine there are none.

use crate::{World, chain, kill_9, lease, until};
use model::agent::Level;
use model::evidence::{Claim, Control, Evidence, claim};
use model::probe::{Outcome, attempts_of};
use model::{AgentSpec, Driver, ExitReason};
use sandbox::{Boundary, Given, Sandbox};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

fn runs_the_machine(test: &str) -> bool {
    let runs = fs::exists("/run/systemd/system").unwrap();
    if !runs {
        eprintln!("skipped: {test} needs a machine that systemd runs");
    }
    runs
}

fn spec(world: &World, script: Option<&str>) -> AgentSpec {
    AgentSpec { driver: Some(Driver::Systemd), ..world.spec_at(Level::Process, script) }
}

fn unit(boundary: &Boundary) -> String {
    format!("cofferdam-{}.service", boundary.record().boundary.base32())
}

fn systemctl(args: &[&str]) -> String {
    let output = Command::new("systemctl").args(args).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", "--value", "--property", name, unit])
}

/// Of this unit nothing is left: neither it nor its file, cgroup or directories for temporary files.
fn gone(unit: &str) {
    until("the unit is gone", || property(unit, "LoadState") == "not-found");
    for path in [format!("/run/systemd/transient/{unit}"), format!("/sys/fs/cgroup/system.slice/{unit}")] {
        until("what it had is gone", || !fs::exists(&path).unwrap());
    }
    let private = |dir: &str| {
        let mut names = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.file_name());
        names.any(|name| name.to_string_lossy().contains(unit))
    };
    until("its directories are gone", || !private("/tmp") && !private("/var/tmp"));
}

/// Whether there is a unit that runs a program of this world's.
fn has_units(world: &World) -> bool {
    let dir = world.dir.path().to_str().unwrap();
    let ours = |entry: fs::DirEntry| fs::read_to_string(entry.path()).is_ok_and(|text| text.contains(dir));
    fs::read_dir("/run/systemd/transient").into_iter().flatten().flatten().any(ours)
}

fn end(boundary: &Boundary) {
    boundary.kill().unwrap();
    boundary.cleanup().unwrap();
    gone(&unit(boundary));
}

/// With every number alike.
fn numberless(text: &str) -> String {
    let digits = text.split(|c: char| c.is_ascii_digit());
    digits.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("#")
}

/// What `/proc` says of who and what init is.
fn status(boundary: &Boundary) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{}/status", boundary.record().pid)).unwrap();
    let base = boundary.record().base_uid;
    let keys =
        ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"];
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let own = |value: &str| {
        let ids = value.split_whitespace().map(|id| match id.parse::<u32>() {
            Ok(id) if id >= base => format!("+{}", id - base),
            _ => id.to_owned(),
        });
        ids.collect::<Vec<_>>().join(" ")
    };
    lines.filter(|(key, _)| keys.contains(key)).map(|(key, value)| (key.to_owned(), own(value))).collect()
}

fn limits(boundary: &Boundary) -> String {
    fs::read_to_string(format!("/proc/{}/limits", boundary.record().pid)).unwrap()
}

#[test]
fn systemd_makes_the_same_boundary() {
    let Some(world) = World::new("systemd_makes_the_same_boundary") else { return };
    if !runs_the_machine("systemd_makes_the_same_boundary") {
        return;
    }
    let sandbox = world.sandbox();
    let ours = world.launch(&sandbox, &world.spec_at(Level::Process, None));
    let spec = spec(&world, None);
    let theirs = world.launch(&sandbox, &spec);
    assert_eq!((ours.record().driver, theirs.record().driver), (Driver::Builtin, Driver::Systemd));
    let unit = unit(&theirs);
    assert_eq!(property(&unit, "MainPID"), theirs.record().pid.to_string());
    assert_eq!(property(&unit, "ActiveState"), "active");

    let [expected, found] = [&ours, &theirs].map(Boundary::inspect_whole);
    assert_eq!(claim(Level::Process, &found), Claim::Process);
    let said = |evidence: &[Evidence]| -> Vec<(Control, model::evidence::State, String)> {
        evidence.iter().map(|found| (found.control, found.state, numberless(&found.detail))).collect()
    };
    for (expected, found) in expected.iter().zip(&found) {
        eprintln!("{:18?} {:?}\n  {}\n  {}", found.control, found.state, expected.detail, found.detail);
    }
    assert_eq!(said(&found), said(&expected));
    assert_eq!(status(&theirs), status(&ours));
    assert_eq!(limits(&theirs), limits(&ours));

    let tried =
        theirs.probe(&spec, Duration::from_secs(60)).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(tried.len(), attempts_of(Level::Process).count());
    let open = tried.iter().filter(|tried| matches!(tried.outcome, Outcome::Broken | Outcome::Unclear));
    let open: Vec<_> = open.map(|tried| format!("{}: {}", tried.id, tried.detail)).collect();
    assert_eq!(open, [""; 0]);

    let used = theirs.stats().cpu_usec;
    theirs.freeze().unwrap();
    assert!(theirs.is_frozen());
    theirs.thaw().unwrap();
    assert!(theirs.stats().cpu_usec >= used);
    end(&ours);
    end(&theirs);
    drop(sandbox);
    world.assert_clean();
}

/// How long a launch takes by each, side by side.
#[test]
fn a_launch_by_systemd_takes_its_time() {
    let Some(world) = World::new("a_launch_by_systemd_takes_its_time") else { return };
    if !runs_the_machine("a_launch_by_systemd_takes_its_time") {
        return;
    }
    let sandbox = world.sandbox();
    let mut took: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for round in 0..6 {
        for driver in [Driver::Builtin, Driver::Systemd] {
            let spec = AgentSpec { driver: Some(driver), ..world.spec_at(Level::Process, None) };
            sandbox.create_volume(spec.volume, spec.resources.disk).unwrap();
            let began = Instant::now();
            let boundary = world.launch(&sandbox, &spec);
            if round > 1 {
                took.entry(driver.as_str()).or_default().push(began.elapsed());
            }
            boundary.kill().unwrap();
            boundary.cleanup().unwrap();
        }
    }
    for (driver, mut took) in took {
        took.sort();
        eprintln!(
            "{driver}: {:?} (median of {}), {:?} at most",
            took[took.len() / 2],
            took.len(),
            took.last()
        );
    }
    drop(sandbox);
    world.assert_clean();
}

#[test]
fn a_unit_lives_and_ends_with_its_agent() {
    let Some(world) = World::new("a_unit_lives_and_ends_with_its_agent") else { return };
    if !runs_the_machine("a_unit_lives_and_ends_with_its_agent") {
        return;
    }
    let sandbox = world.sandbox();
    let check = |script: &str, expected: ExitReason| {
        let boundary = world.launch(&sandbox, &spec(&world, Some(script)));
        boundary.wait_exit().unwrap();
        assert_eq!(boundary.exit_reason(), expected, "{script}");
        gone(&unit(&boundary));
        boundary.cleanup().unwrap();
    };
    check("exit 7", ExitReason::Exited { code: 7 });
    check("kill -15 $$", ExitReason::Signaled { signal: 15 });
    check("head -c 200000000 /dev/zero | tail -c 150000000", ExitReason::OutOfMemory);
    let boundary = world.launch(&sandbox, &spec(&world, None));
    kill_9(boundary.record().pid);
    boundary.wait_exit().unwrap();
    assert!(matches!(boundary.exit_reason(), ExitReason::Lost { .. }));
    boundary.cleanup().unwrap();
    gone(&unit(&boundary));

    // Another node finds it, and nothing that systemd does to its units ends it.
    let agent = spec(&world, Some("sleep 1000"));
    let boundary = world.launch(&sandbox, &agent);
    let (record, unit) = (boundary.record().clone(), unit(&boundary));
    drop((boundary, sandbox));
    systemctl(&["daemon-reload"]);
    systemctl(&["daemon-reexec"]);
    until("systemd is there again", || property(&unit, "MainPID") == record.pid.to_string());
    let sandbox = world.sandbox();
    assert_eq!(sandbox.find(agent.id), Some(record.clone()));
    assert!(sandbox.sweep(&[agent.id]).is_empty());
    let boundary = sandbox.adopt(&record).unwrap().unwrap();
    assert_eq!(claim(Level::Process, &boundary.inspect()), Claim::Process);
    assert_eq!(property(&unit, "ActiveState"), "active");
    // Whoever stops the unit ends the agent, as if it had been told to.
    systemctl(&["stop", &unit]);
    boundary.wait_exit().unwrap();
    assert_eq!(boundary.exit_reason(), ExitReason::Requested);
    boundary.cleanup().unwrap();
    gone(&unit);

    // One that nobody adopts is ended by its cgroup.
    let boundary = world.launch(&sandbox, &agent);
    let name = self::unit(&boundary);
    boundary.kill().unwrap();
    drop(boundary);
    gone(&name);
    assert!(sandbox.sweep(&[]).iter().any(|line| line.starts_with("removed")));
    drop(sandbox);
    world.assert_clean();
}

#[test]
fn many_units_at_once() {
    let Some(world) = World::new("many_units_at_once") else { return };
    if !runs_the_machine("many_units_at_once") {
        return;
    }
    let sandbox = world.sandbox();
    let specs: Vec<AgentSpec> = (0..8).map(|_| spec(&world, Some("sleep 1000"))).collect();
    let boundaries: Vec<Boundary> = std::thread::scope(|scope| {
        let launches: Vec<_> =
            specs.iter().map(|spec| scope.spawn(|| world.launch(&sandbox, spec))).collect();
        launches.into_iter().map(|launch| launch.join().unwrap()).collect()
    });
    // One that is made ahead is as good.
    let whole = spec(&world, None);
    let form = sandbox::Form::Whole(sandbox::Shape::of(&whole));
    let blank = sandbox.prepare(&form, lease()).unwrap_or_else(|error| panic!("{}", chain(&error)));
    let (lease, began) = (blank.lease(), Instant::now());
    let from_blank = sandbox
        .launch(&whole, &Given::default(), lease, 0, &world.channel(&whole), Some(blank))
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    eprintln!("of a blank: {:?}", began.elapsed());
    assert_eq!(from_blank.record().base_uid, lease.base, "the blank's own");
    assert_eq!(claim(Level::Process, &from_blank.inspect()), Claim::Process);
    // A blank that nobody wants leaves no unit.
    drop(sandbox.prepare(&form, crate::lease()).unwrap_or_else(|error| panic!("{}", chain(&error))));
    boundaries.iter().chain([&from_blank]).for_each(end);
    until("no unit is left", || !has_units(&world));
    drop(sandbox);
    world.assert_clean();
}

#[test]
fn an_agent_reaches_nothing_of_systemd() {
    let Some(world) = World::new("an_agent_reaches_nothing_of_systemd") else { return };
    if !runs_the_machine("an_agent_reaches_nothing_of_systemd") {
        return;
    }
    let sandbox = world.sandbox();
    let script = "exec 2>&1; ls -A /run; for bus in /run/dbus/system_bus_socket /run/systemd/private /run/systemd/notify; do \
                  [ -e $bus ] && echo there: $bus; done; \
                  for way in 'systemctl stop cofferdam-x' 'busctl list' 'systemd-run true'; do $way && echo did: $way; done; \
                  DBUS_SYSTEM_BUS_ADDRESS=unix:path=/proc/1/root/run/dbus/system_bus_socket busctl list && echo did: root; \
                  echo NOTIFY:$NOTIFY_SOCKET INVOCATION:$INVOCATION_ID;";
    let spec = spec(&world, Some(script));
    let boundary = world.launch(&sandbox, &spec);
    boundary.wait_exit().unwrap();
    boundary.cleanup().unwrap();
    gone(&unit(&boundary));
    let said = sandbox.logs(spec.volume, 1 << 16).unwrap();
    let said = String::from_utf8_lossy(&said);
    assert!(!said.contains("there:") && !said.contains("did:"), "{said}");
    assert!(said.contains("NOTIFY: INVOCATION:\n"), "{said}");
    drop(sandbox);
    world.assert_clean();
}

/// A unit that cannot start: its program is not there.
#[test]
fn a_unit_that_fails_leaves_nothing() {
    let Some(world) = World::new("a_unit_that_fails_leaves_nothing") else { return };
    let sandbox = world.sandbox();
    let spec = spec(&world, None);
    sandbox.create_volume(spec.volume, spec.resources.disk).unwrap();
    let fails = |sandbox: &Sandbox, expected: &str| {
        let began = Instant::now();
        let error = chain(
            &sandbox.launch(&spec, &Given::default(), lease(), 0, &world.channel(&spec), None).unwrap_err(),
        );
        assert!(error.contains(expected), "{error}");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        world.assert_clean();
        assert_eq!(fs::read_dir(world.config.run.join("blanks")).unwrap().count(), 0);
    };
    if !runs_the_machine("the rest of a_unit_that_fails_leaves_nothing") {
        return fails(
            &sandbox,
            "systemd does not run this machine; ask for no driver, or for the driver builtin",
        );
    }
    for entry in fs::read_dir(&world.config.init_store).unwrap().flatten() {
        fs::set_permissions(entry.path(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    }
    fails(&sandbox, "journalctl -u cofferdam-");
    until("no unit is left", || !has_units(&world));
}
