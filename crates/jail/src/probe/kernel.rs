//! Attempts on system calls: those that a filter has to refuse, and those that take a capability.

use super::word::{NULL, call};
use super::{Prober, Seen, refused, refused_or};
use crate::layout::{INIT_CAPABILITY, ROOT_CAPABILITIES};
use crate::sys::process;
use libc::*;

const CLONE3: c_long = 435;
const STATMOUNT: c_long = 457;
const LISTMOUNT: c_long = 458;
const FSCRYPT_SET_POLICY: u32 = 0x800c_6613;
const FIFREEZE: u32 = 0xc004_5877;
const TIOCSETD: u32 = 0x5423;
const TIOCLINUX: u32 = 0x541c;
const READ_IMPLIES_EXEC: u32 = 0x040_0000;

pub fn attempts(prober: &mut Prober<'_>) {
    privileges(prober);
    filter(prober);
    keys(prober);
    machine(prober);
    other_tables(prober);
}

fn privileges(prober: &mut Prober<'_>) {
    prober.attempt("privileges-no-new", |_| match process::control(PR_GET_NO_NEW_PRIVS, 0) {
        Ok(value) => Seen::expect(value == 1, format!("PR_GET_NO_NEW_PRIVS is {value}")),
        Err(error) => Seen::unclear(error.to_string()),
    });
    prober.attempt("privileges-ambient", |_| {
        refused(call!(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21, 0, 0))
    });
    prober.attempt("privileges-securebits", |_| {
        refused(call!(SYS_prctl, PR_SET_SECUREBITS, SECBIT_NOROOT, 0, 0, 0))
    });
    prober.attempt("capabilities-set", |_| {
        // Version 3: effective, permitted, inheritable, and their upper halves.
        let all = u64::from(u32::MAX);
        let wanted = [all | all << 32, all, 0x1ff | 0x1ff << 32, 0];
        let packed = [wanted[0], wanted[1] | (wanted[2] & all) << 32, 0x1ff];
        refused(call!(SYS_capset, &[0x2008_0522u64], &packed))
    });
    prober.attempt("capabilities-bounding", |_| {
        let allowed = |bit: &u8| ROOT_CAPABILITIES.contains(bit) || *bit == INIT_CAPABILITY;
        let has = |bit: &u8| matches!(process::control(PR_CAPBSET_READ, u64::from(*bit)), Ok(1));
        match (0..64u8).filter(has).find(|bit| !allowed(bit)) {
            None => Seen::held("nothing but what package managers need"),
            Some(bit) => Seen::broken(format!("capability {bit} is in the bounding set")),
        }
    });
}

fn filter(prober: &mut Prober<'_>) {
    prober.attempt("seccomp-mode", |_| match process::control(PR_GET_SECCOMP, 0) {
        Ok(mode) => Seen::expect(mode == 2, format!("PR_GET_SECCOMP is {mode}")),
        Err(error) => Seen::unclear(error.to_string()),
    });
    prober.attempt("seccomp-listener", |_| {
        // One filter that allows everything, whose questions we would answer.
        let instruction = [0x7fff_0000_0000_0006u64];
        let program = [1u64, (&raw const instruction) as u64];
        refused_or(&[EBUSY], call!(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 8, &program))
    });
    prober.attempt("seccomp-io-uring-setup", |_| refused(call!(SYS_io_uring_setup, 1, NULL)));
    prober.attempt("seccomp-io-uring-enter", |_| refused(call!(SYS_io_uring_enter, -1, 0, 0, 0, NULL, 0)));
    prober.attempt("seccomp-io-uring-register", |_| refused(call!(SYS_io_uring_register, -1, 0, NULL, 0)));
    prober.attempt("seccomp-bpf-map", |_| refused(call!(SYS_bpf, 0, &[0u64; 9], 72)));
    prober.attempt("seccomp-bpf-program", |_| refused(call!(SYS_bpf, 5, &[0u64; 9], 72)));
    prober.attempt("seccomp-userfaultfd", |_| refused(call!(SYS_userfaultfd, O_CLOEXEC | 1)));
    prober.attempt("seccomp-perf-event", |_| refused(call!(SYS_perf_event_open, &[0u64; 16], 0, -1, -1, 0)));
    prober.attempt("seccomp-clone3", |_| refused(call!(CLONE3, &[0u64; 11], 0)));
    prober.attempt("seccomp-unshare", |_| refused(call!(SYS_unshare, CLONE_FILES)));
    prober.attempt("seccomp-open-tree", |_| {
        refused(call!(super::namespaces::OPEN_TREE, AT_FDCWD, c"/", O_CLOEXEC))
    });
    prober.attempt("seccomp-kcmp", |_| {
        let pid = std::process::id();
        refused(call!(SYS_kcmp, pid, pid, 0, 0, 0))
    });
    prober.attempt("seccomp-memfd-secret", |_| refused(call!(SYS_memfd_secret, 0)));
    prober.attempt("seccomp-mbind", |_| refused(call!(SYS_mbind, NULL, 0, 0, NULL, 0, 0)));
    prober.attempt("seccomp-mempolicy", |_| refused(call!(SYS_set_mempolicy, 0, NULL, 0)));
    prober.attempt("seccomp-migrate-pages", |_| refused(call!(SYS_migrate_pages, 0, 0, NULL, NULL)));
    prober.attempt("seccomp-move-pages", |_| refused(call!(SYS_move_pages, 0, 0, NULL, NULL, NULL, 0)));
    prober.attempt("seccomp-fanotify", |_| refused(call!(SYS_fanotify_init, 0x200, 0)));
    prober.attempt("seccomp-open-by-handle", |_| {
        // A handle of eight bytes, of the kind inode and generation: inode 2, a root's.
        refused(call!(SYS_open_by_handle_at, AT_FDCWD, &[8 | 1 << 32, 2u64], O_RDONLY))
    });
    prober.attempt("seccomp-personality", |_| refused(call!(SYS_personality, READ_IMPLIES_EXEC)));
    prober.attempt("seccomp-mount-list", |_| refused(call!(LISTMOUNT, &[0u64; 4], NULL, 0, 0)));
    prober.attempt("seccomp-mount-status", |_| refused(call!(STATMOUNT, &[0u64; 4], NULL, 0, 0)));
    prober.attempt("seccomp-io-setup", |_| refused(call!(SYS_io_setup, 1, NULL)));
    prober.attempt("seccomp-ofd-lock", |_| refused_or(&[EINVAL], call!(SYS_fcntl, 0, F_OFD_SETLK, NULL)));
    prober.attempt("seccomp-terminal-input", |_| refused(call!(SYS_ioctl, -1, TIOCSTI as u32, c"x")));
    prober.attempt("seccomp-terminal-line", |_| refused(call!(SYS_ioctl, -1, TIOCSETD, &[0u64])));
    prober.attempt("seccomp-console", |_| refused(call!(SYS_ioctl, -1, TIOCLINUX, &[6u64])));
    prober.attempt("seccomp-encryption-policy", |_| {
        refused(call!(SYS_ioctl, -1, FSCRYPT_SET_POLICY, &[0u64; 2]))
    });
}

fn keys(prober: &mut Prober<'_>) {
    prober.attempt("seccomp-add-key", |_| refused(call!(SYS_add_key, NULL, NULL, NULL, 0, 0)));
    prober.attempt("seccomp-request-key", |_| refused(call!(SYS_request_key, NULL, NULL, NULL, 0)));
    // KEYCTL_GET_KEYRING_ID of the session's, which is not made for it.
    prober.attempt("seccomp-keyctl", |_| refused(call!(SYS_keyctl, 0, -3, 0)));
}

/// What is the machine's. All check the privilege before the arguments, of which at least one is wrong.
fn machine(prober: &mut Prober<'_>) {
    prober.attempt("capabilities-module-file", |_| refused(call!(SYS_finit_module, -1, c"", 0)));
    prober.attempt("capabilities-module-load", |_| refused(call!(SYS_init_module, NULL, 0, c"")));
    prober.attempt("capabilities-module-unload", |_| {
        refused(call!(SYS_delete_module, c"cofferdam_probe_none", O_NONBLOCK))
    });
    prober.attempt("capabilities-kexec", |_| refused(call!(SYS_kexec_load, 0, 0, NULL, 0xffffu32)));
    prober.attempt("capabilities-kexec-file", |_| {
        refused(call!(SYS_kexec_file_load, -1, -1, 0, NULL, 0xffffu32))
    });
    // Magic numbers that are none.
    prober.attempt("capabilities-reboot", |_| refused(call!(SYS_reboot, 0, 0, 0, NULL)));
    prober.attempt("capabilities-swap-on", |_| refused(call!(SYS_swapon, c"/proc/self/none", 0)));
    prober.attempt("capabilities-swap-off", |_| refused(call!(SYS_swapoff, c"/proc/self/none")));
    prober.attempt("capabilities-accounting", |_| refused(call!(SYS_acct, c"/proc/self/none")));
    prober.attempt("capabilities-clock", |_| refused(call!(SYS_settimeofday, NULL, NULL)));
    prober.attempt("capabilities-kernel-log", |_| refused(call!(SYS_syslog, 10, NULL, 0)));
    // Every filesystem refuses it that cannot be frozen, and procfs cannot.
    prober.attempt("capabilities-freeze", |_| match call!(SYS_openat, AT_FDCWD, c"/proc", O_RDONLY, 0) {
        Ok(proc) => refused(call!(SYS_ioctl, proc, FIFREEZE, NULL)),
        Err(error) => Seen::unclear(error.to_string()),
    });
}

#[cfg(target_arch = "x86_64")]
fn other_tables(prober: &mut Prober<'_>) {
    prober.attempt("capabilities-io-level", |_| refused(call!(SYS_iopl, 3)));
    prober.attempt("capabilities-io-ports", |_| refused(call!(SYS_ioperm, 0x80, 1, 1)));
    prober.attempt("seccomp-modify-ldt", |_| refused(call!(SYS_modify_ldt, 0, NULL, 0)));
    // getpid in the table of x32.
    prober.attempt("seccomp-x32", |_| refused(call!(0x4000_0000 | SYS_getpid)));
    prober.attempt("seccomp-i386", |_| {
        let result: i64;
        // SAFETY: getpid of the i386 table takes no arguments; a kernel without that table ends this child by a signal.
        unsafe {
            std::arch::asm!("int 0x80", inlateout("rax") 20i64 => result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        Seen::broken(format!("answered {result}"))
    });
}

#[cfg(not(target_arch = "x86_64"))]
fn other_tables(prober: &mut Prober<'_>) {
    for id in [
        "capabilities-io-level",
        "capabilities-io-ports",
        "seccomp-modify-ldt",
        "seccomp-x32",
        "seccomp-i386",
    ] {
        prober.attempt(id, |_| Seen::unsupported("this architecture has no such call"));
    }
}
