//! The parts that need no processes.

use super::ring::{CAPACITY, Ring};
use super::slab::Slab;

fn all(ring: &Ring, from: u64) -> Vec<u8> {
    let mut found = Vec::new();
    let mut at = from.max(ring.start());
    while !ring.piece(at).is_empty() {
        let piece = ring.piece(at);
        found.extend_from_slice(piece);
        at += piece.len() as u64;
    }
    found
}

#[test]
fn a_ring_keeps_the_end_and_counts_what_nobody_got() {
    let mut ring = Ring::default();
    let bytes: Vec<u8> = (0..CAPACITY + 1000).map(|n| (n % 251) as u8).collect();
    for piece in bytes.chunks(4096) {
        ring.push(piece);
    }
    assert_eq!((ring.start(), ring.end(), ring.len()), (1000, bytes.len() as u64, CAPACITY));
    assert_eq!(all(&ring, 0), bytes[1000..]);
    assert_eq!(all(&ring, 5000), bytes[5000..]);
    assert_eq!(ring.take_lost(), 1000);
    assert_eq!(ring.take_lost(), 0, "it is told once");
}

#[test]
fn what_a_client_got_is_not_lost() {
    let mut ring = Ring::default();
    ring.push(&[1; 3000]);
    ring.deliver(2000);
    ring.push(&[2; CAPACITY]);
    assert_eq!(ring.take_lost(), 1000);
    assert_eq!(ring.give_up(1000), 1000);
    assert_eq!((ring.len(), ring.start(), ring.take_lost()), (CAPACITY - 1000, 4000, 1000));
    assert_eq!(ring.give_up(usize::MAX), CAPACITY - 1000);
    assert_eq!((ring.len(), ring.take_lost()), (0, CAPACITY as u64 - 1000));
}

#[test]
fn room_is_what_the_slowest_client_leaves() {
    let mut ring = Ring::default();
    ring.push(&[0; 1000]);
    assert_eq!(ring.room(None), CAPACITY);
    assert_eq!(ring.room(Some(0)), CAPACITY - 1000);
    assert_eq!(ring.room(Some(1000)), CAPACITY);
    ring.push(&[0; CAPACITY]);
    assert_eq!(ring.room(Some(0)), 0, "a client from before the ring's start counts from there");
}

#[test]
fn one_push_larger_than_the_ring_keeps_its_end() {
    let mut ring = Ring::default();
    ring.push(&[1; 10]);
    ring.push(&vec![2; CAPACITY + 5]);
    assert_eq!((ring.start(), ring.len(), ring.take_lost()), (15, CAPACITY, 15));
}

#[test]
fn a_stale_key_finds_nothing() {
    let mut slab = Slab::new();
    let first = slab.insert("first");
    assert_eq!(slab.find(first.to_bits()), Some(first));
    assert_eq!(slab.remove(first), Some("first"));
    let second = slab.insert("second");
    assert_eq!((slab.get(first), slab.get(second)), (None, Some(&"second")));
    assert_eq!(slab.find(first.to_bits()), None);

    let taken = slab.take(second).expect("it is there");
    assert_eq!((slab.get(second), slab.len()), (None, 1), "its slot is kept for it");
    assert_ne!(slab.insert("third"), second);
    slab.put(second, taken);
    assert_eq!(slab.get(second), Some(&"second"));
}

#[test]
fn an_empty_log_begins_with_the_first_file_whichever_is_older() {
    use std::fs::File;
    use std::io::{Read, Seek};
    use std::time::{Duration, SystemTime};
    let dir = tempfile::tempdir().expect("a directory");
    let open = |name: &str| {
        let mut options = File::options();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.path().join(name))
            .expect("a file")
    };
    let now = SystemTime::now();
    for later in [0, 1] {
        let mut files = [open("0"), open("1")];
        for (index, file) in files.iter().enumerate() {
            file.set_len(0).expect("emptied");
            let age = if index == later { Duration::ZERO } else { Duration::from_secs(60) };
            file.set_modified(now - age).expect("a time");
        }
        let copies = files.each_ref().map(|file| file.try_clone().expect("a copy"));
        let mut logs = super::logs::Logs::new(copies).expect("a log");
        logs.append(b"out");
        let mut text = String::new();
        files[0].rewind().and_then(|()| files[0].read_to_string(&mut text)).expect("readable");
        assert_eq!(text, "out", "file {later} was the newer one");
    }
}

#[test]
fn without_openat2_a_directory_is_found_through_no_link() {
    use std::os::fd::AsFd;
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("a/b")).unwrap();
    std::os::unix::fs::symlink("a", root.path().join("link")).unwrap();
    let from = std::fs::File::open(root.path()).unwrap();
    let found = |path: &std::ffi::CStr| {
        super::tar::open_stepwise(from.as_fd(), path, libc::O_RDONLY | libc::O_DIRECTORY).is_ok()
    };
    for (path, expected) in [
        (c".", true),
        (c"./a/b", true),
        (c"a", true),
        (c"./link", false),
        (c"./link/b", false),
        (c"a/../a", false),
        (c"/a", false),
    ] {
        assert_eq!(found(path), expected, "{path:?}");
    }
}
