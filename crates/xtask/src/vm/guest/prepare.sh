# Turns Debian's tree in $1 into the machine, and puts its kernel and initrd into $2.
root=$1 out=$2

# A known id: without one, systemd takes each boot for the first, and enables every unit anew.
echo c0ffe4da000000000000000000000001 >"$root/etc/machine-id"
echo cofferdam-vm >"$root/etc/hostname"
echo "127.0.0.1 localhost cofferdam-vm" >"$root/etc/hosts"
chroot "$root" passwd --quiet --delete root
# What does nothing for a machine without a network that lives for minutes.
for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service dpkg-db-backup.timer \
    fstrim.timer docker-registry.service systemd-timesyncd.service getty.target; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
chmod 755 "$root/usr/local/sbin/vm-job"
cat >"$root/etc/systemd/system/vm-job.service" <<'UNIT'
[Unit]
Description=What this machine was started for
After=multi-user.target systemd-tmpfiles-setup.service

[Service]
# Not oneshot: the machine has come up while this runs.
Type=exec
ExecStart=/usr/local/sbin/vm-job
# As of a root shell, and no limit that tests would meet.
Environment=HOME=/root LANG=C.UTF-8
TasksMax=infinity
LimitNOFILE=1048576

[Install]
WantedBy=multi-user.target
UNIT
chroot "$root" systemctl --quiet enable vm-job.service

# The initrd: the modules of the root disk, in the order in which they need each other.
tree=$(mktemp -d)
mkdir "$tree/bin" "$tree/dev" "$tree/root" "$tree/modules"
cp "$root/bin/busybox" "$tree/bin/busybox"
count=10
for module in $(chroot "$root" modprobe --set-version "$(ls "$root/lib/modules")" --show-depends --all virtio_pci \
    virtio_blk ext4 | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'); do
    cp "$root$module" "$tree/modules/$count.ko"
    count=$((count + 1))
done
cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /bin/busybox insmod "$module"; done
/bin/busybox mount -t ext4 -o noinit_itable /dev/vda /root && exec /bin/busybox switch_root /root /sbin/init
/bin/busybox poweroff -f
INIT
chmod 755 "$tree/init"
(cd "$tree" && find . | "$root/bin/busybox" cpio -o -H newc 2>/dev/null) >"$out/initrd"
rm -r "$tree"
cp "$root"/boot/vmlinuz-* "$out/vmlinuz"
rm -f "$root"/boot/initrd.img-*
