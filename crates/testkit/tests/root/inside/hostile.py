"""Does to every probe that it can see whatever one process can do to another, and writes down what worked."""

import ctypes
import os
import resource
import signal
import sys

libc = ctypes.CDLL(None, use_errno=True)
user = sys.argv[1]
machine = os.uname().machine


def nr(x86, arm):
    return x86 if machine == "x86_64" else arm


def worked(pid, what):
    with open(f"/tmp/got-{user}", "a") as file:
        file.write(f"{what} {pid}\n")


def attempt(pid, what, action):
    try:
        action()
        worked(pid, what)
    except OSError:
        pass


def call(number, *args):
    result = libc.syscall(number, *args)
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def one(pid):
    attempt(pid, "ptrace", lambda: call(nr(101, 117), 0x4206, pid, 0, 0))
    buffer = ctypes.create_string_buffer(8)
    vector = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 8)
    remote = (ctypes.c_uint64 * 2)(0x10000, 8)
    attempt(pid, "write memory", lambda: call(nr(311, 271), pid, ctypes.byref(vector), 1, ctypes.byref(remote), 1, 0))
    attempt(pid, "open memory", lambda: open(f"/proc/{pid}/mem", "r+b").close())
    attempt(pid, "open its output", lambda: open(f"/proc/{pid}/fd/1", "wb").close())
    attempt(pid, "limits", lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, 0)))
    attempt(pid, "oom_score_adj", lambda: open(f"/proc/{pid}/oom_score_adj", "w").write("1000"))
    pidfd = os.pidfd_open(pid)
    attempt(pid, "take its output", lambda: call(438, pidfd, 1, 0))
    os.close(pidfd)
    for number in (signal.SIGSYS, signal.SIGSEGV, signal.SIGSTOP, signal.SIGKILL):
        attempt(pid, f"signal {number}", lambda: os.kill(pid, number))


open(f"/tmp/ready-{user}", "w").close()
while True:
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and open(f"/proc/{name}/comm").read() == "probe\n":
                one(int(name))
        except OSError:
            pass
