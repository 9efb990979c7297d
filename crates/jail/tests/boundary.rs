//! The real zygote makes a real boundary, with busybox for an init, and a script inside tries what must fail and what must
//! work. Needs root, a kernel with all the parts, `mkfs.erofs`, `mkfs.ext4`, `losetup` and a static busybox.
#![allow(unsafe_code, reason = "the test collects a child that the zygote made for it")]

use jail::spec::{Launch, Limits, Prepare, PrepareFds, Reply, Request, Root};
use jail::sys::mount::Filesystem;
use jail::{layout, wire};
use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const BUSYBOX: &str = "/usr/bin/busybox";
const BASE: u32 = 0x7abc_0000;
const DIGEST: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A directory of the test's own with an image and a volume; all of it goes with it.
struct World {
    dir: PathBuf,
    socket: OwnedFd,
    zygote: Child,
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).stderr(Stdio::inherit()).output().expect(program);
    assert!(output.status.success(), "{program} {args:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Why the test cannot run here; in CI that is a failure.
fn missing() -> Option<String> {
    let tools = [BUSYBOX, "/usr/bin/mkfs.erofs", "/usr/sbin/mkfs.ext4", "/usr/sbin/losetup"];
    let absent = tools.iter().find(|tool| !Path::new(tool).exists()).map(|tool| format!("{tool} is missing"));
    // SAFETY: cannot fail.
    let reason = if unsafe { libc::geteuid() } == 0 { absent } else { Some("not root".into()) };
    assert!(reason.is_none() || std::env::var_os("CI").is_none(), "{reason:?}");
    reason
}

impl World {
    fn new(name: &str, script: &str) -> Self {
        // SAFETY: takes numbers. What the zygote launches becomes a child of this process when the zygote is one.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
        let dir = std::env::temp_dir().join(format!("cofferdam-jail-{name}-{}", std::process::id()));
        let root = dir.join("root");
        for path in ["bin", "etc", "proc", "sys", "dev", "tmp", "run", "home", "usr/share/doc"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
        std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
        // A trap for whoever writes here as the host's root.
        std::os::unix::fs::symlink("/proc/sys/kernel/domainname", root.join("etc/resolv.conf")).unwrap();
        fs::write(root.join("etc/inittab"), "::sysinit:/bin/sh /script\n::respawn:/bin/busybox sleep 1000\n")
            .unwrap();
        fs::write(root.join("script"), format!("exec 1>&4 2>&1\n{script}\necho finished\n")).unwrap();
        let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        run("mkfs.erofs", &["--quiet", "--all-root", &path("image"), &path("root")]);
        File::create(path("volume")).unwrap().set_len(64 << 20).unwrap();
        run("mkfs.ext4", &["-q", &path("volume")]);

        let (socket, theirs) = wire::pair().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam-jail"));
        command.arg("zygote").env_clear();
        let raw = theirs.as_raw_fd();
        // SAFETY: dup2, fcntl and setpriority may be called between fork and exec; a descriptor that is 3 already has to lose its
        // close-on-exec flag.
        unsafe {
            command.pre_exec(move || {
                // What the host prefers is not for agents.
                libc::setpriority(libc::PRIO_PROCESS, 0, -5);
                match raw == layout::ZYGOTE_FD {
                    true => libc::fcntl(raw, libc::F_SETFD, 0),
                    false => libc::dup2(raw, layout::ZYGOTE_FD),
                };
                Ok(())
            });
        }
        let mut world = Self { dir, socket, zygote: command.spawn().unwrap() };
        drop(theirs);
        assert!(matches!(world.hear().0, Reply::Ready { .. }));
        let image = world.mount(c"erofs", "image", true);
        world.say(&Request::AddImage { digest: DIGEST.into() }, &[image.as_fd()]);
        assert_eq!(world.hear().0, Reply::ImageAdded { digest: DIGEST.into() });
        world
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }

    fn say(&self, request: &Request, fds: &[BorrowedFd<'_>]) {
        wire::send(self.socket.as_fd(), request, fds).unwrap();
    }

    fn hear(&mut self) -> (Reply, Vec<OwnedFd>) {
        wire::receive(self.socket.as_fd()).unwrap().expect("the zygote has ended")
    }

    /// A file over a loop device, which every kernel can.
    fn mount(&self, kind: &CStr, name: &str, read_only: bool) -> OwnedFd {
        let device = run("losetup", &["--find", "--show", &self.path(name)]);
        let filesystem = Filesystem::new(kind).unwrap().set(c"source", &device).unwrap();
        let filesystem = if read_only { filesystem.flag(c"ro").unwrap() } else { filesystem };
        let mounted = filesystem.mount(0).unwrap();
        // Only from now on, and only once the mount is gone.
        run("losetup", &["--detach", &device]);
        mounted
    }

    /// Begins a boundary; its pid and pidfd.
    fn prepare(&mut self, init: &str) -> (i32, OwnedFd) {
        let _ = fs::remove_file(self.path("channel"));
        let open = |name: &str| {
            OpenOptions::new().create(true).read(true).append(true).open(self.path(name)).unwrap()
        };
        let fds = PrepareFds::<OwnedFd> {
            init: File::open(init).unwrap().into(),
            channel: UnixListener::bind(self.path("channel")).unwrap().into(),
            exit_record: open("said").into(),
            config: open("config").into(),
            // Takes what is written just as well.
            cgroups: vec![open("cgroup").into()],
        };
        let prepare = Prepare { request: 7, base_uid: BASE, limits: Limits::default(), host_network: false };
        let fds = fds.into_vec();
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        self.say(&Request::Prepare(Box::new(prepare)), &borrowed);
        match self.hear() {
            (Reply::Prepared { request: 7, pid, .. }, mut fds) => (pid, fds.remove(0)),
            other => panic!("{other:?}"),
        }
    }

    fn complete(&mut self, keep_scratch: bool) -> (Reply, Vec<OwnedFd>) {
        let launch = Launch {
            request: 7,
            root: Root::Image { digest: DIGEST.into(), keep_scratch },
            owner: Default::default(),
            apparmor: false,
            tmp_bytes: 1 << 20,
            shm_bytes: 1 << 20,
        };
        self.say(&Request::Launch(Box::new(launch)), &[self.mount(c"ext4", "volume", false).as_fd()]);
        self.hear()
    }

    /// Launches, waits for the end of the script, and returns what it said and what node would see of the process.
    fn visit(&mut self, keep_scratch: bool) -> (String, String) {
        let (pid, _pidfd) = self.prepare(BUSYBOX);
        let (Reply::Launched { .. }, _) = self.complete(keep_scratch) else {
            panic!("there is no boundary");
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let said = loop {
            let said = fs::read_to_string(self.path("said")).unwrap();
            if said.ends_with("finished\n") {
                break said;
            }
            assert!(std::time::Instant::now() < deadline, "it only said: {said}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        end(pid);
        fs::remove_file(self.path("said")).unwrap();
        (said, status)
    }
}

/// Kills and collects a process that the zygote made.
fn end(pid: i32) {
    // SAFETY: the pid is that of a child of this process, which has not been collected.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        assert_eq!(libc::waitpid(pid, std::ptr::null_mut(), 0), pid);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.zygote.kill();
        let _ = self.zygote.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn field<'a>(status: &'a str, name: &str) -> Vec<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().split_whitespace().collect()
}

#[test]
fn a_whole_boundary() {
    if let Some(reason) = missing() {
        return println!("skipped: {reason}");
    }
    // Nothing with netlink: the program in init's place does not answer the filter's questions.
    let tries = r#"
busybox() { /bin/busybox "$@"; }
must_fail() { if "$@"; then echo "WORKED: $*"; fi; }
must_work() { "$@" || echo "FAILED: $*"; }
must_fail busybox mount -t tmpfs none /tmp
must_fail busybox mount -o remount,rw /proc/sys
must_fail busybox umount /proc/fs
must_fail busybox mknod /tmp/null c 1 3
must_fail busybox mknod /tmp/disk b 7 0
must_fail busybox unshare -U /bin/busybox true
must_fail busybox unshare -n /bin/busybox true
must_fail busybox sh -c 'echo x > /proc/sys/kernel/core_pattern'
must_fail busybox sh -c 'echo 1 > /proc/sys/vm/drop_caches'
must_fail busybox dmesg
must_fail busybox hostname other
must_fail busybox touch /dev/x
must_fail busybox touch /sys/x
must_fail busybox sh -c 'busybox head -c 4 /proc/kcore | busybox grep -q ELF'
must_fail busybox ls /sys/block
busybox date -s 2000-01-01
must_fail busybox sh -c 'busybox date | busybox grep -w 2000'
must_work busybox mkfifo /tmp/pipe
must_work busybox touch /home/agent/x
must_work busybox chown 1000:1000 /home/agent/x
must_work busybox mv /usr/share /usr/moved
must_work busybox ls /usr/moved/doc
must_work busybox chown -R 65535:65535 /bin
# The listener reads what never ends: who hears the end of the other before it spoke says nothing.
must_work busybox sh -c 'busybox mkfifo /tmp/open; busybox nc -l -p 80 0<> /tmp/open > /tmp/heard & n=0; until echo well | /bin/busybox nc 127.0.0.1 80; do n=$((n + 1)); busybox test $n -lt 600 || exit 1; busybox sleep 0.05; done; wait; busybox grep -q well /tmp/heard'
must_work busybox head -c 8 /dev/urandom > /dev/null
must_work busybox sh -c 'ulimit -c 0'
must_work busybox sh -c '[ "$(/bin/busybox cut -d" " -f19 /proc/self/stat)" = 0 ]'
busybox touch /scratch
busybox hostname
busybox cat /etc/resolv.conf
busybox cat /proc/self/mountinfo
busybox stat -c 'node %n %F' /dev/*
"#;
    let host_name = fs::read_to_string("/proc/sys/kernel/domainname").unwrap();
    let mut world = World::new("whole", tries);
    let (said, status) = world.visit(false);
    assert!(!said.contains("WORKED"), "{said}");
    assert!(!said.contains("FAILED"), "{said}");
    assert!(said.contains("blank\nnameserver 192.0.2.53\n"), "{said}");
    for leak in ["cofferdam-jail", "/tmp/cofferdam", "volume", "lowerdir=/l/"] {
        assert!(!said.contains(leak), "the list of mounts says {leak}: {said}");
    }
    assert_eq!(said.matches("character special file").count(), 6, "{said}");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/domainname").unwrap(), host_name);

    let id = BASE.to_string();
    assert_eq!(field(&status, "Uid"), [id.as_str(); 4]);
    assert_eq!(field(&status, "Gid"), [id.as_str(); 4]);
    assert!(field(&status, "Groups").is_empty());
    assert_eq!(field(&status, "NoNewPrivs"), ["1"]);
    assert_eq!(field(&status, "Seccomp"), ["2"]);
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(field(&status, set), ["00000000800c05fb"], "{set}");
    }
    assert_eq!(field(&status, "CapInh"), ["0000000000000000"]);
}

#[test]
fn the_scratch_layer_is_thrown_away_or_kept() {
    if let Some(reason) = missing() {
        return println!("skipped: {reason}");
    }
    let look = "/bin/busybox ls /seen /home/agent/seen; echo > /seen; echo > /home/agent/seen";
    let mut world = World::new("scratch", look);
    let seen = |world: &mut World, keep| {
        let said = world.visit(keep).0;
        (
            said.contains("\n/seen\n") || said.starts_with("/seen\n"),
            said.contains("/home/agent/seen\n") && !said.contains("/home/agent/seen: No"),
        )
    };
    assert_eq!(seen(&mut world, false), (false, false));
    assert_eq!(seen(&mut world, false), (false, true));
    assert_eq!(seen(&mut world, true), (true, true));
    assert_eq!(seen(&mut world, false), (false, true));
}

#[test]
fn what_fails_says_where_and_leaves_nothing() {
    if let Some(reason) = missing() {
        return println!("skipped: {reason}");
    }
    let mut world = World::new("fails", "true");
    let text = world.path("text");
    fs::write(&text, "no program").unwrap();
    fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).unwrap();
    let (pid, _) = world.prepare(&text);
    let (Reply::Failed { request: 7, step, errno, pid: Some(failed), .. }, fds) = world.complete(false)
    else {
        panic!("a text file became init");
    };
    assert_eq!((step.as_str(), errno, failed), ("starting init", libc::ENOEXEC, pid));
    assert_eq!(fds.len(), 1);
    end(pid);
    let (pid, _) = world.prepare(BUSYBOX);
    world.say(&Request::RemoveImage { digest: DIGEST.into() }, &[]);
    let (Reply::Failed { step, errno, pid: None, .. }, _) = world.complete(false) else {
        panic!("an image that was removed was used");
    };
    assert_eq!((step.as_str(), errno), ("finding the image", libc::ENOENT));
    end(pid);
    // The kernel lets go of the mount, and so of the device, after the process is gone.
    let loops = || run("losetup", &["--associated", &world.path("volume")]);
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !loops().is_empty() && std::time::Instant::now() < patience {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(loops(), "", "a loop device is left");
}

#[test]
fn one_that_waits_keeps_no_image_and_ends_with_the_zygote() {
    if let Some(reason) = missing() {
        return println!("skipped: {reason}");
    }
    let mut world = World::new("waits", "true");
    let (first, first_pidfd) = world.prepare(BUSYBOX);
    let mounts = fs::read_to_string(format!("/proc/{first}/mountinfo")).unwrap();
    assert!(!mounts.contains("erofs"), "{mounts}");
    // A later child has copies of what the zygote had open, and must not keep the first one alive.
    let (second, second_pidfd) = world.prepare(BUSYBOX);
    world.zygote.kill().unwrap();
    world.zygote.wait().unwrap();
    for (pid, pidfd) in [(first, first_pidfd), (second, second_pidfd)] {
        let mut poll = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd.
        assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 30_000) }, 1, "{pid} goes on waiting");
        end(pid);
    }
    // Nobody else has the zygote's end of this socket.
    assert!(wire::receive::<Reply>(world.socket.as_fd()).unwrap().is_none());
}
