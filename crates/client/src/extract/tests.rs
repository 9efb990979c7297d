//! Hostile trees, and an ordinary one.

use super::links::stays_inside;
use super::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// Writes an entry whose name the library would refuse to write.
    fn raw(mut self, kind: EntryType, name: &str, link: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(1_000_000_000);
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.raw(EntryType::Regular, name, "", 0o644, content)
    }

    fn directory(self, name: &str) -> Self {
        self.raw(EntryType::Directory, name, "", 0o755, b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(EntryType::Symlink, name, target, 0o777, b"")
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.raw(EntryType::Link, name, target, 0o644, b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    /// Extracts as `cp agent:/top TARGET/copy` would.
    fn into(self, target: &TempDir) -> Result<Extracted, ExtractError> {
        extract(&*self.bytes(), target.path(), Some("copy".as_ref()), Limits::default())
    }
}

fn target() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn an_ordinary_tree_arrives_whole() {
    let target = target();
    let done = Tar::new()
        .directory("top/")
        .raw(EntryType::Regular, "top/run.sh", "", 0o755, b"#!/bin/sh\n")
        .file("top/a/b/c.txt", b"deep")
        .symlink("top/a/link", "b/c.txt")
        .symlink("top/a/up", "../run.sh")
        .hard_link("top/again", "top/run.sh")
        .into(&target)
        .unwrap();
    let copy = target.path().join("copy");
    assert_eq!(fs::read(copy.join("a/b/c.txt")).unwrap(), b"deep");
    assert_eq!(fs::read(copy.join("a/link")).unwrap(), b"deep");
    assert_eq!(fs::read(copy.join("a/up")).unwrap(), b"#!/bin/sh\n");
    let script = fs::metadata(copy.join("run.sh")).unwrap();
    assert_eq!(script.permissions().mode() & 0o777, 0o755);
    assert_eq!(script.mtime(), 1_000_000_000);
    assert_eq!(script.ino(), fs::metadata(copy.join("again")).unwrap().ino());
    assert_eq!((done.files, done.links, done.bytes), (3, 2, 14));
    assert!(done.skipped.is_empty());
}

#[test]
fn one_file_arrives_under_its_new_name() {
    let target = target();
    Tar::new().file("top", b"hello").into(&target).unwrap();
    assert_eq!(fs::read(target.path().join("copy")).unwrap(), b"hello");
}

#[test]
fn content_goes_straight_into_the_target_on_request() {
    let target = target();
    let tar = Tar::new().directory("top").file("top/x", b"x").bytes();
    extract(&*tar, target.path(), None, Limits::default()).unwrap();
    assert_eq!(fs::read(target.path().join("x")).unwrap(), b"x");
}

#[test]
fn a_copy_of_the_root_directory_has_no_name() {
    let target = target();
    let tar = Tar::new().directory("./").directory("./etc").file("./etc/x", b"x").bytes();
    extract(&*tar, target.path(), None, Limits::default()).unwrap();
    assert_eq!(fs::read(target.path().join("etc/x")).unwrap(), b"x");
}

#[test]
fn names_that_climb_or_are_absolute_end_the_copy() {
    for name in ["../x", "top/../../x", "/etc/x", "top/..", ".."] {
        let target = target();
        let error = Tar::new().file(name, b"x").into(&target).unwrap_err();
        assert!(matches!(error, ExtractError::Escapes), "{name}: {error}");
        assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0, "{name}");
    }
}

#[test]
fn links_that_could_lead_out_are_left_out() {
    let cases = [
        ("/etc/passwd", 5, false),
        ("..", 0, false),
        ("../x", 1, true),
        ("../../x", 1, false),
        ("a/b", 0, true),
        ("./a/./b", 0, true),
        ("a/../b", 3, false),
        ("p/p/p/../../..", 9, false),
        ("", 0, false),
        ("a\0b", 0, false),
    ];
    for (link, depth, expected) in cases {
        assert_eq!(stays_inside(link.as_bytes(), depth), expected, "{link} at {depth}");
    }
    let target = target();
    let done = Tar::new()
        .directory("top/")
        .symlink("top/passwd", "/etc/passwd")
        .symlink("top/sibling", "../other")
        .file("top/good", b"good")
        .into(&target)
        .unwrap();
    assert_eq!(done.skipped.len(), 2);
    assert!(done.skipped.iter().all(|(_, why)| *why == Skipped::LinkOut));
    assert!(!target.path().join("copy/passwd").exists());
    assert!(target.path().join("copy/good").exists());
}

#[test]
fn nothing_is_written_through_a_link_of_the_archive() {
    let target = target();
    let error = Tar::new()
        .directory("top/")
        .directory("top/real")
        .symlink("top/d", "real")
        .file("top/d/x", b"x")
        .into(&target)
        .unwrap_err();
    assert!(matches!(error, ExtractError::InTheWay(_)), "{error}");
}

#[test]
fn links_that_were_in_the_target_are_not_followed() {
    let (target, outside) = (target(), target());
    let secret = outside.path().join("secret");
    fs::write(&secret, "mine").unwrap();
    fs::create_dir(target.path().join("copy")).unwrap();
    symlink(outside.path(), target.path().join("copy/d")).unwrap();
    symlink(&secret, target.path().join("copy/f")).unwrap();
    let through = Tar::new().file("top/d/secret", b"theirs").into(&target).unwrap_err();
    assert!(matches!(through, ExtractError::InTheWay(_)), "{through}");
    Tar::new().file("top/f", b"theirs").into(&target).unwrap();
    assert_eq!(fs::read(&secret).unwrap(), b"mine");
    assert_eq!(fs::read(target.path().join("copy/f")).unwrap(), b"theirs");
}

#[test]
fn a_hard_link_names_only_what_this_copy_made() {
    let (target, outside) = (target(), target());
    let secret = outside.path().join("secret");
    fs::write(&secret, "mine").unwrap();
    fs::create_dir(target.path().join("copy")).unwrap();
    fs::write(target.path().join("copy/old"), "old").unwrap();
    symlink(&secret, target.path().join("copy/s")).unwrap();
    let done = Tar::new()
        .hard_link("top/a", "top/old")
        .hard_link("top/b", "top/s")
        .hard_link("top/c", "top/missing")
        .into(&target)
        .unwrap();
    assert_eq!(done.skipped.len(), 3);
    let error = Tar::new().hard_link("top/d", "../../etc/passwd").into(&target).unwrap_err();
    assert!(matches!(error, ExtractError::Escapes), "{error}");
    let error = Tar::new().hard_link("top/d", "/etc/passwd").into(&target).unwrap_err();
    assert!(matches!(error, ExtractError::Escapes), "{error}");
}

#[test]
fn no_devices_and_no_special_bits() {
    let target = target();
    let done = Tar::new()
        .directory("top")
        .raw(EntryType::Char, "top/null", "", 0o666, b"")
        .raw(EntryType::Block, "top/sda", "", 0o666, b"")
        .raw(EntryType::Fifo, "top/fifo", "", 0o666, b"")
        .raw(EntryType::Regular, "top/su", "", 0o6755, b"x")
        .raw(EntryType::Directory, "top/sticky", "", 0o7777, b"")
        .into(&target)
        .unwrap();
    assert_eq!(done.skipped.iter().filter(|(_, why)| *why == Skipped::Special).count(), 3);
    for name in ["su", "sticky"] {
        let mode = fs::metadata(target.path().join("copy").join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7000, 0, "{name}");
    }
}

#[test]
fn directories_without_rights_can_still_be_removed() {
    let target = target();
    Tar::new().raw(EntryType::Directory, "top", "", 0o000, b"").file("top/x", b"x").into(&target).unwrap();
    let mode = fs::metadata(target.path().join("copy")).unwrap().permissions().mode();
    assert_eq!(mode & 0o700, 0o700);
}

#[test]
fn limits_end_the_copy() {
    let target = target();
    let tar = Tar::new().file("top/a", &[0; 3000]).file("top/b", &[0; 3000]).bytes();
    let limits = |bytes, entries| Limits { bytes, entries };
    let copy = |limits| extract(&*tar, target.path(), Some("copy".as_ref()), limits);
    assert!(matches!(copy(limits(4000, 9)), Err(ExtractError::TooLarge(4000))));
    assert!(matches!(copy(limits(9000, 1)), Err(ExtractError::TooMany(1))));
    assert!(copy(limits(6000, 2)).is_ok());
}

#[test]
fn huge_names_and_headers_are_not_read_into_memory() {
    for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(1 << 40);
        header.set_cksum();
        let endless = header.as_bytes().as_slice().chain(io::repeat(b'a'));
        let target = target();
        let error = extract(endless, target.path(), None, Limits::default()).unwrap_err();
        assert!(matches!(error, ExtractError::Malformed(_)), "{error}");
    }
}

#[test]
fn a_lying_size_is_an_error_and_not_a_short_file() {
    let mut header = Header::new_gnu();
    header.set_path("top").unwrap();
    header.set_size(1 << 20);
    header.set_cksum();
    let cut = header.as_bytes().as_slice().chain(&b"only this"[..]);
    let target = target();
    let error = extract(cut, target.path(), Some("copy".as_ref()), Limits::default()).unwrap_err();
    assert!(matches!(error, ExtractError::Read(_)), "{error}");
}

#[test]
fn a_stream_that_breaks_behind_the_end_is_an_error() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let archive = Tar::new().directory("top").bytes();
    let behind = |rest: &mut dyn Read| {
        extract(archive.chain(rest), target().path(), Some("copy".as_ref()), Limits::default())
    };
    assert!(matches!(behind(&mut Broken), Err(ExtractError::Read(_))));
    assert!(matches!(behind(&mut io::repeat(0)), Err(ExtractError::Malformed(_))));
    assert!(behind(&mut io::repeat(0).take(9 << 10)).is_ok());
}

#[test]
fn noise_is_refused() {
    let target = target();
    let noise: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect();
    assert!(extract(&*noise, target.path(), None, Limits::default()).is_err());
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
}

#[test]
fn what_is_packed_is_what_is_extracted() {
    let (source, target) = (target(), target());
    let long = "n".repeat(150);
    fs::create_dir_all(source.path().join("d").join(&long)).unwrap();
    fs::write(source.path().join("d").join(&long).join("file"), "content").unwrap();
    symlink(&long, source.path().join("d/link")).unwrap();
    let mut tar = Vec::new();
    let packed = crate::pack::pack(&source.path().join("d"), Some("d".as_ref()), &mut tar, |_| {}).unwrap();
    assert_eq!((packed.entries, packed.bytes), (4, 7));
    extract(&*tar, target.path(), Some("copy".as_ref()), Limits::default()).unwrap();
    assert_eq!(fs::read(target.path().join("copy/link/file")).unwrap(), b"content");
}
