//! What a fuzzer starts from, made by code. It is written where cargo-fuzz looks, before libFuzzer reads it.

use std::path::Path;

/// Writes the seeds of a target beside what earlier runs found.
pub fn plant(target: &str, seeds: impl IntoIterator<Item = Vec<u8>>) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&corpus).expect("the corpus can be written");
    for (index, seed) in seeds.into_iter().enumerate() {
        std::fs::write(corpus.join(format!("seed-{index}")), seed).expect("the corpus can be written");
    }
}

/// An archive of what archives are made of, with entries that the library would refuse to write.
#[allow(dead_code)]
pub fn archives() -> Vec<Vec<u8>> {
    use tar::EntryType;
    let entry = |kind: EntryType, name: &str, link: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o4755);
        header.set_uid(1000);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    };
    let long = "n/".repeat(150);
    let pax = b"27 path=top/from-pax-header\n20 SCHILY.xattr.a=b\n12 size=10\n";
    let parts = [
        entry(EntryType::Directory, "top/", "", b""),
        entry(EntryType::Regular, "top/file", "", b"content"),
        entry(EntryType::Symlink, "top/link", "file", b""),
        entry(EntryType::Symlink, "top/out", "../../outside", b""),
        entry(EntryType::Link, "top/hard", "top/file", b""),
        entry(EntryType::Regular, "top/out/through", "", b"x"),
        entry(EntryType::Regular, "../up", "", b"x"),
        entry(EntryType::Regular, "/absolute", "", b"x"),
        entry(EntryType::Char, "top/device", "", b""),
        entry(EntryType::Fifo, "top/fifo", "", b""),
        [
            entry(EntryType::GNULongName, "././@LongLink", "", long.as_bytes()),
            entry(EntryType::Regular, "x", "", b"y"),
        ]
        .concat(),
        [entry(EntryType::XHeader, "pax", "", pax), entry(EntryType::Regular, "x", "", b"0123456789")]
            .concat(),
        entry(EntryType::GNUSparse, "top/sparse", "", b"sparse"),
    ];
    let end = vec![0; 1024];
    let mut seeds: Vec<Vec<u8>> = parts.iter().map(|part| [part.as_slice(), &end].concat()).collect();
    seeds.push([parts[..5].concat(), end].concat());
    seeds
}

/// The archive with the checksums that its headers ought to have: without, hardly anything that a fuzzer changes would get
/// past them.
#[allow(dead_code)]
pub fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut archive = data.to_vec();
    for block in archive.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    archive
}
