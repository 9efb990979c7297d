#!/bin/sh
# Tries to do what a service that was taken over would do, from behind the walls of its unit: `attack.sh control|node`.
# What must work is tried too, so that a wall around everything does not count as one.
who=$1
got_out=0

# Nothing of the kind may succeed: `refused WHAT COMMAND...`.
refused() {
    what=$1
    shift
    if "$@" >/dev/null 2>&1; then
        echo "got out: $what"
        got_out=1
    else
        echo "held: $what"
    fi
}
works() {
    what=$1
    shift
    "$@" || {
        echo "cannot do its work: $what"
        got_out=1
    }
}
# `connect FAMILY ADDRESS`
connect() {
    python3 -c "import socket; s = socket.socket(socket.$1); s.settimeout(5); s.connect($2)"
}
writes() { sh -c ": >$1" && rm -f "$1"; }

for place in /etc/attack /usr/attack /root/attack /home/attack /var/attack /boot/attack /var/lib/attack \
    /usr/local/bin/attack /etc/systemd/system/attack.service; do
    refused "write $place" writes "$place"
done
refused "change a kernel setting" sh -c 'echo attack >/proc/sys/kernel/core_pattern'
refused "trigger a crash dump" sh -c 'echo h >/proc/sysrq-trigger'
refused "set the clock" busybox date -s 2001-01-01
refused "load a module" modprobe dummy
refused "read the kernel's log" busybox dmesg
refused "swap" busybox swapon /dev/vda
refused "restart the machine" busybox reboot -f
refused "reach beyond loopback" connect "AF_INET" "('192.0.2.1', 9)"
works "reach loopback" connect "AF_INET" "('127.0.0.1', 9)"
refused "read the disk" dd if=/dev/vda of=/dev/null bs=512 count=1
refused "make the disk's node, and read that" sh -c 'mknod /tmp/disk b $(tr : " " </sys/block/vda/dev) &&
    dd if=/tmp/disk of=/dev/null count=1'
refused "open a packet socket" python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'
refused "look at root's home" ls /root/.config
case $who in
control)
    refused "write the runtime directory" writes /run/cofferdam/attack
    refused "write the installation's directory" writes /var/lib/cofferdam/attack
    refused "see images" ls /var/lib/cofferdam/images
    refused "see node's journal" ls /var/lib/cofferdam/node
    refused "connect to node" connect AF_UNIX "'/run/cofferdam/node.sock'"
    refused "become root" setpriv --reuid 0 true
    refused "make a namespace" unshare --user true
    refused "mount" mount -t tmpfs attack /tmp
    refused "make cgroups" mkdir /sys/fs/cgroup/attack
    refused "see other processes" ls /proc/1
    works "write its data" writes /var/lib/cofferdam/control/attack
    ;;
node)
    refused "see the database" ls /var/lib/cofferdam/control
    refused "write beneath /proc/sys/net" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
    works "write its data" writes /var/lib/cofferdam/attack
    works "write its runtime directory" writes /run/cofferdam/attack
    works "make cgroups" sh -c 'mkdir /sys/fs/cgroup/system.slice/cofferdam-agents.service/attack &&
        rmdir /sys/fs/cgroup/system.slice/cofferdam-agents.service/attack'
    works "make namespaces" unshare --mount --net --pid --fork true
    ;;
esac
exit $got_out
