//! Boundaries on the real kernel, with the real zygote and init. Needs root, mkfs.erofs, mkfs.ext4, a static
//! busybox and a static `cofferdam-jail` (`COFFERDAM_JAIL`, or where `cargo xtask build` puts it).

#[path = "boundary/apparmor.rs"]
mod apparmor;
#[path = "boundary/doors.rs"]
mod doors;
#[path = "boundary/kernel.rs"]
mod kernel;
#[path = "boundary/losses.rs"]
mod losses;
#[path = "boundary/oci.rs"]
mod oci;
#[path = "boundary/probe.rs"]
mod probe;
#[path = "boundary/sabotage.rs"]
mod sabotage;
#[path = "boundary/secrets.rs"]
mod secrets;
#[path = "boundary/system.rs"]
mod system;
#[path = "boundary/systemd.rs"]
mod systemd;
#[path = "boundary/talk.rs"]
mod talk;

use model::agent::{Command, Level, RunAs};
use model::evidence::{Claim, Control, claim};
use model::{AccountId, AgentId, AgentSpec, ByteSize, ExitReason, ImageId, Resources, VolumeId};
use sandbox::{Boundary, Config, Given, Sandbox, UidRange};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// An installation of its own; looks at its end that nothing of it is left.
struct World {
    dir: tempfile::TempDir,
    config: Config,
    image: String,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

fn jail() -> Option<PathBuf> {
    let given = std::env::var_os("COFFERDAM_JAIL").map(PathBuf::from);
    let target = std::env::current_exe().ok()?.ancestors().nth(3)?.to_owned();
    let built =
        ["x86_64-unknown-linux-gnu/release", "release"].map(|dir| target.join(dir).join("cofferdam-jail"));
    given.into_iter().chain(built).find(|path| path.is_file())
}

/// An installation in this directory.
fn config(dir: &Path, cgroup: String, jail: PathBuf) -> Config {
    Config {
        run: dir.join("run"),
        images: dir.join("images"),
        volumes: dir.join("volumes"),
        init_store: dir.join("init"),
        cgroup,
        jail,
        hidden: Vec::new(),
        runtimes: sandbox::DIRECTORIES.map(PathBuf::from).to_vec(),
    }
}

fn channel(config: &Config, spec: &AgentSpec) -> PathBuf {
    config.run.join("gates/account").join(format!("{}.sock", spec.id.base32()))
}

impl World {
    fn new(test: &str) -> Option<Self> {
        Self::with_jail(test, jail())
    }

    fn with_jail(test: &str, jail: Option<PathBuf>) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || jail.is_none() {
            assert!(std::env::var_os("CI").is_none(), "{test} needs root and its jail");
            eprintln!("skipped: {test} needs root and its jail");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let config = config(dir.path(), format!("cofferdam-test-{}-{number}", std::process::id()), jail?);
        fs::create_dir(&config.images).unwrap();
        fs::create_dir_all(config.run.join("gates/account")).unwrap();
        let image = busybox_image(dir.path(), &config.images);
        Some(Self { dir, config, image })
    }

    fn sandbox(&self) -> Sandbox {
        Sandbox::new(self.config.clone()).unwrap()
    }

    fn spec(&self, script: Option<&str>) -> AgentSpec {
        self.spec_at(Level::Container, script)
    }

    fn spec_at(&self, level: Level, script: Option<&str>) -> AgentSpec {
        let argv = |script: &str| ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        AgentSpec {
            secrets: Vec::new(),
            id: AgentId::new(),
            name: "tester".parse().unwrap(),
            account: AccountId::new(),
            level,
            driver: None,
            image: level.has_image().then(ImageId::new),
            image_digest: level.has_image().then(|| self.image.clone()),
            volume: VolumeId::new(),
            origin: None,
            run_as: RunAs::Agent,
            main: script.map(|script| Command {
                argv: argv(script),
                env: BTreeMap::new(),
                cwd: None,
                user: None,
            }),
            env: BTreeMap::new(),
            image_config: Default::default(),
            unrestricted: false,
            resources: Resources {
                cpus: 1.0,
                memory: ByteSize(64 << 20),
                pids: 64,
                disk: ByteSize(64 << 20),
            },
            keep_scratch: false,
            ttl: None,
            idle_timeout: None,
        }
    }

    fn channel(&self, spec: &AgentSpec) -> PathBuf {
        channel(&self.config, spec)
    }

    fn launch(&self, sandbox: &Sandbox, spec: &AgentSpec) -> Boundary {
        self.attempt(sandbox, spec).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same where it may fail.
    fn attempt(&self, sandbox: &Sandbox, spec: &AgentSpec) -> Result<Boundary, String> {
        sandbox.create_volume(spec.volume, spec.resources.disk).unwrap();
        sandbox
            .launch(spec, &Given::default(), lease(), 0, &self.channel(spec), None)
            .map_err(|error| chain(&error))
    }

    /// Directories of agents in all hierarchies.
    fn cgroups(&self) -> Vec<PathBuf> {
        let below =
            |dir: &Path| fs::read_dir(dir).map(|found| found.flatten().map(|entry| entry.path()).collect());
        fs::read_dir("/sys/fs/cgroup")
            .unwrap()
            .flatten()
            .map(|entry| entry.path())
            .chain([PathBuf::from("/sys/fs/cgroup")])
            .flat_map(|mount| below(&mount.join(&self.config.cgroup)).unwrap_or_else(|_| Vec::new()))
            .filter(|path: &PathBuf| path.is_dir())
            .collect()
    }

    /// Of volumes: one of an image lives as long as the zygote that holds the image.
    fn loops(&self) -> Vec<String> {
        let backing =
            |device: &Path| fs::read_to_string(device.join("loop/backing_file")).unwrap_or_default();
        fs::read_dir("/sys/block")
            .unwrap()
            .flatten()
            .map(|entry| backing(&entry.path()))
            .filter(|file| file.starts_with(self.config.volumes.to_str().unwrap()))
            .collect()
    }

    /// Nothing of any agent is there but its volume.
    fn assert_clean(&self) {
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new());
        for dir in ["agents", "gates/account"] {
            assert_eq!(fs::read_dir(self.config.run.join(dir)).unwrap().count(), 0, "{dir}");
        }
        until("loop devices clear themselves", || self.loops().is_empty());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "{mounts}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // A failed test ends its agents through their cgroup; then the directories go.
        for path in self.cgroups() {
            let _ = fs::write(path.join("cgroup.kill"), "1");
        }
        until("cgroups go", || {
            self.cgroups().iter().for_each(|path| drop(fs::remove_dir(path)));
            self.cgroups().is_empty()
        });
        for entry in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let _ = fs::remove_dir(entry.path().join(&self.config.cgroup));
        }
        let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(&self.config.cgroup));
    }
}

/// Every launch gets a range of its own.
fn lease() -> UidRange {
    static LEASES: AtomicU32 = AtomicU32::new(0);
    UidRange { base: 0x6000_0000 + LEASES.fetch_add(1, Ordering::Relaxed) * UidRange::COUNT }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Waits for what nothing announces to a test.
fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within 10 s");
        std::thread::yield_now();
    }
}

fn busybox_image(dir: &Path, images: &Path) -> String {
    let root = dir.join("root");
    for path in ["bin", "proc", "sys", "dev", "tmp", "etc", "home", "root", "run", "var"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for tool in
        ["sh", "sleep", "cat", "rm", "mkdir", "mv", "chmod", "head", "tail", "kill", "true", "echo", "touch"]
    {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(tool)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nagent:x:1000:1000::/home/agent:/bin/sh\n")
        .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nagent:x:1000:\n").unwrap();
    image_of(dir, images)
}

/// Makes an image of what is in `root` there.
fn image_of(dir: &Path, images: &Path) -> String {
    let file = dir.join("image.erofs");
    let made = std::process::Command::new("mkfs.erofs").arg(&file).arg(dir.join("root")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let sum = std::process::Command::new("sha256sum").arg(&file).output().unwrap();
    let digest = String::from_utf8(sum.stdout).unwrap()[..64].to_owned();
    fs::rename(&file, images.join(format!("{digest}.erofs"))).unwrap();
    digest
}

/// What the evidence of a whole boundary allows.
fn full(level: Level) -> Claim {
    match level {
        Level::Workspace => Claim::Workspace,
        Level::Process => Claim::Process,
        Level::Container => Claim::Container,
    }
}

/// A process of the host's, by the number the kernel gives it.
fn kill_9(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn every_control_is_observed() {
    let Some(world) = World::new("every_control_is_observed") else { return };
    for level in Level::ALL {
        eprintln!("level {level}");
        every_control_is_observed_at(&world, level);
    }
}

fn every_control_is_observed_at(world: &World, level: Level) {
    let sandbox = world.sandbox();
    let spec = world.spec_at(level, None);
    let began = Instant::now();
    let boundary = world.launch(&sandbox, &spec);
    eprintln!("first launch {:?}", began.elapsed());
    let began = Instant::now();
    let evidence = boundary.inspect();
    eprintln!("inspect {:?}", began.elapsed());
    for found in &evidence {
        eprintln!("{:18?} {:?} {}", found.control, found.state, found.detail);
    }
    assert_eq!(evidence.len(), Control::of(level).len());
    assert_eq!(claim(level, &evidence), full(level));
    let stats = boundary.stats();
    eprintln!("{stats:?}");
    assert_eq!((stats.memory_limit, stats.pids_limit), (64 << 20, 64));
    assert!(stats.pids >= 1 && stats.disk_limit > 32 << 20 && stats.disk_limit < 64 << 20 && stats.disk > 0);
    let socket = fs::metadata(world.channel(&spec)).unwrap();
    assert_eq!(socket.mode() & 0o777, 0o660);
    assert_eq!(sandbox.living(), [spec.id]);

    let began = Instant::now();
    let other_spec = world.spec_at(level, None);
    let other = world.launch(&sandbox, &other_spec);
    eprintln!("second launch with its volume {:?}", began.elapsed());
    other.kill().unwrap();
    other.cleanup().unwrap();
    let began = Instant::now();
    let other = world.launch(&sandbox, &other_spec);
    eprintln!("third launch {:?}", began.elapsed());
    let began = Instant::now();
    other.kill().unwrap();
    other.cleanup().unwrap();
    eprintln!("ended in {:?}", began.elapsed());

    // Alive, it is launched no second time and not cleared away.
    let again = sandbox.launch(&spec, &Given::default(), lease(), 0, &world.channel(&spec), None);
    assert!(matches!(again, Err(sandbox::LaunchError::AlreadyRunning { .. })), "{again:?}");
    assert!(boundary.cleanup().is_err());
    assert!(sandbox.remains(boundary.record()).cleanup().is_err());
    assert!(sandbox.sweep(&[]).iter().any(|line| line.contains("left alone")));
    assert!(boundary.is_alive());

    boundary.kill().unwrap();
    boundary.kill().unwrap();
    assert_eq!(boundary.exit_reason(), ExitReason::Requested);
    assert!(boundary.inspect().iter().all(|found| !found.state.holds()));
    boundary.cleanup().unwrap();
    boundary.cleanup().unwrap();
    world.assert_clean();
}

#[test]
fn a_kill_from_outside_is_a_loss() {
    let Some(world) = World::new("a_kill_from_outside_is_a_loss") else { return };
    for level in Level::ALL {
        let sandbox = world.sandbox();
        let spec = world.spec_at(level, Some("sleep 1000"));
        let boundary = world.launch(&sandbox, &spec);
        kill_9(boundary.record().pid);
        boundary.wait_exit().unwrap();
        let reason = boundary.exit_reason();
        assert!(matches!(&reason, ExitReason::Lost { detail } if detail.contains("signal 9")), "{reason:?}");
        boundary.cleanup().unwrap();
        // The same volume again, at once.
        let boundary = world.launch(&sandbox, &spec);
        boundary.kill().unwrap();
        boundary.cleanup().unwrap();
        world.assert_clean();
    }
}

#[test]
fn the_frozen_are_killed() {
    let Some(world) = World::new("the_frozen_are_killed") else { return };
    for level in Level::ALL {
        let sandbox = world.sandbox();
        let spec = world.spec_at(level, Some("while :; do :; done"));
        let boundary = world.launch(&sandbox, &spec);
        boundary.freeze().unwrap();
        boundary.freeze().unwrap();
        assert!(boundary.is_frozen());
        let used = boundary.stats().cpu_usec;
        assert_eq!(claim(level, &boundary.inspect()), full(level));
        assert_eq!(boundary.stats().cpu_usec, used);
        boundary.thaw().unwrap();
        until("it runs on", || boundary.stats().cpu_usec > used);
        boundary.freeze().unwrap();
        boundary.kill().unwrap();
        boundary.cleanup().unwrap();
        world.assert_clean();
    }
}

#[test]
fn agents_outlive_zygote_and_node() {
    let Some(world) = World::new("agents_outlive_zygote_and_node") else { return };
    for level in Level::ALL {
        let sandbox = world.sandbox();
        let spec = world.spec_at(level, Some("sleep 1000"));
        let boundary = world.launch(&sandbox, &spec);

        // The zygote dies: the agent lives, and the next launch starts another zygote with the image.
        kill_9(sandbox.zygote_pid().unwrap());
        until("the zygote's end is seen", || sandbox.zygote_pid().is_none());
        assert!(boundary.is_alive());
        let second = world.spec_at(level, None);
        let other = world.launch(&sandbox, &second);
        assert!(sandbox.zygote_pid().is_some());
        other.kill().unwrap();
        other.cleanup().unwrap();

        // Node dies: all that stays is the record.
        let record = boundary.record().clone();
        drop((boundary, sandbox));
        let sandbox = world.sandbox();
        assert_eq!(sandbox.find(spec.id), Some(record.clone()));
        assert!(sandbox.sweep(&[spec.id]).is_empty());
        let boundary = sandbox.adopt(&record).unwrap().unwrap();
        assert_eq!(claim(level, &boundary.inspect()), full(level));
        let other_start = sandbox::BoundaryRecord { start_time: record.start_time + 1, ..record.clone() };
        assert!(sandbox.adopt(&other_start).unwrap().is_none());
        let other_boot = sandbox::BoundaryRecord { boot_id: "another".into(), ..record.clone() };
        assert!(sandbox.adopt(&other_boot).unwrap().is_none());
        boundary.kill().unwrap();
        assert!(sandbox.adopt(&record).unwrap().is_none());
        drop(boundary);

        // Dead and unknown: the sweep removes it.
        let said = sandbox.sweep(&[]);
        assert!(said.iter().any(|line| line.starts_with("removed")), "{said:?}");
        assert!(sandbox.sweep(&[]).is_empty());
        world.assert_clean();
    }
}

#[test]
fn ends_have_reasons() {
    let Some(world) = World::new("ends_have_reasons") else { return };
    for level in Level::ALL {
        let sandbox = world.sandbox();
        let check = |script: &str, expected: ExitReason| {
            let spec = world.spec_at(level, Some(script));
            let boundary = world.launch(&sandbox, &spec);
            boundary.wait_exit().unwrap();
            assert_eq!(boundary.exit_reason(), expected, "{script}");
            boundary.cleanup().unwrap();
        };
        check("exit 7", ExitReason::Exited { code: 7 });
        check("kill -15 $$", ExitReason::Signaled { signal: 15 });
        check("head -c 200000000 /dev/zero | tail -c 150000000", ExitReason::OutOfMemory);
        world.assert_clean();
    }
}

#[test]
fn failed_launches_leave_nothing() {
    let Some(world) = World::new("failed_launches_leave_nothing") else { return };
    let sandbox = world.sandbox();
    let check = |spec: &AgentSpec, lease: UidRange, channel: &Path, expected: &str| {
        let error = chain(&sandbox.launch(spec, &Given::default(), lease, 0, channel, None).unwrap_err());
        assert!(error.contains(expected), "{error}");
        world.assert_clean();
    };
    let spec = world.spec(None);
    let channel = world.channel(&spec);
    check(&spec, lease(), &channel, "does not exist");
    sandbox.create_volume(spec.volume, spec.resources.disk).unwrap();
    check(
        &AgentSpec { image_digest: Some("0".repeat(64)), ..spec.clone() },
        lease(),
        &channel,
        "is not on this node",
    );
    check(
        &AgentSpec { image_digest: Some("../x".into()), ..spec.clone() },
        lease(),
        &channel,
        "not the SHA-256",
    );
    check(&spec, lease(), Path::new("/nonexistent/channel"), "cannot listen");
    check(&spec, UidRange { base: 0 }, &channel, "step");
    let mut wrong = spec.clone();
    wrong.resources.cpus = -1.0;
    check(&wrong, lease(), &channel, "resources.cpus");
    // A volume that is no filesystem.
    let broken = world.spec(None);
    let file =
        fs::File::create(world.config.volumes.join(format!("{}.ext4", broken.volume.base32()))).unwrap();
    file.set_len(64 << 20).unwrap();
    check(&broken, lease(), &world.channel(&broken), "cannot mount volume");
}

#[test]
fn many_at_once() {
    let Some(world) = World::new("many_at_once") else { return };
    for level in Level::ALL {
        let sandbox = world.sandbox();
        let specs: Vec<AgentSpec> = (0..16).map(|_| world.spec_at(level, Some("sleep 1000"))).collect();
        let began = Instant::now();
        let boundaries: Vec<Boundary> = std::thread::scope(|scope| {
            let launches: Vec<_> =
                specs.iter().map(|spec| scope.spawn(|| world.launch(&sandbox, spec))).collect();
            launches.into_iter().map(|launch| launch.join().unwrap()).collect()
        });
        eprintln!("16 launches in {:?}", began.elapsed());
        assert_eq!(sandbox.living().len(), 16);
        let began = Instant::now();
        std::thread::scope(|scope| {
            for boundary in &boundaries {
                scope.spawn(|| {
                    boundary.kill().unwrap();
                    boundary.cleanup().unwrap();
                });
            }
        });
        eprintln!("16 ended in {:?}", began.elapsed());
        world.assert_clean();
    }
}

#[test]
fn a_zygote_may_die_at_any_time() {
    let Some(world) = World::new("a_zygote_may_die_at_any_time") else { return };
    let sandbox = world.sandbox();
    let specs: Vec<AgentSpec> = (0..4).map(|_| world.spec(None)).collect();
    let mut launched = 0;
    for round in 0..15 {
        std::thread::scope(|scope| {
            let launches: Vec<_> = specs
                .iter()
                .map(|spec| {
                    sandbox.create_volume(spec.volume, spec.resources.disk).unwrap();
                    scope.spawn(|| {
                        sandbox.launch(spec, &Given::default(), lease(), 0, &world.channel(spec), None)
                    })
                })
                .collect();
            // At another instant each time.
            let instant = Instant::now() + Duration::from_millis(round);
            while Instant::now() < instant {
                std::thread::yield_now();
            }
            if let Some(pid) = sandbox.zygote_pid() {
                kill_9(pid);
            }
            for launch in launches {
                match launch.join().unwrap() {
                    Ok(boundary) => {
                        launched += 1;
                        boundary.kill().unwrap();
                        boundary.cleanup().unwrap();
                    }
                    Err(error) => panic!("{}", chain(&error)),
                }
            }
        });
        world.assert_clean();
    }
    assert_eq!(launched, 60);
    sandbox.sweep(&[]);
    until("all children are collected", || {
        sandbox.sweep(&[]);
        ended_children() == 0
    });
}

/// Children of this process that nobody collected.
fn ended_children() -> usize {
    let of = |entry: &fs::DirEntry| fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
    let ended = format!(") Z {} ", std::process::id());
    let found =
        fs::read_dir("/proc").unwrap().flatten().map(|entry| of(&entry)).filter(|stat| stat.contains(&ended));
    found.count()
}
