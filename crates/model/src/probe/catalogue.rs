//! The attempts, in the order in which the probe makes them.

use super::Attempt;
use crate::evidence::Control::{self, *};

const fn attempt(
    id: &'static str,
    control: Control,
    tries: &'static str,
    source: &'static str,
    proves: &'static str,
) -> Attempt {
    Attempt { id, control, tries, source, proves }
}

const HT_ESCAPE: &str = "https://book.hacktricks.wiki/en/linux-hardening/privilege-escalation/docker-security/docker-breakout-privilege-escalation/";
const HT_MOUNTS: &str = "https://book.hacktricks.wiki/en/linux-hardening/privilege-escalation/docker-security/docker-breakout-privilege-escalation/sensitive-mounts.html";
const HT_CAPS: &str =
    "https://book.hacktricks.wiki/en/linux-hardening/privilege-escalation/linux-capabilities.html";
const HT_PTRACE: &str = HT_CAPS;
const HT_NSENTER: &str = HT_ESCAPE;
const CDK: &str = "https://github.com/cdk-team/CDK/wiki";
const AMI: &str = "https://github.com/genuinetools/amicontained";
const DEEPCE: &str = "https://github.com/stealthcopter/deepce";
const MITRE_ESCAPE: &str = "https://attack.mitre.org/techniques/T1611/";
const MITRE_DISCOVERY: &str = "https://attack.mitre.org/techniques/T1046/";
const MITRE_METADATA: &str = "https://attack.mitre.org/techniques/T1552/005/";
const MITRE_DEPLOY: &str = "https://attack.mitre.org/techniques/T1610/";
const FSCRYPT: &str = "https://docs.kernel.org/filesystems/fscrypt.html";
const USERMODE: &str = "https://docs.kernel.org/admin-guide/sysctl/kernel.html";
const SYSCTL: &str = USERMODE;
const SYSFS: &str = "https://docs.kernel.org/admin-guide/sysfs-rules.html";
const PAGEMAP: &str = "https://docs.kernel.org/admin-guide/mm/pagemap.html";
const BPFFS: &str = "https://docs.kernel.org/bpf/";
const DOCKER_MASK: &str = "https://docs.docker.com/engine/security/";
const KVM: &str = "https://docs.kernel.org/virt/kvm/api.html";
const FUSE: &str = "https://docs.kernel.org/filesystems/fuse.html";
const DM: &str = "https://docs.kernel.org/admin-guide/device-mapper/";
const TUN: &str = "https://docs.kernel.org/networking/tuntap.html";
const MOUNT_H: &str =
    "https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/uapi/linux/mount.h";
const LANDLOCK: &str = "https://docs.kernel.org/userspace-api/landlock.html";

const NOT_BELOW_INIT: &str = "the kernel compares ids and capabilities first: init has one capability and a saved group that nobody else has";
const NOT_DUMPABLE: &str =
    "the kernel asks whether the process may be traced first: init is not dumpable and has a capability more";
const NO_ADMIN: &str = "the filter, or the missing CAP_SYS_ADMIN over a namespace that the host owns, answers before the arguments are looked at";
const NO_NESTING: &str = "the filter refuses it, and the namespace has room for no other";
const UNMAPPED: &str =
    "an id that the map does not have names nobody, and the map leads to a range that is this agent's alone";
const NO_SUCH_PROCESS: &str =
    "a process that has no number in this pid namespace cannot be named by any call";
const OWN_LIST: &str = "procfs shows the processes of the pid namespace it was mounted for, and the threads of the kernel are in the host's alone";
const OWN_NAMESPACE: &str =
    "the kernel names every namespace by a number, and this one is another than the host's";
const READ_ONLY: &str =
    "it could not even be opened for writing: the mount is read-only, or the file is not there";
const OWN_ROOT: &str = "paths are told from the root of the agent's own cgroup on";
const NOT_THERE: &str = "there is no such file anywhere, and nothing can be mounted";
const NO_DEVICE: &str = "packets have no way to anywhere: there is no device besides lo";
const NO_ANSWER: &str = "packets have no way to anywhere, so whoever takes the connection is the gate, which closes it: no byte comes back";
const NET_ADMIN: &str = "the kernel asks for CAP_NET_ADMIN in the user namespace that owns the network before it looks at the arguments, and that is the host's";
const NO_RAW: &str =
    "the kernel asks for CAP_NET_RAW in the user namespace that owns the network, and that is the host's";
const NO_FAMILY: &str = "the filter says that there is no such family or protocol: the kernel's code for it is never reached, and no module is loaded";
const OWN_ABSTRACT: &str =
    "abstract names belong to a network namespace, and Landlock keeps to its own domain";
const NO_MANAGER: &str = "whoever answers has a number in the pid namespace, or nobody answers";
const NNP: &str = "it is set, cannot be unset, and exec gives no privileges while it is";
const NO_CAPABILITY: &str = "capabilities can be given up, never taken";
const BOUNDED: &str = "a capability that is not in the bounding set cannot be had by any exec";
const FILTERED: &str = "the kernel says that a filter is in force, and filters cannot be removed";
const LISTENER: &str = "there can be one listener, and the platform has it";
const NOT_LISTED: &str =
    "the call is harmless for anybody by itself and was refused all the same: the filter did it";
const CAPABLE_FIRST: &str = "the filter, or the missing capability, answers before the arguments are looked at, of which one is wrong";
const OTHER_TABLE: &str = "the filter knows the table that a call is made by, and ends whoever uses another, or says that there is no such call";
const MASKED: &str = "what is there is empty or not the kernel's, or cannot be opened";
const NO_NODE: &str = "there is no such node, and no other place where one could be";
const NO_MKNOD: &str = "the filter, the missing CAP_MKNOD and Landlock each refuse it";
const OWN_TREE: &str =
    "every name is looked up in the agent's own tree of mounts, which nothing leads out of";
const NO_RULE_OUT: &str = "the kernel says which profile a process is in and whether it is enforced, and no rule of this one leads to another";
const SCOPED: &str = "ids and capabilities would allow it, or the probe itself made the other end: only the domain stands between";
const HARD: &str = "a hard limit is raised by CAP_SYS_RESOURCE alone, outside of this user namespace";
const OWN_OS_USER: &str =
    "an OS user without capabilities changes none of its ids, and they are of a leased range";
const SYSTEM: &str = "what is seen of the machine's system is read-only without setuid, and other people's files are not in it";
const OWN_TMP: &str = "/tmp is a file system of its own";
const NO_NICE: &str = "it takes CAP_SYS_NICE outside of this user namespace, or a limit that is zero";

/// All attempts.
#[rustfmt::skip]
pub const ATTEMPTS: &[Attempt] = &[
    attempt("init-ptrace", InitProtection, "attach to init as a debugger", HT_PTRACE, NOT_BELOW_INIT),
    attempt("init-limits", InitProtection, "read and set the limits of init (prlimit)", "https://man7.org/linux/man-pages/man2/prlimit.2.html", NOT_BELOW_INIT),
    attempt("init-read-memory", InitProtection, "read init's memory (process_vm_readv)", "https://man7.org/linux/man-pages/man2/process_vm_readv.2.html", NOT_BELOW_INIT),
    attempt("init-write-memory", InitProtection, "write to init's memory (process_vm_writev)", "https://man7.org/linux/man-pages/man2/process_vm_readv.2.html", NOT_BELOW_INIT),
    attempt("init-take-descriptor", InitProtection, "take a descriptor of init (pidfd_getfd), its channel", "https://man7.org/linux/man-pages/man2/pidfd_getfd.2.html", NOT_BELOW_INIT),
    attempt("init-memory", InitProtection, "open /proc/1/mem", HT_ESCAPE, NOT_DUMPABLE),
    attempt("init-maps", InitProtection, "open /proc/1/maps", "https://man7.org/linux/man-pages/man5/proc_pid_maps.5.html", NOT_DUMPABLE),
    attempt("init-environment", InitProtection, "open /proc/1/environ", HT_MOUNTS, NOT_DUMPABLE),
    attempt("init-descriptors", InitProtection, "open the channel of init by /proc/1/fd", "https://www.cve.org/CVERecord?id=CVE-2024-21626", NOT_DUMPABLE),
    attempt("init-program", InitProtection, "follow /proc/1/exe to a file of the host", "https://www.cve.org/CVERecord?id=CVE-2019-5736", NOT_DUMPABLE),
    attempt("init-root", InitProtection, "follow /proc/1/root", HT_ESCAPE, NOT_DUMPABLE),
    attempt("init-namespaces", InitProtection, "open /proc/1/ns/mnt to enter it", HT_NSENTER, NOT_DUMPABLE),
    attempt("mount-propagation", MountNamespace, "change how mounts propagate", "https://man7.org/linux/man-pages/man2/mount.2.html", NO_ADMIN),
    attempt("mount-remount", MountNamespace, "remount what is mounted (MS_REMOUNT|MS_BIND)", HT_ESCAPE, NO_ADMIN),
    attempt("mount-unmount", MountNamespace, "unmount, to uncover what is beneath", "https://man7.org/linux/man-pages/man2/umount.2.html", NO_ADMIN),
    attempt("mount-pivot-root", MountNamespace, "change the root of the namespace (pivot_root)", "https://man7.org/linux/man-pages/man2/pivot_root.2.html", NO_ADMIN),
    attempt("mount-open-tree", MountNamespace, "copy the tree of mounts (open_tree with OPEN_TREE_CLONE)", "https://man7.org/linux/man-pages/man2/open_tree.2.html", NO_ADMIN),
    attempt("mount-fsopen", MountNamespace, "begin a file system of ones own (fsopen)", "https://www.cve.org/CVERecord?id=CVE-2022-0185", NO_ADMIN),
    attempt("mount-fsconfig", MountNamespace, "configure a file system (fsconfig)", "https://www.cve.org/CVERecord?id=CVE-2022-0185", NO_ADMIN),
    attempt("mount-fsmount", MountNamespace, "mount what was configured (fsmount)", "https://man7.org/linux/man-pages/man2/fsmount.2.html", NO_ADMIN),
    attempt("mount-fspick", MountNamespace, "reconfigure the root file system (fspick)", "https://man7.org/linux/man-pages/man2/fspick.2.html", NO_ADMIN),
    attempt("mount-move", MountNamespace, "move a mount (move_mount)", "https://man7.org/linux/man-pages/man2/move_mount.2.html", NO_ADMIN),
    attempt("mount-setattr", MountNamespace, "change the flags of a mount (mount_setattr)", "https://man7.org/linux/man-pages/man2/mount_setattr.2.html", NO_ADMIN),
    attempt("mount-setns", MountNamespace, "enter another mount namespace (setns)", HT_NSENTER, NO_ADMIN),
    attempt("mount-unshare", MountNamespace, "make a mount namespace (unshare)", MITRE_ESCAPE, NO_ADMIN),
    attempt("user-unshare", UserNamespace, "make a user namespace, with all capabilities in it (unshare)", HT_ESCAPE, NO_NESTING),
    attempt("user-clone", UserNamespace, "the same by clone", "https://www.cve.org/CVERecord?id=CVE-2013-1858", NO_NESTING),
    attempt("user-join-init", UserNamespace, "enter the user namespace of init by its pidfd", "https://man7.org/linux/man-pages/man2/setns.2.html", NO_ADMIN),
    attempt("user-setuid", UserNamespace, "become a user that the map does not have", "https://man7.org/linux/man-pages/man7/user_namespaces.7.html", UNMAPPED),
    attempt("user-chown", UserNamespace, "give a file to a user that the map does not have", "https://www.cve.org/CVERecord?id=CVE-2014-4014", UNMAPPED),
    attempt("user-map", UserNamespace, "find oneself mapped to a user of the host itself", "https://man7.org/linux/man-pages/man7/user_namespaces.7.html", UNMAPPED),
    attempt("pid-signal", PidNamespace, "send a signal to a process outside", "https://man7.org/linux/man-pages/man2/kill.2.html", NO_SUCH_PROCESS),
    attempt("pid-pidfd", PidNamespace, "open a process outside (pidfd_open)", "https://man7.org/linux/man-pages/man2/pidfd_open.2.html", NO_SUCH_PROCESS),
    attempt("pid-ptrace", PidNamespace, "attach to a process outside as a debugger", HT_PTRACE, NO_SUCH_PROCESS),
    attempt("pid-read-memory", PidNamespace, "read the memory of a process outside", "https://man7.org/linux/man-pages/man2/process_vm_readv.2.html", NO_SUCH_PROCESS),
    attempt("pid-limits", PidNamespace, "read the limits of a process outside", "https://man7.org/linux/man-pages/man2/prlimit.2.html", NO_SUCH_PROCESS),
    attempt("pid-priority", PidNamespace, "read the priority of a process outside", "https://man7.org/linux/man-pages/man2/getpriority.2.html", NO_SUCH_PROCESS),
    attempt("pid-list", PidNamespace, "find threads of the kernel in /proc", CDK, OWN_LIST),
    attempt("ipc-namespace", IpcNamespace, "share memory and queues with the host", MITRE_ESCAPE, OWN_NAMESPACE),
    attempt("ipc-sysctl", IpcNamespace, "open /proc/sys/kernel/shmmax for writing", "https://man7.org/linux/man-pages/man7/ipc_namespaces.7.html", READ_ONLY),
    attempt("ipc-unshare", IpcNamespace, "make an ipc namespace", "https://man7.org/linux/man-pages/man2/unshare.2.html", NO_ADMIN),
    attempt("uts-namespace", UtsNamespace, "share the host name with the host", MITRE_ESCAPE, OWN_NAMESPACE),
    attempt("uts-host-name", UtsNamespace, "set the host name", "https://man7.org/linux/man-pages/man2/sethostname.2.html", NO_ADMIN),
    attempt("uts-domain-name", UtsNamespace, "set the domain name", "https://man7.org/linux/man-pages/man2/setdomainname.2.html", NO_ADMIN),
    attempt("net-namespace", NetworkNamespace, "share the network with the host", "https://www.cve.org/CVERecord?id=CVE-2020-15257", OWN_NAMESPACE),
    attempt("net-unshare", NetworkNamespace, "make a network namespace, with all of its interfaces for configuration", "https://www.cve.org/CVERecord?id=CVE-2022-32250", NO_ADMIN),
    attempt("time-unshare", Seccomp, "make a time namespace", "https://man7.org/linux/man-pages/man7/time_namespaces.7.html", NO_ADMIN),
    attempt("cgroup-namespace", CgroupNamespace, "share the root of cgroups with the host", "https://www.cve.org/CVERecord?id=CVE-2022-0492", OWN_NAMESPACE),
    attempt("cgroup-unshare", CgroupNamespace, "make a cgroup namespace", "https://www.cve.org/CVERecord?id=CVE-2022-0492", NO_ADMIN),
    attempt("cgroup-path", CgroupNamespace, "read where its cgroup lies on the host", "https://man7.org/linux/man-pages/man7/cgroup_namespaces.7.html", OWN_ROOT),
    attempt("cgroup-mounts", CgroupNamespace, "find a mounted cgroup file system", CDK, NOT_THERE),
    attempt("cgroup-fsopen", CgroupNamespace, "mount a cgroup file system", "https://www.cve.org/CVERecord?id=CVE-2022-0492", NO_ADMIN),
    attempt("cgroup-procs", CgroupNamespace, "open cgroup.procs for writing, to move elsewhere", "https://man7.org/linux/man-pages/man7/cgroups.7.html", NOT_THERE),
    attempt("cgroup-release-agent", CgroupNamespace, "open release_agent for writing: a program that the host's root runs", "https://www.cve.org/CVERecord?id=CVE-2022-0492", NOT_THERE),
    attempt("cgroup-devices", CgroupNamespace, "open devices.allow for writing, to be given device nodes", CDK, NOT_THERE),
    attempt("net-devices", NetworkNamespace, "find a network device besides lo", AMI, NO_DEVICE),
    attempt("net-connect-ipv4", NetworkNamespace, "get an answer from an address of IPv4", MITRE_DISCOVERY, NO_ANSWER),
    attempt("net-connect-ipv6", NetworkNamespace, "get an answer from an address of IPv6", MITRE_DISCOVERY, NO_ANSWER),
    attempt("net-metadata", NetworkNamespace, "get an answer from the metadata service of a cloud (169.254.169.254)", MITRE_METADATA, NO_ANSWER),
    attempt("net-delete-link", NetworkNamespace, "remove a network device (RTM_DELLINK)", "https://man7.org/linux/man-pages/man7/rtnetlink.7.html", NET_ADMIN),
    attempt("net-add-address", NetworkNamespace, "add an address (RTM_NEWADDR)", "https://man7.org/linux/man-pages/man7/rtnetlink.7.html", NET_ADMIN),
    attempt("net-add-route", NetworkNamespace, "add a route (RTM_NEWROUTE)", "https://man7.org/linux/man-pages/man7/rtnetlink.7.html", NET_ADMIN),
    attempt("net-device-flags", NetworkNamespace, "change the flags of a device (SIOCSIFFLAGS)", "https://man7.org/linux/man-pages/man7/netdevice.7.html", NET_ADMIN),
    attempt("net-sysctl", NetworkNamespace, "open a setting of the network for writing", HT_MOUNTS, READ_ONLY),
    attempt("net-mark", NetworkNamespace, "mark packets, to be routed otherwise (SO_MARK)", "https://man7.org/linux/man-pages/man7/socket.7.html", NET_ADMIN),
    attempt("net-receive-buffer", NetworkNamespace, "take more socket memory than is allowed (SO_RCVBUFFORCE)", "https://man7.org/linux/man-pages/man7/socket.7.html", NET_ADMIN),
    attempt("net-transparent", NetworkNamespace, "speak for addresses that are not its own (IP_TRANSPARENT)", "https://man7.org/linux/man-pages/man7/ip.7.html", NET_ADMIN),
    attempt("net-iptables", NetworkNamespace, "replace a table of iptables", "https://www.cve.org/CVERecord?id=CVE-2021-22555", NET_ADMIN),
    attempt("net-raw", Capabilities, "open a raw socket of IPv4", "https://man7.org/linux/man-pages/man7/raw.7.html", NO_RAW),
    attempt("net-raw-ipv6", Capabilities, "open a raw socket of IPv6", "https://man7.org/linux/man-pages/man7/raw.7.html", NO_RAW),
    attempt("net-packet", Seccomp, "open a packet socket", "https://www.cve.org/CVERecord?id=CVE-2020-14386", NO_FAMILY),
    attempt("net-vsock", Seccomp, "open a socket to the hypervisor (vsock)", "https://www.cve.org/CVERecord?id=CVE-2021-26708", NO_FAMILY),
    attempt("net-netfilter", Seccomp, "speak to netfilter (NETLINK_NETFILTER)", "https://www.cve.org/CVERecord?id=CVE-2024-1086", NO_FAMILY),
    attempt("net-xfrm", Seccomp, "speak to IPsec (NETLINK_XFRM)", "https://www.cve.org/CVERecord?id=CVE-2017-16939", NO_FAMILY),
    attempt("net-audit", Seccomp, "speak to the audit system (NETLINK_AUDIT)", "https://man7.org/linux/man-pages/man7/netlink.7.html", NO_FAMILY),
    attempt("net-uevent", Seccomp, "hear of devices of the host (NETLINK_KOBJECT_UEVENT)", "https://man7.org/linux/man-pages/man7/netlink.7.html", NO_FAMILY),
    attempt("net-alg", Seccomp, "use the kernel's ciphers (AF_ALG)", "https://www.cve.org/CVERecord?id=CVE-2019-8912", NO_FAMILY),
    attempt("net-rds", Seccomp, "open a socket of RDS", "https://www.cve.org/CVERecord?id=CVE-2010-3904", NO_FAMILY),
    attempt("net-tipc", Seccomp, "open a socket of TIPC", "https://www.cve.org/CVERecord?id=CVE-2022-0435", NO_FAMILY),
    attempt("net-key", Seccomp, "manage keys of IPsec (AF_KEY)", "https://man7.org/linux/man-pages/man7/address_families.7.html", NO_FAMILY),
    attempt("net-bluetooth", Seccomp, "open a socket of Bluetooth", "https://www.cve.org/CVERecord?id=CVE-2020-12351", NO_FAMILY),
    attempt("net-can", Seccomp, "open a socket of CAN", "https://www.cve.org/CVERecord?id=CVE-2021-3609", NO_FAMILY),
    attempt("net-xdp", Seccomp, "open a socket of XDP", "https://man7.org/linux/man-pages/man7/address_families.7.html", NO_FAMILY),
    attempt("net-sctp", Seccomp, "open a socket of SCTP", "https://www.cve.org/CVERecord?id=CVE-2021-3772", NO_FAMILY),
    attempt("net-dccp", Seccomp, "open a socket of DCCP", "https://www.cve.org/CVERecord?id=CVE-2017-6074", NO_FAMILY),
    attempt("net-udplite", Seccomp, "open a socket of UDP-Lite", "https://man7.org/linux/man-pages/man7/udplite.7.html", NO_FAMILY),
    attempt("net-abstract-socket", NetworkNamespace, "connect to an abstract unix socket of the host", "https://www.cve.org/CVERecord?id=CVE-2020-15257", OWN_ABSTRACT),
    attempt("root-manager-sockets", RootFilesystem, "speak to docker, containerd, crio, podman, dbus, systemd or Cofferdam by their sockets", MITRE_DEPLOY, NO_MANAGER),
    attempt("privileges-no-new", NoNewPrivs, "have no_new_privs unset, so that setuid programs work", "https://man7.org/linux/man-pages/man2/PR_SET_NO_NEW_PRIVS.2const.html", NNP),
    attempt("privileges-ambient", Capabilities, "raise CAP_SYS_ADMIN as an ambient capability", "https://man7.org/linux/man-pages/man7/capabilities.7.html", NO_CAPABILITY),
    attempt("privileges-securebits", Capabilities, "change what exec does to capabilities (PR_SET_SECUREBITS)", "https://man7.org/linux/man-pages/man7/capabilities.7.html", NO_CAPABILITY),
    attempt("capabilities-set", Capabilities, "take every capability there is (capset)", AMI, NO_CAPABILITY),
    attempt("capabilities-bounding", Capabilities, "find a capability in the bounding set that reaches the machine", AMI, BOUNDED),
    attempt("seccomp-mode", Seccomp, "run without a filter", AMI, FILTERED),
    attempt("seccomp-listener", Seccomp, "answer the questions of a filter of its own", "https://man7.org/linux/man-pages/man2/seccomp_unotify.2.html", LISTENER),
    attempt("seccomp-io-uring-setup", Seccomp, "make an io_uring", "https://www.cve.org/CVERecord?id=CVE-2022-2602", NOT_LISTED),
    attempt("seccomp-io-uring-enter", Seccomp, "use an io_uring", "https://www.cve.org/CVERecord?id=CVE-2023-2598", NOT_LISTED),
    attempt("seccomp-io-uring-register", Seccomp, "register files with an io_uring", "https://www.cve.org/CVERecord?id=CVE-2023-2598", NOT_LISTED),
    attempt("seccomp-bpf-map", Seccomp, "make a map of BPF", "https://www.cve.org/CVERecord?id=CVE-2017-16995", NOT_LISTED),
    attempt("seccomp-bpf-program", Seccomp, "load a program of BPF", "https://www.cve.org/CVERecord?id=CVE-2021-3490", NOT_LISTED),
    attempt("seccomp-userfaultfd", Seccomp, "handle page faults (userfaultfd), to win races in the kernel", "https://man7.org/linux/man-pages/man2/userfaultfd.2.html", NOT_LISTED),
    attempt("seccomp-perf-event", Seccomp, "count events of the processor (perf_event_open)", "https://www.cve.org/CVERecord?id=CVE-2013-2094", NOT_LISTED),
    attempt("seccomp-clone3", Seccomp, "make a process with flags that no filter sees (clone3)", "https://man7.org/linux/man-pages/man2/clone.2.html", NOT_LISTED),
    attempt("seccomp-unshare", Seccomp, "leave a shared table of descriptors (unshare)", "https://man7.org/linux/man-pages/man2/unshare.2.html", NOT_LISTED),
    attempt("seccomp-open-tree", Seccomp, "open a mount (open_tree)", "https://man7.org/linux/man-pages/man2/open_tree.2.html", NOT_LISTED),
    attempt("seccomp-kcmp", Seccomp, "compare addresses of the kernel (kcmp)", "https://man7.org/linux/man-pages/man2/kcmp.2.html", NOT_LISTED),
    attempt("seccomp-memfd-secret", Seccomp, "make memory that nobody else sees (memfd_secret)", "https://man7.org/linux/man-pages/man2/memfd_secret.2.html", NOT_LISTED),
    attempt("seccomp-mbind", Seccomp, "bind memory to a node of the machine", "https://man7.org/linux/man-pages/man2/mbind.2.html", NOT_LISTED),
    attempt("seccomp-mempolicy", Seccomp, "choose nodes of the machine for memory", "https://man7.org/linux/man-pages/man2/set_mempolicy.2.html", NOT_LISTED),
    attempt("seccomp-migrate-pages", Seccomp, "move pages to another node", "https://man7.org/linux/man-pages/man2/migrate_pages.2.html", NOT_LISTED),
    attempt("seccomp-move-pages", Seccomp, "move single pages, and learn where they are", "https://man7.org/linux/man-pages/man2/move_pages.2.html", NOT_LISTED),
    attempt("seccomp-fanotify", Seccomp, "watch a whole file system (fanotify_init)", "https://man7.org/linux/man-pages/man7/fanotify.7.html", NOT_LISTED),
    attempt("seccomp-open-by-handle", Seccomp, "open a file by its number, whatever the path (open_by_handle_at)", "https://www.cve.org/CVERecord?id=CVE-2014-3519", NOT_LISTED),
    attempt("seccomp-personality", Seccomp, "make all readable memory executable (personality)", "https://man7.org/linux/man-pages/man2/personality.2.html", NOT_LISTED),
    attempt("seccomp-mount-list", Seccomp, "list mounts by number (listmount)", MOUNT_H, NOT_LISTED),
    attempt("seccomp-mount-status", Seccomp, "read a mount by number (statmount)", MOUNT_H, NOT_LISTED),
    attempt("seccomp-io-setup", Seccomp, "take a share of the machine's asynchronous IO (io_setup)", "https://man7.org/linux/man-pages/man2/io_setup.2.html", NOT_LISTED),
    attempt("seccomp-ofd-lock", Seccomp, "take locks that nothing counts (F_OFD_SETLK)", "https://man7.org/linux/man-pages/man2/fcntl_locking.2.html", NOT_LISTED),
    attempt("seccomp-terminal-input", Seccomp, "type into a terminal (TIOCSTI)", "https://www.cve.org/CVERecord?id=CVE-2017-5226", NOT_LISTED),
    attempt("seccomp-terminal-line", Seccomp, "load a line discipline (TIOCSETD)", "https://www.cve.org/CVERecord?id=CVE-2017-2636", NOT_LISTED),
    attempt("seccomp-console", Seccomp, "paste into a console (TIOCLINUX)", "https://www.cve.org/CVERecord?id=CVE-2023-28100", NOT_LISTED),
    attempt("seccomp-encryption-policy", Seccomp, "encrypt directories with keys of its own (fscrypt)", FSCRYPT, NOT_LISTED),
    attempt("seccomp-add-key", Seccomp, "add a key to the host's keyrings", "https://man7.org/linux/man-pages/man7/keyrings.7.html", NOT_LISTED),
    attempt("seccomp-request-key", Seccomp, "have a key requested by a program of the host", "https://man7.org/linux/man-pages/man7/keyrings.7.html", NOT_LISTED),
    attempt("seccomp-keyctl", Seccomp, "reach keyrings that no namespace divides", "https://www.cve.org/CVERecord?id=CVE-2016-0728", NOT_LISTED),
    attempt("capabilities-module-file", Capabilities, "load a kernel module (finit_module)", HT_CAPS, CAPABLE_FIRST),
    attempt("capabilities-module-load", Capabilities, "load a kernel module (init_module)", HT_CAPS, CAPABLE_FIRST),
    attempt("capabilities-module-unload", Capabilities, "unload a kernel module", "https://man7.org/linux/man-pages/man2/delete_module.2.html", CAPABLE_FIRST),
    attempt("capabilities-kexec", Capabilities, "load another kernel", "https://man7.org/linux/man-pages/man2/kexec_load.2.html", CAPABLE_FIRST),
    attempt("capabilities-kexec-file", Capabilities, "load another kernel from a file", "https://man7.org/linux/man-pages/man2/kexec_load.2.html", CAPABLE_FIRST),
    attempt("capabilities-reboot", Capabilities, "restart the machine", "https://man7.org/linux/man-pages/man2/reboot.2.html", CAPABLE_FIRST),
    attempt("capabilities-swap-on", Capabilities, "add swap space", "https://man7.org/linux/man-pages/man2/swapon.2.html", CAPABLE_FIRST),
    attempt("capabilities-swap-off", Capabilities, "take swap space away", "https://man7.org/linux/man-pages/man2/swapon.2.html", CAPABLE_FIRST),
    attempt("capabilities-accounting", Capabilities, "record what every process did (acct)", "https://man7.org/linux/man-pages/man2/acct.2.html", CAPABLE_FIRST),
    attempt("capabilities-clock", Capabilities, "set the machine's clock", "https://man7.org/linux/man-pages/man2/settimeofday.2.html", CAPABLE_FIRST),
    attempt("capabilities-kernel-log", Capabilities, "read the kernel's log (syslog)", "https://man7.org/linux/man-pages/man2/syslog.2.html", CAPABLE_FIRST),
    attempt("capabilities-freeze", Capabilities, "freeze a file system (FIFREEZE)", "https://man7.org/linux/man-pages/man2/ioctl.2.html", CAPABLE_FIRST),
    attempt("capabilities-io-level", Capabilities, "speak to hardware (iopl)", HT_CAPS, CAPABLE_FIRST),
    attempt("capabilities-io-ports", Capabilities, "speak to a port of the hardware (ioperm)", HT_CAPS, CAPABLE_FIRST),
    attempt("seccomp-modify-ldt", Seccomp, "read the local descriptor table", "https://man7.org/linux/man-pages/man2/modify_ldt.2.html", NOT_LISTED),
    attempt("seccomp-x32", Seccomp, "call by the table of x32", "https://man7.org/linux/man-pages/man2/seccomp.2.html", OTHER_TABLE),
    attempt("seccomp-i386", Seccomp, "call by the table of i386 (int 0x80)", "https://man7.org/linux/man-pages/man2/seccomp.2.html", OTHER_TABLE),
    attempt("kernel-core-pattern", KernelInterfaces, "open for writing: core_pattern: a program that the host starts at a crash", HT_MOUNTS, READ_ONLY),
    attempt("kernel-modprobe", KernelInterfaces, "open for writing: modprobe: the program that loads modules", HT_MOUNTS, READ_ONLY),
    attempt("kernel-usermode-helper", KernelInterfaces, "open for writing: the capabilities of programs that the kernel starts", USERMODE, READ_ONLY),
    attempt("kernel-randomize", KernelInterfaces, "open for writing: the randomisation of addresses", SYSCTL, READ_ONLY),
    attempt("kernel-panic", KernelInterfaces, "open for writing: what happens at a panic", SYSCTL, READ_ONLY),
    attempt("kernel-overcommit", KernelInterfaces, "open for writing: how memory is promised", HT_MOUNTS, READ_ONLY),
    attempt("kernel-protected-links", KernelInterfaces, "open for writing: the protection against races with links", SYSCTL, READ_ONLY),
    attempt("kernel-binfmt", KernelInterfaces, "open for writing: binfmt_misc: interpreters that the host starts", HT_MOUNTS, READ_ONLY),
    attempt("kernel-user-namespaces", KernelInterfaces, "open for writing: how many user namespaces there may be", SYSCTL, READ_ONLY),
    attempt("kernel-sysrq", KernelInterfaces, "open for writing: sysrq-trigger: restart, crash", HT_MOUNTS, READ_ONLY),
    attempt("kernel-uevent-helper", KernelInterfaces, "open for writing: uevent_helper: a program that the host starts for devices", HT_MOUNTS, READ_ONLY),
    attempt("kernel-power", KernelInterfaces, "open for writing: the power state", SYSFS, READ_ONLY),
    attempt("kernel-processors", KernelInterfaces, "open for writing: processors that are switched off and on", SYSFS, READ_ONLY),
    attempt("kernel-huge-pages", KernelInterfaces, "open for writing: huge pages of the machine", SYSFS, READ_ONLY),
    attempt("kernel-memory-image", KernelInterfaces, "read the machine's memory (/proc/kcore)", HT_MOUNTS, MASKED),
    attempt("kernel-symbols", KernelInterfaces, "read addresses of the kernel (/proc/kallsyms)", HT_MOUNTS, MASKED),
    attempt("kernel-log", KernelInterfaces, "read the kernel's log (/proc/kmsg)", HT_MOUNTS, MASKED),
    attempt("kernel-keys", KernelInterfaces, "read keys of the host (/proc/keys)", "https://man7.org/linux/man-pages/man7/keyrings.7.html", MASKED),
    attempt("kernel-timers", KernelInterfaces, "read timers of all processes (/proc/timer_list)", HT_MOUNTS, MASKED),
    attempt("kernel-command-line", KernelInterfaces, "read the kernel's command line", "https://man7.org/linux/man-pages/man5/proc_cmdline.5.html", MASKED),
    attempt("kernel-modules", KernelInterfaces, "read which modules are loaded", "https://man7.org/linux/man-pages/man5/proc_modules.5.html", MASKED),
    attempt("kernel-locks", KernelInterfaces, "read locks of all processes (/proc/locks)", "https://man7.org/linux/man-pages/man5/proc_locks.5.html", MASKED),
    attempt("kernel-page-flags", KernelInterfaces, "read what physical pages are used for (/proc/kpageflags)", PAGEMAP, MASKED),
    attempt("kernel-slabs", KernelInterfaces, "read the kernel's caches (/proc/slabinfo)", "https://man7.org/linux/man-pages/man5/slabinfo.5.html", MASKED),
    attempt("kernel-debugfs", KernelInterfaces, "list /sys/kernel/debug", HT_MOUNTS, MASKED),
    attempt("kernel-tracefs", KernelInterfaces, "list /sys/kernel/tracing", HT_MOUNTS, MASKED),
    attempt("kernel-securityfs", KernelInterfaces, "list /sys/kernel/security", HT_MOUNTS, MASKED),
    attempt("kernel-bpffs", KernelInterfaces, "list /sys/fs/bpf", BPFFS, MASKED),
    attempt("kernel-firmware", KernelInterfaces, "list /sys/firmware", HT_MOUNTS, MASKED),
    attempt("kernel-bus", KernelInterfaces, "list /proc/bus", DOCKER_MASK, MASKED),
    attempt("kernel-acpi", KernelInterfaces, "list /proc/acpi", "https://www.cve.org/CVERecord?id=CVE-2018-10892", MASKED),
    attempt("device-memory", Devices, "open /dev/mem", HT_CAPS, NO_NODE),
    attempt("device-ports", Devices, "open /dev/port", HT_CAPS, NO_NODE),
    attempt("device-kernel-log", Devices, "open /dev/kmsg", HT_MOUNTS, NO_NODE),
    attempt("device-kvm", Devices, "open /dev/kvm", KVM, NO_NODE),
    attempt("device-fuse", Devices, "open /dev/fuse", FUSE, NO_NODE),
    attempt("device-loop", Devices, "open /dev/loop-control", "https://man7.org/linux/man-pages/man4/loop.4.html", NO_NODE),
    attempt("device-mapper", Devices, "open /dev/mapper/control", DM, NO_NODE),
    attempt("device-tun", Devices, "open /dev/net/tun", TUN, NO_NODE),
    attempt("device-vhost", Devices, "open /dev/vhost-net, /dev/vhost-vsock and /dev/vsock", "https://www.cve.org/CVERecord?id=CVE-2019-14835", NO_NODE),
    attempt("device-nodes", Devices, "find any other device node in /dev", DEEPCE, NO_NODE),
    attempt("device-make-character", Devices, "make a node for the machine's memory (mknod)", HT_CAPS, NO_MKNOD),
    attempt("device-make-block", Devices, "make a node for the machine's disk (mknod)", HT_CAPS, NO_MKNOD),
    attempt("root-parent", RootFilesystem, "climb above the root by ..", "https://man7.org/linux/man-pages/man7/path_resolution.7.html", OWN_TREE),
    attempt("root-chroot", RootFilesystem, "leave a chroot by a descriptor of the root", "https://man7.org/linux/man-pages/man2/chroot.2.html", OWN_TREE),
    attempt("root-working-directory", RootFilesystem, "work in a directory of the host that was left open", "https://www.cve.org/CVERecord?id=CVE-2024-21626", OWN_TREE),
    attempt("root-own-program", RootFilesystem, "write to the platform's own program by /proc/self/exe", "https://www.cve.org/CVERecord?id=CVE-2019-5736", OWN_TREE),
    attempt("root-mounts", RootFilesystem, "read paths of the host in the list of mounts", DEEPCE, OWN_TREE),
    attempt("landlock-signal", Landlock, "send a signal out of the domain", LANDLOCK, SCOPED),
    attempt("landlock-ptrace", Landlock, "attach to a process outside of the domain", LANDLOCK, SCOPED),
    attempt("landlock-abstract-socket", Landlock, "connect to an abstract socket outside of the domain", LANDLOCK, SCOPED),
    attempt("apparmor-profile", AppArmor, "run without the profile of containers, or in one that only complains", "https://gitlab.com/apparmor/apparmor/-/wikis/AppArmorInterfaces", NO_RULE_OUT),
    attempt("apparmor-leave", AppArmor, "become unconfined", "https://man7.org/linux/man-pages/man2/aa_change_profile.2.html", NO_RULE_OUT),
    attempt("apparmor-leave-at-exec", AppArmor, "have the next program executed unconfined", "https://www.cve.org/CVERecord?id=CVE-2019-16884", NO_RULE_OUT),
    attempt("apparmor-hat", AppArmor, "change into a part of the profile that allows more", "https://man7.org/linux/man-pages/man2/aa_change_hat.2.html", NO_RULE_OUT),
    attempt("memory-raise-locked", MemoryLimit, "lock more memory than is allowed, by raising the limit", "https://man7.org/linux/man-pages/man2/prlimit.2.html", HARD),
    attempt("memory-lock", MemoryLimit, "lock a terabyte of memory", "https://man7.org/linux/man-pages/man2/mlock.2.html", HARD),
    attempt("processes-raise-signals", PidsLimit, "queue more signals than is allowed, by raising the limit", "https://man7.org/linux/man-pages/man2/prlimit.2.html", HARD),
    attempt("processes-raise-files", PidsLimit, "open more files than is allowed, by raising the limit", "https://man7.org/linux/man-pages/man2/prlimit.2.html", HARD),
    attempt("cpu-real-time", CpuLimit, "run before everybody else (SCHED_FIFO)", "https://man7.org/linux/man-pages/man7/sched.7.html", NO_NICE),
    attempt("cpu-deadline", CpuLimit, "reserve processor time (SCHED_DEADLINE)", "https://man7.org/linux/man-pages/man7/sched.7.html", NO_NICE),
    attempt("cpu-priority", CpuLimit, "raise its priority", "https://man7.org/linux/man-pages/man2/setpriority.2.html", NO_NICE),
    attempt("cpu-io-priority", CpuLimit, "use the disk before everybody else", "https://man7.org/linux/man-pages/man2/ioprio_set.2.html", NO_NICE),
    attempt("os-user-ids", OsUser, "have an id of the machine's own users, or root's", "https://man7.org/linux/man-pages/man7/credentials.7.html", OWN_OS_USER),
    attempt("os-user-root", OsUser, "become root (setresuid)", "https://man7.org/linux/man-pages/man2/setresuid.2.html", OWN_OS_USER),
    attempt("os-user-group", OsUser, "take root's group (setresgid)", "https://man7.org/linux/man-pages/man2/setresgid.2.html", OWN_OS_USER),
    attempt("os-user-groups", OsUser, "change which other groups it has (setgroups)", "https://man7.org/linux/man-pages/man2/setgroups.2.html", OWN_OS_USER),
    attempt("system-change-file", ReadOnlySystem, "open files of the machine's system for writing", MITRE_ESCAPE, SYSTEM),
    attempt("system-make-file", ReadOnlySystem, "make a file among those of the machine's system", MITRE_ESCAPE, SYSTEM),
    attempt("system-passwords", ReadOnlySystem, "read the machine's passwords and who may become root", "https://attack.mitre.org/techniques/T1003/008/", SYSTEM),
    attempt("system-homes", ReadOnlySystem, "list other people's homes", "https://attack.mitre.org/techniques/T1083/", SYSTEM),
    attempt("system-data", ReadOnlySystem, "list other people's data and the platform's", "https://attack.mitre.org/techniques/T1083/", SYSTEM),
    attempt("system-setuid", ReadOnlySystem, "find a mount in which setuid programs work", "https://man7.org/linux/man-pages/man2/mount.2.html", SYSTEM),
    attempt("tmp-own", PrivateTmp, "share /tmp with the machine", "https://attack.mitre.org/techniques/T1083/", OWN_TMP),
];
