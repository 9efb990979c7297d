//! Images from archives: what is in them runs, what is no root file system is refused.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use testkit::{Registry, World};

/// A root file system of a few programs, packed as `docker export` does it.
const PACK: &str = r"
set -e
cd /
tar --numeric-owner -czf /home/agent/root.tgz bin sbin lib lib64 etc/passwd etc/group etc/os-release usr/bin/sh \
    usr/bin/dash usr/bin/id usr/bin/cat usr/lib64 usr/lib/os-release usr/lib/x86_64-linux-gnu/ld-linux* \
    usr/lib/x86_64-linux-gnu/libc.so.6 usr/lib/x86_64-linux-gnu/libselinux.so* usr/lib/x86_64-linux-gnu/libpcre2-8.so*
chown agent /home/agent/root.tgz
";

#[test]
fn an_imported_root_runs() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    world.create("packer", &[]);
    world.cli(&["exec", "-u", "root", "packer", "--", "sh", "-c", PACK]).ok();
    let tarball = world.dir().join("home/root.tgz").display().to_string();
    world.cli(&["cp", "packer:root.tgz", &tarball]).ok();
    let image = world.cli(&["image", "import", &tarball, "--name", "small", "-o", "json"]).json();
    assert_eq!(image["name"], "small");

    let ran = world.cli(&["run", "--image", "small", "--", "sh", "-c", "id -un; cat /etc/os-release"]).ok();
    assert!(ran.out.starts_with("agent\n"), "{}", ran.out);
    assert!(ran.out.contains("Debian"), "{}", ran.out);
    assert_eq!(world.cli(&["run", "--image", "small", "--", "git"]).code, 127, "it has what was packed only");

    // The same archive is the same image, from stdin too.
    let bytes = std::fs::read(&tarball).expect("the archive");
    let again = world.cli_with(&["image", "import", "-", "--name", "again", "-o", "json"], &bytes).json();
    assert_eq!(again["digest"], image["digest"]);

    world.cli(&["image", "rm", "small", "again"]).ok();
    assert_eq!(world.cli(&["create", "--image", "small"]).code, 3);
}

#[test]
fn what_is_no_root_is_refused() {
    if !testkit::can_run() {
        return;
    }
    let world = World::start();
    for (input, about) in
        [(&b"hello"[..], "too early"), (&[0; 1024][..], "/bin/sh"), (&[7; 4096][..], "tar archive")]
    {
        let ran = world.cli_with(&["image", "import", "-", "--name", "bad"], input);
        assert_eq!(ran.code, 2, "{}", ran.err);
        assert!(ran.err.contains(about), "{about}: {}", ran.err);
    }
    let names = world.cli(&["image", "ls", "-o", "json"]).json();
    assert_eq!(names.as_array().map(Vec::len), Some(1), "{names}");
}

/// Runs a program to its end; it has to succeed.
#[track_caller]
fn tool(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; `cargo xtask setup` installs it"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Container images of busybox, made by umoci: `LAYOUT:app` runs as `web`, `LAYOUT:root` as root, and `LAYOUT:next` is the
/// next version of the first.
fn busybox_images(dir: &Path) -> String {
    let root = dir.join("busybox");
    fs::create_dir_all(root.join("bin")).expect("a root");
    fs::create_dir_all(root.join("etc")).expect("a root");
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for name in ["sh", "id", "env", "pwd", "cat", "touch", "stat", "sleep", "ls"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).expect("a link");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/srv:/bin/sh\n";
    fs::write(root.join("etc/passwd"), passwd).expect("users");
    fs::write(root.join("etc/group"), "root:x:0:\nweb:x:102:\n").expect("groups");
    let path = |name: &str| dir.join(name).display().to_string();
    let pack = |from: &str, to: &str, mode: &str| {
        let owner = ["--numeric-owner", "--owner=0", "--group=0", "--mode", mode];
        tool("tar", &[&owner[..], &["-C", from, "-cf", to, "."]].concat());
    };
    pack(&path("busybox"), &path("base.tar"), "u=rwX,go=rX");
    // A program of root's with the setuid bit.
    fs::create_dir_all(dir.join("setuid/usr/sbin")).expect("a folder");
    fs::copy("/bin/busybox", dir.join("setuid/usr/sbin/busybox")).expect("a copy");
    pack(&path("setuid"), &path("setuid.tar"), "4755");
    fs::create_dir_all(dir.join("next")).expect("a folder");
    fs::write(dir.join("next/version"), "2").expect("a file");
    pack(&path("next"), &path("next.tar"), "u=rwX,go=rX");

    let layout = path("layout");
    tool("umoci", &["init", "--layout", &layout]);
    for (tag, user, layers) in [
        ("app", "web", &["base.tar", "setuid.tar"][..]),
        ("next", "web", &["base.tar", "setuid.tar", "next.tar"]),
        ("root", "root", &["base.tar"]),
    ] {
        let image = format!("{layout}:{tag}");
        tool("umoci", &["new", "--image", &image]);
        for layer in layers {
            tool("umoci", &["raw", "add-layer", "--image", &image, &path(layer)]);
        }
        let entry = ["--config.entrypoint", "/bin/sh", "--config.entrypoint", "-c"];
        let more = ["--config.cmd", "id; pwd; env", "--config.workingdir", "/app", "--config.env", "FOO=bar"];
        tool(
            "umoci",
            &[&["config", "--image", &image, "--config.user", user], &entry[..], &more[..]].concat(),
        );
    }
    layout
}

#[test]
fn a_pulled_image_does_what_it_says() {
    if !testkit::can_run() {
        return;
    }
    let world = World::prepare();
    let layout = busybox_images(&world.dir().join("home"));
    let registry = Registry::start(&world.dir().join("home/registry"));
    let config = world.dir().join("etc/node.toml");
    let text = fs::read_to_string(&config).expect("node.toml");
    fs::write(&config, format!("{text}[registry]\nplain = [\"{}\"]\n", registry.host())).expect("node.toml");
    world.up();
    for tag in ["app", "next", "root"] {
        registry.push(&format!("{layout}:{tag}"), &format!("own/app:{tag}"));
    }
    let reference = |tag: &str| format!("{}/own/app:{tag}", registry.host());
    let pulled = world.cli(&["image", "pull", &reference("app"), "-o", "json"]).json();
    assert_eq!(pulled["name"], "app");
    assert!(pulled["downloaded"].as_u64().is_some_and(|bytes| bytes > 500_000), "{pulled}");
    let pin = pulled["pin"].as_str().expect("a pin").to_owned();
    let again = world.cli(&["image", "pull", &pin, "--name", "again", "-o", "json"]).json();
    assert_eq!((&again["digest"], &again["downloaded"]), (&pulled["digest"], &serde_json::json!(0)));

    // User, working directory, environment and command are the image's own, and all of them give way.
    let run = |more: &[&str]| world.cli(&[&["run", "--image", "app"], more].concat()).ok().out;
    let own = run(&[]);
    for expected in ["uid=101(web) gid=102(web)", "/app\n", "FOO=bar\n", "USER=web\n", "HOME=/home/agent\n"] {
        assert!(own.contains(expected), "{expected}: {own}");
    }
    assert_eq!(run(&["--", "echo given; touch $HOME/mine && stat -c %u:%g $HOME/mine"]), "given\n101:102\n");
    assert_eq!(
        run(&["--entrypoint", "", "-e", "FOO=new", "-w", "/bin", "--", "sh", "-c", "pwd; echo $FOO"]),
        "/bin\nnew\n"
    );
    assert_eq!(run(&["--entrypoint", "/bin/id", "--", "-u"]), "101\n");
    assert_eq!(run(&["-u", "root", "--entrypoint", "/bin/id", "--", "-u"]), "0\n");
    // A setuid program gains nothing.
    let setuid = run(&[
        "--",
        "stat -c %a:%u /usr/sbin/busybox; /usr/sbin/busybox id -u; grep -i '^Cap[EPB]' /proc/self/status || /bin/busybox grep Cap /proc/self/status",
    ]);
    assert!(setuid.starts_with("4755:0\n101\n"), "{setuid}");
    assert!(setuid.contains("CapEff:\t0000000000000000"), "{setuid}");

    world.cli(&["image", "pull", &reference("root"), "--name", "asroot"]).ok();
    assert!(world.cli(&["run", "--image", "asroot"]).ok().out.contains("uid=0(root)"));
    assert_eq!(world.cli(&["run", "--image", "asroot", "-u", "agent", "--", "id -u"]).ok().out, "1000\n");

    // As a main process, and in execs beside it.
    world.cli(&["create", "--name", "main", "--image", "app", "--", "id -u; pwd; sleep 600"]).ok();
    assert_eq!(world.cli(&["exec", "main", "--", "pwd"]).ok().out, "/app\n");
    assert_eq!(world.cli(&["exec", "main", "--", "id", "-un"]).ok().out, "web\n");
    assert_eq!(world.cli(&["logs", "main"]).ok().out, "101\n/app\n");
    assert!(world.cli(&["show", "main"]).ok().out.contains("web (101:102)"));

    // What an agent was made from stays as long as it lives, whatever becomes of the name.
    let images = world.dir().join("data/images");
    let erofs = |value: &serde_json::Value| {
        images.join(format!("{}.erofs", value["digest"].as_str().expect("a digest")))
    };
    let next = world.cli(&["image", "pull", &reference("next"), "--name", "app", "-o", "json"]).json();
    assert_ne!(next["digest"], pulled["digest"]);
    assert!(next["downloaded"].as_u64().is_some_and(|bytes| bytes < 10_000), "two layers are shared: {next}");
    world.cli(&["image", "rm", "again"]).ok();
    world.cli(&["image", "prune"]).ok();
    assert!(erofs(&pulled).exists(), "an agent lives on it");
    world.cli(&["rm", "main"]).ok();
    world.cli(&["image", "prune"]).ok();
    assert!(!erofs(&pulled).exists(), "nobody uses it");
    assert!(erofs(&next).exists(), "it has a name");
    assert!(fs::read_dir(images.join("layers")).expect("layers").count() >= 6, "its layers stay");
    world.cli(&["image", "rm", "app", "asroot"]).ok();
    let pruned = world.cli(&["image", "prune", "-o", "json"]).json();
    assert_eq!(pruned["images"].as_array().map(Vec::len), Some(2), "{pruned}");
    assert_eq!(fs::read_dir(images.join("layers")).expect("layers").count(), 0);
    assert_eq!(
        fs::read_dir(&images).expect("the store").count(),
        1,
        "nothing but the folder of layers is left"
    );
}

#[test]
fn a_registry_that_is_not_opened_is_refused() {
    if !testkit::can_run() {
        return;
    }
    let world = World::prepare();
    world.up();
    let check = |reference: &str, code: i32, about: &str| {
        let ran = world.cli(&["image", "pull", reference, "--name", "x"]);
        assert_eq!(ran.code, code, "{reference}: {}", ran.err);
        assert!(ran.err.contains(about), "{reference}: {}", ran.err);
    };
    check("127.0.0.1:1/app:1", 2, "registry.open of node.toml");
    check("169.254.169.254/app:1", 2, "metadata");
    check("localhost/app:1", 2, "of this machine");
    check("app:1", 2, "names no registry");
    check("a.example/App:1", 2, "not a repository");
    assert_eq!(fs::read_dir(world.dir().join("data/images")).expect("the store").count(), 0);
}
