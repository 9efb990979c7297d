//! The compiled program is run, by the few instructions of BPF that it is made of.

use super::bpf::{ARCHITECTURE, FOREIGN_TABLE, Rule};
use super::table::{NEWEST, Profile, rules};
use super::*;
use libc::*;

const ALLOWED: u32 = SECCOMP_RET_ALLOW;
const KILLED: u32 = SECCOMP_RET_KILL_PROCESS;

fn fails(number: i32) -> u32 {
    SECCOMP_RET_ERRNO | number as u32
}

/// A machine for the program: one accumulator over `struct seccomp_data`.
fn run(filter: &Filter, arch: u32, number: u32, args: [u64; 6]) -> (u32, usize) {
    let mut data = vec![];
    data.extend(number.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend(0u64.to_le_bytes());
    args.iter().for_each(|arg| data.extend(arg.to_le_bytes()));
    let (mut at, mut accumulator, mut steps) = (0usize, 0u32, 0usize);
    loop {
        let line = &filter.0[at];
        (at, steps) = (at + 1, steps + 1);
        let jump = |taken: bool| usize::from(if taken { line.jt } else { line.jf });
        match u32::from(line.code) {
            code if code == BPF_LD | BPF_W | BPF_ABS => {
                let offset = line.k as usize;
                accumulator = u32::from_le_bytes(data[offset..offset + 4].try_into().unwrap());
            }
            code if code == BPF_JMP | BPF_JEQ | BPF_K => at += jump(accumulator == line.k),
            code if code == BPF_JMP | BPF_JGE | BPF_K => at += jump(accumulator >= line.k),
            code if code == BPF_JMP | BPF_JSET | BPF_K => at += jump(accumulator & line.k != 0),
            code if code == BPF_JMP | BPF_JA => at += line.k as usize,
            code if code == BPF_RET | BPF_K => return (line.k, steps),
            code => panic!("no such instruction: {code:#x}"),
        }
    }
}

#[track_caller]
fn check(number: c_long, args: [u64; 6], expected: u32) {
    let filter = Filter::new(Profile::Agent);
    assert_eq!(run(&filter, ARCHITECTURE, number as u32, args).0, expected, "call {number} with {args:x?}");
}

fn args<const N: usize>(given: [u64; N]) -> [u64; 6] {
    std::array::from_fn(|index| given.get(index).copied().unwrap_or(0))
}

#[test]
fn every_number_gets_the_verdict_of_the_table() {
    for profile in [Profile::Agent, Profile::Service, Profile::Client] {
        let (filter, rules) = (Filter::new(profile), rules(profile));
        for number in 0..NEWEST + 50 {
            let verdict = run(&filter, ARCHITECTURE, number, [0; 6]).0;
            match rules.get(&number) {
                Some(Rule::Return(super::bpf::Verdict::Allow)) => assert_eq!(verdict, ALLOWED, "{number}"),
                Some(_) => {}
                None if number <= NEWEST => assert_eq!(verdict, fails(EPERM), "{number}"),
                None => assert_eq!(verdict, fails(ENOSYS), "{number}"),
            }
        }
    }
}

#[test]
fn foreign_tables_end_the_process() {
    let filter = Filter::new(Profile::Agent);
    assert_eq!(run(&filter, 0x4000_0003, 1, [0; 6]).0, KILLED, "i386");
    assert_eq!(run(&filter, ARCHITECTURE, FOREIGN_TABLE | SYS_read as u32, [0; 6]).0, KILLED, "x32");
    assert_eq!(run(&filter, ARCHITECTURE, u32::MAX, [0; 6]).0, KILLED);
}

#[test]
fn the_search_is_short() {
    let filter = Filter::new(Profile::Agent);
    assert!(filter.0.len() < 600, "{} instructions", filter.0.len());
    let longest = (0..NEWEST).map(|number| run(&filter, ARCHITECTURE, number, [1; 6]).1).max().unwrap();
    assert!(longest <= 30, "{longest} steps");
}

#[test]
fn what_must_not_be_reached() {
    for number in [
        SYS_unshare,
        SYS_setns,
        SYS_mount,
        SYS_umount2,
        SYS_pivot_root,
        SYS_move_mount,
        SYS_fsopen,
        SYS_open_tree,
        SYS_mount_setattr,
        SYS_io_uring_setup,
        SYS_io_uring_enter,
        SYS_bpf,
        SYS_userfaultfd,
        SYS_perf_event_open,
        SYS_add_key,
        SYS_keyctl,
        SYS_request_key,
        SYS_init_module,
        SYS_finit_module,
        SYS_delete_module,
        SYS_kexec_load,
        SYS_reboot,
        SYS_swapon,
        SYS_syslog,
        SYS_open_by_handle_at,
        SYS_quotactl,
        SYS_acct,
        SYS_settimeofday,
        SYS_clock_settime,
        SYS_sethostname,
        SYS_fanotify_init,
    ] {
        check(number, [0; 6], fails(EPERM));
    }
    check(SYS_clone3, [0; 6], fails(ENOSYS));
}

#[test]
fn clone_makes_threads_and_processes_and_no_namespaces() {
    check(SYS_clone, args([SIGCHLD as u64]), ALLOWED);
    let thread = CLONE_VM | CLONE_THREAD | CLONE_SIGHAND;
    check(SYS_clone, args([(thread | CLONE_FILES) as u64]), ALLOWED);
    check(SYS_clone, args([thread as u64]), fails(EPERM));
    check(SYS_close_range, args([3, 9, CLOSE_RANGE_CLOEXEC as u64]), ALLOWED);
    check(SYS_close_range, args([3, 9, CLOSE_RANGE_UNSHARE as u64]), fails(EINVAL));
    for flag in
        [CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWCGROUP]
    {
        check(SYS_clone, args([(flag | SIGCHLD) as u64]), fails(EPERM));
        check(SYS_clone, args([flag as u64 | 1 << 40]), fails(EPERM));
    }
}

#[test]
fn sockets_of_four_families() {
    let stream = SOCK_STREAM as u64;
    for family in [AF_UNIX, AF_INET, AF_INET6] {
        check(SYS_socket, args([family as u64, stream, 0]), ALLOWED);
    }
    check(SYS_socket, args([AF_INET as u64, stream, IPPROTO_TCP as u64]), ALLOWED);
    check(SYS_socket, args([AF_INET6 as u64, 2, IPPROTO_UDP as u64]), ALLOWED);
    let netlink = args([AF_NETLINK as u64, 3, NETLINK_ROUTE as u64]);
    check(SYS_socket, netlink, SECCOMP_RET_USER_NOTIF);
    for protocol in [IPPROTO_SCTP, IPPROTO_RAW, IPPROTO_MPTCP, IPPROTO_UDPLITE] {
        check(SYS_socket, args([AF_INET as u64, stream, protocol as u64]), fails(EPROTONOSUPPORT));
    }
    for protocol in [NETLINK_NETFILTER, NETLINK_AUDIT, NETLINK_GENERIC, NETLINK_KOBJECT_UEVENT] {
        check(SYS_socket, args([AF_NETLINK as u64, 3, protocol as u64]), fails(EPROTONOSUPPORT));
    }
    for family in [AF_VSOCK, AF_PACKET, AF_ALG, AF_BLUETOOTH, AF_CAN, AF_TIPC, AF_XDP, 0] {
        check(SYS_socket, args([family as u64, stream, 0]), fails(EAFNOSUPPORT));
    }
    check(SYS_socket, args([AF_VSOCK as u64 | 1 << 32, stream, 0]), fails(EAFNOSUPPORT));
    check(SYS_socketpair, args([AF_UNIX as u64, stream]), ALLOWED);
    check(SYS_socketpair, args([AF_TIPC as u64, stream]), fails(EAFNOSUPPORT));
}

#[test]
fn arguments_of_the_rest() {
    for lock in [F_SETLK, F_SETLKW] {
        check(SYS_fcntl, args([0, lock as u64]), SECCOMP_RET_USER_NOTIF);
    }
    for lock in [F_OFD_SETLK, F_OFD_SETLKW, F_OFD_GETLK] {
        check(SYS_fcntl, args([0, lock as u64]), fails(EINVAL));
    }
    check(SYS_fcntl, args([0, F_GETLK as u64]), ALLOWED);
    check(SYS_fcntl, args([0, F_SETFD as u64]), ALLOWED);
    check(SYS_ioctl, args([0, TIOCGWINSZ]), ALLOWED);
    check(SYS_ioctl, args([0, TIOCSTI]), fails(EPERM));
    check(SYS_ioctl, args([0, TIOCSTI | 1 << 32]), fails(EPERM));
    check(SYS_ioctl, args([0, TIOCLINUX]), fails(EPERM));
    for request in [0x800c_6613, 0xc050_6617, 0xc040_6618, 0xc040_6619] {
        check(SYS_ioctl, args([0, request]), fails(EPERM));
    }
    check(SYS_personality, args([0]), ALLOWED);
    check(SYS_personality, args([0xffff_ffff]), ALLOWED);
    check(SYS_personality, args([ADDR_NO_RANDOMIZE as u64]), ALLOWED);
    check(SYS_personality, args([READ_IMPLIES_EXEC as u64]), fails(EPERM));
    check(SYS_mknodat, args([0, 0, (S_IFIFO | 0o600) as u64]), ALLOWED);
    check(SYS_mknodat, args([0, 0, (S_IFREG | 0o600) as u64]), ALLOWED);
    check(SYS_mknodat, args([0, 0, (S_IFCHR | 0o600) as u64]), fails(EPERM));
    check(SYS_mknodat, args([0, 0, (S_IFBLK | 0o600) as u64]), fails(EPERM));
    check(SYS_prlimit64, args([0, RLIMIT_CORE as u64, 0, 1]), ALLOWED);
    check(SYS_prlimit64, args([0, RLIMIT_CORE as u64, 1 << 40, 0]), fails(0));
    check(SYS_prlimit64, args([0, RLIMIT_NOFILE as u64, 1 << 40, 0]), ALLOWED);
    check(SYS_setrlimit, args([RLIMIT_CORE as u64]), fails(0));
}

#[test]
fn the_last_step_in_is_the_only_namespace_entered() {
    check(SYS_setns, args([9, CLONE_NEWUSER as u64]), ALLOWED);
    for kind in [0, CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWUSER | CLONE_NEWNS] {
        check(SYS_setns, args([9, kind as u64]), fails(EPERM));
    }
}

#[test]
fn services_get_little() {
    let filter = Filter::new(Profile::Service);
    let check = |number: c_long, args: [u64; 6], expected: u32| {
        assert_eq!(
            run(&filter, ARCHITECTURE, number as u32, args).0,
            expected,
            "call {number} with {args:x?}"
        );
    };
    for number in
        [SYS_ptrace, SYS_pivot_root, SYS_bpf, SYS_setns, SYS_unshare, SYS_io_uring_setup, SYS_keyctl]
    {
        check(number, [0; 6], KILLED);
    }
    for number in [SYS_kill, SYS_unlinkat, SYS_setresuid, SYS_memfd_create, SYS_bind, SYS_seccomp, SYS_shmget]
    {
        check(number, [0; 6], fails(EPERM));
    }
    let stream = SOCK_STREAM as u64;
    check(SYS_socket, args([AF_UNIX as u64, stream]), ALLOWED);
    for family in [AF_INET, AF_INET6, AF_NETLINK, AF_VSOCK] {
        check(SYS_socket, args([family as u64, stream]), fails(EPERM));
    }
    check(SYS_clone, args([SIGCHLD as u64]), fails(EPERM));
    check(SYS_clone, args([(CLONE_VM | CLONE_THREAD | CLONE_SIGHAND) as u64]), ALLOWED);
    check(SYS_clone, args([(CLONE_THREAD | CLONE_NEWNET) as u64]), fails(EPERM));
    let (read, write, execute) = (PROT_READ as u64, PROT_WRITE as u64, PROT_EXEC as u64);
    let (private, anonymous) = (MAP_PRIVATE as u64, MAP_ANONYMOUS as u64);
    check(SYS_mmap, args([0, 0, read | write, private | anonymous]), ALLOWED);
    check(SYS_mmap, args([0, 0, read | execute, private]), ALLOWED);
    check(SYS_mmap, args([0, 0, read | execute, MAP_SHARED as u64]), fails(EPERM));
    check(SYS_mmap, args([0, 0, read | execute, private | anonymous]), fails(EPERM));
    check(SYS_mmap, args([0, 0, write | execute, private]), fails(EPERM));
    check(SYS_mprotect, args([0, 0, read | execute]), fails(EPERM));
    check(SYS_mprotect, args([0, 0, read]), ALLOWED);
    check(SYS_prctl, args([PR_SET_DUMPABLE as u64, 0]), ALLOWED);
    check(SYS_prctl, args([PR_SET_DUMPABLE as u64, 1]), fails(EPERM));
    check(SYS_prctl, args([PR_SET_MM as u64, 1]), fails(EPERM));
    check(SYS_fcntl, args([0, F_DUPFD_CLOEXEC as u64]), ALLOWED);
    check(SYS_fcntl, args([0, F_SETOWN as u64]), fails(EPERM));
    check(SYS_ioctl, args([0, TIOCSTI]), fails(EPERM));
}

#[test]
fn init_can_be_executed_under_it() {
    check(SYS_execveat, [0; 6], ALLOWED);
}
