#!/bin/sh
# usage: systemd.sh PROGRAMS UNIT
#
# Starts a systemd of its own, in namespaces and over a copy of this machine's files that is thrown away, and has it
# run the daemon by UNIT with the programs of PROGRAMS. Whatever systemd does to the daemon, its runners stay the
# processes that they are. The control: with a unit that stops all of its group they do not.
set -eu
programs=$1 unit=$2
name=stratavore-xtask-$$
stage=$(mktemp -d /tmp/stratavore-systemd-XXXXXX)
init=

groups() {
    for group in /sys/fs/cgroup /sys/fs/cgroup/*; do
        if [ -e "$group/cgroup.procs" ] && mountpoint -q "$group"; then echo "$group"; fi
    done
}
clean() {
    [ -z "$init" ] || kill -KILL "$init" 2>/dev/null || true
    wait 2>/dev/null || true
    umount -l "$stage" 2>/dev/null || true
    rmdir "$stage" || true
    groups | while read -r group; do
        # The kernel needs a moment to be rid of the last process.
        tries=0
        while [ -d "$group/$name" ] && [ $tries -lt 50 ]; do
            find "$group/$name" -depth -type d -exec rmdir {} \; 2>/dev/null || sleep 0.1
            tries=$((tries + 1))
        done
    done
}
trap clean EXIT

for group in $(groups); do
    mkdir "$group/$name"
    # Such a group takes nobody before it is told where its processes may run.
    for what in cpus mems; do
        file=cpuset.$what
        if [ -e "$group/$file" ] && [ ! -s "$group/$name/$file" ]; then
            cat "$group/$file" >"$group/$name/$file"
        fi
    done
done
mount -t tmpfs tmpfs "$stage"
mkdir "$stage/upper" "$stage/work" "$stage/root"

# shellcheck disable=SC2016 # it is for the shell inside
inside='
    set -eu
    for group in $3; do echo $$ >"$group/$1/cgroup.procs"; done
    exec unshare --cgroup /bin/sh -c '"'"'
        set -eu
        cd "$2"
        mount -t overlay -o "lowerdir=/,upperdir=$2/upper,workdir=$2/work" overlay root
        cd root
        mount -t proc proc proc
        mount --rbind /sys sys
        mount --rbind /dev dev
        for group in $3; do mount --bind "$group/$1" "${group#/}"; done
        mount -t tmpfs tmpfs run
        mount -t tmpfs tmpfs tmp
        mkdir -p old
        pivot_root . old
        cd /
        export container=lxc
        exec /lib/systemd/systemd --unit=basic.target
    '"'"' sh "$1" "$2" "$3"
'
unshare --mount --pid --uts --ipc --net --fork --kill-child --propagation private \
    /bin/sh -c "$inside" sh "$name" "$stage" "$(groups)" </dev/null >"$stage/log" 2>&1 &
init=$!
first=
tries=0
until [ -n "$first" ] && nsenter -t "$first" -a systemctl is-active --quiet basic.target 2>/dev/null; do
    kill -0 "$init" 2>/dev/null || { cat "$stage/log" >&2; echo "systemd did not start" >&2; exit 1; }
    tries=$((tries + 1))
    [ $tries -lt 600 ] || { cat "$stage/log" >&2; echo "systemd did not come up" >&2; exit 1; }
    sleep 0.1
    first=$(pgrep -P "$init" || true)
done

nsenter -t "$first" -a /bin/sh -s "$programs" "$unit" <<'INSIDE'
set -eu
install -m 755 "$1/stratavore" "$1/stratavored" "$1/stratavore-agent" /usr/local/bin
install -m 644 "$2" /etc/systemd/system/stratavored.service
home=/var/lib/stratavore
id stratavore >/dev/null 2>&1 ||
    useradd --system --create-home --home-dir $home --shell /bin/bash stratavore
as() {
    setpriv --reuid stratavore --regid stratavore --init-groups env -i HOME=$home STRATAVORE_HOME=$home \
        PATH=/usr/local/bin:/usr/bin:/bin "$@"
}
fail() {
    echo "$1" >&2
    systemctl status --no-pager stratavored >&2 || true
    exit 1
}
systemctl daemon-reload
systemctl start stratavored
mkdir -p /srv/demo
chown stratavore /srv/demo
cd /srv/demo
as stratavore new demo --directory /srv/demo >/dev/null
# With a group of its own for its limit, where there may be one, and without.
as stratavore launch --project demo --name one -- sh -c 'n=0; while sleep 0.02; do n=$((n + 1)); echo $n; done'
as stratavore launch --project demo --name two --pids 20 -- sleep 100000

process() { as stratavore runners show "$1" | awk '$1 == "process" { print $2 }'; }
# A process is the same one if its number and its start are.
identity() { echo "$1 $(cut -d' ' -f22 "/proc/$1/stat" 2>/dev/null)"; }
one=$(process one) two=$(process two)
before="$(identity "$one") $(identity "$two")"
held() { [ "$(identity "$one") $(identity "$two")" = "$before" ]; }
kept() {
    held || fail "after $1 the runners are not the same processes"
    states=$(as stratavore runners | awk 'NR > 1 { print $3 }' | sort -u)
    [ "$states" = running ] || fail "after $1 the runners are: $states"
}

for restart in 1 2 3 4 5 6 7 8 9 10; do
    systemctl reset-failed stratavored
    systemctl restart stratavored
    kept "restart $restart"
done
systemctl reset-failed stratavored
daemon=0
# The number of a daemon that is ready and is not this one.
next_daemon() {
    until now=$(systemctl show -p MainPID --value stratavored) && [ "$now" != "$1" ] && [ "$now" != 0 ] &&
        [ "$(systemctl is-active stratavored)" = active ]; do sleep 0.05; done
    echo "$now"
}
for death in 1 2 3; do
    daemon=$(next_daemon "$daemon")
    kill -KILL "$daemon"
    next_daemon "$daemon" >/dev/null
    kept "kill -9 number $death"
done
systemctl stop stratavored
held || fail "the runners ended with a stop of the daemon"
systemctl start stratavored
kept "a stop and a start"
# Nothing of what it printed meanwhile is missing.
as stratavore logs one | tr -d '\r' | awk '$1 != NR { print "line " NR " is " $0; exit 1 }' ||
    fail "the runner's log has a gap"
echo "10 restarts, 3 deaths, a stop and a start: two runners stayed the processes that they were"

mkdir -p /etc/systemd/system/stratavored.service.d
printf '[Service]\nKillMode=control-group\n' >/etc/systemd/system/stratavored.service.d/control.conf
systemctl daemon-reload
systemctl reset-failed stratavored
systemctl restart stratavored
if held; then fail "the control: a unit that stops all of its group was not noticed"; fi
echo "the control, a unit that stops all of its group: caught"
INSIDE
