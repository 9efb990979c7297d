//! What a boundary can lose while it runs, taken from it by the host's root: whoever looks again must miss it, and name it;
//! and see it when it is back.

use crate::World;
use model::agent::Level;
use model::evidence::{Claim, Control, State, claim, missing};
use sandbox::Boundary;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// How the host's root takes a control away, and how it is given back.
enum Loss {
    /// The kernel gives nobody a way: what a process has or is cannot be taken from it from outside.
    None,
    /// A limit is lifted: names of its file in the versions of cgroups, and what says that there is none.
    Limit(&'static [&'static str], [&'static str; 2]),
    /// Another mount in its namespace: arguments of busybox there.
    Mount(&'static str, &'static str),
    /// Another device in its network namespace: arguments of `ip` there.
    Device,
}

const MEMORY: &[&str] = &["memory.max", "memory.limit_in_bytes"];
const CPU: &[&str] = &["cpu.max", "cpu.cfs_quota_us"];
const PIDS: &[&str] = &["pids.max"];

/// Of every control, so that nobody adds one without a thought about it.
fn loss(control: Control, level: Level) -> Loss {
    match control {
        Control::MemoryLimit => Loss::Limit(MEMORY, ["max", "-1"]),
        Control::CpuLimit => Loss::Limit(CPU, ["max", "-1"]),
        Control::PidsLimit => Loss::Limit(PIDS, ["max", "max"]),
        // A disk without end at the home. With an image all of the root is on the disk.
        Control::DiskLimit if !level.has_image() => {
            Loss::Mount("mount -t tmpfs -o nosuid,nodev none /home/agent", "umount /home/agent")
        }
        Control::RootFilesystem => Loss::Mount("mount -o remount,bind,ro /", "mount -o remount,bind,rw /"),
        Control::ReadOnlySystem => Loss::Mount(
            "mount -o remount,bind,rw,nosuid,nodev /usr",
            "mount -o remount,bind,ro,nosuid,nodev /usr",
        ),
        Control::PrivateTmp => Loss::Mount("mount -t ramfs -o nosuid,nodev none /tmp", "umount /tmp"),
        Control::KernelInterfaces => Loss::Mount(
            "mount -o remount,bind,rw,nosuid,nodev,noexec /proc/sys",
            "mount -o remount,bind,ro,nosuid,nodev,noexec /proc/sys",
        ),
        Control::Devices => Loss::Mount(
            "mount -o remount,bind,rw,nosuid,noexec /dev",
            "mount -o remount,bind,ro,nosuid,noexec /dev",
        ),
        Control::NetworkNamespace => Loss::Device,
        // From all agents at once: `apparmor.rs`.
        Control::AppArmor => Loss::None,
        // By a process in its cgroup that is none of the kernel's: `kernel.rs`.
        Control::KernelBoundary => Loss::None,
        Control::DiskLimit
        | Control::OsUser
        | Control::UserNamespace
        | Control::PidNamespace
        | Control::MountNamespace
        | Control::IpcNamespace
        | Control::UtsNamespace
        | Control::CgroupNamespace
        | Control::NoNewPrivs
        | Control::Seccomp
        | Control::Capabilities
        | Control::Landlock
        | Control::InitProtection => Loss::None,
    }
}

/// Something done as the host's root in namespaces of init; whether it could be.
fn inside(boundary: &Boundary, namespaces: &[&str], arguments: &str) -> bool {
    let pid = boundary.record().pid.to_string();
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid]).args(namespaces).args(arguments.split(' '));
    let output = command.output().unwrap();
    if !output.status.success() {
        eprintln!("{arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

fn lost(boundary: &Boundary, level: Level) -> Vec<Control> {
    let named: Vec<_> = missing(level, &boundary.inspect());
    eprintln!("{level}: {named:?}");
    assert_eq!(named.is_empty(), claim(level, &boundary.inspect()) != Claim::None);
    named.iter().map(|found| found.control).collect()
}

#[test]
fn what_is_lost_is_missed() {
    let Some(world) = World::new("what_is_lost_is_missed") else { return };
    for level in Level::ALL {
        let sandbox = world.sandbox();
        let spec = world.spec_at(level, None);
        let boundary = world.launch(&sandbox, &spec);
        assert_eq!(lost(&boundary, level), []);
        for control in Control::of(level).iter().copied() {
            let back: Box<dyn Fn()> = match loss(control, level) {
                Loss::None => continue,
                Loss::Limit(names, none) => lift(&world, names, none),
                Loss::Mount(take, give) => {
                    let done =
                        |what| inside(&boundary, &["--mount", "--pid"], &format!("/bin/busybox {what}"));
                    assert!(done(take), "{take}");
                    Box::new(move || assert!(done(give), "{give}"))
                }
                Loss::Device => {
                    let made = ["dummy", "veth", "bridge"]
                        .into_iter()
                        .find(|kind| inside(&boundary, &["--net"], &format!("ip link add more type {kind}")));
                    let Some(_) = made else {
                        eprintln!("{control:?}: this kernel makes no device that could be added");
                        continue;
                    };
                    Box::new(|| assert!(inside(&boundary, &["--net"], "ip link delete more")))
                }
            };
            let mut named = lost(&boundary, level);
            // Without an image several controls look at the same mounts.
            named.retain(|found| *found != Control::ReadOnlySystem || control == Control::ReadOnlySystem);
            assert_eq!(named, [control]);
            back();
            assert_eq!(lost(&boundary, level), [], "{control:?} is back");
        }
        boundary.kill().unwrap();
        boundary.cleanup().unwrap();
        drop(sandbox);
        world.assert_clean();
    }
}

/// Takes a limit off, and returns what puts it back.
fn lift(world: &World, names: &[&str], [v2, v1]: [&str; 2]) -> Box<dyn Fn()> {
    let dirs = world.cgroups();
    let files = dirs.iter().flat_map(|dir| names.iter().map(move |name| dir.join(name)));
    let files: Vec<PathBuf> = files.filter(|path| path.exists()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let path = files[0].clone();
    let before = fs::read_to_string(&path).unwrap();
    // What limits memory and swap together does not allow that memory has none.
    let both = path.with_file_name("memory.memsw.limit_in_bytes");
    let swap = fs::read_to_string(&both).ok().filter(|_| path.ends_with("memory.limit_in_bytes"));
    if swap.is_some() {
        fs::write(&both, v1).unwrap();
    }
    let first_of_v2 = path.ends_with(names[0]);
    fs::write(&path, if first_of_v2 { v2 } else { v1 }).unwrap();
    Box::new(move || {
        fs::write(&path, before.trim()).unwrap();
        if let Some(swap) = &swap {
            fs::write(&both, swap.trim()).unwrap();
        }
    })
}

/// Looking again costs so little that it can be done every minute.
#[test]
fn looking_is_cheap_and_shows_what_is_lost() {
    let Some(world) = World::new("looking_is_cheap_and_shows_what_is_lost") else { return };
    let sandbox = world.sandbox();
    let spec = world.spec(None);
    let boundary = world.launch(&sandbox, &spec);
    let mut took: Vec<Duration> = (0..200)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(claim(Level::Container, &boundary.inspect()), Claim::Container);
            began.elapsed()
        })
        .collect();
    took.sort();
    let median = took[took.len() / 2];
    let share = median.as_secs_f64() * 1000.0 / 60.0 * 100.0;
    eprintln!("inspect: median {median:?}; a thousand a minute take {share:.1} % of a core");

    // The host's root takes the limit of processes away.
    let limits: Vec<PathBuf> =
        world.cgroups().iter().map(|dir| dir.join("pids.max")).filter(|path| path.exists()).collect();
    assert_eq!(limits.len(), 1);
    let before = fs::read_to_string(&limits[0]).unwrap();
    fs::write(&limits[0], "max").unwrap();
    let seen = boundary.inspect();
    let lost: Vec<Control> = missing(spec.level, &seen).iter().map(|found| found.control).collect();
    assert_eq!(lost, [Control::PidsLimit]);
    assert!(
        seen.iter().any(|found| found.state == State::Missing && found.detail.contains("max")),
        "{seen:?}"
    );
    fs::write(&limits[0], before.trim()).unwrap();
    assert_eq!(missing(spec.level, &boundary.inspect()), []);
    boundary.kill().unwrap();
    boundary.cleanup().unwrap();
    drop(sandbox);
    world.assert_clean();
}
