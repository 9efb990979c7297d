//! The AppArmor profile around containers, where the kernel has AppArmor: who is in it, what it denies, and that nobody
//! leaves it. Ordinary work in it is the other tests' business: they all run in it there.

use crate::{World, chain, lease, until};
use model::agent::{Command, Level, RunAs};
use model::evidence::{Control, missing};
use sandbox::apparmor::{Offer, load, offer};
use sandbox::{Boundary, Given};
use std::fs::{self, OpenOptions};
use std::process;

const CONFINED: &str = "cofferdam-agent (enforce)";

fn world(test: &str) -> Option<World> {
    let world = World::new(test)?;
    match offer() {
        Offer::Loaded => Some(world),
        Offer::Absent(why) => {
            eprintln!("skipped: {test}: {why}");
            None
        }
        Offer::Refused(why) => panic!("{why}"),
    }
}

/// What an agent does as either of its users. It waits in between for somebody outside to open its `go`.
const SCRIPT: &str = "
cd /home/agent; exec > said 2>&1
cat /proc/self/attr/apparmor/current
for what in 'current changeprofile unconfined' 'exec exec unconfined' 'current changehat 1^none'; do
    set -- $what
    { echo \"$2 $3\" > /proc/self/attr/apparmor/$1; } 2>/dev/null && echo \"left by $what\"
done
cat /proc/self/attr/apparmor/current
busybox mkfifo go; cat go
for name in harmless kmem kvm sda; do
    { echo > /dev/$name; } 2>/dev/null && echo \"made $name\"
done
: > done; exec sleep 1000";

fn home(boundary: &Boundary) -> String {
    format!("/proc/{}/root/home/agent", boundary.record().pid)
}

fn label(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/attr/apparmor/current")).unwrap_or_default().trim_end().to_owned()
}

/// What the host's root does in its mounts.
fn mount(boundary: &Boundary, arguments: &str) {
    let pid = boundary.record().pid.to_string();
    let mut command = process::Command::new("nsenter");
    command.args(["--target", &pid, "--mount", "--pid", "/bin/busybox", "mount"]).args(arguments.split(' '));
    assert!(command.status().unwrap().success(), "{arguments}");
}

#[test]
fn all_of_an_agent_is_confined_and_stays_so() {
    let Some(world) = world("all_of_an_agent_is_confined_and_stays_so") else { return };
    let sandbox = world.sandbox();
    for user in [RunAs::Agent, RunAs::Root] {
        let mut spec = world.spec(None);
        let argv = ["/bin/sh", "-c", SCRIPT].map(str::to_owned).to_vec();
        spec.main = Some(Command { argv, env: Default::default(), cwd: None, user: Some(user) });
        let boundary = world.launch(&sandbox, &spec);
        assert_eq!(label(boundary.record().pid), CONFINED);
        let go = format!("{}/go", home(&boundary));
        until("it waits", || fs::exists(&go).unwrap());
        // Its /dev is read-only, so that the profile's own word is not heard there otherwise.
        mount(&boundary, "-o remount,bind,rw,nosuid,noexec /dev");
        drop(OpenOptions::new().write(true).open(&go).unwrap());
        until("it is done", || fs::exists(format!("{}/done", home(&boundary))).unwrap());
        let said = fs::read_to_string(format!("{}/said", home(&boundary))).unwrap();
        let made = if user == RunAs::Root { "made harmless\n" } else { "" };
        assert_eq!(said, format!("{CONFINED}\n{CONFINED}\n{made}"), "as {user:?}");
        // Every process in its cgroups, however it was started.
        let pids =
            world.cgroups().into_iter().filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok());
        let pids: Vec<u32> =
            pids.flat_map(|pids| pids.lines().flat_map(str::parse).collect::<Vec<_>>()).collect();
        assert!(pids.len() >= 2 && pids.iter().all(|pid| label(*pid) == CONFINED), "{pids:?}");
        boundary.kill().unwrap();
        boundary.cleanup().unwrap();
    }
    drop(sandbox);
    world.assert_clean();
}

/// It is the whole machine's, so this test runs alone there.
#[test]
fn a_profile_that_is_taken_away_is_missed() {
    let Some(world) = world("a_profile_that_is_taken_away_is_missed") else { return };
    let sandbox = world.sandbox();
    let spec = world.spec(None);
    let lacking = |boundary: &Boundary| -> Vec<Control> {
        missing(Level::Container, &boundary.inspect()).iter().map(|found| found.control).collect()
    };
    let boundary = world.launch(&sandbox, &spec);
    assert_eq!(lacking(&boundary), []);
    fs::write("/sys/kernel/security/apparmor/.remove", "cofferdam-agent").unwrap();
    assert_eq!(lacking(&boundary), [Control::AppArmor]);
    // There is none without it.
    let other = world.spec(None);
    sandbox.create_volume(other.volume, other.resources.disk).unwrap();
    let refused = sandbox.launch(&other, &Given::default(), lease(), 0, &world.channel(&other), None);
    let refused = chain(&refused.unwrap_err());
    assert!(refused.contains("AppArmor"), "{refused}");
    assert_eq!(load(), Offer::Loaded);
    let again = world.launch(&sandbox, &other);
    assert_eq!(lacking(&again), []);
    // Who lost it does not get it back.
    assert_eq!(lacking(&boundary), [Control::AppArmor]);
    for boundary in [boundary, again] {
        boundary.kill().unwrap();
        boundary.cleanup().unwrap();
    }
    drop(sandbox);
    world.assert_clean();
}
