//! The agent's user namespace.
//!
//! A user namespace belongs to the effective uid that makes it, and counts what it uses there too. Made by the host's root,
//! all agents would share one count of inotify instances and queued signals, and one of them could take them all. So
//! the caller has the agent's first uid as its effective one, and a helper that lives for a moment makes the namespace,
//! for the maps are written from outside of it.

use crate::layout::ID_COUNT;
use crate::spec::Limits;
use crate::step::{Step, StepError};
use crate::sys;
use crate::sys::process::{self, Cloned};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A namespace whose helper may still be at work.
pub struct UserNamespace {
    /// Its descriptor.
    pub fd: OwnedFd,
    helper: i32,
}

/// Namespaces that nobody inside may make, should the filter ever let somebody try; unless they are a runtime's.
const NAMESPACES: [&str; 8] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];

impl UserNamespace {
    /// Makes it. `proc` is a procfs of the caller's pid namespace; the caller has the effective uid and gid `base` and
    /// all its capabilities, and the limits that are to hold for the sum of all processes in the namespace.
    pub fn create(proc: BorrowedFd<'_>, base: u32, limits: &Limits) -> Result<Self, StepError> {
        let step = "making the user namespace";
        let (mapped, map) = sys::pipe().step(step)?;
        let helper = match process::clone(libc::CLONE_NEWUSER).step(step)? {
            Cloned::Parent(pid, _) => pid,
            Cloned::Child => {
                drop(map);
                // The end of the pipe says that the maps are written.
                let heard = sys::read(mapped.as_fd(), &mut [0]);
                let bounded = heard.and_then(|_| bound(proc, limits));
                process::exit_now(bounded.map_or_else(|error| error.raw_os_error().unwrap_or(255), |()| 0));
            }
        };
        let line = format!("0 {base} {ID_COUNT}\n");
        for file in ["uid_map", "gid_map"] {
            let path = CString::new(format!("{helper}/{file}")).expect("no NUL");
            sys::write_file_at(proc, &path, line.as_bytes()).step("writing the map of ids")?;
        }
        let path = CString::new(format!("{helper}/ns/user")).expect("no NUL");
        let fd = sys::open_at(proc, &path, libc::O_RDONLY, 0).step(step)?;
        drop(map);
        Ok(Self { fd, helper })
    }

    /// Waits for the helper, and with it for the limits.
    pub fn finish(self) -> Result<OwnedFd, StepError> {
        let step = "bounding the user namespace";
        match process::wait_for(self.helper).step(step)? {
            Some(0) => Ok(self.fd),
            Some(code) => Err(sys::errno(code)).step(step),
            None => Err(StepError::new(step, "the helper was killed")),
        }
    }
}

/// Writes the limits of the caller's own user namespace.
fn bound(proc: BorrowedFd<'_>, limits: &Limits) -> io::Result<()> {
    let set = |name: String, value: u32| {
        let path = CString::new(format!("sys/user/max_{name}"))?;
        match sys::write_file_at(proc, &path, value.to_string().as_bytes()) {
            // Built without that kind: there is nothing to bound.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    };
    for kind in NAMESPACES {
        set(format!("{kind}_namespaces"), limits.namespaces)?;
    }
    set("inotify_instances".into(), limits.inotify_instances)?;
    set("inotify_watches".into(), limits.inotify_watches)?;
    set("fanotify_groups".into(), 0)
}
