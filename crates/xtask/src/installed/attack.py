"""Tries to do what a service that was taken over would do, from behind the walls of its unit: `attack.py control|node`.

What must work is tried too, so that a wall around everything does not count as one. It ends with 1 if one thing was not
as it should be. One process for nearly all of it, because a process takes long in a machine that is emulated.
"""

import os
import socket
import stat
import subprocess
import sys
import time

agents = "/sys/fs/cgroup/system.slice/cofferdam-agents.service"
wrong = []


def run(*command):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)


def connect(family, address):
    with socket.socket(family) as stream:
        stream.settimeout(5)
        stream.connect(address)


def write(path, text="x"):
    with open(path, "w") as file:
        file.write(text)


def make(path):
    write(path)
    os.unlink(path)


def read(path):
    with open(path, "rb") as file:
        file.read(1)


def read_disk_by_a_node_of_our_own():
    major, minor = open("/sys/block/vda/dev").read().split(":")
    os.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(int(major), int(minor)))
    read("/tmp/disk")


def make_cgroup(parent):
    os.mkdir(f"{parent}/attack")
    os.rmdir(f"{parent}/attack")


refused = {
    **{
        f"write {place}": lambda place=place: make(place)
        for place in (
            "/etc/attack",
            "/usr/bin/attack",
            "/root/attack",
            "/home/attack",
            "/var/attack",
            "/boot/attack",
            "/var/lib/attack",
            "/etc/systemd/system/attack.service",
        )
    },
    "change a kernel setting": lambda: write("/proc/sys/kernel/core_pattern", "attack"),
    "forward packets": lambda: write("/proc/sys/net/ipv4/ip_forward", "1"),
    "trigger a crash dump": lambda: write("/proc/sysrq-trigger", "h"),
    "set the clock": lambda: time.clock_settime(time.CLOCK_REALTIME, time.time()),
    "load a module": lambda: run("modprobe", "dummy"),
    "read the kernel's log": lambda: run("busybox", "dmesg"),
    "swap": lambda: run("busybox", "swapon", "/dev/vda"),
    "restart the machine": lambda: run("busybox", "reboot", "-f"),
    "reach a private network": lambda: connect(socket.AF_INET, ("10.255.255.1", 9)),
    "open a packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "read the disk": lambda: read("/dev/vda"),
    "read the disk by a node of its own": read_disk_by_a_node_of_our_own,
    "see root's key": lambda: read("/root/.config/cofferdam/config.toml"),
}
works = {"reach loopback": lambda: connect(socket.AF_INET, ("127.0.0.1", 9))}
if sys.argv[1] == "control":
    refused |= {
        "reach anything far away": lambda: connect(socket.AF_INET, ("192.0.2.1", 9)),
        "write the runtime directory": lambda: make("/run/cofferdam/attack"),
        "write the installation's directory": lambda: make("/var/lib/cofferdam/attack"),
        "see images": lambda: os.listdir("/var/lib/cofferdam/images"),
        "see node's journal": lambda: os.listdir("/var/lib/cofferdam/node"),
        "connect to node": lambda: connect(socket.AF_UNIX, "/run/cofferdam/node.sock"),
        "become root": lambda: os.setuid(0),
        "make a user namespace": lambda: run("unshare", "--user", "true"),
        "mount": lambda: run("mount", "-t", "tmpfs", "attack", "/tmp"),
        "make cgroups": lambda: make_cgroup(agents),
        "see other processes": lambda: os.listdir("/proc/1"),
    }
    works["write its data"] = lambda: make("/var/lib/cofferdam/control/attack")
else:
    refused["see the database"] = lambda: read("/var/lib/cofferdam/control/cofferdam.db")
    works |= {
        "connect far away for an agent": lambda: connect(socket.AF_INET, ("192.0.2.1", 9)),
        "write its data": lambda: make("/var/lib/cofferdam/attack"),
        "write its runtime directory": lambda: make("/run/cofferdam/attack"),
        "make cgroups": lambda: make_cgroup(agents),
        "make namespaces": lambda: run("unshare", "--mount", "--net", "--pid", "--fork", "true"),
    }

for what, attempt in refused.items():
    try:
        attempt()
        wrong.append(f"got out: {what}")
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        print("held:", what, "-", said.decode(errors="replace").strip().splitlines()[-1:])
for what, attempt in works.items():
    try:
        attempt()
    except (OSError, subprocess.CalledProcessError) as error:
        wrong.append(f"cannot do its work: {what}: {error}")
print("\n".join(wrong))
sys.exit(bool(wrong))
