//! What is left of worlds whose test was killed and whose directory is gone: live inits, cgroups, loop devices, mounts.
//!
//! A world is known by its name alone, and the name says whose it is: nothing is touched while a process of that pid
//! lives. Processes are ended through the world's own cgroup, never by what they look like.

use crate::leftovers::cgroup_mounts;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Begins the name of every world: of its directory, and of its cgroup in every hierarchy.
pub(crate) const PREFIX: &str = "cofferdam-test-";

/// Whether this is the name of a world (`PREFIX` PID `-` N) whose test has ended.
pub(crate) fn is_of_dead_test(name: &str) -> bool {
    let numbers = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
    let Some((Ok(pid), Ok(_))) = numbers.map(|(pid, count)| (pid.parse::<u32>(), count.parse::<u32>()))
    else {
        return false;
    };
    pid != std::process::id() && !Path::new(&format!("/proc/{pid}")).exists()
}

/// Names of worlds of dead tests that have no directory any more, as cgroups, loop devices and mounts have them.
pub(crate) fn without_directory() -> BTreeSet<String> {
    let cgroups = cgroup_mounts().into_iter().flat_map(|mount| children(Path::new(&mount)));
    let mut paths: Vec<PathBuf> = cgroups.collect();
    paths.extend(loops().into_iter().map(|(_, file)| file));
    paths.extend(mount_points());
    let names = paths.iter().flat_map(|path| path.iter()).map(|part| part.to_string_lossy().into_owned());
    names.filter(|name| is_of_dead_test(name) && !std::env::temp_dir().join(name).exists()).collect()
}

/// Ends and removes what there is of a world by its name.
pub(crate) fn remove(name: &str) {
    assert!(is_of_dead_test(name), "{name} is the world of a test that runs");
    let groups: Vec<PathBuf> = cgroup_mounts()
        .into_iter()
        .map(|mount| Path::new(&mount).join(name))
        .filter(|path| path.is_dir())
        .collect();
    // The kernel takes a moment for each life; new ones may be born of those that are left.
    let deadline = Instant::now() + Duration::from_secs(20);
    while groups.iter().filter(|group| !end(group)).count() > 0 {
        if Instant::now() > deadline {
            eprintln!("{name}, of a test that was killed, stays: {groups:?}");
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    unmount_beneath(&std::env::temp_dir().join(name));
    for (device, file) in loops() {
        if file.iter().any(|part| part == name) {
            // losetup(8) detaches when the last user is gone, if one is left.
            let _ = std::process::Command::new("losetup").arg("--detach").arg(device).output();
        }
    }
}

/// Ends all processes of a cgroup and removes it; whether it is gone.
fn end(group: &Path) -> bool {
    // The first is cgroup v2's, which takes the whole tree at once; v1 leaves them to be found.
    if fs::write(group.join("cgroup.kill"), "1").is_err() {
        for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
            let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
    // A frozen process is not gone before it thaws; who may not be there is no fault.
    let _ = fs::write(group.join("freezer.state"), "THAWED");
    for child in children(group) {
        end(&child);
    }
    let _ = fs::remove_dir(group);
    !group.exists()
}

fn children(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Loop devices with the files that they hold.
fn loops() -> Vec<(PathBuf, PathBuf)> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let file = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
            Some((Path::new("/dev").join(entry.file_name()), PathBuf::from(file.trim_end())))
        })
        .collect()
}

fn mount_points() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from).collect()
}

/// Unmounts what a test mounted in its world, the last first.
pub(crate) fn unmount_beneath(dir: &Path) {
    for point in mount_points().iter().rev().filter(|point| point.starts_with(dir)) {
        let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_worlds_of_dead_tests_are_stale() {
        // Ended and reaped, so nobody has its pid; the kernel hands them out in turn.
        let mut child = std::process::Command::new("true").spawn().expect("a child");
        let dead = child.id();
        child.wait().expect("it ends");
        assert!(is_of_dead_test(&format!("{PREFIX}{dead}-0")));
        assert!(!is_of_dead_test(&format!("{PREFIX}{}-0", std::process::id())));
        assert!(!is_of_dead_test(&format!("{PREFIX}1-0")));
        for other in
            ["cofferdam", "cofferdam-test-", "cofferdam-test-x-0", "cofferdam-test-1", "cofferdam-test-9-x"]
        {
            assert!(!is_of_dead_test(other), "{other}");
        }
    }
}
