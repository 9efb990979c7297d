#!/bin/sh
# Runs what the second disk brings, says how it ended, and turns the machine off.
exec >/dev/virtio-ports/output 2>&1
boot=$(($(cat /var/lib/vm-boot 2>/dev/null) + 1))
echo "$boot" >/var/lib/vm-boot
export VM_BOOT="$boot"
mkdir -p /job
mount -t erofs -o ro,nodev /dev/vdb /job
cd /job || exit
"/job/$(sed -n 's/.*vm\.script=\([^ ]*\).*/\1/p' /proc/cmdline)"
code=$?
# One that ends because the machine does has no result yet.
[ "$(systemctl is-system-running)" = stopping ] && exit
echo "$code" >/dev/virtio-ports/result
systemctl poweroff --force --force
