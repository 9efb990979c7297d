"""Takes as much as it can get of one kind of kernel object, made from inside: `python3 - NAME SECONDS`, with how long to wait
for one process.

Prints `held: N` when it got no more, or hardly any more: at its limit of memory each object takes the kernel a search. Keeps
what it has until standard input ends, and lets go. That the kernel kills it for memory on the way is an answer too.
"""
import ctypes
import errno
import fcntl
import os
import resource
import select
import signal
import socket
import struct
import sys
import tempfile
import time

libc = ctypes.CDLL(None, use_errno=True)
RMID = 0


def all_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def many(make, most=10_000_000):
    """Calls until it fails. How often it worked, and what it made."""
    made = []
    try:
        end = time.monotonic() + 6
        while len(made) < most and time.monotonic() < end:
            one = make()
            if isinstance(one, int) and one < 0:
                print("stopped:", errno.errorcode.get(ctypes.get_errno()))
                break
            made.append(one)
    except (OSError, ValueError) as error:
        print("stopped:", error)
    return made


def in_processes(make, most=200):
    """The same in many processes, each up to its limit of descriptors."""
    all_descriptors()
    total = 0
    for _ in range(most):
        read, write = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            print("stopped:", error)
            break
        if pid == 0:
            made = many(make)
            os.write(write, b"%d\n" % len(made))
            signal.pause()
        os.close(write)
        ready, _, _ = select.select([read], [], [], float(sys.argv[2]))
        if not ready:
            print("stopped: no more comes")
            break
        said = os.read(read, 64)
        os.close(read)
        if not said:
            print("stopped: a process was killed")
            break
        total += int(said.split()[0])
    return total


def shared_memory():
    def segment():
        id = libc.shmget(0, 8 << 20, 0o1600)
        if id >= 0:
            libc.shmat.restype = ctypes.c_void_p
            at = libc.shmat(id, None, 0)
            ctypes.memset(at, 1, 8 << 20)
        return id
    return len(many(segment, 1000)) * 8


def semaphores():
    return len(many(lambda: libc.semget(0, 32000, 0o1600), 20_000))


def messages():
    text = ctypes.create_string_buffer(struct.pack("q", 1) + b"x" * 8000)

    def queue():
        id = libc.msgget(0, 0o1600)
        while id >= 0 and libc.msgsnd(id, text, 8000, 0o4000) == 0:
            pass
        return id
    return len(many(queue, 40_000))


def posix_queues():
    names = iter(range(10_000_000))
    return len(many(lambda: libc.mq_open(b"/q%d" % next(names), os.O_CREAT | os.O_RDWR, 0o600, None)))


def events():
    return in_processes(lambda: libc.eventfd(0, 0))


def timer_descriptors():
    return in_processes(lambda: libc.timerfd_create(1, 0))


def signal_descriptors():
    mask = ctypes.create_string_buffer(128)
    return in_processes(lambda: libc.signalfd(-1, mask, 0))


def polls():
    read, _ = os.pipe()

    def poll():
        one = libc.epoll_create1(0)
        if one >= 0:
            event = struct.pack("=IQ", 1, 0)
            libc.epoll_ctl(one, 1, read, event)
        return one
    return in_processes(poll)


def pipes():
    def pipe():
        read, write = os.pipe2(os.O_NONBLOCK)
        try:
            fcntl.fcntl(write, 1031, 1 << 20)
        except OSError:
            pass
        try:
            while True:
                os.write(write, b"x" * 65536)
        except BlockingIOError:
            pass
        return (read, write)
    return in_processes(pipe)


def unix_sockets():
    def pair():
        one, other = socket.socketpair()
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        try:
            while True:
                one.send(b"x" * 65536)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS):
                raise
        return (one, other)
    return in_processes(pair)


def datagrams():
    """Sockets of UDP that are full of what nobody reads."""
    def one():
        socket_ = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        socket_.bind(("127.0.0.1", 0))
        socket_.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        for _ in range(40):
            try:
                socket_.sendto(b"x" * 16384, socket_.getsockname())
            except OSError as error:
                if error.errno not in (errno.ENOBUFS, errno.EAGAIN):
                    raise
                break
        return socket_
    return in_processes(one)


def in_flight():
    """Descriptors that are open in messages alone."""
    def pair():
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        one.setblocking(False)
        file = os.open("/dev/null", os.O_RDONLY)
        try:
            while True:
                socket.send_fds(one, [b"x"], [file] * 200)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ETOOMANYREFS):
                raise
        finally:
            os.close(file)
        return (one, other)
    return in_processes(pair)


def locks():
    """Locks of single bytes, each of which the kernel keeps on its own."""
    where = tempfile.mkdtemp(dir=os.path.expanduser("~"))
    total = 0
    all_descriptors()
    try:
        for index in range(int(os.environ.get("FILES", "2000"))):
            file = os.open(f"{where}/{index}", os.O_CREAT | os.O_RDWR)
            for byte in range(0, 4000, 2):
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
                total += 1
    except OSError as error:
        print("stopped:", error)
    return total


def orphans():
    """Connections that were closed with something in them, which the kernel goes on sending to nobody who reads."""
    all_descriptors()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(4096)
    kept = []

    def connection():
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        one.setblocking(False)
        try:
            while True:
                one.send(b"x" * 65536)
        except BlockingIOError:
            pass
        one.close()
        return other
    kept = many(connection, 200_000)
    return len(kept)


def waits():
    """Connections in TIME-WAIT."""
    listener = socket.socket()
    listener.bind(("0.0.0.0", 0))
    listener.listen(4096)
    port = listener.getsockname()[1]
    count = 0
    try:
        for host in range(1, 3):
            for _ in range(20_000):
                one = socket.create_connection((f"127.0.0.{host}", port))
                other, _ = listener.accept()
                one.close()
                other.close()
                count += 1
    except OSError as error:
        print("stopped:", error)
    return count


def inodes():
    where = tempfile.mkdtemp(dir=os.path.expanduser("~"))
    count = 0
    try:
        while count < 5_000_000:
            os.close(os.open(f"{where}/{count}", os.O_CREAT | os.O_WRONLY))
            count += 1
    except OSError as error:
        print("stopped:", error.strerror)
    return count


def watches():
    """Watches of inotify."""
    where = tempfile.mkdtemp()
    instance = libc.inotify_init1(0)
    names = iter(range(10_000_000))

    def watch():
        path = f"{where}/{next(names)}"
        os.mkdir(path)
        return libc.inotify_add_watch(instance, path.encode(), 0xFFF)
    return len(many(watch, 300_000))


def main():
    held = globals()[sys.argv[1]]()
    print("held:", held, flush=True)
    select.select([0], [], [])


if __name__ == "__main__":
    main()
