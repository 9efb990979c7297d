# The AppArmor profile of Cofferdam's containers (level 2). Node loads it, and every init begins in it; whatever an agent
# executes stays in it, for no rule leads out.
#
# It stands behind the namespaces, the capabilities and the seccomp filter of a boundary, and says once more, by name and
# in another part of the kernel, what they say. Nothing that an agent needs is decided here alone.
#
# Denied things are denied by `deny`, which writes nothing to the host's log: agents would fill it.

abi <abi/3.0>,

profile cofferdam-agent flags=(attach_disconnected, mediate_deleted) {
    # An image is the agent's own, and so is what it executes. Not the programs' own profiles on the host.
    file,

    # The host's kernel by its file systems. Of /proc an agent writes to what is of its processes.
    deny /proc/sys/** wkl,
    deny /proc/{sysrq-trigger,kcore,kmsg,kmem,mem,kallsyms,modules,acpi/**,bus/**,scsi/**,fs/**,irq/**} rwkl,
    deny /sys/** wkl,
    deny /sys/{firmware,kernel/debug,kernel/tracing,kernel/security,fs/bpf,fs/cgroup}/** rwkl,

    # Who is in the profile stays in it.
    deny /proc/**/attr/** wkl,
    deny change_profile,

    # Devices that are the machine. Of those that are left, a boundary has six.
    deny /dev/{mem,kmem,port,kmsg,kvm,vhost*,nvram,hpet,hwrng,rtc*,snapshot,fuse,loop-control,autofs,uinput} rwkl,
    deny /dev/{sd,hd,vd,xvd,nvme,mmcblk,loop,dm-,md,nbd,ram,zram,sr}* rwkl,
    deny /dev/{mapper,disk,block,vfio,net,input,dri,bus,cpu,mem}/** rwkl,

    # What root inside has, and init (`jail::layout`). The rest reaches beyond it.
    capability chown,
    capability dac_override,
    capability fowner,
    capability fsetid,
    capability kill,
    capability net_bind_service,
    capability setfcap,
    capability setgid,
    capability setpcap,
    capability setuid,
    capability sys_chroot,
    capability sys_ptrace,
    deny capability audit_control,
    deny capability audit_read,
    deny capability audit_write,
    deny capability block_suspend,
    deny capability bpf,
    deny capability checkpoint_restore,
    deny capability dac_read_search,
    deny capability ipc_lock,
    deny capability ipc_owner,
    deny capability lease,
    deny capability linux_immutable,
    deny capability mac_admin,
    deny capability mac_override,
    deny capability mknod,
    deny capability net_admin,
    deny capability net_broadcast,
    deny capability net_raw,
    deny capability perfmon,
    deny capability sys_admin,
    deny capability sys_boot,
    deny capability sys_module,
    deny capability sys_nice,
    deny capability sys_pacct,
    deny capability sys_rawio,
    deny capability sys_resource,
    deny capability sys_time,
    deny capability sys_tty_config,
    deny capability syslog,
    deny capability wake_alarm,

    # What the seccomp filter lets through, and no raw socket of the internet's.
    network unix,
    network inet stream,
    network inet dgram,
    network inet6 stream,
    network inet6 dgram,
    network netlink raw,
    network netlink dgram,
    deny network inet raw,
    deny network inet6 raw,
    deny network packet,
    deny network vsock,

    deny mount,
    deny remount,
    deny umount,
    deny pivot_root,

    # Among the agent's own processes; node, which is unconfined, ends them.
    signal (send, receive) peer=cofferdam-agent,
    signal (receive) peer=unconfined,
    ptrace (trace, tracedby, read, readby) peer=cofferdam-agent,
}
