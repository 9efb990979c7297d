"""Attempts to take all of something, made from inside: `python3 - NAME`. Prints how far it came and stops."""
import ctypes
import os
import signal
import socket
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)


def inotify():
    count = 0
    while count < 1_000_000 and libc.inotify_init1(0) >= 0:
        count += 1
    print("inotify instances:", count)
    return count


def timers():
    count = 0
    timer = ctypes.c_void_p()
    event = ctypes.create_string_buffer(64)
    ctypes.memmove(event, (ctypes.c_int * 4)(0, 0, signal.SIGUSR1, 0), 16)
    while count < 1_000_000 and libc.timer_create(1, event, ctypes.byref(timer)) == 0:
        count += 1
    print("timers:", count)
    return count


def signals():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
    count = 0
    while count < 1_000_000 and libc.sigqueue(os.getpid(), int(signal.SIGRTMIN), None) == 0:
        count += 1
    print("queued signals:", count)
    return count


def descriptors():
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    kept = []
    try:
        while len(kept) < 10_000_000:
            kept.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        print("descriptors:", len(kept), error.strerror)
    return len(kept)


def forks():
    children = []
    try:
        while len(children) < 100_000:
            pid = os.fork()
            if pid == 0:
                signal.pause()
            children.append(pid)
    except OSError as error:
        print("processes:", len(children), error.strerror, flush=True)
    if "hold" in sys.argv:
        time.sleep(20)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    return len(children)


def memory():
    blocks = []
    while True:
        blocks.append(bytearray(os.urandom(4096) * 256))
        print("MiB:", len(blocks), flush=True)


def disk():
    written = 0
    try:
        with open(os.path.expanduser("~/fill"), "wb", buffering=0) as file:
            while True:
                written += file.write(b"\xa5" * (1 << 20))
    except OSError as error:
        print("bytes:", written, error.strerror)
    return written


def netlink():
    """What waits in a netlink socket is charged to nobody: asks each for all links until its buffer is full."""
    import resource
    import struct
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    kept = []
    try:
        while len(kept) < 4000:
            kept.append(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
            kept[-1].setblocking(False)
            try:
                for serial in range(400):
                    kept[-1].send(struct.pack("IHHII16x", 32, 18, 0x301, serial, 0))
            except OSError:
                pass
    except OSError as error:
        print("stopped:", error)
    print("netlink sockets:", len(kept))
    for one in kept:
        one.close()
    # What programs use them for.
    for _ in range(1000):
        assert socket.if_nameindex() == [(1, "lo")]
    return len(kept)


def filters(hold=60):
    """Compiled seccomp filters share one limit with everybody on the machine."""
    import struct
    program = struct.pack("HBBI", 0x20, 0, 0, 0) + struct.pack("HBBI", 0x34, 0, 0, 7) * 4094 + struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)
    buffer = ctypes.create_string_buffer(program, len(program))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4096, ctypes.addressof(buffer)))
    libc.prctl(38, 1, 0, 0, 0)
    read, write = os.pipe()
    children = total = 0
    try:
        while children < 5000:
            if os.fork() == 0:
                count = 0
                while libc.prctl(22, 2, head) == 0:
                    count += 1
                os.write(write, b"%d " % count)
                signal.pause()
            children += 1
            count = int(os.read(read, 64))
            total += count
            if not count:
                print("no more room for filters")
                break
    except OSError as error:
        print("stopped:", error)
    print("filters:", total, flush=True)
    time.sleep(hold)


def socket_buffers():
    """Fills TCP buffers over loopback that nobody reads."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    pairs, total = [], 0
    try:
        while total < 4 << 30:
            one = socket.create_connection(listener.getsockname())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            other, _ = listener.accept()
            other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 6 << 20)
            pairs.append((one, other))
            for end in (one, other):
                end.setblocking(False)
                idle = 0
                while idle < 3:
                    try:
                        total += end.send(b"x" * 65536)
                    except BlockingIOError:
                        idle += 1
                        time.sleep(0.002)
            if len(pairs) >= 2000:
                break
    except OSError as error:
        print("stopped:", error)
    print("bytes in buffers:", total, "connections:", len(pairs), flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
