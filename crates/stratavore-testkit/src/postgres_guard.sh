# Runs one private PostgreSQL until standard input ends, then stops it and removes its directory.
#
# Arguments: the directory of the server's binaries, the directory to make ours in, the user to run
# the server as (empty: ourselves), `durable` for one whose data is to survive a crash or `primary` for one
# that may have standbys, and for a standby the directory of its primary's socket. Says
# `ready DIRECTORY` and closes standard output once the server answers; otherwise what went wrong.
# A line of input, after the server has ended, starts it again on the same data.
#
# If this shell itself is killed, the kernel still stops the server, by its parent death signal.
set -u
bin=$1
user=$3
safety=$4
primary=$5
exec 2>&1

dir=$(mktemp -d "$2/stratavore-pg-XXXXXXXX") || exit 1
pid=
# A background process starts with QUIT ignored, until the server has installed its own handler.
stop=KILL
finish() {
    trap - EXIT
    if [ -n "$pid" ]; then
        kill "-$stop" "$pid"
        # One that a test has frozen hears nothing otherwise.
        kill -CONT "$pid"
        wait "$pid"
    fi
    cd /
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

fail() {
    echo "$1"
    tail -n 20 "$dir/log"
    exit 1
}

# PostgreSQL refuses to run as root.
if [ -n "$user" ]; then
    chown "$user:" "$dir" || fail "cannot give $dir to the user $user"
    set -- --reuid "$user" --regid "$(id -g "$user")" --init-groups
else
    set --
fi
cd "$dir" || exit 1

if [ -n "$primary" ]; then
    setpriv "$@" "$bin/pg_basebackup" --pgdata "$dir/data" --host "$primary" --port 5432 \
        --username postgres --write-recovery-conf --checkpoint fast --no-sync \
        </dev/null >"$dir/log" 2>&1 || fail "pg_basebackup failed"
else
    setpriv "$@" "$bin/initdb" --pgdata "$dir/data" --username postgres --auth trust \
        --encoding UTF8 --locale C --no-sync --no-instructions \
        </dev/null >"$dir/log" 2>&1 || fail "initdb failed"
fi

# Nothing in an ordinary one must survive a crash, so nothing is synced. The time zone is one that
# no test can mistake for the host's by luck.
wal="-c wal_level=minimal -c max_wal_senders=0"
case $safety in
durable)
    # When something was committed is kept as well, for measuring.
    safety="-c fsync=on -c synchronous_commit=on -c full_page_writes=on -c track_commit_timestamp=on"
    ;;
primary)
    safety="-c fsync=off -c full_page_writes=on"
    wal="-c wal_level=replica -c max_wal_senders=5"
    ;;
*) safety="-c fsync=off -c synchronous_commit=off -c full_page_writes=off" ;;
esac
# Ours, to be used where "$@" are others.
as_user=$*
start() {
    # shellcheck disable=SC2086 # words without spaces
    setpriv $as_user --pdeathsig QUIT "$bin/postgres" -D "$dir/data" -k "$dir" -p 5432 \
        -c listen_addresses= -c max_connections=300 -c shared_buffers=32MB $safety \
        $wal -c jit=off -c timezone=UTC \
        </dev/null >>"$dir/log" 2>&1 &
    pid=$!
}
start

tries=0
until "$bin/pg_isready" --quiet --host "$dir" --port 5432; do
    kill -0 "$pid" || fail "the server ended at once"
    tries=$((tries + 1))
    [ "$tries" -lt 1200 ] || fail "the server did not answer within a minute"
    sleep 0.05
done

stop=QUIT
echo "ready $dir"
exec >/dev/null 2>&1

# Ends at the end of input: whoever started us is gone, or asks us to stop.
while read -r _; do
    wait "$pid"
    start
done
