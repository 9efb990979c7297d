//! Volumes and cgroups on the real kernel. Without root: skipped, with a message.

use crate::cgroup::{Controller, Group, Tree};
use crate::volume::{Store, VolumeError};
use model::{BoundaryId, ByteSize, Resources, VolumeId};
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Whether to go on. In CI a missing privilege fails the test.
fn root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    assert!(is_root || std::env::var_os("CI").is_none(), "{test} needs root");
    if !is_root {
        eprintln!("skipped: {test} needs root");
    }
    is_root
}

fn attach(mount: &OwnedFd, at: &Path) {
    move_mount(mount, "", rustix::fs::CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).unwrap();
}

/// Loop devices that are bound to files below a directory.
fn loops_below(dir: &Path) -> Vec<String> {
    let backing = |device: &Path| fs::read_to_string(device.join("loop/backing_file")).unwrap_or_default();
    fs::read_dir("/sys/block")
        .unwrap()
        .flatten()
        .map(|entry| backing(&entry.path()))
        .filter(|file| file.starts_with(dir.to_str().unwrap()))
        .collect()
}

/// Waits for an event that nothing announces to us. Tests only.
fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not happen in 10 s");
        std::thread::yield_now();
    }
}

const SIZE: ByteSize = ByteSize(64 << 20);

#[test]
fn a_volume_lives() {
    if !root("a_volume_lives") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let id = VolumeId::new();
    let too_small = store.create(id, ByteSize(SIZE.0 - 1));
    assert!(matches!(too_small, Err(VolumeError::TooSmall { .. })), "{too_small:?}");
    store.create(id, SIZE).unwrap();
    store.create(id, SIZE).unwrap();
    let other = store.create(id, ByteSize(SIZE.0 * 2));
    assert!(matches!(other, Err(VolumeError::OtherSize { .. })), "{other:?}");
    let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(store.path(id)).unwrap()) * 512;
    assert!(blocks < SIZE.0 / 4, "a new volume takes {blocks} bytes");

    let point = dir.path().join("point");
    fs::create_dir(&point).unwrap();
    let mount = store.mount(&store.path(id)).unwrap();
    assert_eq!(loops_below(dir.path()).len(), 1);
    attach(&mount, &point);
    fs::write(point.join("kept"), "over mounts").unwrap();
    unmount(&point, UnmountFlags::DETACH).unwrap();
    drop(mount);
    // The mount waits for the device and its lock to be free.
    let mount = store.mount(&store.path(id)).unwrap();
    attach(&mount, &point);
    assert_eq!(fs::read_to_string(point.join("kept")).unwrap(), "over mounts");
    unmount(&point, UnmountFlags::DETACH).unwrap();
    drop(mount);
    until("the loop device clears itself", || loops_below(dir.path()).is_empty());

    store.trash(id).unwrap();
    store.trash(id).unwrap();
    assert!(matches!(store.mount(&store.path(id)), Err(VolumeError::Missing { .. })));
    assert!(store.empty_trash(Duration::from_secs(60)).is_empty());
    let emptied: Vec<_> = store.empty_trash(Duration::ZERO).into_iter().map(Result::unwrap).collect();
    assert_eq!(emptied, [id]);
}

#[test]
fn a_volume_is_mounted_once() {
    if !root("a_volume_is_mounted_once") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let id = VolumeId::new();
    store.create(id, SIZE).unwrap();
    let first = store.mount(&store.path(id)).unwrap();
    let file = fs::File::open(store.path(id)).unwrap();
    assert!(!crate::host::lock::exclusive(&file, Duration::from_millis(50)).unwrap());
    drop(file);
    // Waiting gets it once the first is gone.
    std::thread::scope(|scope| {
        let second = scope.spawn(|| store.mount(&store.path(id)));
        drop(first);
        second.join().unwrap().unwrap();
    });
    until("the loop device clears itself", || loops_below(dir.path()).is_empty());
}

#[test]
fn volumes_are_made_at_once_by_many() {
    if !root("volumes_are_made_at_once_by_many") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let shared = VolumeId::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| store.create(shared, SIZE).unwrap());
            scope.spawn(|| {
                let id = VolumeId::new();
                store.create(id, SIZE).unwrap();
                store.mount(&store.path(id)).unwrap()
            });
        }
    });
    let partial = |entry: &fs::DirEntry| entry.path().to_string_lossy().ends_with(crate::volume::PARTIAL);
    assert!(!fs::read_dir(dir.path()).unwrap().flatten().any(|entry| partial(&entry)));
    until("the loop devices clear themselves", || loops_below(dir.path()).is_empty());
}

/// What is in a volume, seen by nobody else.
fn within<T>(store: &Store, id: VolumeId, dir: &Path, look: impl FnOnce(&Path) -> T) -> T {
    let point = dir.join("within");
    fs::create_dir_all(&point).unwrap();
    let mount = store.mount(&store.path(id)).unwrap();
    attach(&mount, &point);
    let seen = look(&point);
    unmount(&point, UnmountFlags::DETACH).unwrap();
    seen
}

#[test]
fn a_volume_is_copied_while_somebody_has_it() {
    if !root("a_volume_is_copied_while_somebody_has_it") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (source, copy, second) = (VolumeId::new(), VolumeId::new(), VolumeId::new());
    assert!(matches!(store.clone(source, copy), Err(VolumeError::Missing { .. })));
    assert!(!store.path(copy).exists());
    store.create(source, SIZE).unwrap();
    let content: Vec<u8> = (0..3 << 20).map(|at: u32| (at % 251) as u8).collect();
    let point = dir.path().join("point");
    fs::create_dir(&point).unwrap();
    let mount = store.mount(&store.path(source)).unwrap();
    attach(&mount, &point);
    for number in 0..200 {
        fs::write(point.join(format!("home/file-{number}")), number.to_string()).unwrap();
    }
    fs::write(point.join("home/large"), &content).unwrap();
    fs::write(point.join("log/main.0"), "what the source said").unwrap();
    fs::create_dir_all(point.join("upper/etc")).unwrap();
    fs::write(point.join("upper/etc/machine-id"), "0123456789abcdef0123456789abcdef").unwrap();
    // Nothing was synced, and it stays mounted: as of an agent that stands still.
    store.clone(source, copy).unwrap();
    fs::write(point.join("home/file-0"), "later").unwrap();
    unmount(&point, UnmountFlags::DETACH).unwrap();
    drop(mount);
    within(&store, copy, dir.path(), |point| {
        assert_eq!(fs::read(point.join("home/large")).unwrap(), content);
        for number in 0..200 {
            let read = fs::read_to_string(point.join(format!("home/file-{number}"))).unwrap();
            assert_eq!(read, number.to_string());
        }
        assert_eq!(fs::read(point.join("log/main.0")).unwrap(), b"");
        assert!(!point.join("upper").exists(), "its scratch layer goes with the next start");
        assert!(point.join("old/copied-0/etc/machine-id").exists());
        fs::write(point.join("home/file-1"), "its own").unwrap();
    });
    // Of one that nobody has; the copy is another volume, and its source knows nothing of it.
    store.clone(source, second).unwrap();
    within(&store, second, dir.path(), |point| {
        let read = |name: &str| fs::read_to_string(point.join(name)).unwrap();
        assert_eq!((read("home/file-0"), read("home/file-1")), ("later".to_owned(), "1".to_owned()));
    });
    // Again it changes nothing, and a copy of a copy is one.
    store.clone(source, copy).unwrap();
    within(&store, copy, dir.path(), |point| {
        assert_eq!(fs::read_to_string(point.join("home/file-1")).unwrap(), "its own");
        fs::create_dir(point.join("upper")).unwrap();
    });
    let third = VolumeId::new();
    store.clone(copy, third).unwrap();
    within(&store, third, dir.path(), |point| assert!(!point.join("upper").exists()));
    let sound = Command::new("fsck.ext4").args(["-fn"]).arg(store.path(third)).output().unwrap();
    assert!(sound.status.success(), "{}", String::from_utf8_lossy(&sound.stdout));
    let partial = |entry: &fs::DirEntry| entry.path().to_string_lossy().ends_with(crate::volume::PARTIAL);
    assert!(!fs::read_dir(dir.path()).unwrap().flatten().any(|entry| partial(&entry)));
    until("all loop devices are free", || loops_below(dir.path()).is_empty());
}

#[test]
fn a_full_disk_is_said() {
    if !root("a_full_disk_is_said") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let attributes = rustix::mount::MountAttrFlags::empty();
    let small = crate::host::mount::detached("tmpfs", "tmpfs", &[("size", "40k")], attributes).unwrap();
    attach(&small, dir.path());
    let store = Store::open(dir.path()).unwrap();
    let id = VolumeId::new();
    let full = store.create(id, SIZE);
    let left: Vec<_> = [dir.path().to_owned(), dir.path().join(".template")]
        .iter()
        .flat_map(|dir| fs::read_dir(dir).unwrap().flatten())
        .map(|entry| entry.file_name())
        .filter(|name| name.to_string_lossy().contains("ext4"))
        .collect();
    unmount(dir.path(), UnmountFlags::DETACH).unwrap();
    assert!(matches!(full, Err(VolumeError::Full { .. })), "{full:?}");
    assert!(left.is_empty(), "{left:?}");
}

/// A tree that is removed at the end.
struct TestTree(Tree);

impl TestTree {
    fn new(test: &str) -> Self {
        Self(Tree::open(&format!("cofferdam-test-{test}-{}", std::process::id())).unwrap())
    }
}

impl Drop for TestTree {
    fn drop(&mut self) {
        for parent in self.0.parents() {
            let _ = fs::remove_dir(parent);
        }
    }
}

#[test]
fn limits_bind_members() {
    if !root("limits_bind_members") {
        return;
    }
    let tree = TestTree::new("limits");
    let group = Group::new(&tree.0, BoundaryId::new());
    let resources = Resources { cpus: 0.5, memory: ByteSize(64 << 20), pids: 20, ..Resources::default() };
    group.create(&resources).unwrap();
    let mut child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    assert!(!group.is_populated());
    for procs in group.procs().unwrap() {
        rustix::io::write(&procs, child.id().to_string().as_bytes()).unwrap();
    }
    assert!(group.is_populated());
    let membership = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
    let ours = fs::read_to_string("/proc/self/cgroup").unwrap();
    for controller in Controller::ALL {
        let seen = group.observed_limit(controller, &membership);
        assert!(seen.is_ok(), "{seen:?}");
        let elsewhere = group.observed_limit(controller, &ours);
        assert!(elsewhere.is_err(), "{elsewhere:?}");
    }
    let usage = group.usage();
    assert_eq!((usage.memory_limit, usage.pids_limit, usage.pids), (64 << 20, 20, 1));
    assert!(group.remove().is_err(), "a group with live processes is not removed");
    // As for an agent that takes a boundary which was made before anybody knew what it needs.
    for memory in [256 << 20, 48 << 20] {
        group.limit(&Resources { memory: ByteSize(memory), ..resources }).unwrap();
        assert_eq!(group.usage().memory_limit, memory);
    }

    let limit = Duration::from_secs(10);
    group.freeze(true, limit).unwrap().unwrap();
    assert!(group.is_frozen());
    // Killing works while frozen.
    group.kill(limit).unwrap().unwrap();
    assert!(!group.is_populated());
    child.wait().unwrap();
    group.remove().unwrap();
    group.remove().unwrap();
    group.kill(limit).unwrap().unwrap();
}

#[test]
fn memory_is_counted_and_its_end_is_seen() {
    if !root("memory_is_counted_and_its_end_is_seen") {
        return;
    }
    let tree = TestTree::new("memory");
    let group = Group::new(&tree.0, BoundaryId::new());
    group.create(&Resources { memory: ByteSize(32 << 20), ..Resources::default() }).unwrap();
    assert_eq!(group.oom_kills(), 0);
    // Waits for a line, so that it allocates only as a member.
    let script = "read line; head -c 200000000 /dev/zero | tail -c 150000000";
    let mut child =
        Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    for procs in group.procs().unwrap() {
        rustix::io::write(&procs, child.id().to_string().as_bytes()).unwrap();
    }
    drop(child.stdin.take());
    let status = child.wait().unwrap();
    // The kernel may pick the shell as well.
    assert!(status.code() == Some(137) || status.signal() == Some(libc::SIGKILL), "{status}");
    assert!(group.oom_kills() > 0);
    group.remove().unwrap();
}

#[test]
fn the_doctor_finds_this_host_fit() {
    if !root("the_doctor_finds_this_host_fit") {
        return;
    }
    let here = Path::new("/nonexistent");
    // As much of a static program as is looked at: a 64-bit ELF header without segments.
    let folder = tempfile::tempdir().unwrap();
    let jail = folder.path().join("jail");
    let mut header = [0; 64];
    header[..6].copy_from_slice(b"\x7fELF\x02\x01");
    fs::write(&jail, header).unwrap();
    let mut config = crate::Config {
        run: here.into(),
        images: here.into(),
        volumes: here.into(),
        init_store: here.into(),
        cgroup: "cofferdam-test".into(),
        jail,
        hidden: Vec::new(),
        runtimes: Vec::new(),
    };
    let checks = crate::doctor::checks(&config);
    for check in &checks {
        eprintln!("{} {:40} {:5} {} {:?}", check.level, check.control, check.ok, check.detail, check.remedy);
    }
    assert!(crate::doctor::passes(&checks, 2));
    assert!(checks.iter().all(|check| check.ok != check.remedy.is_some()));
    // A dynamic one runs in no image but those with its own libraries.
    config.jail = "/bin/true".into();
    let checks = crate::doctor::checks(&config);
    let jail = checks.iter().find(|check| check.control == "jail binary").unwrap();
    assert!(!jail.ok && jail.detail.contains("dynamically"), "{jail:?}");
}
