//! flock(2) with a deadline: the kernel can wait for a lock or not wait, but not for so long.

use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io;
use std::sync::mpsc;
use std::time::Duration;

/// Locks the file's open description for us alone, waiting no longer than `limit`. `false` when another
/// still holds it then.
pub(crate) fn exclusive(file: &File, limit: Duration) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => return Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) if limit.is_zero() => return Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => {}
        Err(error) => return Err(error.into()),
    }
    let (sender, receiver) = mpsc::channel();
    let waiting = file.try_clone()?;
    // The clone is the same open description. When nobody waits for the thread any more, it gives the lock
    // back as soon as it gets it.
    std::thread::Builder::new().name("volume-lock".into()).spawn(move || {
        let locked = loop {
            match flock(&waiting, FlockOperation::LockExclusive) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other,
            }
        };
        if sender.send(locked).is_err() {
            let _ = flock(&waiting, FlockOperation::Unlock);
        }
    })?;
    match receiver.recv_timeout(limit) {
        Ok(locked) => locked.map(|()| true).map_err(io::Error::from),
        Err(_) => Ok(false),
    }
}
