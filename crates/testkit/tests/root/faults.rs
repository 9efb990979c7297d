//! Processes killed at bad moments: what should run still runs, and nothing is left behind.

mod lost;
mod machine;
mod platform;
mod restored;
mod storage;

use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use testkit::World;

fn send(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).expect("a pid");
    let _ = kill_process(pid, signal);
}

fn kill(pid: i32) {
    send(pid, Signal::KILL);
}

/// Returns when a process that was killed is gone, by what it holds.
fn gone(pid: i32) {
    eventually("a killed process is gone", || {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .map_or(true, |stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z")))
    });
}

/// Waits for a process of the platform to be there again, by what it serves.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + testkit::patience(40);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "{what}: not within 40 s");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn agents_outlive_every_process_of_the_platform() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("survivor", &[]);
    let boot = "cat /proc/1/stat | cut -d' ' -f22";
    world.sh("survivor", "echo here > /tmp/mark; (sleep 1000 &) ").ok();
    let started = world.sh("survivor", boot).ok().out;
    for kind in ["control", "gate", "zygote", "node"] {
        let victim = world.pid_of(kind).unwrap_or_else(|| panic!("{kind} runs"));
        kill(victim);
        eventually(kind, || world.sh("survivor", "cat /tmp/mark").out == "here\n");
        assert_eq!(world.sh("survivor", boot).ok().out, started, "another init after {kind} died");
        // And new agents can be made.
        eventually("a new agent", || world.cli(&["run", "--image", "debian", "--", "true"]).code == 0);
    }
    let shown = world.cli(&["show", "survivor", "-o", "json"]).json();
    assert_eq!(shown["state"], "running");
    assert_eq!(shown["claim"], "sandboxed (container)");
}

#[test]
fn random_kills_leave_nothing_behind() {
    if !testkit::can_run() {
        return;
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let rounds = number("COFFERDAM_FAULT_ROUNDS").unwrap_or(100);
    let mut seed = number("COFFERDAM_FAULT_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("COFFERDAM_FAULT_SEED={seed} COFFERDAM_FAULT_ROUNDS={rounds}");
    seed ^= 0x9e37_79b9_7f4a_7c15;
    let world = World::start();
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    world.create("spared", &[]);
    // As long as a create takes, or about.
    let within = testkit::patience(12).as_millis() as u64 / 100;
    let started = world.sh("spared", "cut -d' ' -f22 /proc/1/stat").ok().out;
    let kinds = ["control", "node", "gate", "zygote", "init"];
    let mut times = Vec::new();
    let (mut made, mut hit) = (0, std::collections::BTreeMap::new());
    for round in 0..rounds {
        let begun = Instant::now();
        let name = format!("victim-{round}");
        let mut child = world
            .command(&["create", "--name", &name, "--image", "debian"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("create");
        std::thread::sleep(Duration::from_millis(random(within)));
        let kind = kinds[random(kinds.len() as u64) as usize];
        let victim = match kind {
            "init" => {
                // Any that is not the spared one: of this round, or of one that is being destroyed.
                let spared = world.init_of_uptime(&started);
                let others: Vec<i32> = world.inits().into_iter().filter(|pid| Some(*pid) != spared).collect();
                others.get(random(others.len().max(1) as u64) as usize).copied()
            }
            kind => world.pid_of(kind),
        };
        if let Some(victim) = victim {
            kill(victim);
            *hit.entry(kind).or_insert(0) += 1;
        }
        made += u64::from(child.wait().expect("create ends").success());
        let created = begun.elapsed();
        // Destroying is an order like any other: it arrives when control is back.
        eventually("the order to destroy", || matches!(world.cli(&["rm", "-f", &name]).code, 0 | 3));
        times.push((begun.elapsed(), created, kind, round));
    }
    times.sort_unstable();
    let total: Duration = times.iter().map(|(whole, ..)| *whole).sum();
    println!("{rounds} rounds in {total:?}; the slowest (whole, create, killed, round):");
    times.iter().rev().take(10).for_each(|time| println!("  {time:?}"));
    // The rounds must have been what they claim to be: most creates got through, and every kind was hit.
    println!("{made} creates got through; killed: {hit:?}");
    assert!(made * 3 >= rounds, "{made} of {rounds} creates got through");
    assert!(rounds < 50 || hit.len() == kinds.len(), "{hit:?}");
    eventually("the spared agent answers", || {
        world.sh("spared", "cut -d' ' -f22 /proc/1/stat").out == started
    });
    let (runtime, control) = world.control();
    eventually("desired and observed agree", || {
        let agents = runtime.block_on(control.agents(&client::AgentFilter::default()));
        agents.is_ok_and(|agents| agents.len() == 1 && agents[0].state == model::AgentState::Running)
    });
    nothing_but(&world, 1);
    world.cli(&["rm", "-f", "spared"]).ok();
    nothing_but(&world, 0);
}

/// Waits until what there is, is what so many running agents and the blanks that are ready have: not one process, loop
/// device, file or range of user ids more.
fn nothing_but(world: &World, agents: usize) {
    let deadline = Instant::now() + testkit::patience(20);
    loop {
        let found = world.leftovers();
        let leases = world.journal().into_iter().filter(|record| !record["lease"].is_null()).count();
        let groups: BTreeSet<_> = found
            .cgroups
            .iter()
            .filter_map(|path| std::fs::read_dir(path).ok())
            .flat_map(|entries| entries.flatten().filter(|entry| entry.path().is_dir()))
            .map(|entry| entry.file_name())
            .collect();
        let count = |place| std::fs::read_dir(world.dir().join(place)).map_or(0, Iterator::count);
        let (runs, blanks) = (count("run/agents"), count("run/blanks"));
        // An image's, on kernels that need one, is the zygote's for as long as that lives.
        let volumes = found.loops.iter().filter(|device| !device.contains("/data/images/")).count();
        // A blank without an image has no init yet.
        let first = |line: &&String| line.ends_with(" init ") || line.ends_with(" blank ");
        let inits = found.processes.iter().filter(first).count();
        if found.mounts.is_empty()
            && [leases, runs, world.inits().len()] == [agents; 3]
            && [volumes, groups.len(), inits] == [agents + blanks; 3]
        {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "other than {agents} agents have: {found:#?} {groups:?}, {leases} leases, {runs} directories, {blanks} blanks"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn absence_is_never_an_order() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("kept", &[]);
    world.sh("kept", "echo here > /tmp/mark").ok();
    // Control comes back with an empty database: another installation, or one that knows nothing.
    let control = world.pid_of("control").expect("control runs");
    let database = world.dir().join("data/control");
    let aside = world.dir().join("data/control-aside");
    let init = world.newest_init().expect("the agent's init");
    std::fs::rename(&database, &aside).expect("the database goes");
    std::fs::create_dir(&database).expect("an empty place");
    let meta = std::fs::metadata(&aside).expect("metadata");
    use std::os::unix::fs::MetadataExt;
    std::os::unix::fs::chown(&database, Some(meta.uid()), Some(meta.gid())).expect("owner");
    kill(control);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(std::path::Path::new(&format!("/proc/{init}")).exists(), "an empty database ended an agent");
    // The right one comes back, and everything answers again.
    if let Some(control) = world.pid_of("control") {
        kill(control);
    }
    std::fs::remove_dir_all(&database).expect("the empty one goes");
    std::fs::rename(&aside, &database).expect("the database is back");
    eventually("the agent answers", || world.sh("kept", "cat /tmp/mark").out == "here\n");
}

#[test]
fn down_and_up_keep_agents_and_data() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("kept", &[]);
    world.sh("kept", "echo here > ~/mark").ok();
    world.down();
    world.up();
    eventually("the agent runs again", || world.sh("kept", "cat ~/mark").out == "here\n");
    // A second `up` says so, and gives back the way in if that was lost.
    std::fs::remove_file(world.dir().join("home/.config/cofferdam/config.toml")).expect("the context");
    world.cli(&["up", "--detach"]).ok();
    assert_eq!(world.sh("kept", "cat ~/mark").ok().out, "here\n");
}

#[test]
fn destroying_a_paused_agent_works() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("frozen", &[]);
    world.cli(&["pause", "frozen"]).ok();
    world.cli(&["rm", "-f", "frozen"]).ok();
    assert_eq!(world.newest_init(), None);
}
