//! What a world may leave behind if it is careless: looked for on the whole machine, by its name.

use std::fs;
use std::path::Path;

/// Everything that was found; empty is good.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Processes of the world, as `pid command`.
    pub processes: Vec<String>,
    /// Mounts in the host's mount namespace.
    pub mounts: Vec<String>,
    /// cgroup directories.
    pub cgroups: Vec<String>,
    /// Loop devices whose file is the world's.
    pub loops: Vec<String>,
    /// Runtime files of agents and gates.
    pub files: Vec<String>,
}

impl Leftovers {
    /// Looks for everything that carries the world's name.
    pub fn look(cgroup: &str, dir: &Path) -> Self {
        let dir_text = dir.display().to_string();
        let mut found = Self::default();
        for entry in fs::read_dir("/proc").expect("/proc").filter_map(Result::ok) {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let in_cgroup =
                fs::read_to_string(entry.path().join("cgroup")).is_ok_and(|text| text.contains(cgroup));
            let names_world = |file: &str| {
                fs::read(entry.path().join(file))
                    .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(&dir_text))
            };
            let of_world = names_world("environ") || names_world("cmdline");
            // What is dead and waits to be reaped by the machine's pid 1 is not ours any more.
            let dead = fs::read_to_string(entry.path().join("stat"))
                .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z")));
            if dead {
                continue;
            }
            if in_cgroup || (of_world && pid != std::process::id() as i32) {
                let command = match crate::world::is_bare(&entry.path()) {
                    true => b"blank\0".to_vec(),
                    false => fs::read(entry.path().join("cmdline")).unwrap_or_default(),
                };
                found
                    .processes
                    .push(format!("{pid} {}", String::from_utf8_lossy(&command).replace('\0', " ")));
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        found.mounts = mounts.lines().filter(|line| line.contains(&dir_text)).map(str::to_owned).collect();
        for hierarchy in cgroup_mounts() {
            let path = Path::new(&hierarchy).join(cgroup);
            if path.exists() {
                found.cgroups.push(path.display().to_string());
            }
        }
        for entry in fs::read_dir("/sys/block").into_iter().flatten().filter_map(Result::ok) {
            if let Ok(file) = fs::read_to_string(entry.path().join("loop/backing_file"))
                && file.contains(&dir_text)
            {
                found.loops.push(format!("{} {}", entry.file_name().display(), file.trim()));
            }
        }
        for place in ["run/agents", "run/blanks", "run/gates"] {
            let Ok(entries) = fs::read_dir(dir.join(place)) else { continue };
            found
                .files
                .extend(entries.filter_map(Result::ok).map(|entry| entry.path().display().to_string()));
        }
        found
    }
}

pub(crate) fn cgroup_mounts() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (path, kind) = (fields.next()?, fields.next()?);
            kind.starts_with("cgroup").then(|| path.to_owned())
        })
        .collect()
}
