//! What must be refused with a code, a field and a remedy, and change nothing.

use testkit::World;

#[test]
fn the_command_line_refuses_with_reasons() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    let long = "a".repeat(100_000);
    let cases: [(&[&str], &str); 9] = [
        (&["create", "--name", "Bad Name", "--image", "debian"], "name"),
        (&["create", "--name", "a\u{1b}[31m", "--image", "debian"], "name"),
        (&["create", "--name", &long, "--image", "debian"], "name"),
        (&["create", "--image", "no-such-image"], "image"),
        (&["create", "--image", "debian", "--memory", "1"], "memory"),
        (&["create", "--image", "debian", "--memory", "-1"], "memory"),
        (&["create", "--image", "debian", "--cpus", "1000000"], "cpus"),
        (&["create", "--image", "debian", "--pids", "0"], "pids"),
        (&["create", "--image", "debian", "--disk", "1KiB"], "disk"),
    ];
    for (args, about) in cases {
        let ran = world.cli(args);
        assert!((1..=4).contains(&ran.code), "{about}: exit {}", ran.code);
        assert!(ran.err.contains(about), "{about}: {}", &ran.err[..ran.err.len().min(500)]);
        assert!(!ran.err.contains('\u{1b}'), "an escape sequence of the input comes back: {:?}", ran.err);
    }
    assert_eq!(world.cli(&["ls", "-o", "json"]).json().as_array().map(Vec::len), Some(0));
    assert_eq!(world.cli(&["show", "nobody"]).code, 3);
    assert_eq!(world.cli(&["exec", "nobody", "--", "true"]).code, 125);
}

#[test]
fn a_hostile_archive_is_no_image() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    let path = world.dir().join("home/evil.tar");
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.as_old_mut().name[..15].copy_from_slice(b"../../etc/evil1");
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header, &b"evil"[..]).expect("an entry");
    std::fs::write(&path, archive.into_inner().expect("an archive")).expect("a file");
    let before = std::fs::read_dir(world.dir().join("data/images")).expect("the store").count();
    let ran = world.cli(&["image", "import", &path.display().to_string(), "--name", "evil"]);
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains(".."), "{}", ran.err);
    let after = std::fs::read_dir(world.dir().join("data/images")).expect("the store").count();
    assert_eq!(before, after, "something of it is left");
}

#[test]
fn hostile_output_harms_no_terminal_and_no_disk() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("liar", &[]);
    // A tree with links that lead out, copied to the host.
    world
        .sh("liar", "mkdir -p t/d && ln -s /etc/passwd t/passwd && ln -s ../../../../etc t/up && echo ok > t/d/ok && chmod 4755 t/d/ok")
        .ok();
    let target = world.dir().join("home/out");
    std::fs::create_dir_all(&target).expect("a folder");
    world.cli(&["cp", "liar:/home/agent/t", &target.display().to_string()]);
    for entry in walk(&target) {
        let meta = std::fs::symlink_metadata(&entry).expect("metadata");
        if meta.file_type().is_symlink() {
            let resolved = std::fs::canonicalize(&entry);
            assert!(
                resolved.is_err() || resolved.is_ok_and(|path| path.starts_with(&target)),
                "{entry:?} leads out"
            );
        }
        let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions());
        assert_eq!(mode & 0o6000, 0, "{entry:?} is setuid");
    }
    // A terminal (script gives one) sees no escape sequence from inside when none was asked for.
    let shell = format!(
        "{} exec liar -- printf 'a\\033]0;title\\007\\033[2Jb'",
        world.command(&[]).get_program().to_string_lossy()
    );
    let mut command = std::process::Command::new("script");
    command.args(["-qec", &shell, "/dev/null"]);
    for (key, value) in world.command(&[]).get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    let output = command.stdin(std::process::Stdio::null()).output().expect("script");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains('a') && text.contains('b'), "{text:?}");
    assert!(!text.contains("\u{1b}]0;") && !text.contains("\u{1b}[2J"), "{text:?}");
}

fn walk(path: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).expect("a folder").filter_map(Result::ok) {
        let meta = entry.path().symlink_metadata().expect("metadata");
        if meta.is_dir() {
            found.extend(walk(&entry.path()));
        }
        found.push(entry.path());
    }
    found
}
