//! What an agent's main process wrote, read from its volume while no boundary has that.
//!
//! The two files (see `jail`'s `init::logs`) lie where the agent can name nothing; still nothing of the volume is trusted:
//! no link is followed, only regular files are read, and no more of them than was asked for.

use crate::volume::{Store, VolumeError};
use jail::layout::VOLUME_LOGS;
use model::VolumeId;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

/// The newest `most` bytes. Whoever asks while a boundary has the volume can ask again.
pub(crate) fn read(store: &Store, id: VolumeId, most: u64) -> Result<Vec<u8>, VolumeError> {
    let path = store.path(id);
    let mount = store.mount_within(&path, Duration::ZERO)?;
    newest(mount, most).map_err(|source| VolumeError::File { what: "read the log on", path, source })
}

fn newest(volume: impl AsFd, most: u64) -> io::Result<Vec<u8>> {
    let mut files: Vec<(Metadata, File)> = Vec::new();
    for name in VOLUME_LOGS {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let file = match openat2(&volume, name, flags, Mode::empty(), resolve) {
            Ok(file) => File::from(file),
            // The agent never got as far as to have one.
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        let metadata = file.metadata()?;
        if metadata.is_file() && metadata.len() > 0 {
            files.push((metadata, file));
        }
    }
    // The older goes first, as init tells them apart.
    files.sort_by_key(|(metadata, _)| (metadata.mtime(), metadata.mtime_nsec()));
    let all: u64 = files.iter().map(|(metadata, _)| metadata.len()).sum();
    let mut skip = all.saturating_sub(most);
    let mut bytes = Vec::new();
    for (metadata, mut file) in files {
        let from = skip.min(metadata.len());
        skip -= from;
        file.seek(SeekFrom::Start(from))?;
        file.take(metadata.len() - from).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;
    use std::time::SystemTime;

    fn write(root: &Path, name: &str, text: &str, age: u64) {
        let path = root.join(name);
        fs::write(&path, text).unwrap();
        let at = SystemTime::now() - Duration::from_secs(age);
        File::options().append(true).open(path).unwrap().set_modified(at).unwrap();
    }

    #[test]
    fn the_newest_bytes_come_in_their_order_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let read = |most| newest(File::open(root).unwrap(), most);
        assert_eq!(read(9).unwrap(), b"", "there is none");
        fs::create_dir(root.join("log")).unwrap();
        write(root, "log/main.0", "new", 1);
        write(root, "log/main.1", "older ", 9);
        for (most, expected) in [(100, "older new"), (5, "r new"), (2, "ew"), (0, "")] {
            assert_eq!(read(most).unwrap(), expected.as_bytes(), "{most}");
        }
        fs::write(root.join("treasure"), "treasure").unwrap();
        fs::remove_file(root.join("log/main.0")).unwrap();
        std::os::unix::fs::symlink("../treasure", root.join("log/main.0")).unwrap();
        assert!(read(100).is_err());
    }
}
