# Runs one private RabbitMQ until standard input ends, then kills it and removes its directory.
#
# Arguments: the directory to make ours in, the ports for AMQP, for Erlang's distribution and for
# its port mapper, and the directory that is to be the broker's root, or nothing. Says `ready DIRECTORY` and closes standard output once the broker answers; otherwise
# what went wrong. A line of input, after the broker has ended, starts it again on the same data.
#
# If this shell itself is killed, the kernel ends the broker, by its parent death signal.
set -u
port=$2
dist=$3
epmd=$4
root=$5
exec 2>&1

dir=$(mktemp -d "$1/stratavore-mq-XXXXXXXX") || exit 1
server=
mapper=
finish() {
    trap - EXIT
    # A broker that a test has frozen is killed as well.
    [ -z "$server" ] || kill -KILL "$server"
    [ -z "$mapper" ] || kill -KILL "$mapper"
    wait
    cd /
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

fail() {
    echo "$1"
    tail -n 20 "$dir/out" "$dir"/log/*.log
    exit 1
}

inside=
if [ -n "$root" ]; then
    for shared in /proc /dev /sys "$1"; do
        mkdir -p "$root$shared"
        mount --rbind "$shared" "$root$shared" || fail "cannot share $shared with $root"
    done
    inside="chroot $root"
fi
sbin=$($inside sh -c 'ls -d /usr/lib/rabbitmq/lib/*/sbin | tail -n 1')
[ -x "$root$sbin/rabbitmq-server" ] || fail "no RabbitMQ under $root/usr/lib/rabbitmq"
mkdir "$dir/home" "$dir/log" "$dir/bin" "$dir/mnesia" || exit 1
(
    umask 377
    od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$dir/home/.erlang.cookie"
)
# Erlang is started by a script of the broker's that forks. The order to end with us has to be given
# again.
cat >"$dir/bin/erl" <<'END'
#!/bin/sh
exec setpriv --pdeathsig KILL /usr/bin/erl "$@"
END
chmod 755 "$dir/bin/erl"
echo '[].' >"$dir/plugins"
: >"$dir/env.conf"
cat >"$dir/rabbitmq.conf" <<'END'
loopback_users = none
log.console = false
log.file.level = warning
disk_free_limit.absolute = 1MB
vm_memory_high_watermark.absolute = 2GB
heartbeat = 10
END
cd "$dir" || exit 1

# Nothing of the host's own broker, if it has one: other names, ports, files and cookie.
start() {
    env -i PATH="$dir/bin:$PATH" HOME="$dir/home" LANG=C.UTF-8 \
        ERL_EPMD_PORT="$epmd" ERL_EPMD_ADDRESS=127.0.0.1 \
        RABBITMQ_NODENAME="stratavore-$port@localhost" \
        RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT="$port" RABBITMQ_DIST_PORT="$dist" \
        RABBITMQ_MNESIA_BASE="$dir/mnesia" RABBITMQ_LOG_BASE="$dir/log" \
        RABBITMQ_ENABLED_PLUGINS_FILE="$dir/plugins" RABBITMQ_CONF_ENV_FILE="$dir/env.conf" \
        RABBITMQ_CONFIG_FILE="$dir/rabbitmq" \
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none" \
        setpriv --pdeathsig KILL $inside "$sbin/rabbitmq-server" </dev/null >>"$dir/out" 2>&1 &
    server=$!
}
setpriv --pdeathsig KILL $inside epmd -port "$epmd" -address 127.0.0.1 </dev/null >>"$dir/out" 2>&1 &
mapper=$!
start

answers() {
    echo 'rabbit:is_running().' |
        HOME="$dir/home" ERL_EPMD_PORT="$epmd" $inside erl_call -n "stratavore-$port@localhost" \
            -c "$(cat "$dir/home/.erlang.cookie")" -e 2>/dev/null | grep -q true
}
tries=0
until answers; do
    kill -0 "$server" || fail "the broker ended at once"
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] || fail "the broker did not answer within two minutes"
    sleep 0.2
done

echo "ready $dir"
exec >/dev/null 2>&1

# Ends at the end of input: whoever started us is gone, or asks us to stop.
while read -r _; do
    wait "$server"
    start
done
