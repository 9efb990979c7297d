//! A tree that came out of an agent: whatever it holds, it stays beneath its target.

#![no_main]
#![allow(dead_code)]

// The client as a whole brings a network stack that this has no use for.
#[path = "../../crates/client/src/extract/mod.rs"]
mod extract;
mod seeds;

use libfuzzer_sys::fuzz_target;
use std::path::Path;

fn names(path: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).expect("a directory");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fuzz_target!(
    init: seeds::plant("extract", seeds::archives()),
    |data: &[u8]| {
        let place = Path::new("/dev/shm");
        let world = tempfile::tempdir_in(if place.is_dir() { place } else { Path::new("/tmp") }).expect("a directory");
        let target = world.path().join("target");
        std::fs::create_dir(&target).expect("a target");
        std::fs::write(world.path().join("outside"), "untouched").expect("a file");
        // A link that was there before leads out.
        std::os::unix::fs::symlink("..", target.join("out")).expect("a link");
        let limits = extract::Limits { bytes: 1 << 20, entries: 200 };
        let rename = (data.len() % 2 == 0).then_some("copy".as_ref());
        let _ = extract::extract(seeds::with_checksums(data).as_slice(), &target, rename, limits);
        assert_eq!(names(world.path()), ["outside", "target"]);
        assert_eq!(std::fs::read(world.path().join("outside")).expect("a file"), b"untouched");
        if rename.is_some() {
            assert!(names(&target).iter().all(|name| name == "copy" || name == "out"), "{:?}", names(&target));
        }
    }
);
