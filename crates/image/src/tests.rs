//! Archives of every kind through the very code that the worker runs; what comes out is judged by `fsck.erofs`, which is
//! not ours. That the worker is really confined is tested as root, in `tests/confined.rs`.

mod layers;

use crate::import::Limits;
use crate::worker::convert;
use crate::{Digest, Store};
use std::io::{Cursor, Read, Write};
use std::process::Command;

/// The smallest tree that passes for a root file system.
fn good() -> Archive {
    Archive::new().dir("./").dir("usr/").dir("usr/bin/").file("usr/bin/sh", b"#!").symlink("bin", "usr/bin")
}

/// Writes archives, honest or not, header by header.
#[derive(Clone)]
struct Archive(Vec<u8>);

/// A header before it is sealed with its checksum.
struct Header(tar::Header);

impl Header {
    fn new(path: &str, kind: u8, size: u64) -> Self {
        let mut header = tar::Header::new_gnu();
        let name = header.as_mut_bytes();
        name[..path.len()].copy_from_slice(path.as_bytes());
        name[156] = kind;
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(size);
        Self(header)
    }

    fn with(mut self, change: impl FnOnce(&mut tar::Header)) -> Self {
        change(&mut self.0);
        self
    }
}

impl Archive {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn entry(mut self, header: Header, content: &[u8]) -> Self {
        let mut header = header.0;
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(Header::new(path, b'0', content.len() as u64), content)
    }

    fn dir(self, path: &str) -> Self {
        self.entry(Header::new(path, b'5', 0), b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(Header::new(path, b'2', 0).with(|h| h.set_link_name_literal(target).unwrap()), b"")
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.entry(Header::new(path, b'1', 0).with(|h| h.set_link_name_literal(target).unwrap()), b"")
    }

    fn pax(self, key: &str, value: &[u8]) -> Self {
        let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let digits = (1..6).find(|digits| (body.len() + digits).to_string().len() == *digits).unwrap();
        let record = [(body.len() + digits).to_string().as_bytes(), &body].concat();
        self.entry(Header::new("PaxHeaders/x", b'x', record.len() as u64), &record)
    }

    fn long_name(self, kind: u8, name: &[u8]) -> Self {
        self.entry(Header::new("././@LongLink", kind, name.len() as u64 + 1), &[name, b"\0"].concat())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn run(archive: &[u8], limits: &Limits) -> Result<(Vec<u8>, crate::archive::Counts), String> {
    let mut image = Cursor::new(Vec::new());
    let counts = convert(archive, &mut image, limits)?;
    Ok((image.into_inner(), counts))
}

fn image(archive: Archive) -> Vec<u8> {
    run(&archive.end(), &Limits::default()).unwrap().0
}

/// The tree as `fsck.erofs` of the distribution unpacks it. `None` where it is not installed, except in CI.
fn unpacked(image: &[u8]) -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, image).unwrap();
    let mut fsck = Command::new("fsck.erofs");
    fsck.arg(format!("--extract={}", dir.path().join("root").display())).arg(&path);
    match fsck.output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "fsck.erofs: {said}{}", String::from_utf8_lossy(&output.stdout));
            Some(dir)
        }
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("skipped: fsck.erofs cannot be run: {error}");
            None
        }
        Err(error) => panic!("fsck.erofs is needed: {error}"),
    }
}

#[track_caller]
fn refused(archive: &[u8], limits: &Limits, why: &str) {
    let said = run(archive, limits).expect_err(why);
    assert!(said.contains(why), "expected {why:?} in {said:?}");
    assert!(!said.chars().any(char::is_control), "{said:?}");
}

#[test]
fn hostile_archives_are_refused() {
    let long = "n".repeat(256);
    let deep = "d/".repeat(2100);
    let check = |archive: Archive, why: &str| refused(&archive.end(), &Limits::default(), why);
    // Ways out of the tree.
    check(good().file("../escape", b"x"), "`..`");
    check(good().file("usr/../../escape", b"x"), "`..`");
    check(good().dir(".."), "`..`");
    check(good().file("/etc/shadow", b"x"), "absolute");
    check(good().symlink("out", "/").file("out/escape", b"x"), "through a symbolic link");
    check(good().symlink("out", "usr").dir("out/"), "twice");
    check(good().symlink("out", "usr").file("out/a/b/c", b"x"), "through a symbolic link");
    check(good().file("bin/second", b"x"), "through a symbolic link");
    check(good().file("usr/bin/sh/below", b"x"), "not a directory");
    check(good().file("usr/bin/sh/far/below", b"x"), "not a directory");
    // Links that lead nowhere, or where they must not.
    check(good().link("passwd", "/etc/passwd"), "absolute");
    check(good().link("passwd", "../etc/passwd"), "`..`");
    check(good().link("later", "comes-later").file("comes-later", b"x"), "did not come before");
    check(good().link("dir", "usr"), "hard link to a directory");
    check(good().link("through", "bin/sh"), "did not come before");
    check(good().symlink("empty", ""), "symbolic link needs a target");
    // The same thing twice.
    check(good().file("a", b"1").file("a", b"2"), "twice");
    check(good().file("a", b"1").file("./a", b"2"), "twice");
    check(good().file("a", b"1").dir("a/"), "twice");
    check(good().dir("a").file("a", b"1"), "twice");
    check(good().dir("a").dir("./a/"), "twice");
    check(good().file("a", b"1").symlink("a", "usr"), "twice");
    check(good().file("a", b"1").link("a", "usr/bin/sh"), "twice");
    // Lengths.
    check(good().long_name(b'L', long.as_bytes()).file("x", b""), "longer than 255");
    check(good().long_name(b'L', deep.as_bytes()).dir("x"), "longer than 4095");
    check(good().pax("path", long.as_bytes()).file("x", b""), "longer than 255");
    check(good().pax("path", b"nul\0byte").file("x", b""), "NUL");
    check(
        good().pax("linkpath", "t".repeat(4096).as_bytes()).symlink("x", "y"),
        "symbolic link needs a target",
    );
    check(good().entry(Header::new("huge", b'L', 1 << 40), b""), "larger than 1 MiB");
    check(good().entry(Header::new("huge", b'x', 1 << 40), b""), "larger than 1 MiB");
    // Owners.
    check(good().entry(Header::new("a", b'0', 0).with(|h| h.set_uid(65_536)), b""), "owned by 65536");
    check(good().entry(Header::new("a", b'0', 0).with(|h| h.set_gid(1 << 40)), b""), "owned by");
    check(good().pax("uid", b"1879048192").file("a", b""), "owned by 1879048192");
    // Kinds.
    check(good().entry(Header::new("s", b'S', 0), b""), "sparse");
    check(good().pax("GNU.sparse.major", b"1").file("s", b""), "sparse");
    check(good().entry(Header::new("m", b'M', 0), b""), "unknown type");
    // Damage.
    check(good().pax("path", b"x").entry(Header::new("p", b'x', 9), b"99 path=x"), "pax record");
    check(good().entry(Header::new("p", b'x', 4), b"-1 x"), "pax record");
    check(good().pax("size", b"-5").file("a", b""), "pax number");
    check(good().entry(Header::new("g", b'g', 12), b"12 path=abc\n"), "global pax header");
    check(
        good().entry(Header::new("a", b'0', 0).with(|h| h.as_mut_bytes()[124] = b'z'), b""),
        "not a number",
    );
    // A hostile name is shown without what a terminal would act on.
    check(good().file("\x1b]0;title\x07/../x", b""), "\\x1b]0;title\\x07");
}

#[test]
fn sizes_that_lie_are_refused() {
    let limits = Limits::default();
    // More than there is.
    let mut cut = good().entry(Header::new("a", b'0', 1_000_000), b"short").0;
    refused(&cut, &limits, "ends too early");
    // More than may be: refused before a byte is read.
    cut = good().entry(Header::new("a", b'0', 1 << 50), b"").0;
    refused(&cut, &limits, "larger than");
    cut = good().pax("size", b"18446744073709551615").file("a", b"").0;
    refused(&cut, &limits, "larger than");
    // Less than there is: the content is taken for a header.
    refused(&good().entry(Header::new("a", b'0', 10), &[b'1'; 2048]).end(), &limits, "wrong checksum");
    // No end, half a header, nothing at all.
    refused(&good().0, &limits, "ends too early");
    refused(&good().end()[..700], &limits, "ends too early");
    refused(b"", &limits, "ends too early");
    refused(&[0; 1024], &limits, "does not look like a root file system");
    refused(&[b'x'; 4096], &limits, "not a tar archive");
}

#[test]
fn limits_hold_for_what_is_unpacked() {
    let few = Limits { entries: 20, ..Limits::default() };
    let many = (0..21).fold(good(), |archive, index| archive.file(&format!("f{index}"), b""));
    refused(&many.end(), &few, "more than 20 entries");
    // Directories that no entry speaks of count as well.
    let implied = good().file(&"d/".repeat(40), b"").file("last", b"");
    refused(&implied.end(), &few, "more than 20 entries");

    let small = Limits { bytes: 1 << 20, ..Limits::default() };
    let bomb = good().file("zeros", &vec![0; 16 << 20]).end();
    refused(&bomb, &small, "larger than");
    refused(&gzip(&bomb), &small, "larger than");
    refused(&zstd::encode_all(&bomb[..], 1).unwrap(), &small, "larger than");
    // Zeros after the end of the archive cost time as well.
    let mut tail = good().end();
    tail.resize(4 << 20, 0);
    refused(&gzip(&tail), &small, "larger than");
}

#[test]
fn packed_archives_are_unpacked_and_checked() {
    let plain = good().file("data", &[42; 100_000]).end();
    let expected = run(&plain, &Limits::default()).unwrap();
    assert_eq!(run(&gzip(&plain), &Limits::default()).unwrap(), expected);
    assert_eq!(run(&zstd::encode_all(&plain[..], 3).unwrap(), &Limits::default()).unwrap(), expected);
    // A wrong checksum at the very end.
    let mut broken = gzip(&plain);
    let end = broken.len();
    broken[end - 5] ^= 1;
    refused(&broken, &Limits::default(), "cannot be read");
    refused(&gzip(&plain)[..end - 20], &Limits::default(), "ends too early");
    refused(b"\xfd7zXZ\0rest", &Limits::default(), "xz archives are not supported");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn what_is_no_root_file_system_is_refused() {
    let check = |archive: Archive, why: &str| refused(&archive.end(), &Limits::default(), why);
    check(Archive::new().file("README", b"hello"), "does not look like a root file system");
    check(Archive::new().dir("usr"), "no program /bin/sh");
    check(
        Archive::new().dir("usr").symlink("bin", "usr/bin").symlink("usr/bin", "../bin"),
        "no program /bin/sh",
    );
    let plain_file = Header::new("bin/sh", b'0', 0).with(|h| h.set_mode(0o644));
    check(Archive::new().dir("usr").entry(plain_file, b""), "no program /bin/sh");
    // The boundary mounts there, and must not be led elsewhere.
    check(good().symlink("proc", "/usr"), "/proc has to be a directory");
    check(good().symlink("home", "/usr"), "/home has to be a directory");
    check(good().dir("home").symlink("home/agent", "/usr"), "/home/agent has to be a directory");
    check(good().dir("etc").symlink("etc/passwd", "/usr/bin/sh"), "/etc/passwd has to be");
}

#[test]
fn a_root_needs_a_shell_and_no_usr() {
    let (_, counts) = run(&Archive::new().file("bin/sh", b"#!").end(), &Limits::default()).unwrap();
    assert_eq!(counts.entries, 1);
}

#[test]
fn a_root_comes_out_as_it_went_in() {
    let long_target = "t".repeat(3000);
    let many: Archive = (0..500).fold(good().dir("many"), |archive, index| {
        archive.file(&format!("many/a-file-with-quite-a-long-name-{index:05}"), index.to_string().as_bytes())
    });
    let big: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let archive = many
        .file("big", &big)
        .file("block", &[1; 4096])
        .file("nothing", b"")
        .file("edge", &[2; 2048])
        .file("over", &[3; 2049])
        .link("usr/second-name", "big")
        .long_name(b'K', long_target.as_bytes())
        .symlink("long-link", "x")
        .symlink("absolute", "/usr/bin")
        .pax("path", "sm\u{f6}r/\u{1f980}".as_bytes())
        .pax("mtime", b"1234567890.5")
        .file("ignored", b"crab")
        .long_name(b'L', "l".repeat(255).as_bytes())
        .file("ignored", b"long")
        .entry(Header::new("null", b'3', 0), b"")
        .entry(Header::new("pipe", b'6', 0), b"")
        .link("null2", "null")
        .pax("SCHILY.xattr.security.capability", b"\x01\0\0\x02\n\0=\0")
        .file("ping", b"");
    let (image, counts) = run(&archive.end(), &Limits::default()).unwrap();
    assert_eq!((counts.skipped_nodes, counts.dropped_xattrs), (3, 1));
    let Some(dir) = unpacked(&image) else { return };
    let root = dir.path().join("root");
    let read = |path: &str| std::fs::read(root.join(path)).unwrap();
    assert_eq!(read("big"), big);
    assert_eq!(read("usr/second-name"), big);
    assert_eq!(read("block"), [1; 4096]);
    assert_eq!(read("nothing"), b"");
    assert_eq!(read("edge"), [2; 2048]);
    assert_eq!(read("over"), [3; 2049]);
    assert_eq!(read("sm\u{f6}r/\u{1f980}"), b"crab");
    assert_eq!(read(&"l".repeat(255)), b"long");
    assert_eq!(std::fs::read_dir(root.join("many")).unwrap().count(), 500);
    assert_eq!(read("many/a-file-with-quite-a-long-name-00499"), b"499");
    assert_eq!(std::fs::read_link(root.join("long-link")).unwrap().as_os_str().len(), 3000);
    assert_eq!(std::fs::read_link(root.join("absolute")).unwrap().as_os_str(), "/usr/bin");
    for absent in ["null", "null2", "pipe"] {
        assert!(root.join(absent).symlink_metadata().is_err(), "{absent}");
    }
}

#[test]
fn every_root_gets_what_agents_rely_on() {
    let archive = good()
        .dir("etc")
        .file("etc/passwd", b"root:x:0:0::/root:/bin/sh")
        .file("etc/group", b"root:x:0:\n")
        .symlink("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
        .file("etc/machine-id", b"0123456789abcdef0123456789abcdef\n");
    let Some(dir) = unpacked(&image(archive)) else { return };
    let root = dir.path().join("root");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    assert_eq!(read("etc/passwd"), "root:x:0:0::/root:/bin/sh\nagent:x:1000:1000::/home/agent:/bin/sh\n");
    assert_eq!(read("etc/group"), "root:x:0:\nagent:x:1000:\n");
    assert_eq!(read("etc/machine-id"), "");
    assert!(root.join("etc/resolv.conf").symlink_metadata().unwrap().is_file());
    for directory in ["dev", "proc", "run", "sys", "tmp", "home/agent"] {
        assert!(root.join(directory).symlink_metadata().unwrap().is_dir(), "{directory}");
    }

    // A user of that id stays who he is, however large the file.
    let passwd =
        format!("{}ubuntu:x:1000:1000::/home/ubuntu:/bin/bash\n", "filler:x:1:1::/:/bin/sh\n".repeat(200));
    let archive = good().dir("etc").file("etc/passwd", passwd.as_bytes());
    let Some(dir) = unpacked(&image(archive)) else { return };
    assert_eq!(std::fs::read_to_string(dir.path().join("root/etc/passwd")).unwrap(), passwd);
}

#[test]
fn equal_archives_give_equal_images() {
    let one = image(good().file("a", &[1; 5000]).file("b", b"2"));
    let same = image(good().file("a", &[1; 5000]).file("b", b"2"));
    let other = image(good().file("a", &[1; 5000]).file("b", b"3"));
    assert_eq!(one, same);
    assert_ne!(one, other);
    assert_eq!(one.len() % 4096, 0);
}

#[test]
fn the_store_names_files_by_content_and_forgets_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("images")).unwrap();
    let kept = |content: &[u8]| {
        let mut file = store.unnamed().unwrap();
        file.write_all(content).unwrap();
        store.commit(file).unwrap()
    };
    let (digest, size) = kept(b"abc");
    assert_eq!(digest.as_str(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(size, 3);
    // Once more is the same, and a file that was not committed was never there.
    assert_eq!(kept(b"abc").0, digest);
    store.unnamed().unwrap().write_all(b"lost").unwrap();
    assert_eq!(store.list().unwrap(), [(digest.clone(), 3)]);
    assert_eq!(store.size(&digest).unwrap(), Some(3));
    let mut content = String::new();
    std::fs::File::open(store.path(&digest)).unwrap().read_to_string(&mut content).unwrap();
    assert_eq!(content, "abc");

    // A staging folder goes with its owner; one whose owner was killed goes at the next start.
    let staging = store.staging().unwrap();
    let stale = dir.path().join("images/.staging-stale");
    std::fs::create_dir(&stale).unwrap();
    std::fs::write(stale.join("file"), b"left").unwrap();
    let again = Store::open(dir.path().join("images")).unwrap();
    assert!(!stale.exists());
    assert!(staging.path().exists(), "a live build keeps its folder");
    drop(staging);
    assert!(again.remove(&digest).unwrap());
    assert!(!again.remove(&digest).unwrap());
    assert_eq!(std::fs::read_dir(dir.path().join("images")).unwrap().count(), 0);
}

/// A little fuzzing, the same every time: bytes of a good archive are changed, and headers sealed again so that the
/// changes get past the checksum. Whatever comes out, it is a refusal or an image that `fsck.erofs` can read.
#[test]
fn damaged_archives_never_get_further_than_a_refusal() {
    let good = good()
        .file("usr/file", &[5; 3000])
        .link("usr/link", "usr/file")
        .long_name(b'L', &[b'l'; 200])
        .file("x", b"1")
        .pax("path", b"some/path")
        .pax("size", b"4")
        .file("y", b"four")
        .dir("last/")
        .end();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        // xorshift64*, Vigna 2016.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    };
    let limits = Limits { bytes: 1 << 20, entries: 100 };
    let mut accepted = Vec::new();
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            bytes[at] = [0, b'0', b'/', b'.', 0xff, random(256) as u8][random(6)];
        }
        for block in bytes.chunks_exact_mut(512) {
            // Headers of the archive carry this mark.
            if &block[257..262] == b"ustar" {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        if let Ok((image, _)) = run(&bytes, &limits) {
            accepted.push(image);
        }
    }
    assert!(accepted.len() > 1000, "only {} got through: the changes are too coarse", accepted.len());
    for image in accepted.iter().step_by(accepted.len() / 20) {
        unpacked(image);
    }
}

#[test]
fn digests_are_checked() {
    let good = "0".repeat(64);
    assert!(good.parse::<Digest>().is_ok());
    for bad in [&good[1..], &format!("{good}0"), &"A".repeat(64), "", &"../x".repeat(16)] {
        assert!(bad.parse::<Digest>().is_err(), "{bad}");
    }
}

/// A database of dpkg that is too long to lie beside its inode.
fn status(version: &str) -> Vec<u8> {
    let stanza =
        |number: usize| format!("Package: p{number}\nStatus: install ok installed\nVersion: {version}\n\n");
    (0..100).map(stanza).collect::<String>().into_bytes()
}

#[test]
fn what_is_installed_is_told_and_changes_no_image() {
    let at = |archive: Archive, text: &[u8]| {
        archive.dir("var").dir("var/lib").dir("var/lib/dpkg").file("var/lib/dpkg/status", text)
    };
    let told = |archive: Archive| run(&archive.end(), &Limits::default()).unwrap().1.packages;
    assert_eq!(told(good()), None);
    for text in [status("1.0"), b"Package: p0\nStatus: install ok installed\nVersion: 1.0\n".to_vec()] {
        let packages = told(at(good(), &text)).expect("it has a database");
        assert_eq!((packages.manager, &*packages.versions["p0"]), (model::packages::Manager::Dpkg, "1.0"));
    }
    let Some(dir) = unpacked(&image(at(good(), &status("1.0")))) else { return };
    assert_eq!(std::fs::read(dir.path().join("root/var/lib/dpkg/status")).unwrap(), status("1.0"));
    // What no database says is nobody's list; and a link elsewhere is none.
    assert_eq!(told(at(good(), b"Package: \x1b[2J\nStatus: install ok installed\nVersion: 1\n")), None);
    let link =
        good().dir("var").dir("var/lib").dir("var/lib/dpkg").symlink("var/lib/dpkg/status", "/usr/bin/sh");
    assert!(told(link).is_none_or(|packages| packages.versions.is_empty()));
    let apk = good()
        .dir("lib")
        .dir("lib/apk")
        .dir("lib/apk/db")
        .file("lib/apk/db/installed", b"P:musl\nV:1.2-r0\n");
    assert_eq!(told(apk).unwrap().versions["musl"], "1.2-r0");
}
