//! Agents whose system calls another kernel answers (runsc): what is seen of that from outside, and that the rest is as always.

use crate::talk::{ask, exec, text};
use crate::{World, kill_9, oci, until};
use channel::{Kind, Request, Size, User};
use model::agent::Level;
use model::evidence::{Claim, Control, Evidence, State, claim};
use model::{AgentSpec, Driver, ExitReason};
use std::fs;
use std::time::{Duration, Instant};

fn spec(world: &World, script: Option<&str>) -> AgentSpec {
    oci::spec(world, Driver::Runsc, script)
}

fn of(evidence: &[Evidence], control: Control) -> &Evidence {
    evidence.iter().find(|found| found.control == control).unwrap()
}

#[test]
fn another_kernel_answers_and_is_seen_to() {
    oci::with(Driver::Runsc, "another_kernel_answers_and_is_seen_to", |world, sandbox, _| {
        let script = "cd; (cat /proc/version; cat /proc/self/status; cat /proc/mounts; echo :$(cat /etc/hostname)) > seen.new
                  mv seen.new seen; sleep 1000";
        let spec = spec(world, Some(script));
        let began = Instant::now();
        let boundary = world.launch(sandbox, &spec);
        eprintln!("launched in {:?}", began.elapsed());
        assert_eq!(boundary.record().driver, Driver::Runsc);
        let evidence = boundary.inspect_whole();
        for found in &evidence {
            eprintln!("{:18?} {:?} {}", found.control, found.state, found.detail);
        }
        assert_eq!(claim(Level::Container, &evidence), Claim::Container);
        assert_eq!(of(&evidence, Control::KernelBoundary).state, State::Observed);
        for control in [Control::Landlock, Control::AppArmor, Control::InitProtection] {
            assert_eq!(of(&evidence, control).state, State::Unsupported);
        }

        // The volume is the one that others have.
        let home = format!("/proc/{}/root/home/agent", boundary.record().pid);
        until("it has looked around", || fs::exists(format!("{home}/seen")).unwrap());
        let seen = fs::read_to_string(format!("{home}/seen")).unwrap();
        let host = fs::read_to_string("/proc/version").unwrap();
        assert!(!seen.starts_with(&host) && seen.contains(":tester\n"), "{seen}");
        for of_the_host in [world.dir.path().to_str().unwrap(), "cofferdam"] {
            assert!(!seen.contains(of_the_host), "{of_the_host} is seen inside: {seen}");
        }
        let capabilities = seen.lines().find(|line| line.starts_with("CapPrm")).unwrap();
        assert!(capabilities.ends_with("0000000000000000"), "{capabilities}");
        // Nothing of the runtime is left while the agent runs, and the host's kernel has no process of the image.
        assert_eq!(fs::read_dir(world.config.run.join("blanks")).unwrap().count(), 0);
        assert!(boundary.stats().disk > 0 && boundary.stats().memory > 0);
        assert!(boundary.probe(&spec, Duration::from_secs(5)).is_err());

        boundary.freeze().unwrap();
        assert!(boundary.is_frozen());
        boundary.thaw().unwrap();
        // As a node that was started again finds it.
        let record = boundary.record().clone();
        drop(boundary);
        assert_eq!(sandbox.find(spec.id), Some(record.clone()));
        let boundary = sandbox.adopt(&record).unwrap().unwrap();
        assert_eq!(claim(Level::Container, &boundary.inspect()), Claim::Container);
        boundary.kill().unwrap();
        assert_eq!(boundary.exit_reason(), ExitReason::Requested);
        boundary.cleanup().unwrap();
        // What it said is where it always is.
    });
}

#[test]
fn init_serves_under_another_kernel() {
    oci::with(Driver::Runsc, "init_serves_under_another_kernel", |world, sandbox, _| {
        let spec = spec(world, None);
        let boundary = world.launch(sandbox, &spec);
        let channel = world.channel(&spec);
        let run = |script: &str, user| text(&exec(&channel, script, user, None));
        assert_eq!(run("busybox id -u; cat /etc/hostname; echo kept > ~/file", None), "1000\ntester\n");
        assert_eq!(
            run(
                "busybox id -u; busybox chown 7:8 /home/agent/file && cat /home/agent/file",
                Some(User::Root)
            ),
            "0\nkept\n"
        );
        let frames =
            exec(&channel, "busybox tty; busybox stty size", None, Some(Size { rows: 24, cols: 80 }));
        assert_eq!(text(&frames).replace('\r', ""), "/dev/pts/0\n24 80\n", "{frames:?}");
        let read = |path: &str| {
            text(&ask(&channel, &Request::Read { path: path.into(), offset: 0, length: None, user: None }))
        };
        assert_eq!(read("/home/agent/file"), "kept\n");
        // What it exchanged with the host is out of reach, and nothing can be made there.
        let left =
            run("cd /run/exchange && echo *; touch /run/exchange/x /run/exchange/init", Some(User::Root));
        assert!(left.starts_with("*\n") && left.contains("No such file"), "{left}");
        // Its root may end it, which is the agent's own loss; its user may not, and neither reads its memory.
        for user in [None, Some(User::Root)] {
            let read = run("cat /proc/1/mem", user);
            assert!(read.contains("denied"), "{read}");
        }
        let ended = run("kill -9 1", None);
        assert!(ended.contains("not permitted"), "{ended}");
        // Many at once.
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let many = "for i in 1 2 3 4 5; do true; busybox true; done; echo done";
                scope.spawn(|| assert_eq!(run(many, None), "done\n"));
            }
        });
        let frames = ask(&channel, &Request::Port { port: 9 });
        assert!(frames.iter().any(|(kind, said)| *kind == Kind::Error && !said.is_empty()), "{frames:?}");
        assert_eq!(claim(Level::Container, &boundary.inspect()), Claim::Container);
        boundary.kill().unwrap();
        boundary.cleanup().unwrap();
    });
}

#[test]
fn ends_under_another_kernel_have_reasons() {
    oci::with(Driver::Runsc, "ends_under_another_kernel_have_reasons", |world, sandbox, _| {
        let check = |script: &str, expected: ExitReason| {
            let spec = spec(world, Some(&format!("echo said; {script}")));
            let boundary = world.launch(sandbox, &spec);
            boundary.wait_exit().unwrap();
            assert_eq!(boundary.exit_reason(), expected, "{script}");
            boundary.cleanup().unwrap();
            // It is where it always is.
            assert_eq!(sandbox.logs(spec.volume, 100).unwrap(), b"said\n", "{script}");
        };
        check("exit 7", ExitReason::Exited { code: 7 });
        check("kill -15 $$", ExitReason::Signaled { signal: 15 });
        check("head -c 900000000 /dev/zero | tail -c 800000000", ExitReason::OutOfMemory);
        // A fork bomb ends with the kernel at the worst, and that is the agent's own.
        let bomb = world.launch(sandbox, &spec(world, Some("f() { f | f & }; f; sleep 2; exit 3")));
        bomb.wait_exit().unwrap();
        eprintln!("a bomb of forks: {:?}", bomb.exit_reason());
        bomb.cleanup().unwrap();
        for whom in ["guard", "sentry"] {
            let boundary = world.launch(sandbox, &spec(world, None));
            let guard = boundary.record().pid;
            let pid = if whom == "guard" { guard } else { sentry(guard) };
            kill_9(pid);
            boundary.wait_exit().unwrap();
            assert!(
                matches!(boundary.exit_reason(), ExitReason::Lost { .. }),
                "{whom}: {:?}",
                boundary.exit_reason()
            );
            boundary.cleanup().unwrap();
        }
    });
}

/// The other kernel's process: the guard's child that opens no files for it.
fn sentry(guard: u32) -> u32 {
    let children = fs::read_to_string(format!("/proc/{guard}/task/{guard}/children")).unwrap();
    let mut children = children.split_whitespace().map(|pid| pid.parse().unwrap());
    let is =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().starts_with("runsc-sandbox");
    children.find(is).unwrap()
}

#[test]
fn a_process_that_asks_the_hosts_kernel_is_noticed() {
    oci::with(Driver::Runsc, "a_process_that_asks_the_hosts_kernel_is_noticed", |world, sandbox, _| {
        let boundary = world.launch(sandbox, &spec(world, None));
        let mut stranger = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        for cgroup in world.cgroups() {
            fs::write(cgroup.join("cgroup.procs"), stranger.id().to_string()).unwrap();
        }
        let found = boundary.inspect();
        let kernel = of(&found, Control::KernelBoundary);
        assert_eq!(kernel.state, State::Missing, "{}", kernel.detail);
        assert_eq!(claim(Level::Container, &found), Claim::None);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        assert_eq!(claim(Level::Container, &boundary.inspect()), Claim::Container);
        boundary.kill().unwrap();
        boundary.cleanup().unwrap();
    });
}
