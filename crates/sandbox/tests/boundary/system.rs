//! Agents on the machine's own system, levels 1 and 0: what they must not reach, tried from inside with the machine's own
//! programs, and what must work.

use crate::talk::{ask, exec, text};
use crate::{World, chain, until};
use channel::{Kind, Reply, Request, User};
use model::AgentSpec;
use model::agent::Level;
use sandbox::{Boundary, Given, Sandbox};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const LEVELS: [Level; 2] = [Level::Workspace, Level::Process];

/// Runs a shell script as the main process. Back comes what it said on both outputs; it lives on.
fn run(world: &World, sandbox: &Sandbox, spec: &AgentSpec, script: &str) -> (Boundary, String) {
    let script = format!("exec > /home/agent/said 2>&1; {script}\n: > /home/agent/done; exec sleep 1000");
    let main = world.spec_at(spec.level, Some(&script)).main;
    let boundary = world.launch(sandbox, &AgentSpec { main, ..spec.clone() });
    let home = format!("/proc/{}/root/home/agent", boundary.record().pid);
    until("the script ends", || fs::exists(format!("{home}/done")).unwrap() || !boundary.is_alive());
    assert!(boundary.is_alive(), "{}", boundary.exit_reason());
    fs::remove_file(format!("{home}/done")).unwrap();
    let said = fs::read_to_string(format!("{home}/said")).unwrap();
    (boundary, said)
}

fn end(boundary: &Boundary) {
    boundary.kill().unwrap();
    boundary.cleanup().unwrap();
}

#[test]
fn it_is_a_user_of_its_own_at_home() {
    let Some(world) = World::new("it_is_a_user_of_its_own_at_home") else { return };
    let sandbox = world.sandbox();
    for level in LEVELS {
        let spec = world.spec_at(level, None);
        let script = "whoami; echo $HOME; pwd; cat /etc/hostname; getent hosts tester | head -1; echo \"$(head -1 /etc/resolv.conf)\"; \
                      id -u; id -G; stat -c %u /home/agent; echo hello > /tmp/a && cp /tmp/a /var/tmp/a && cp /tmp/a /dev/shm/a && \
                      cp /tmp/a ~/a && cat ~/a; umask; tty -s < /dev/tty || echo no terminal";
        let (boundary, said) = run(&world, &sandbox, &spec, script);
        let id = (boundary.record().base_uid + 1000).to_string();
        let lines: Vec<&str> = said.lines().collect();
        let expected = ["agent", "/home/agent", "/home/agent", "tester"];
        assert_eq!(lines[..4], expected, "{said}");
        assert!(lines[4].contains("tester"), "{said}");
        // Names are resolved in the network that it is in.
        let machines = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let resolver = match level {
            Level::Workspace => machines.lines().next().unwrap_or_default(),
            _ => "nameserver 192.0.2.53",
        };
        assert_eq!(lines[5], resolver, "{said}");
        assert_eq!(lines[6..9], [id.as_str(), &id, &id], "{said}");
        assert_eq!(lines[9..11], ["hello", "0022"], "{said}");
        end(&boundary);
    }
    drop(sandbox);
    world.assert_clean();
}

#[test]
fn nothing_of_the_machine_can_be_changed_and_nothing_of_others_read() {
    let Some(mut world) = World::new("nothing_of_the_machine_can_be_changed_and_nothing_of_others_read")
    else {
        return;
    };
    // The platform's own, in sight of everybody but for being hidden; and a program that makes whoever runs it root.
    let hidden = tempfile::tempdir_in("/opt").unwrap();
    fs::set_permissions(hidden.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(hidden.path().join("secret"), "of the platform").unwrap();
    world.config.hidden = vec![hidden.path().to_owned()];
    let shown = tempfile::tempdir_in("/opt").unwrap();
    fs::set_permissions(shown.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let root_maker = shown.path().join("id");
    fs::copy("/bin/busybox", &root_maker).unwrap();
    fs::set_permissions(&root_maker, fs::Permissions::from_mode(0o4755)).unwrap();
    let of_others = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::write(of_others.path().join("file"), "x").unwrap();

    let sandbox = world.sandbox();
    for level in LEVELS {
        let other = world.spec_at(level, None);
        let (neighbour, _) =
            run(&world, &sandbox, &other, "echo mine > ~/neighbour; echo mine > /tmp/neighbour");
        let spec = world.spec_at(level, None);
        let script = format!(
            "for p in / /etc /usr /usr/bin /usr/local /opt /home /var /var/lib /run /dev /proc /sys {shown}; do \
               touch $p/new 2> /dev/null && echo \"made $p/new\"; done\n\
             for p in /etc/passwd /etc/hosts /etc/hostname /etc/resolv.conf /usr/bin/env {shown}/id; do \
               (: >> $p) 2> /dev/null && echo \"opened $p\"; chmod 777 $p 2> /dev/null && echo \"changed $p\"; done\n\
             cat /etc/shadow /etc/gshadow 2> /dev/null\n\
             ls -A /root /srv /mnt /media /boot /var/lib /var/log /var/lib/cofferdam /etc/cofferdam 2> /dev/null | grep -v '^/\\|^$'\n\
             ls -A {hidden} {run} {volumes} {others} 2> /dev/null | grep -v '^/\\|^$'\n\
             ls -A /home; ls -A /tmp; cat /home/*/neighbour /tmp/neighbour 2> /dev/null\n\
             {shown}/id -u\n\
             unshare -U true 2> /dev/null && echo 'made a user namespace'\n\
             mount -t tmpfs none /tmp 2> /dev/null && echo mounted\n\
             for p in /proc/[0-9]*/root/home/agent/neighbour; do cat $p 2> /dev/null; done",
            shown = shown.path().display(),
            hidden = hidden.path().display(),
            run = world.config.run.display(),
            volumes = world.config.volumes.display(),
            others = of_others.path().display(),
        );
        let (boundary, said) = run(&world, &sandbox, &spec, &script);
        let id = (boundary.record().base_uid + 1000).to_string();
        assert_eq!(said.lines().collect::<Vec<_>>(), ["agent", id.as_str()], "level {level}");
        assert_eq!(fs::read_dir(shown.path()).unwrap().count(), 1);
        end(&boundary);
        end(&neighbour);
    }
    drop(sandbox);
    world.assert_clean();
}

/// A directory that is mounted a second time, as long as this is kept.
struct Again(tempfile::TempDir);

impl Again {
    fn mount(what: &std::path::Path) -> Self {
        let named = tempfile::Builder::new().prefix("cofferdam-test-").tempdir_in("/opt");
        let again = Self(named.unwrap());
        let done = std::process::Command::new("mount").arg("--bind").args([what, again.0.path()]).status();
        assert!(done.unwrap().success());
        again
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

/// What is the platform's is hidden also where it is mounted a second time, whole, in part, or with what is around it.
#[test]
fn what_is_hidden_is_hidden_by_every_name() {
    let Some(mut world) = World::new("what_is_hidden_is_hidden_by_every_name") else { return };
    let around = tempfile::tempdir_in("/var/tmp").unwrap();
    let hidden = around.path().join("hidden");
    fs::create_dir_all(hidden.join("part")).unwrap();
    for dir in [around.path(), &hidden, &hidden.join("part")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(dir.join("file"), "of the platform").unwrap();
    }
    world.config.hidden = vec![hidden.clone()];
    let again = [around.path().to_owned(), hidden.clone(), hidden.join("part")].map(|dir| Again::mount(&dir));
    let [around, hidden, part] = again.each_ref().map(|again| again.0.path().display());

    let sandbox = world.sandbox();
    for level in LEVELS {
        let spec = world.spec_at(level, None);
        let (boundary, said) = run(
            &world,
            &sandbox,
            &spec,
            &format!("ls -A {around}/hidden {hidden} {part} | grep -v ^/; ls {around}"),
        );
        assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["file", "hidden"], "level {level}");
        // Node misses a cover that is not there.
        let evidence = boundary.inspect();
        assert_eq!(model::evidence::claim(level, &evidence), crate::full(level), "{evidence:?}");
        let pid = boundary.record().pid.to_string();
        let bare = std::process::Command::new("nsenter")
            .args(["--target", &pid, "--mount", "/bin/busybox", "umount", &part.to_string()])
            .status();
        assert!(bare.unwrap().success());
        let lacking = model::evidence::missing(level, &boundary.inspect());
        assert!(lacking.iter().any(|found| found.detail.contains("is not hidden")), "{lacking:?}");
        end(&boundary);
    }
    drop(sandbox);
    drop(again);
    world.assert_clean();
}

#[test]
fn init_and_the_machines_processes_are_out_of_reach() {
    let Some(world) = World::new("init_and_the_machines_processes_are_out_of_reach") else { return };
    let sandbox = world.sandbox();
    for level in LEVELS {
        let spec = world.spec_at(level, None);
        let script = format!(
            "for s in 9 15 19 2 11 10; do kill -$s 1; done\n\
             for f in mem maps environ fd/3 exe root/etc auxv; do head -c 1 /proc/1/$f 2> /dev/null | grep -q . && echo \"read $f\"; done\n\
             ls /proc/1/fd 2> /dev/null\n\
             for f in oom_score_adj coredump_filter clear_refs; do echo 1 2> /dev/null > /proc/1/$f && echo \"wrote $f\"; done\n\
             prlimit --pid 1 --nofile=3 2> /dev/null && echo limited\n\
             prlimit --nofile=:2000000000 2> /dev/null && echo raised\n\
             renice -n -5 -p 1 2> /dev/null && echo hurried\n\
             for p in {host} {test}; do kill -0 $p 2> /dev/null && echo \"found $p\"; done\n\
             set -- /proc/[0-9]*; echo $#",
            host = 1_000_000,
            test = std::process::id(),
        );
        let (boundary, said) = run(&world, &sandbox, &spec, &script);
        let lines: Vec<&str> = said.lines().collect();
        // Init and the shell.
        assert_eq!(lines, ["2"], "level {level}");
        let evidence = boundary.inspect();
        assert_eq!(model::evidence::claim(level, &evidence), crate::full(level), "{evidence:?}");
        end(&boundary);
    }
    drop(sandbox);
    world.assert_clean();
}

/// Level 1 has no network but its own. Level 0 has the machine's, and nobody says otherwise; its rail is Landlock's.
#[test]
fn what_tells_the_two_levels_apart() {
    let Some(world) = World::new("what_tells_the_two_levels_apart") else { return };
    let sandbox = world.sandbox();
    let listening = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listening.local_addr().unwrap().port();
    for level in LEVELS {
        let spec = world.spec_at(level, None);
        let script = format!(
            "bash -c 'echo > /dev/tcp/127.0.0.1/{port}' 2> /dev/null && echo connected; \
             (echo renamed > /proc/self/comm) 2> /dev/null && echo wrote; ls /sys/class/net | wc -l"
        );
        let (boundary, said) = run(&world, &sandbox, &spec, &script);
        let lines: Vec<&str> = said.lines().collect();
        match (level, boundary.record().landlock_abi) {
            (Level::Process, _) => assert_eq!(lines, ["wrote", "1"]),
            (_, 0) => assert_eq!(lines[..2], ["connected", "wrote"]),
            _ => assert_eq!(lines[0], "connected", "{said}"),
        }
        assert!(
            level == Level::Process || boundary.record().landlock_abi == 0 || !lines.contains(&"wrote"),
            "{said}"
        );
        end(&boundary);
    }
    drop(sandbox);
    world.assert_clean();
}

/// A disk is the same at every level; a full one keeps no agent from starting.
#[test]
fn a_disk_moves_between_levels_and_is_bounded() {
    let Some(world) = World::new("a_disk_moves_between_levels_and_is_bounded") else { return };
    let sandbox = world.sandbox();
    let first = world.spec_at(Level::Process, None);
    let said = |level: Level, script: &str| {
        let mut spec = world.spec_at(level, None);
        spec.volume = first.volume;
        let (boundary, said) = run(&world, &sandbox, &spec, script);
        let base = boundary.record().base_uid;
        end(&boundary);
        (said, base)
    };
    said(Level::Process, "echo one > ~/kept; mkdir -p ~/d/e; chmod 700 ~/d");
    let (text, _) =
        said(Level::Container, "cat ~/kept ~/d/f; busybox stat -c %u:%g ~/kept ~/d; echo two >> ~/kept");
    assert!(text.contains("one") && text.ends_with("1000:1000\n1000:1000\n"), "{text}");
    let (text, base) = said(Level::Workspace, "cat ~/kept; stat -c %u:%g ~/kept ~/d");
    let id = base + 1000;
    assert_eq!(text, format!("one\ntwo\n{id}:{id}\n{id}:{id}\n"));
    let (text, _) = said(
        Level::Process,
        "head -c 65536 /dev/zero > ~/room; head -c 200000000 /dev/zero > ~/big 2> /dev/null; s=$(stat -c %s ~/big); \
                                    rm ~/room; echo $s; cat /dev/zero > ~/more 2> /dev/null",
    );
    let size: u64 = text.lines().last().unwrap().parse().unwrap();
    assert!((32 << 20..64 << 20).contains(&size), "{text}");
    let mut spec = world.spec_at(Level::Process, Some("rm /home/agent/big; exec sleep 1000"));
    spec.volume = first.volume;
    let boundary = sandbox
        .launch(&spec, &Given::default(), crate::lease(), 0, &world.channel(&spec), None)
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    let big = format!("/proc/{}/root/home/agent/big", boundary.record().pid);
    until("there is room again", || !fs::exists(&big).unwrap());
    end(&boundary);
    drop(sandbox);
    world.assert_clean();
}

/// What was made ahead is as good as what is made for one agent, bare or whole.
#[test]
fn a_blank_becomes_an_os_user() {
    let Some(world) = World::new("a_blank_becomes_an_os_user") else { return };
    let sandbox = world.sandbox();
    let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).unwrap();
    for (level, whole) in [(Level::Process, false), (Level::Process, true), (Level::Workspace, true)] {
        let spec = world.spec_at(level, None);
        let form = match whole {
            true => sandbox::Form::Whole(sandbox::Shape::of(&spec)),
            false => sandbox::Form::Bare(spec.resources.disk),
        };
        let blank =
            sandbox.prepare(&form, crate::lease()).unwrap_or_else(|error| panic!("{}", chain(&error)));
        let lease = blank.lease();
        let began = std::time::Instant::now();
        let boundary = sandbox
            .launch(&spec, &Given::default(), lease, 0, &world.channel(&spec), Some(blank))
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        eprintln!("{form:?}: {:?}", began.elapsed());
        assert_eq!(boundary.record().base_uid, lease.base, "the blank's own");
        let shared = network(&boundary.record().pid.to_string()) == network("self");
        assert_eq!(shared, level == Level::Workspace, "the host's network is for level 0 alone");
        let evidence = boundary.inspect();
        assert_eq!(model::evidence::claim(spec.level, &evidence), crate::full(spec.level), "{evidence:?}");
        end(&boundary);
    }
    let spec = world.spec_at(Level::Process, None);
    let blank = sandbox.prepare(&sandbox::Form::Bare(spec.resources.disk), crate::lease()).unwrap();
    let lease = crate::lease();
    assert_ne!(blank.lease(), lease);
    sandbox.create_volume(spec.volume, spec.resources.disk).unwrap();
    let boundary =
        sandbox.launch(&spec, &Given::default(), lease, 0, &world.channel(&spec), Some(blank)).unwrap();
    assert_eq!(boundary.record().base_uid, lease.base, "nobody gets ids that are not its own");
    end(&boundary);
    drop(sandbox);
    world.assert_clean();
}

#[test]
fn init_serves_an_os_user() {
    let Some(world) = World::new("init_serves_an_os_user") else { return };
    let sandbox = world.sandbox();
    let outside = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for level in LEVELS {
        let spec = world.spec_at(level, None);
        let boundary = world.launch(&sandbox, &spec);
        let channel = world.channel(&spec);
        let exec = |script: &str, user, tty| exec(&channel, script, user, tty);
        let id = boundary.record().base_uid + 1000;
        let frames = exec(
            "id -u; cat /proc/self/oom_score_adj; grep Cap /proc/self/status | grep -v 0000000000000000",
            None,
            None,
        );
        assert_eq!(text(&frames), format!("{id}\n0\n"), "{frames:?}");
        let size = channel::Size { rows: 24, cols: 80 };
        let frames = exec("tty; stat -c %u:%G $(tty); stty size", None, Some(size));
        assert_eq!(text(&frames).replace('\r', ""), format!("/dev/pts/0\n{id}:agent\n24 80\n"), "{frames:?}");
        // Nobody is root there, by any request.
        let frames = exec("id", Some(User::Root), None);
        assert!(
            frames.last().is_some_and(|(kind, said)| *kind == Kind::Error && said.contains("nobody is root")),
            "{frames:?}"
        );
        let read =
            Request::Read { path: "/etc/shadow".into(), offset: 0, length: None, user: Some(User::Root) };
        assert!(ask(&channel, &read).iter().any(|(_, said)| said.contains("nobody is root")));
        // Files beneath the home at level 0, whatever the user may read at level 1.
        let read = |path: &str| {
            let request = Request::Read { path: path.into(), offset: 0, length: None, user: None };
            text(&ask(&channel, &request))
        };
        exec("echo mine > ~/file; echo tmp > /tmp/file", None, None);
        assert_eq!(read("/home/agent/file"), "mine\n");
        assert_eq!(read("/tmp/file"), if level == Level::Process { "tmp\n" } else { "" });
        assert_eq!(read("/etc/shadow"), "");
        // Locks of bytes are counted by looking at its processes, which init may.
        if fs::exists("/usr/bin/python3").unwrap() {
            let lock = "import fcntl, os\nf = open(os.path.expanduser('~/lock'), 'w')\n\
                        for i in range(20000): fcntl.lockf(f, fcntl.LOCK_EX, 1, 0)\nprint('locked')";
            let frames = exec(&format!("python3 -c \"{lock}\""), None, None);
            assert_eq!(text(&frames), "locked\n", "{frames:?}");
        }
        // The machine's own services are not its ports.
        let port = outside.local_addr().unwrap().port();
        let frames = ask(&channel, &Request::Port { port });
        let refused = frames.iter().any(|(kind, said)| *kind == Kind::Error && !said.is_empty());
        assert!(refused && !frames.iter().any(|(kind, _)| *kind == Kind::Reply), "{frames:?}");
        let processes = ask(&channel, &Request::Processes);
        assert!(processes.iter().any(|(kind, _)| *kind == Kind::Reply), "{processes:?}");
        assert!(matches!(serde_json::from_str(&processes[1].1).unwrap(), Reply::Processes { .. }));
        end(&boundary);
    }
    drop(sandbox);
    world.assert_clean();
}
