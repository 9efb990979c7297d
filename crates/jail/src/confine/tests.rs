use super::args::{Options, parse};
use super::places::Places;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

fn read(line: &str) -> Result<Options, String> {
    parse(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string())
}

#[test]
fn all_options_are_read() {
    let options =
        read("--uid 5 --gid 6 --ro /usr --rw /data --net --proc --keep-fds 2 -- gate --ro x").unwrap();
    let command = ["gate", "--ro", "x"].map(OsString::from).to_vec();
    let places = vec![(PathBuf::from("/usr"), false), (PathBuf::from("/data"), true)];
    assert_eq!(
        options,
        Options { uid: 5, gid: 6, places, network: true, proc: true, keep_fds: Some(2), command }
    );
}

#[test]
fn what_would_confine_nothing_is_refused() {
    for line in [
        "",
        "--uid 5 --gid 6",
        "--uid 5 --gid 6 --",
        "--uid 0 --gid 6 -- x",
        "--uid 5 --gid 0 -- x",
        "--uid 4294967295 --gid 6 -- x",
        "--gid 6 -- x",
        "--uid five --gid 6 -- x",
        "--uid -1 --gid 6 -- x",
        "--uid 5 --gid 6 --ro usr -- x",
        "--uid 5 --gid 6 --rw / -- x",
        "--uid 5 --gid 6 --everything -- x",
        "--uid 5 --gid 6 --ro",
    ] {
        assert!(read(line).is_err(), "{line:?} was accepted");
    }
}

#[test]
fn links_are_followed_and_kept() {
    let dir = std::env::temp_dir().join(format!("cofferdam-jail-places-{}", std::process::id()));
    let dir = {
        std::fs::create_dir_all(dir.join("usr/lib/inner")).unwrap();
        std::fs::canonicalize(dir).unwrap()
    };
    let link = |goal: &str, name: &str| std::os::unix::fs::symlink(goal, dir.join(name)).unwrap();
    link("usr/lib", "lib");
    link("../usr", "usr/self");
    link("loop", "loop");

    let resolve = |path: &str| Places::resolve([(dir.join(path), false)].iter());
    let places = resolve("lib/inner").unwrap();
    assert!(places.mounts.contains_key(&dir.join("usr/lib/inner")), "{places:?}");
    assert_eq!(places.links.get(&dir.join("lib")).map(Path::new), Some(Path::new("usr/lib")));
    let places = resolve("usr/self/lib").unwrap();
    assert!(places.mounts.contains_key(&dir.join("usr/lib")), "{places:?}");
    let wanted = [("usr", false), ("lib", false), ("usr/lib/inner", true)];
    let places = Places::resolve(wanted.map(|(path, rw)| (dir.join(path), rw)).iter()).unwrap();
    let mounts: Vec<_> = places.mounts.keys().cloned().collect();
    assert_eq!(mounts, [dir.join("usr"), dir.join("usr/lib/inner")], "/lib is within /usr already");
    assert_eq!(resolve("loop").unwrap_err().errno, libc::ELOOP);
    assert_eq!(resolve("absent").unwrap_err().errno, libc::ENOENT);
    std::fs::remove_dir_all(dir).unwrap();
}
