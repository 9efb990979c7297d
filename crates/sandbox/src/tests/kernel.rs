//! Tables as kernels print them.

use crate::cgroup::{Controller, Layout};
use crate::procfs;

const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

#[test]
fn layouts() {
    let check = |table: &str, v2: &[&str], mode: &str, memory: Option<(&str, bool)>| {
        let mut layout = Layout::parse(table);
        layout.unified_controllers = v2.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(layout.mode(), mode);
        let home = layout.home(Controller::Memory);
        assert_eq!(home.map(|(found, v2)| (found.mount.to_str().unwrap(), v2)), memory);
    };
    let pure = "41 31 0:38 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    check(pure, &["cpu", "memory", "pids"], "v2", Some(("/sys/fs/cgroup", true)));
    check(pure, &[], "v2", None);
    check(HYBRID, &["hugetlb"], "hybrid (v1 and v2)", Some(("/sys/fs/cgroup/memory", false)));
    check(HYBRID, &["memory"], "hybrid (v1 and v2)", Some(("/sys/fs/cgroup/unified", true)));
    let v1: String =
        HYBRID.lines().filter(|line| !line.contains("cgroup2")).map(|line| format!("{line}\n")).collect();
    check(&v1, &[], "v1", Some(("/sys/fs/cgroup/memory", false)));
    check("", &[], "none", None);
}

#[test]
fn mounts() {
    let line = r"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue";
    let table = format!("{line}\nnonsense\n");
    let mounts: Vec<_> = procfs::mounts(&table).collect();
    let [mount] = &*mounts else { panic!("{mounts:?}") };
    assert_eq!((mount.device, &*mount.root, &*mount.target), ("98:0", "/mnt1", "/mnt 2"));
    assert_eq!(
        (mount.options, mount.kind, mount.super_options),
        ("rw,noatime", "ext3", "rw,errors=continue")
    );
}

#[test]
fn start_times() {
    let check = |name: &str, expected| {
        let numbers: Vec<String> = (4..=24).map(|field| field.to_string()).collect();
        assert_eq!(procfs::start_time(&format!("77 ({name}) S {}", numbers.join(" "))), expected);
    };
    check("init", Some(22));
    check("a) S 1 (b", Some(22));
    assert_eq!(procfs::start_time("77 (init) S 1"), None);
    assert_eq!(procfs::start_time(""), None);
}

#[test]
fn status_values() {
    let status = "Name:\tinit\nSeccomp:\t2\nSeccomp_filters:\t1\n";
    assert_eq!(procfs::status_value(status, "Seccomp"), Some("2"));
    assert_eq!(procfs::status_value(status, "Seccomp_filters"), Some("1"));
    assert_eq!(procfs::status_value(status, "CapBnd"), None);
}

#[test]
fn digests() {
    let images = std::path::Path::new("/images");
    assert!(crate::image::path(images, &"a0".repeat(32)).is_ok());
    for wrong in ["", "../../etc/passwd", &"A0".repeat(32), &"a0".repeat(33), &format!("{}/", "a".repeat(63))]
    {
        assert!(crate::image::path(images, wrong).is_err(), "{wrong}");
    }
}
