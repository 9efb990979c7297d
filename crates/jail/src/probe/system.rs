//! Attempts of an agent that is an OS user on the machine's own system.

use super::word::{NULL, call};
use super::{Prober, Seen, files, refused, refused_or};
use crate::layout::ID_COUNT;
use libc::*;
use std::ffi::CStr;
use std::fs;
use std::io;

pub fn attempts(prober: &mut Prober<'_>) {
    users(prober);
    system(prober);
    prober.attempt("tmp-own", |outside| match (files::identity("/tmp"), outside.tmp) {
        (Ok(own), Some(host)) => Seen::expect(own != host, "it is another directory than the host's"),
        _ => Seen::unclear("cannot tell which directory /tmp is"),
    });
}

fn users(prober: &mut Prober<'_>) {
    prober.attempt("os-user-ids", |_| {
        let ids = || -> io::Result<Vec<u32>> {
            let (mut uids, mut gids) = ([[0u32; 3]; 1], [[0u32; 3]; 1]);
            let ([[a, b, c]], [[d, e, f]]) = (&mut uids, &mut gids);
            // SAFETY: six pointers to one id each.
            unsafe {
                crate::sys::check(getresuid(a, b, c).into())?;
                crate::sys::check(getresgid(d, e, f).into())?;
            }
            Ok([uids, gids].concat().concat())
        };
        match ids() {
            Ok(ids) => Seen::expect(ids.iter().all(|id| *id >= ID_COUNT), format!("{ids:?}")),
            Err(error) => Seen::unclear(error.to_string()),
        }
    });
    prober.attempt("os-user-root", |_| refused(call!(SYS_setresuid, 0, 0, 0)));
    prober.attempt("os-user-group", |_| refused(call!(SYS_setresgid, 0, 0, 0)));
    prober.attempt("os-user-groups", |_| refused(call!(SYS_setgroups, 0, NULL)));
}

/// Makes a file, which goes at once if that worked.
fn no_file(directory: &CStr) -> Seen {
    let made = crate::sys::open(directory, O_PATH | O_DIRECTORY).and_then(|directory| {
        let name = c".cofferdam-probe-file";
        let made = call!(SYS_openat, &directory, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0o600);
        if made.is_ok() {
            let _ = crate::sys::unlink_at(std::os::fd::AsFd::as_fd(&directory), name, 0);
        }
        made
    });
    refused_or(&[EROFS, ENOENT], made)
}

/// Names in a directory besides these.
fn nothing_but(path: &str, known: &[&str]) -> Seen {
    match fs::read_dir(path) {
        Ok(entries) => {
            let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
            match names.into_iter().find(|name| !known.contains(&name.as_str())) {
                None => Seen::held("nothing of others is there"),
                Some(name) => Seen::broken(format!("{name} is there")),
            }
        }
        Err(error) => refused_or(&[ENOENT, ENOTDIR], Err(error)),
    }
}

/// The first that shows something counts.
fn all(seen: impl IntoIterator<Item = Seen>) -> Seen {
    let held = |seen: &Seen| seen.0 == super::Outcome::Held;
    let mut last = Seen::held("");
    for one in seen {
        last = one;
        if !held(&last) {
            break;
        }
    }
    last
}

fn system(prober: &mut Prober<'_>) {
    prober.attempt("system-change-file", |_| {
        files::all_closed([c"/etc/passwd", c"/etc/hosts", c"/etc/ld.so.cache", c"/etc/fstab"].into_iter())
    });
    prober.attempt("system-make-file", |_| {
        all([c"/", c"/etc", c"/usr", c"/usr/bin", c"/usr/local/bin", c"/opt", c"/home", c"/var", c"/run"]
            .map(no_file))
    });
    prober.attempt("system-passwords", |_| {
        let read =
            |path: &CStr| refused_or(&[ENOENT], call!(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0));
        all([c"/etc/shadow", c"/etc/gshadow", c"/etc/sudoers"].map(read))
    });
    prober.attempt("system-homes", |_| all([nothing_but("/home", &["agent"]), nothing_but("/root", &[])]));
    prober.attempt("system-data", |_| {
        let others = [
            "/srv",
            "/mnt",
            "/media",
            "/boot",
            "/etc/cofferdam",
            "/var/lib/cofferdam",
            "/var/lib",
            "/var/log",
        ];
        all(others.map(|path| nothing_but(path, &[])))
    });
    prober.attempt("system-setuid", |_| match fs::read_to_string("/proc/self/mountinfo") {
        Ok(text) => {
            // Field 6 are the options of the mount.
            let options = |line: &str| {
                line.split(' ').nth(5).map(|options| options.split(',').any(|one| one == "nosuid"))
            };
            let without = text.lines().find(|line| options(line) != Some(true));
            Seen::expect(without.is_none(), without.unwrap_or("setuid counts in no mount"))
        }
        Err(error) => Seen::unclear(error.to_string()),
    });
}
