"""Attempts to leave the boundary, made from inside it.

Run as `python3 - NAME` inside an agent, as `agent` and as root. Each attempt really tries: it calls the kernel,
and prints what the kernel said. Exit 0: held, 1: something got through (printed on stdout), 2: the attempt itself
is broken. Nothing here does harm where it succeeds on a machine that is not ours to harm: what could is tried
with arguments that the kernel refuses after it has checked the permission.
"""
import ctypes
import errno
import fcntl
import mmap
import os
import resource
import signal
import socket
import struct
import sys
import tempfile

libc = ctypes.CDLL(None, use_errno=True)
MACHINE = os.uname().machine
X86 = MACHINE == "x86_64"


def nr(x86, arm):
    return x86 if X86 else arm


def call(number, *args):
    """One system call. Returns (result, errno)."""
    ctypes.set_errno(0)
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = libc.syscall(ctypes.c_long(number), *wide)
    return result, ctypes.get_errno()


leaks = []


def refuse(what, number, *args, also=()):
    """The call must fail for want of permission: EPERM, ENOSYS, EACCES, or one named in `also`."""
    result, error = call(number, *args)
    name = errno.errorcode.get(error, error)
    print(f"  {what}: {result} {name}")
    if result >= 0 or error not in (errno.EPERM, errno.ENOSYS, errno.EACCES, *also):
        leaks.append(f"{what}: result {result}, {name}")


def refused(what, function, also=()):
    """The function must raise OSError for want of permission."""
    try:
        got = function()
    except OSError as error:
        print(f"  {what}: {errno.errorcode.get(error.errno, error.errno)}")
        allowed = (errno.EPERM, errno.EACCES, errno.ENOENT, errno.EROFS, errno.ENOSYS, *also)
        if error.errno not in allowed:
            leaks.append(f"{what}: unexpected {error}")
        return
    leaks.append(f"{what}: succeeded ({got!r})")


def write(path, data=b"1"):
    def attempt():
        fd = os.open(path, os.O_WRONLY)
        try:
            if os.fstat(fd).st_rdev == os.makedev(1, 3):
                raise OSError(errno.EACCES, "nothing is behind it but /dev/null")
            os.write(fd, data)
        finally:
            os.close(fd)
        return path

    return attempt


def read(path, size=64):
    def attempt():
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            data = os.read(fd, size)
        finally:
            os.close(fd)
        if not data:
            raise OSError(errno.EACCES, "empty")
        return data

    return attempt


CLONE_NEW = {
    "time": 0x80, "mnt": 0x20000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000,
    "user": 0x10000000, "pid": 0x20000000, "net": 0x40000000,
}


def attack_mount():
    tmp = tempfile.mkdtemp()
    b = lambda text: ctypes.c_char_p(text.encode())
    mount, umount2 = nr(165, 40), nr(166, 39)
    refuse("mount tmpfs", mount, b("x"), b(tmp), b("tmpfs"), 0, 0)
    refuse("mount proc", mount, b("x"), b(tmp), b("proc"), 0, 0)
    refuse("mount sysfs", mount, b("x"), b(tmp), b("sysfs"), 0, 0)
    refuse("mount cgroup2", mount, b("x"), b(tmp), b("cgroup2"), 0, 0)
    refuse("bind mount", mount, b("/"), b(tmp), 0, 0x1000 | 0x4000, 0)
    refuse("remount /", mount, b("x"), b("/"), 0, 0x20, 0)
    refuse("remount /proc/sys read-write", mount, b("x"), b("/proc/sys"), 0, 0x1000 | 0x20, 0)
    refuse("remount /sys read-write", mount, b("x"), b("/sys"), 0, 0x1000 | 0x20, 0)
    refuse("make shared", mount, b("x"), b("/"), 0, 0x100000 | 0x4000, 0)
    for path in ("/proc", "/sys", "/dev", "/proc/kcore", "/proc/sys", "/home/agent", "/"):
        refuse(f"umount {path}", umount2, b(path), 2)
    refuse("pivot_root", nr(155, 41), b("."), b("."))
    refuse("fsopen", 430, b("tmpfs"), 0)
    refuse("open_tree clone", 428, -100, b("/"), 1)
    refuse("move_mount", 429, -100, b("/tmp"), -100, b("/home"), 0)
    refuse("fsmount", 432, -1, 0, 0)
    refuse("fspick", 433, -100, b("/"), 0)
    refuse("mount_setattr", 442, -100, b("/"), 0, 0, 0)
    refuse("chroot then mount", mount, b("x"), b("/tmp"), b("overlay"), 0, b("lowerdir=/,upperdir=/tmp,workdir=/tmp"))


def attack_namespaces():
    for name, flag in CLONE_NEW.items():
        refuse(f"unshare {name}", nr(272, 97), flag)
    for name, flag in CLONE_NEW.items():
        if name == "time":
            continue  # the old clone() reads this bit as a signal number
        # clone with a namespace flag; a child, if there is one, leaves at once.
        result, error = call(nr(56, 220), flag | signal.SIGCHLD, 0, 0, 0, 0)
        if result == 0:
            os._exit(0)
        print(f"  clone {name}: {result} {errno.errorcode.get(error, error)}")
        if result > 0 or error not in (errno.EPERM, errno.ENOSYS, errno.EINVAL):
            leaks.append(f"clone {name}: {result} {error}")
    args = (ctypes.c_uint64 * 11)(CLONE_NEW["user"], 0, 0, 0, signal.SIGCHLD)
    result, error = call(435, ctypes.byref(args), 88)
    if result == 0:
        os._exit(0)
    print(f"  clone3: {result} {errno.errorcode.get(error, error)}")
    if result > 0 or error != errno.ENOSYS:
        leaks.append(f"clone3: {result} {error}")
    for kind in ("user", "mnt", "net", "pid", "cgroup", "ipc", "uts"):
        try:
            fd = os.open(f"/proc/1/ns/{kind}", os.O_RDONLY)
        except OSError as error:
            print(f"  open /proc/1/ns/{kind}: {error.strerror}")
            fd = os.open(f"/proc/self/ns/{kind}", os.O_RDONLY)
        refuse(f"setns {kind}", nr(308, 268), fd, 0)
        # The filter lets the user namespace through, the way in of every boundary: the kernel refuses to enter one's own.
        refuse(f"setns {kind} by name", nr(308, 268), fd, CLONE_NEW[kind], also=(errno.EINVAL,) if kind == "user" else ())
        os.close(fd)


def attack_modules():
    refuse("init_module", nr(175, 105), 0, 0, ctypes.c_char_p(b""))
    refuse("finit_module", nr(313, 273), -1, ctypes.c_char_p(b""), 0)
    refuse("delete_module", nr(176, 106), ctypes.c_char_p(b"cofferdam_no_such"), 0)
    refuse("kexec_load", nr(246, 104), 0, 0, 0, 0)
    refuse("kexec_file_load", nr(320, 294), -1, -1, 0, 0, 0)
    refuse("reboot", nr(169, 142), 0, 0, 0, 0)
    refuse("swapon", nr(167, 224), ctypes.c_char_p(b"/none"), 0)
    refuse("acct", nr(163, 89), 0)
    refuse("quotactl", nr(179, 60), 0, 0, 0, 0)
    refuse("syslog", nr(103, 116), 3, 0, 0)
    if X86:
        refuse("iopl", 172, 3)
        refuse("ioperm", 173, 0x80, 1, 1)


def attack_kernel_interfaces():
    refuse("bpf", nr(321, 280), 0, ctypes.create_string_buffer(128), 128)
    refuse("perf_event_open", nr(298, 241), ctypes.create_string_buffer(128), 0, -1, -1, 0)
    refuse("userfaultfd", nr(323, 282), 0)
    refuse("userfaultfd, user mode only", nr(323, 282), 1)
    refuse("io_uring_setup", 425, 1, ctypes.create_string_buffer(120))
    refuse("io_uring_enter", 426, -1, 0, 0, 0, 0, 0)
    refuse("io_uring_register", 427, -1, 0, 0, 0)
    refuse("fanotify_init", nr(300, 262), 0, 0)
    refuse("open_by_handle_at", nr(304, 265), -100, ctypes.create_string_buffer(64), 0)
    refuse("name_to_handle_at", nr(303, 264), -100, ctypes.c_char_p(b"/"), ctypes.create_string_buffer(256), ctypes.create_string_buffer(8), 0, also=(errno.EOPNOTSUPP, errno.EOVERFLOW))
    refuse("lookup_dcookie", nr(212, 18), 0, 0, 0)
    refuse("open_by_handle_at of the mount", nr(304, 265), os.open("/", os.O_RDONLY), ctypes.create_string_buffer(64), 0)
    refuse("memfd_secret", 447, 0)
    refuse("quotactl_fd", 443, os.open("/", os.O_RDONLY), 0, 0, 0)
    refuse("statmount", 457, ctypes.create_string_buffer(64), ctypes.create_string_buffer(512), 512, 0)
    refuse("listmount", 458, ctypes.create_string_buffer(64), ctypes.create_string_buffer(512), 64, 0)
    refuse("lsm_get_self_attr", 459, 100, 0, ctypes.create_string_buffer(8), 0)
    refuse("listns", 470, ctypes.create_string_buffer(64), ctypes.create_string_buffer(64), 8, 0)
    refuse("file_getattr", 468, -100, ctypes.c_char_p(b"/"), ctypes.create_string_buffer(64), 64, 0)
    refuse("mbind", nr(237, 235), 0, 0, 0, 0, 0, 0)
    refuse("process_madvise of init", 440, os.pidfd_open(1), ctypes.create_string_buffer(16), 1, 20, 0, also=(errno.EINVAL,))
    refuse("pidfd_getfd of init", 438, os.pidfd_open(1), 3, 0)
    refuse("sethostname", nr(170, 161), ctypes.c_char_p(b"x"), 1)
    refuse("setdomainname", nr(171, 162), ctypes.c_char_p(b"x"), 1)
    refuse("settimeofday", nr(164, 170), ctypes.create_string_buffer(16), 0)
    refuse("clock_settime", nr(227, 112), 0, ctypes.create_string_buffer(16))
    refuse("clock_adjtime", nr(305, 266), 0, ctypes.create_string_buffer(256 * 2), also=())
    refuse("personality READ_IMPLIES_EXEC", nr(135, 92), 0x0400000)
    refuse("personality MMAP_PAGE_ZERO", nr(135, 92), 0x0100000)


def attack_keyrings():
    refuse("keyctl session keyring", nr(250, 219), 0, -3, 0)
    refuse("keyctl join session", nr(250, 219), 1, 0)
    refuse("add_key", nr(248, 217), ctypes.c_char_p(b"user"), ctypes.c_char_p(b"x"), ctypes.c_char_p(b"y"), 1, -3)
    refuse("request_key", nr(249, 218), ctypes.c_char_p(b"user"), ctypes.c_char_p(b"x"), 0, -3)


def attack_sockets():
    families = {
        "packet": (17, socket.SOCK_RAW, 0x0300), "raw ipv4": (2, socket.SOCK_RAW, 1), "raw ipv6": (10, socket.SOCK_RAW, 58),
        "vsock stream": (40, socket.SOCK_STREAM, 0), "vsock dgram": (40, socket.SOCK_DGRAM, 0),
        "alg": (38, socket.SOCK_SEQPACKET, 0), "key": (15, socket.SOCK_RAW, 2), "xdp": (44, socket.SOCK_RAW, 0),
        "bluetooth": (31, socket.SOCK_RAW, 1), "can": (29, socket.SOCK_RAW, 1), "tipc": (30, socket.SOCK_SEQPACKET, 0),
        "rds": (21, socket.SOCK_SEQPACKET, 0), "ax25": (3, socket.SOCK_DGRAM, 0), "smc": (43, socket.SOCK_STREAM, 0),
        "qipcrtr": (42, socket.SOCK_DGRAM, 0), "nfc": (39, socket.SOCK_SEQPACKET, 0), "kcm": (41, socket.SOCK_DGRAM, 0),
        "netlink netfilter": (16, socket.SOCK_RAW, 12), "netlink uevent": (16, socket.SOCK_RAW, 15),
        "netlink audit": (16, socket.SOCK_RAW, 9), "netlink generic": (16, socket.SOCK_RAW, 16),
        "netlink xfrm": (16, socket.SOCK_RAW, 6), "netlink sock_diag": (16, socket.SOCK_RAW, 4),
    }
    extra = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
    for name, (family, kind, protocol) in families.items():
        refuse(f"socket {name}", nr(41, 198), family, kind, protocol, also=extra)
    pair = (ctypes.c_int * 2)()
    refuse("socketpair vsock", nr(53, 199), 40, socket.SOCK_STREAM, 0, ctypes.byref(pair), also=extra)


def attack_devices():
    folder = tempfile.mkdtemp()
    for name, mode, device in (
        ("sda", 0o060600, os.makedev(8, 0)), ("loop0", 0o060600, os.makedev(7, 0)), ("vda", 0o060600, os.makedev(254, 0)),
        ("mem", 0o020600, os.makedev(1, 1)), ("kvm", 0o020600, os.makedev(10, 232)), ("loop-control", 0o020600, os.makedev(10, 237)),
    ):
        refused(f"mknod {name}", lambda: os.mknod(f"{folder}/{name}", mode, device))
    allowed = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"}
    for root, _, names in os.walk("/dev"):
        for name in names:
            path = os.path.join(root, name)
            mode = os.lstat(path).st_mode
            kind = mode & 0o170000
            if kind == 0o060000 or (kind == 0o020000 and name not in allowed and not root.startswith("/dev/pts")):
                leaks.append(f"device node {path}")
    for name in ("/dev/mem", "/dev/kmsg", "/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/loop-control", "/dev/vsock"):
        refused(f"open {name}", read(name))


def attack_proc():
    for path in (
        "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/drop_caches",
        "/proc/sys/kernel/hostname", "/proc/sys/kernel/ns_last_pid", "/proc/sys/kernel/panic", "/proc/sys/fs/binfmt_misc/register",
        "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/user/max_user_namespaces",
        "/proc/sys/kernel/yama/ptrace_scope", "/proc/irq/0/smp_affinity", "/proc/fs/ext4/x", "/proc/latency_stats", "/proc/timer_list",
        "/proc/1/setgroups", "/proc/1/uid_map", "/proc/self/uid_map", "/proc/1/mem", "/proc/1/attr/current",
    ):
        refused(f"write {path}", write(path), also=(errno.EINVAL, errno.EIO, errno.ESRCH))
    for path in ("/proc/kcore", "/proc/kmsg", "/proc/keys", "/proc/locks", "/proc/timer_list", "/proc/pressure/memory", "/proc/sched_debug", "/proc/1/environ", "/proc/1/mem", "/proc/1/maps", "/proc/1/syscall", "/proc/1/stack", "/proc/1/auxv"):
        refused(f"read {path}", read(path), also=(errno.EIO, errno.ESRCH))
    # Root inside owns these files of init: with them it can harm its own init, and nobody else.
    if os.getuid() != 0:
        for path in ("/proc/1/oom_score_adj", "/proc/1/clear_refs", "/proc/1/coredump_filter"):
            refused(f"write {path}", write(path))
        refused("list /proc/1/fd", lambda: os.listdir("/proc/1/fd"))
    for number in range(20):
        refused(f"open /proc/1/fd/{number}", read(f"/proc/1/fd/{number}"))
    for path in ("/proc/1/root/etc", "/proc/1/cwd/"):
        refused(f"list {path}", lambda: os.listdir(path))
    refused("exe of init", lambda: os.readlink("/proc/1/exe"))


def attack_sys():
    refused("list /sys/kernel/debug", lambda: os.listdir("/sys/kernel/debug")[0] if os.listdir("/sys/kernel/debug") else (_ for _ in ()).throw(OSError(errno.EACCES, "empty")))
    refused("list /sys/firmware", lambda: os.listdir("/sys/firmware")[0] if os.listdir("/sys/firmware") else (_ for _ in ()).throw(OSError(errno.EACCES, "empty")))
    tried = 0
    for root, folders, names in os.walk("/sys"):
        for name in names:
            path = os.path.join(root, name)
            if os.path.islink(path) or tried > 4000:
                continue
            tried += 1
            try:
                fd = os.open(path, os.O_WRONLY)
            except OSError:
                continue
            os.close(fd)
            leaks.append(f"{path} opens for writing")
    print(f"  {tried} files of /sys tried for writing")
    for path in ("/sys/kernel/uevent_helper", "/sys/power/state", "/sys/class/net/lo/mtu", "/sys/block"):
        refused(f"write {path}", write(path), also=(errno.EISDIR,))


def attack_cgroup():
    found = []
    for root, folders, names in os.walk("/sys/fs/cgroup"):
        found += [os.path.join(root, name) for name in names]
    for path in found:
        if os.path.basename(path) in ("release_agent", "notify_on_release", "cgroup.procs", "memory.max", "memory.limit_in_bytes", "pids.max", "devices.allow"):
            refused(f"write {path}", write(path))
    refused("mkdir in /sys/fs/cgroup", lambda: os.mkdir("/sys/fs/cgroup/escape"))
    b = lambda text: ctypes.c_char_p(text.encode())
    for kind, options in (("cgroup", "memory"), ("cgroup", "rdma"), ("cgroup2", "")):
        refuse(f"mount {kind} {options}", nr(165, 40), b("x"), b(tempfile.mkdtemp()), b(kind), 0, b(options))
    # The host's hierarchy must not be spelled out to the agent.
    for line in open("/proc/self/cgroup"):
        path = line.strip().split(":", 2)[2]
        print(f"  /proc/self/cgroup: {line.strip()}")
        if "cofferdam" in path:
            leaks.append(f"host cgroup path visible: {line.strip()}")


def attack_init():
    """Everything that one process can do to another, done to pid 1."""
    ptrace = nr(101, 117)
    for name, request in (("attach", 16), ("seize", 0x4206)):
        refuse(f"ptrace {name} init", ptrace, request, 1, 0, 0)
    for limit in (resource.RLIMIT_CPU, resource.RLIMIT_NOFILE, resource.RLIMIT_AS, resource.RLIMIT_FSIZE):
        refused(f"prlimit init {limit}", lambda: resource.prlimit(1, limit, (0, 0)))
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 8)
    refuse("process_vm_readv init", nr(310, 270), 1, ctypes.byref(vector), 1, ctypes.byref(vector), 1, 0)
    refuse("process_vm_writev init", nr(311, 271), 1, ctypes.byref(vector), 1, ctypes.byref(vector), 1, 0)
    pidfd, error = call(434, 1, 0)
    if pidfd >= 0:
        refuse("pidfd_getfd init", 438, pidfd, 3, 0)
    for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGALRM, signal.SIGPIPE):
        try:
            os.kill(1, number)
            print(f"  kill init {number}: delivered or ignored")
        except OSError as error:
            print(f"  kill init {number}: {error.strerror}")
    for name in ("sched_setscheduler", "setpriority"):
        print(f"  {name}: not of the boundary")
    refuse("kcmp", nr(312, 272), 1, os.getpid(), 0, 0, 0)
    refuse("migrate_pages init", nr(256, 238), 1, 0, 0, 0, also=(errno.ESRCH, errno.EINVAL))


def attack_outside_processes():
    """Nothing of the outside can be named: pids, process groups, sessions."""
    seen = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    print(f"  pids seen: {seen}")
    for pid in seen:
        try:
            line = open(f"/proc/{pid}/cmdline", "rb").read()
        except OSError:
            continue
        for word in (b"cofferdam control", b"cofferdam node", b"cofferdam gate", b"zygote", b"nextest"):
            if word in line.replace(b"\0", b" "):
                leaks.append(f"process of the outside: {pid} {line!r}")
    for pid in range(2, 32768):
        if pid not in seen:
            try:
                os.kill(pid, 0)
                if not os.path.exists(f"/proc/{pid}"):
                    leaks.append(f"pid {pid} answers and is not ours")
            except ProcessLookupError:
                pass
            except PermissionError:
                leaks.append(f"pid {pid} exists outside")
    parent = os.stat("/proc/1/ns/pid") if os.access("/proc/1/ns/pid", os.R_OK) else None
    print(f"  pid namespace of init: {parent}")


def attack_privileges():
    status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
    print("  " + ", ".join(f"{key}={status[key]}" for key in ("NoNewPrivs", "Seccomp", "CapEff", "CapPrm", "CapBnd", "CapAmb", "CapInh")))
    if status["NoNewPrivs"] != "1" or status["Seccomp"] != "2":
        leaks.append("no_new_privs or seccomp is off")
    forbidden = {"SYS_MODULE": 16, "SYS_RAWIO": 17, "SYS_PTRACE": 19, "SYS_PACCT": 20, "SYS_ADMIN": 21, "SYS_BOOT": 22, "SYS_NICE": 23,
                 "SYS_RESOURCE": 24, "SYS_TIME": 25, "MKNOD": 27, "LEASE": 28, "AUDIT_WRITE": 29, "AUDIT_CONTROL": 30, "NET_ADMIN": 12, "NET_RAW": 13, "IPC_LOCK": 14,
                 "LINUX_IMMUTABLE": 9, "DAC_READ_SEARCH": 2, "MAC_ADMIN": 33, "MAC_OVERRIDE": 32, "SYSLOG": 34, "WAKE_ALARM": 35, "BLOCK_SUSPEND": 36,
                 "AUDIT_READ": 37, "PERFMON": 38, "BPF": 39, "CHECKPOINT_RESTORE": 40}
    for which in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"):
        mask = int(status[which], 16)
        for name, bit in forbidden.items():
            if mask >> bit & 1:
                leaks.append(f"{which} has CAP_{name}")
    if os.getuid() != 0 and int(status["CapEff"], 16):
        leaks.append("the agent user has capabilities")
    # capset to everything
    header = struct.pack("II", 0x20080522, 0)
    data = struct.pack("IIIIII", *([0xFFFFFFFF] * 3), *([0x1FF] * 3))
    refuse("capset everything", nr(126, 91), ctypes.c_char_p(header), ctypes.create_string_buffer(data, len(data)))
    refuse("clear no_new_privs", nr(157, 167), 38, 0, 0, 0, 0, also=(errno.EINVAL,))
    refuse("seccomp off", nr(157, 167), 22, 0, 0, 0, 0, also=(errno.EINVAL,))
    # A filter that allows all, with a listener of its own: whoever answers could let calls pass. There is one already.
    allow = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(allow)))
    refuse("seccomp with a listener", nr(317, 277), 1, 8, ctypes.byref(program), also=(errno.EBUSY,))
    # Where its own program and stack are: for checkpoints, by those with CAP_SYS_RESOURCE.
    for option in range(1, 14):
        refuse(f"PR_SET_MM {option}", nr(157, 167), 35, option, 0x10000, 0, 0, also=(errno.EINVAL,))
    if os.getuid() != 0:
        refused("setuid 0", lambda: os.setuid(0))
        refused("setgid 0", lambda: os.setgid(0))
        refused("read /etc/shadow", read("/etc/shadow"))
        refused("write /etc/passwd", write("/etc/passwd"))
    refused("setresuid outside the map", lambda: os.setresuid(70000, 70000, 70000), also=(errno.EINVAL,))
    refused("chown outside the map", lambda: os.chown(tempfile.mkstemp()[1], 70000, 70000), also=(errno.EINVAL,))
    for setuid in ("/usr/bin/su", "/usr/bin/passwd", "/usr/bin/mount", "/bin/su"):
        if os.path.exists(setuid) and os.getuid() != 0:
            pid = os.fork()
            if pid == 0:
                os.dup2(os.open("/dev/null", os.O_RDWR), 2)
                os.execv(setuid, [setuid, "--version"])
            os.waitpid(pid, 0)


def attack_setuid_program():
    """A setuid root program gives a user nothing. Prepared by root inside, run by `agent`."""
    path = "/usr/local/bin/rootish"
    if os.getuid() == 0:
        import shutil
        shutil.copy("/usr/bin/id", path)
        os.chmod(path, 0o4755)
        pid = os.fork()
        if pid == 0:
            os.setgroups([])
            os.setgid(1000)
            os.setuid(1000)
            out = os.popen(path + " -u").read().strip()
            print(f"  setuid id says {out}", flush=True)
            os._exit(0 if out == "1000" else 1)
        if os.waitpid(pid, 0)[1]:
            leaks.append("a setuid program gave another user id")
        os.unlink(path)


def attack_leaks():
    """What the boundary is made of must not be told: host paths, descriptors, environment."""
    for name in ("/proc/self/mountinfo", "/proc/self/mounts", "/proc/mounts"):
        for line in open(name):
            for word in ("/var/lib", "cofferdam", "/run/", "/dev/loop", "/tmp/"):
                # The agent's own small tmpfs mounts have plain names.
                fields = line.split()
                if word in line and not (word == "/run/" and "/run " in line):
                    leaks.append(f"{name} tells {line.strip()}")
                    break
            del fields
    descriptors = []
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptors.append((int(name), os.readlink(f"/proc/self/fd/{name}")))
        except OSError:
            pass
    print(f"  descriptors: {descriptors}")
    for number, target in descriptors:
        if number > 2 and "/proc/" not in target:
            leaks.append(f"descriptor {number} is {target}")
    for key, value in os.environ.items():
        if "COFFERDAM" in key or "NOTIFY" in key or "LISTEN" in key:
            leaks.append(f"environment {key}={value}")
    uid_map = open("/proc/self/uid_map").read().split()
    print(f"  uid_map: {uid_map}")
    if uid_map[0] != "0" or uid_map[2] != "65536" or int(uid_map[1]) < 65536:
        leaks.append(f"uid map {uid_map}")


def attack_network():
    """Nothing is reachable but our own loopback, and the gate, which refuses."""
    # As an agent without a policy has it: REFUSED is all that DNS ever says.
    def is_refusal(answer):
        return len(answer) >= 12 and answer[2] & 0x80 and answer[3] & 15 == 5
    targets = [
        (socket.AF_INET, ("1.1.1.1", 443)), (socket.AF_INET, ("8.8.8.8", 53)), (socket.AF_INET, ("169.254.169.254", 80)),
        (socket.AF_INET, ("10.0.0.1", 22)), (socket.AF_INET, ("192.168.0.1", 80)), (socket.AF_INET, ("172.17.0.1", 80)),
        (socket.AF_INET6, ("2606:4700:4700::1111", 443)), (socket.AF_INET6, ("fe80::1", 80)), (socket.AF_INET6, ("fd00:ec2::254", 80)),
        (socket.AF_INET6, ("::ffff:1.1.1.1", 443)),
        (socket.AF_INET, ("127.0.0.1", 7700)), (socket.AF_INET, ("127.0.0.1", 7701)), (socket.AF_INET6, ("::1", 7700)),
    ]
    targets += [(socket.AF_INET, ("127.0.0.1", int(port))) for port in os.environ.get("HOST_PORTS", "").split(",") if port]
    for family, address in targets:
        with socket.socket(family, socket.SOCK_STREAM) as stream:
            stream.settimeout(3)
            def answered():
                stream.connect(address)
                # Whoever takes it is the gate: it closes it, and no byte comes back.
                stream.sendall(b"\xff\x00cofferdam\n")
                answer = stream.recv(512)
                if answer and not (address[1] == 53 and is_refusal(answer[2:])):
                    return answer
                raise OSError(errno.ECONNREFUSED, "closed")
            refused(f"connect {address}", answered, also=(None, errno.ECONNRESET, errno.EPIPE, errno.ENETUNREACH, errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EINVAL, errno.EADDRNOTAVAIL))
        with socket.socket(family, socket.SOCK_DGRAM) as datagram:
            datagram.settimeout(1)
            if not address[0].startswith("127.") and address[0] != "::1":
                def udp():
                    datagram.sendto(b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01", address)
                    answer = datagram.recv(512)
                    if address[1] == 53 and is_refusal(answer):
                        raise OSError(errno.ECONNREFUSED, "the gate refuses")
                    return answer
                refused(f"udp {address}", udp, also=(errno.ENETUNREACH, errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EINVAL, None))
    links = [name for name in os.listdir("/sys/class/net")] if os.path.isdir("/sys/class/net") else ["lo"]
    print(f"  links: {links}")
    if links != ["lo"]:
        leaks.append(f"links {links}")
    # SIOCSIFADDR and friends: change the interface.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14s", b"lo", 0, b"")
        refused("bring lo down", lambda: fcntl.ioctl(control, 0x8914, request))
        refused("add an address", lambda: fcntl.ioctl(control, 0x8916, struct.pack("16sHH4s8s", b"lo", 2, 0, bytes([10, 9, 9, 9]), b"")))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        # RTM_NEWLINK, type veth: must be refused.
        name = struct.pack("HH8s", 12, 3, b"veth9\0\0\0")
        kind = struct.pack("HH8s", 9, 1, b"dummy\0\0\0")
        info = struct.pack("HH", 4 + len(kind), 18) + kind
        body = struct.pack("BBHiII", 0, 0, 0, 0, 0, 0) + name + info
        netlink.send(struct.pack("IHHII", 16 + len(body), 16, 0x605, 1, 0) + body)
        answer = netlink.recv(4096)
        code = struct.unpack("i", answer[16:20])[0]
        print(f"  RTM_NEWLINK: {errno.errorcode.get(-code, code)}")
        if code != -errno.EPERM:
            leaks.append(f"RTM_NEWLINK answered {code}")
    refused("bind to device", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).setsockopt(socket.SOL_SOCKET, 25, b"eth0\0"), also=(errno.ENODEV,))


def attack_abstract_sockets():
    """The abstract socket that the test bound on the host, and those of other agents."""
    for name in os.environ.get("ABSTRACT", "").split(","):
        if name:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
                refused(f"abstract {name}", lambda: stream.connect("\0" + name), also=(errno.ECONNREFUSED,))
    names = [line.split()[-1] for line in open("/proc/net/unix") if "@" in line]
    print(f"  abstract names seen: {names}")
    for name in names:
        if os.environ.get("ABSTRACT", "-") in name:
            leaks.append(f"sees {name}")


def attack_tty():
    main, side = os.openpty()
    refused("TIOCSTI", lambda: fcntl.ioctl(side, 0x5412, b"x"), also=(errno.EIO,))
    refused("TIOCLINUX", lambda: fcntl.ioctl(side, 0x541C, b"\x06"), also=(errno.ENOTTY,))
    os.close(main)
    os.close(side)


def attack_chroot():
    """The old way out of a chroot, by a descriptor of the root: it must end in our own root."""
    here = os.stat("/")
    if os.getuid() != 0:
        refused("chroot", lambda: os.chroot("/tmp"))
        return
    root = os.open("/", os.O_RDONLY)
    os.makedirs("/tmp/jail", exist_ok=True)
    try:
        os.chroot("/tmp/jail")
    except OSError as error:
        print(f"  chroot: {error.strerror}")
        return
    os.fchdir(root)
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    there = os.stat("/")
    print(f"  root {here.st_dev}:{here.st_ino}, after: {there.st_dev}:{there.st_ino}")
    if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
        leaks.append("chroot ended elsewhere")


def attack_filesystem_ioctls():
    """Files of the home lie on the volume itself: what its filesystem can be told by ioctl."""
    fd = os.open("/home/agent", os.O_RDONLY)
    file = os.open(tempfile.mkstemp(dir="/home/agent")[1], os.O_RDWR)
    size = ctypes.create_string_buffer(256)
    also = (errno.ENOTTY, errno.EOPNOTSUPP)
    for name, number in (
        ("FIFREEZE", 0xC0045877), ("FITHAW", 0xC0045878), ("FITRIM", 0xC0185879), ("EXT4_IOC_RESIZE_FS", 0x40086610),
        ("EXT4_IOC_SHUTDOWN", 0x8004587D), ("EXT4_IOC_GROUP_EXTEND", 0x40086607), ("FIBMAP", 1),
        ("FS_IOC_REMOVE_ENCRYPTION_KEY_ALL_USERS", 0xC0406619), ("FS_IOC_ADD_ENCRYPTION_KEY", 0xC0506617),
        ("FS_IOC_REMOVE_ENCRYPTION_KEY", 0xC0406618), ("FS_IOC_SET_ENCRYPTION_POLICY", 0x800C6613),
    ):
        refuse(name, nr(16, 29), fd, number, size, also=also)
    refuse("make immutable", nr(16, 29), file, 0x40086602, ctypes.byref(ctypes.c_long(0x10)), also=also)


def attack_core_pattern():
    refused("write core_pattern", write("/proc/sys/kernel/core_pattern", b"|/tmp/x"))
    pid = os.fork()
    if pid == 0:
        os.chdir("/tmp")
        os.kill(os.getpid(), signal.SIGSEGV)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    print(f"  crashed: signal {os.WTERMSIG(status)}, core {os.WCOREDUMP(status)}")
    if os.WCOREDUMP(status):
        leaks.append("a core was dumped")


def attack_makers():
    """What whoever made the boundary may have left: its program (CVE-2019-5736), directories of the host (CVE-2024-21626)."""
    here = os.stat("/")

    def top(path):
        """The last directory above this one."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            while True:
                above = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
                now, then = os.fstat(fd), os.fstat(above)
                os.close(fd)
                fd = above
                if (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino):
                    return now
        finally:
            os.close(fd)

    looked = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        also = (errno.ETXTBSY, errno.EROFS, errno.ESRCH)
        refused(f"write to the program of {pid}", write(f"/proc/{pid}/exe"), also=also)
        names = [f"/proc/{pid}/{name}" for name in ("cwd", "root")]
        try:
            names += [f"/proc/{pid}/fd/{number}" for number in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            pass
        for name in names:
            try:
                found = top(name)
            except OSError:
                continue
            looked += 1
            # A directory that is not below our root leads to another's.
            if (found.st_dev, found.st_ino) != (here.st_dev, here.st_ino):
                leaks.append(f"{name} leads to {found.st_dev}:{found.st_ino}, our root is {here.st_dev}:{here.st_ino}")
    print(f"  directories of processes: {looked}, all below our root")
    if looked == 0:
        leaks.append("there was nothing to look at")


def main():
    name = sys.argv[1]
    print(f"{name} as uid {os.getuid()}")
    globals()["attack_" + name]()
    for leak in leaks:
        print("GOT THROUGH:", leak)
    sys.exit(1 if leaks else 0)


if __name__ == "__main__":
    main()
