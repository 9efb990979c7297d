//! What an installation may leave on a machine: processes in its cgroups, the cgroups, mounts, sockets.
//!
//! Nothing is ended here: without the node nobody may say which process is an agent's. It is found, named, and
//! what is empty is removed.

use std::fs;
use std::path::{Path, PathBuf};

/// One agent's cgroups that still hold processes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Remaining {
    /// The part of the agent's id behind the prefix.
    pub boundary: String,
    /// How many processes.
    pub processes: usize,
}

/// Every mount point of a file system type, and of everything beneath a path: proc_pid_mountinfo(5).
fn mount_points(wanted: impl Fn(&Path, &str) -> bool) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let point = PathBuf::from(unescape(before.split(' ').nth(4)?));
            wanted(&point, after.split(' ').next()?).then_some(point)
        })
        .collect()
}

/// Octal escapes, as the kernel writes spaces in paths.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        match after.get(..3).and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &after[3..];
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out + rest
}

/// Mounts beneath a directory.
pub fn mounts_beneath(directory: &Path) -> Vec<PathBuf> {
    mount_points(|point, _| point.starts_with(directory))
}

/// Whether a whole tmpfs is mounted here, and nothing else: not a part of another file system, which is somebody's.
pub fn is_own_tmpfs(point: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut here = table.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, target) = (fields.next()?, unescape(fields.next()?));
        (Path::new(&target) == point).then(|| root == "/" && after.starts_with("tmpfs "))
    });
    here.next() == Some(true) && here.next().is_none()
}

/// The installation's cgroup in every hierarchy that has one.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let hierarchies = mount_points(|_, kind| kind == "cgroup" || kind == "cgroup2");
    hierarchies.into_iter().map(|mount| mount.join(name)).filter(|path| path.is_dir()).collect()
}

fn children(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// Agents whose processes live.
pub fn agents(cgroup: &str) -> Vec<Remaining> {
    let mut found: Vec<Remaining> = Vec::new();
    for agent in cgroups(cgroup).iter().flat_map(|path| children(path)) {
        let procs = fs::read_to_string(agent.join("cgroup.procs")).unwrap_or_default();
        let processes = procs.lines().count();
        let name = agent.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if processes == 0 {
            continue;
        }
        match found.iter_mut().find(|remaining| remaining.boundary == name) {
            Some(remaining) => remaining.processes = remaining.processes.max(processes),
            None => found.push(Remaining { boundary: name, processes }),
        }
    }
    found
}

/// Removes the installation's cgroups, as far as they are empty: the kernel refuses those that are not. One that was
/// delegated stays: whoever made it removes it.
pub fn remove_cgroups(cgroup: &str) {
    fn remove(path: &Path) {
        for child in children(path) {
            remove(&child);
        }
        let _ = fs::remove_dir(path);
    }
    let ours = cgroups(cgroup).into_iter();
    let gone = match cgroup.contains('/') {
        true => ours.flat_map(|path| children(&path)).collect::<Vec<_>>(),
        false => ours.collect(),
    };
    for path in gone {
        remove(&path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_the_kernel_writes_them() {
        assert_eq!(unescape(r"/a\040b"), "/a b");
        assert_eq!(unescape(r"/a\134b"), r"/a\b");
        assert_eq!(unescape("/plain"), "/plain");
        assert_eq!(unescape(r"/odd\9"), r"/odd\9");
        assert!(mounts_beneath(Path::new("/proc")).contains(&PathBuf::from("/proc")));
    }
}
