#!/bin/sh
# The life of an installation, in a Debian 12 that systemd runs: beside this lie before.deb and after.deb, two versions
# of the package whose jails differ by content. It ends at the first thing that is not as it should be.
set -eu
agents=/sys/fs/cgroup/system.slice/cofferdam-agents.service
ours="cofferdam.service cofferdam-agents.service cofferdam-control.service cofferdam-control.socket \
cofferdam-node.service cofferdam-setup.service"
# This disk is thrown away.
export DPKG_FORCE=unsafe-io,downgrade

say() { echo "== $(cut -d' ' -f1 /proc/uptime) $*"; }
fail() {
    echo "not as it should be: $*"
    exit 1
}
explain() {
    code=$?
    [ "$code" = 0 ] && return
    systemctl --no-pager --full status $ours 2>&1 | tail -60
    journalctl --no-pager -b -n 60 -u 'cofferdam*' 2>&1
}
trap explain EXIT

# One field of an agent's record: the agent by its name.
record() {
    python3 - "$1" "$2" <<'PY'
import glob, json, subprocess, sys
shown = json.loads(subprocess.check_output(["cofferdam", "show", sys.argv[1], "-o", "json"]))
records = [json.load(open(path)) for path in glob.glob("/run/cofferdam/agents/*/boundary.json")]
print([record for record in records if record["agent"] == shown["id"]][0][sys.argv[2]])
PY
}
count() { cofferdam exec "$1" -- cat /home/agent/count; }
# systemd starts a service again by itself; nothing tells us when.
until_true() {
    for _ in $(seq 300); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    fail "never: $*"
}
all_active() {
    for unit in $ours; do
        systemctl --quiet is-active "$unit" || fail "$unit is $(systemctl is-active "$unit")"
    done
}
# The unit's own walls around another program, run once: `behind UNIT PROGRAM...`.
behind() {
    unit=$1
    shift
    sed -e "s|^ExecStart=.*|ExecStart=$*|" -e 's|^Type=.*|Type=oneshot|' -e '/^Restart=/d' -e '/^PartOf=/d' \
        "/usr/lib/systemd/system/$unit" >"/run/systemd/system/attack-$unit"
    systemctl daemon-reload
    systemctl start "attack-$unit" || {
        journalctl --no-pager -b -o cat -u "attack-$unit"
        fail "something got out of the walls of $unit"
    }
    journalctl --no-pager -b -o cat -u "attack-$unit" | grep -F 'held:'
    rm "/run/systemd/system/attack-$unit"
}

if [ "$VM_BOOT" = 1 ]; then
    say "the older version is installed, and comes up"
    dpkg --install before.deb
    all_active
    cofferdam doctor || fail "doctor finds gaps"

    say "two agents of an image that was made here"
    mkdir -p /tmp/box/bin /tmp/box/tmp /tmp/box/usr /tmp/box/etc
    cp /bin/busybox /tmp/box/bin/busybox
    for name in sh cat sleep echo id mv; do ln -s busybox "/tmp/box/bin/$name"; done
    tar -C /tmp/box -cf /tmp/box.tar .
    cofferdam image import --name box /tmp/box.tar
    loop='n=0; while :; do n=$((n + 1)); echo $n >next; mv next count; sleep 0.2; done'
    for name in one two; do
        cofferdam create --name "$name" --image box --memory 64MiB --disk 64MiB -- sh -c "cd /home/agent; $loop"
        until_true count "$name"
    done
    pid=$(record one pid)
    before=$(record one init_digest)
    grep -q "^0::/system.slice/cofferdam-agents.service/" "/proc/$pid/cgroup" || fail "it is elsewhere"
    cofferdam exec one -- id

    say "node, control and the agents' sleeper are killed, and no agent ends"
    kill -9 $(systemctl show -P ExecMainPID cofferdam-node cofferdam-control) $(cat $agents/holder/cgroup.procs)
    # That they start again is all there is to see: they count it.
    for unit in cofferdam-node cofferdam-control; do
        until_true sh -c "systemctl show -P NRestarts $unit | grep -qv ^0 && systemctl is-active $unit"
    done
    systemctl --quiet is-active cofferdam-agents || fail "the agents' unit ended with its sleeper"
    until_true cofferdam exec one -- id
    [ "$(record one pid)" = "$pid" ] && [ -e "/proc/$pid" ] || fail "the agent has another init"
    curl --silent --fail --unix-socket /run/cofferdam/control.sock http://localhost/v1/openapi.json >/dev/null ||
        fail "control.sock does not answer"

    say "what is behind control's walls stays there"
    # Somebody who answers at addresses that are not loopback's, as one far away and a neighbour would.
    ip address add 192.0.2.1/32 dev lo
    ip address add 10.255.255.1/32 dev lo
    systemd-run --quiet --unit=far-away --property=Type=exec python3 -c "
import socket
listener = socket.create_server(('', 9))
while True: listener.accept()"
    until_true python3 -c "import socket; socket.create_connection(('192.0.2.1', 9))"
    python3 -c "import socket; socket.create_connection(('10.255.255.1', 9))" || fail "nobody answers there"
    behind cofferdam-control.service /usr/bin/python3 "$PWD/attack.py" control
    say "what is behind node's walls stays there"
    behind cofferdam-node.service /usr/bin/python3 "$PWD/attack.py" node

    systemctl stop far-away
    say "up and down leave it to systemd"
    for command in up down; do
        if said=$(cofferdam $command 2>&1); then fail "$command went ahead"; fi
        case "$said" in *"systemctl "*) ;; *) fail "$command said: $said" ;; esac
    done

    say "the newer version is installed over it: services start again, and no agent ends"
    started=$(systemctl show -P ExecMainPID cofferdam-node cofferdam-control | tr '\n' ' ')
    invocation=$(systemctl show -P InvocationID cofferdam-agents)
    counted=$(count one)
    dpkg --install after.deb
    all_active
    until_true cofferdam exec one -- id
    for died in $started; do [ ! -e "/proc/$died" ] || fail "a service of the older version runs on"; done
    [ "$(systemctl show -P InvocationID cofferdam-agents)" = "$invocation" ] || fail "the agents' unit was restarted"
    [ "$(record one pid)" = "$pid" ] || fail "the agent has another init"
    [ "$(sha256sum <"/proc/$pid/exe" | cut -d' ' -f1)" = "$before" ] || fail "its init is not the pinned one"
    [ -e "/var/lib/cofferdam/init/$before" ] || fail "the pinned init was not kept"
    [ "$(count one)" -gt "$counted" ] || fail "it does not count on"
    cofferdam create --name new --image box --memory 64MiB --disk 64MiB -- sleep 1000000
    until_true cofferdam exec new -- id
    after=$(sha256sum </usr/bin/cofferdam-jail | cut -d' ' -f1)
    [ "$after" != "$before" ] || fail "the two versions have the same jail"
    [ "$(record new init_digest)" = "$after" ] || fail "a new agent has an old init"

    say "the older version is put back, and no agent ends"
    newer=$(record new pid)
    dpkg --install before.deb
    until_true cofferdam exec new -- id
    [ "$(record new pid)" = "$newer" ] || fail "the agent has another init"

    say "stopping the agents' unit ends all of them, and starting it brings them back"
    systemctl stop cofferdam-agents
    [ ! -e "/proc/$pid" ] && [ ! -e "/proc/$newer" ] || fail "an agent lives"
    [ ! -e "$agents" ] || fail "its cgroup is left"
    systemctl start cofferdam-agents
    until_true cofferdam exec one -- id
    until_true cofferdam exec new -- id
    [ "$(record new init_digest)" = "$before" ] || fail "it started with an init that is not installed any more"
    all_active
    say "the machine starts again"
    systemctl reboot
    # Ended by that.
    sleep 600
fi

say "everything is up after a boot, agents too"
until_true systemctl is-active cofferdam.service
all_active
until_true cofferdam exec one -- id
until_true cofferdam exec two -- id

say "a purge leaves nothing"
dpkg --purge cofferdam
for user in cofferdam-control cofferdam-image; do
    ! getent passwd "$user" || fail "the user is left"
    ! getent group "$user" || fail "the group is left"
    ! grep "^$user" /etc/subuid || fail "subordinate ids are left"
done
for path in /etc/cofferdam /run/cofferdam /var/lib/cofferdam "$agents" /sys/fs/cgroup/cofferdam /usr/bin/cofferdam; do
    [ ! -e "$path" ] || fail "$path is left"
done
! grep -i cofferdam /proc/mounts || fail "a mount is left"
[ -z "$(losetup --list --noheadings)" ] || fail "a loop device is left"
! ls /usr/lib/systemd/system /etc/systemd/system/*.wants /var/lib/systemd/deb-systemd-helper-* 2>/dev/null |
    grep cofferdam || fail "a unit is left"
! systemctl list-units --all --no-legend 'cofferdam*' | grep . || fail "a unit is still loaded"
! ps -eo args | grep '[c]offerdam-jail\|[c]offerdam node' || fail "a process is left"
say "done"
