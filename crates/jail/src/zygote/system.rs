//! The machine's own system, as agents without an image see it: an empty root with some directories of the host in it, all
//! read-only. What is not named in `layout::SYSTEM` is not there: other people's homes, data and sockets, the kernel's
//! file systems, the platform's own directories.
//!
//! It is taken once, before the zygote leaves the host's mounts; what is mounted on the host later is not seen. Each
//! boundary gets a copy, with mounts of its own in it.

use crate::layout::{AGENT_ID, HIDDEN, HOME, NAMESERVER, OWN_ETC, OWN_RUN, SYSTEM};
use crate::sabotage;
use crate::spec::Identity;
use crate::step::{Step, StepError};
use crate::sys;
use crate::sys::mount::{self, Change, DATA, Filesystem, MOUNT_ATTR_RDONLY, PLAIN};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Places for mounts of the agent's own.
const PLACES: [&str; 9] = ["home", HOME, "tmp", "run", "var", "var/tmp", "dev", "proc", "sys"];

/// What one name of the host's root is.
enum Part {
    Directory(OwnedFd),
    Link(CString),
}

/// Parts of the host's mounts, attached nowhere.
pub struct System(Vec<(CString, Part)>);

impl System {
    /// Takes them, with all mounts beneath. `host` is the host's root.
    pub fn take(host: BorrowedFd<'_>) -> Result<Self, StepError> {
        let mut parts = Vec::new();
        for name in SYSTEM {
            let step = format!("taking the machine's /{name}");
            let name = CString::new(name).expect("no NUL in a constant");
            let part = match sys::read_link_at(host, &name) {
                Ok(target) => Part::Link(target),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
                // It is no link.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    let copy = mount::copy_tree(host, &name, true).step(&step)?;
                    let writable = sabotage::leaves_out("read_only_system");
                    let set = PLAIN | if writable { 0 } else { MOUNT_ATTR_RDONLY };
                    let read_only = Change { set, private: true, recursive: true, ..Change::default() };
                    mount::change(copy.as_fd(), read_only).step(&step)?;
                    Part::Directory(copy)
                }
                Err(error) => return Err(error).step(&step),
            };
            parts.push((name, part));
        }
        Ok(Self(parts))
    }

    /// Puts them together at a directory, and covers what is hidden of them.
    pub fn attach(self, place: BorrowedFd<'_>, hidden: &[CString]) -> Result<(), StepError> {
        let step = "putting the machine's system together";
        let root = Filesystem::new(c"tmpfs")
            .and_then(|root| {
                root.set(c"source", "tmpfs")?.set(c"mode", "0755")?.set(c"size", "64k")?.mount(PLAIN)
            })
            .step(step)?;
        let made = |path: &CStr| sys::ensure_dir(root.as_fd(), path, 0o755).step(step);
        mount::attach(root.as_fd(), place).step(step)?;
        for place in PLACES {
            made(&relative(place.as_bytes()))?;
        }
        for (name, part) in self.0 {
            match part {
                Part::Link(target) => sys::symlink_at(&target, root.as_fd(), &name).step(step)?,
                Part::Directory(copy) => {
                    made(&name)?;
                    let target = sys::open_at(root.as_fd(), &name, libc::O_PATH | libc::O_NOFOLLOW, 0);
                    target.and_then(|target| mount::attach(copy.as_fd(), target.as_fd())).step(step)?;
                }
            }
        }
        let own = HIDDEN.map(|path| CString::new(path).expect("no NUL in a constant"));
        let hidden = if sabotage::leaves_out("read_only_system (hidden)") { &[] } else { hidden };
        for path in hidden.iter().chain(&own) {
            cover(root.as_fd(), path).step(&format!("hiding {}", path.to_string_lossy()))?;
        }
        mount::change(root.as_fd(), Change { set: MOUNT_ATTR_RDONLY, ..Change::default() }).step(step)
    }
}

fn relative(path: &[u8]) -> CString {
    let start = path.iter().position(|byte| *byte != b'/').unwrap_or(path.len());
    CString::new(&path[start..]).expect("it came without NUL")
}

/// Mounts something empty over a directory, if it is in sight.
fn cover(root: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    let path = relative(path.to_bytes());
    let inside = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
    let target = match sys::open_beneath(root, &path, libc::O_PATH | libc::O_DIRECTORY, 0, inside) {
        // By way of a link that leads out of what is in sight, nobody inside gets there either.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EXDEV)) => return Ok(()),
        found => found?,
    };
    let empty =
        Filesystem::new(c"tmpfs")?.set(c"source", "tmpfs")?.set(c"mode", "0555")?.set(c"size", "4k")?;
    mount::attach(empty.mount(DATA | MOUNT_ATTR_RDONLY)?.as_fd(), target.as_fd())
}

/// Puts files of the agent's own in the place of those of `/etc` that tell of the machine or its people. Back come those
/// of the host's name and of hosts, for init to write: the agent reads them, and has them read-only. `work` is where they
/// are mounted until this process leaves its root. `resolver` is how the machine resolves names, for agents in its network.
pub fn own_etc(
    root: BorrowedFd<'_>,
    work: BorrowedFd<'_>,
    ids: Identity,
    resolver: Option<&[u8]>,
) -> Result<[OwnedFd; 2], StepError> {
    let step = "making files of the agent's own in /etc";
    let files = Filesystem::new(c"tmpfs")
        .and_then(|files| {
            files.set(c"source", "tmpfs")?.set(c"mode", "0755")?.set(c"size", "64k")?.mount(DATA)
        })
        .step(step)?;
    mount::attach(files.as_fd(), work).step(step)?;
    let Identity { uid, gid } = ids;
    let asking = format!("nameserver {NAMESERVER}\noptions timeout:2 attempts:2\n");
    let users = format!(
        "root:x:0:0:root:/:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n\
         agent:x:{uid}:{gid}::{HOME}:/bin/sh\n"
    );
    let groups = format!("root:x:0:\ntty:x:5:\nnogroup:x:65534:\nagent:x:{gid}:\n");
    let text = |name: &CStr| match name.to_bytes() {
        b"resolv.conf" => resolver.unwrap_or(asking.as_bytes()),
        b"passwd" => users.as_bytes(),
        b"group" => groups.as_bytes(),
        _ => &[],
    };
    let create = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    let mut for_init = Vec::new();
    for name in OWN_ETC {
        let file = sys::open_at(files.as_fd(), name, create, 0o644).step(step)?;
        sys::write_all(file.as_fd(), text(name)).step(step)?;
        if matches!(name.to_bytes(), b"hostname" | b"hosts") {
            for_init.push(file);
        }
        let path = CString::new([b"etc/", name.to_bytes()].concat()).expect("no NUL in a constant");
        // The name itself, also where it is a link: nothing of the machine's is followed.
        let target = match sys::open_at(root, &path, libc::O_PATH | libc::O_NOFOLLOW, 0) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            found => found.step(step)?,
        };
        let attach = || {
            let copy = mount::copy_tree(files.as_fd(), name, false)?;
            let set = DATA | MOUNT_ATTR_RDONLY;
            mount::change(copy.as_fd(), Change { set, ..Change::default() })?;
            mount::attach(copy.as_fd(), target.as_fd())
        };
        attach().step(step)?;
    }
    <[OwnedFd; 2]>::try_from(for_init).map_err(|_| StepError::new(step, "two of them are init's"))
}

/// Makes what init is to put files into: it may make nothing in `/run`.
pub fn own_run(run: BorrowedFd<'_>, ids: Identity) -> Result<(), StepError> {
    for (name, mode) in OWN_RUN {
        sys::mkdir_at(run, name, mode)
            .and_then(|()| sys::chown_at(run, name, ids.uid, ids.gid))
            .step("making places of the agent's own in /run")?;
    }
    Ok(())
}

/// The OS user of a range.
pub fn os_user(base_uid: u32) -> Identity {
    Identity { uid: base_uid + AGENT_ID, gid: base_uid + AGENT_ID }
}
