//! The probe in real boundaries: nothing is open, and what an agent does to it cannot make it look good.

use crate::{World, chain};
use model::agent::{Command, Level, RunAs};
use model::evidence::{Control, State, claim, with_probe};
use model::probe::{Outcome, Tried, attempts_of};
use std::collections::BTreeMap;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn not_held(tried: &[Tried]) -> Vec<String> {
    let line =
        |tried: &Tried| format!("{} as {:?}: {:?}: {}", tried.id, tried.user, tried.outcome, tried.detail);
    tried.iter().filter(|tried| tried.outcome != Outcome::Held).map(line).collect()
}

#[test]
fn no_attempt_gets_out() {
    let Some(world) = World::new("no_attempt_gets_out") else { return };
    for level in Level::ALL {
        no_attempt_gets_out_at(&world, level);
    }
}

fn no_attempt_gets_out_at(world: &World, level: Level) {
    let sandbox = world.sandbox();
    let spec = world.spec_at(level, None);
    let boundary = world.launch(&sandbox, &spec);
    let began = Instant::now();
    let tried = boundary.probe(&spec, PATIENCE).unwrap_or_else(|error| panic!("{}", chain(&error)));
    eprintln!("level {level}: {} attempts in {:?}", tried.len(), began.elapsed());
    if std::env::var_os("VERBOSE").is_some() {
        for Tried { id, user, outcome, detail } in &tried {
            eprintln!("{user:?} {outcome:?} {id}: {detail}");
        }
    }
    let users = if level.has_image() { 2 } else { 1 };
    assert_eq!(tried.len(), users * attempts_of(level).count());
    for line in not_held(&tried) {
        eprintln!("not held: {line}");
    }
    let open = tried.iter().filter(|tried| matches!(tried.outcome, Outcome::Broken | Outcome::Unclear));
    assert_eq!(not_held(&open.cloned().collect::<Vec<_>>()), [""; 0]);
    let evidence = with_probe(boundary.inspect_whole(), &tried, &[]);
    assert_eq!(claim(level, &evidence), crate::full(level));
    let supported = evidence.iter().filter(|found| found.state != State::Unsupported);
    let seen: Vec<Control> =
        supported.filter(|found| found.state != State::Probed).map(|found| found.control).collect();
    // Filling the disk would harm the agent. Of Landlock there is something to try at every ABI.
    assert_eq!(seen, [Control::DiskLimit]);
    // Nothing of it is left inside, and it was not the agent's init that ended.
    assert!(boundary.is_alive());
    boundary.kill().unwrap();
    boundary.cleanup().unwrap();
    drop(sandbox);
    world.assert_clean();
}

#[test]
fn a_hostile_agent_cannot_stop_a_probe_unnoticed() {
    let Some(world) = World::new("a_hostile_agent_cannot_stop_a_probe_unnoticed") else { return };
    let sandbox = world.sandbox();
    let mut spec = world.spec(None);
    spec.run_as = RunAs::Root;
    // It ends and stops all that it can name, and what it cannot end it writes to.
    let script = "while :; do kill -STOP -1; kill -KILL -1; for p in /proc/[0-9]*; do \
                  for f in mem oom_score_adj coredump_filter; do echo 1000 > $p/$f; done; done; done 2> /dev/null";
    spec.main = Some(Command {
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: BTreeMap::new(),
        cwd: None,
        user: Some(RunAs::Root),
    });
    let boundary = world.launch(&sandbox, &spec);
    let landlock = boundary.record().landlock_abi;
    for round in 0..4 {
        match boundary.probe(&spec, PATIENCE) {
            Ok(tried) => {
                let evidence = with_probe(boundary.inspect(), &tried, &[]);
                // Complete, and as good as without the agent's doing: or it proves nothing.
                eprintln!("round {round}: complete, not held: {:?}", not_held(&tried));
                assert!(tried.iter().all(|tried| tried.outcome != Outcome::Broken), "{:?}", not_held(&tried));
                assert!(evidence.len() == Control::CONTAINER.len());
            }
            Err(error) => {
                eprintln!("round {round}: {}", chain(&error));
                // Where Landlock scopes signals there is nothing that it could do.
                assert!(landlock < 6, "{}", chain(&error));
            }
        }
    }
    boundary.kill().unwrap();
    boundary.cleanup().unwrap();
    // A probe of what is gone is none.
    assert!(boundary.probe(&spec, PATIENCE).is_err());
    drop(sandbox);
    world.assert_clean();
}

/// The processes in its cgroups that are a probe's.
fn probes(world: &World) -> Vec<u32> {
    let listed = world.cgroups().into_iter().map(|dir| fs::read_to_string(dir.join("cgroup.procs")));
    let pids: Vec<u32> =
        listed.flatten().flat_map(|pids| pids.lines().flat_map(str::parse).collect::<Vec<_>>()).collect();
    let is_probe =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "probe\n");
    pids.into_iter().filter(is_probe).collect()
}

#[test]
fn a_probe_that_is_stopped_midway_leaves_an_agent_that_can_be_ended() {
    let Some(world) = World::new("a_probe_that_is_stopped_midway_leaves_an_agent_that_can_be_ended") else {
        return;
    };
    let sandbox = world.sandbox();
    let spec = world.spec(None);
    let boundary = world.launch(&sandbox, &spec);
    let patience = Duration::from_secs(2);
    let probed = std::thread::scope(|scope| {
        let probing = scope.spawn(|| boundary.probe(&spec, patience));
        super::until("a probe is there", || !probes(&world).is_empty());
        boundary.freeze().unwrap();
        assert!(!probes(&world).is_empty(), "it was paused too late");
        probing.join().unwrap()
    });
    let error = chain(&probed.unwrap_err());
    assert!(error.contains("is it paused"), "{error}");
    boundary.thaw().unwrap();
    assert!(boundary.is_alive());
    // As any other time.
    boundary.probe(&spec, PATIENCE).unwrap_or_else(|error| panic!("{}", chain(&error)));
    let began = Instant::now();
    boundary.kill().unwrap();
    boundary.cleanup().unwrap();
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    drop(sandbox);
    world.assert_clean();
}

/// Node collects what its supervisor, which was to end it, leaves inside.
#[test]
fn a_supervisor_that_is_killed_leaves_nobody() {
    let Some(world) = World::new("a_supervisor_that_is_killed_leaves_nobody") else { return };
    let sandbox = world.sandbox();
    let spec = world.spec(None);
    let boundary = world.launch(&sandbox, &spec);
    let supervisor = |pid: &u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse::<u32>().ok())
    };
    let probed = std::thread::scope(|scope| {
        let probing = scope.spawn(|| boundary.probe(&spec, PATIENCE));
        super::until("a probe is there", || !probes(&world).is_empty());
        boundary.freeze().unwrap();
        super::kill_9(probes(&world).iter().find_map(supervisor).expect("its supervisor"));
        probing.join().unwrap()
    });
    assert!(probed.is_err());
    boundary.kill().unwrap();
    boundary.cleanup().unwrap();
    drop(sandbox);
    world.assert_clean();
}

#[test]
fn an_agent_at_its_limits_is_not_probed() {
    let Some(world) = World::new("an_agent_at_its_limits_is_not_probed") else { return };
    let sandbox = world.sandbox();
    // The shell that cannot start another ends, and leaves room for one.
    let full = "(while :; do sleep 1000 & done) 2> /dev/null; exec sleep 1000";
    let eating = "while :; do head -c 1000m /dev/zero | tail -n 1; done";
    for (what, script) in [("processes", full), ("memory", eating)] {
        let spec = world.spec(Some(script));
        let boundary = world.launch(&sandbox, &spec);
        super::until("it is at its limit", || {
            let stats = boundary.stats();
            stats.pids + 1 >= stats.pids_limit || stats.memory > stats.memory_limit / 10 * 9
        });
        let began = Instant::now();
        let probed = boundary.probe(&spec, Duration::from_secs(5));
        eprintln!("{what}: {:?} in {:?}", probed.as_ref().map(|tried| not_held(tried)), began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(15));
        // Where there was room after all, it is as good as any.
        let broken = |tried: &Tried| tried.outcome == Outcome::Broken;
        assert!(!probed.is_ok_and(|tried| what == "processes" || tried.iter().any(broken)), "{what}");
        boundary.kill().unwrap();
        boundary.cleanup().unwrap();
    }
    drop(sandbox);
    world.assert_clean();
}

#[test]
fn nothing_of_the_host_is_seen_through_a_probe() {
    let Some(world) = World::new("nothing_of_the_host_is_seen_through_a_probe") else { return };
    let sandbox = world.sandbox();
    // Reads of each new process what anybody may. In a boundary no cgroup file system is mounted, and its cgroup is the root.
    // For a moment after a fork the kernel shows each process in the root cgroup of the machine: so a second look counts.
    let mark = format!("cofferdam-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&mark).unwrap();
    let _listening = UnixListener::bind_addr(&address).unwrap();
    let script = format!(
        "exec 2> /dev/null; echo > /tmp/seen; known=' '; while :; do for p in /proc/[0-9]*; do \
         case \"$known\" in *\" $p \"*) continue;; esac; known=\"$known$p \"; \
         for look in 1 2; do odd=; while read -r l; do case \"$l\" in *:/) ;; *) odd=\"$odd cgroup $l\";; esac; \
         done < $p/cgroup; test \"$odd\" || break; done; test \"$odd\" && echo \"$odd\"; \
         while read -r l; do case \"$l\" in *' - cgroup'*) echo \"mount $l\";; esac; done < $p/mountinfo; \
         while read -r l; do case \"$l\" in *{mark}*) echo \"socket $l\";; esac; done < $p/net/unix; \
         done; done >> /tmp/seen"
    );
    let spec = world.spec(Some(&script));
    let boundary = world.launch(&sandbox, &spec);
    let seen = format!("/proc/{}/root/tmp/seen", boundary.record().pid);
    super::until("it looks", || fs::exists(&seen).unwrap());
    for _ in 0..10 {
        boundary.probe(&spec, PATIENCE).unwrap_or_else(|error| panic!("{}", chain(&error)));
    }
    assert_eq!(fs::read_to_string(&seen).unwrap().trim(), "");
    boundary.kill().unwrap();
    boundary.cleanup().unwrap();
    drop(sandbox);
    world.assert_clean();
}
