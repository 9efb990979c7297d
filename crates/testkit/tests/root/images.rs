//! Images from archives: what is in them runs, what is no root file system is refused.

use testkit::World;

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
        [(&b"hello"[..], "too early"), (&[0; 1024][..], "/usr"), (&[7; 4096][..], "tar archive")]
    {
        let ran = world.cli_with(&["image", "import", "-", "--name", "bad"], input);
        assert_eq!(ran.code, 2, "{}", ran.err);
        assert!(ran.err.contains(about), "{about}: {}", ran.err);
    }
    let names = world.cli(&["image", "ls", "-o", "json"]).json();
    assert_eq!(names.as_array().map(Vec::len), Some(1), "{names}");
}
