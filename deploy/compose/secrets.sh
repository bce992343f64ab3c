#!/bin/sh
# Makes the passwords and certificates that compose.yaml refers to, in `secrets` beside it or in the
# directory that is given. What is there already is left. Needs openssl.
#
# The containers run as whoever runs this, so that they can read files of mode 600; run by root, as user
# 10001. The CA that signs the two certificates is forgotten at once: to renew them, remove `ca.pem` and
# run this again, then restart all.
set -eu
umask 077
here=$(cd "$(dirname "$0")" && pwd)
secrets=${1:-$here/secrets}
env=${1:+$1/.env}
env=${env:-$here/.env}
mkdir -p "$secrets"
cd "$secrets"

password() {
    [ -s "$1" ] || openssl rand -hex 32 >"$1"
}
password postgres-password
password postgres-app-password
password rabbitmq-password

# RabbitMQ keeps SHA-256 of four bytes of salt and the password, after the salt.
if [ ! -s rabbitmq-definitions.json ] || [ rabbitmq-password -nt rabbitmq-definitions.json ]; then
    salt=$(mktemp)
    openssl rand 4 >"$salt"
    digest=$({ cat "$salt"; { cat "$salt"; tr -d '\n' <rabbitmq-password; } | openssl dgst -sha256 -binary; } |
        openssl base64 -A)
    rm "$salt"
    cat >rabbitmq-definitions.json <<END
{
  "vhosts": [{ "name": "stratavore" }],
  "users": [{ "name": "stratavore", "password_hash": "$digest",
              "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": [] }],
  "permissions": [{ "user": "stratavore", "vhost": "stratavore", "configure": ".*", "write": ".*", "read": ".*" }]
}
END
fi

if [ ! -s ca.pem ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 825 -subj "/CN=Stratavore compose CA" \
        -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign" \
        -keyout "$work/ca-key.pem" -out "$work/ca.pem" 2>"$work/said" || { cat "$work/said" >&2; exit 1; }
    for name in postgres rabbitmq; do
        printf 'subjectAltName=DNS:%s,DNS:localhost\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n' "$name" \
            >"$work/extensions"
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$name" \
            -keyout "$name-key.pem" -out "$work/$name.csr" 2>"$work/said" || { cat "$work/said" >&2; exit 1; }
        openssl x509 -req -days 825 -in "$work/$name.csr" -CA "$work/ca.pem" -CAkey "$work/ca-key.pem" \
            -CAcreateserial -extfile "$work/extensions" -out "$name.pem" 2>"$work/said" || { cat "$work/said" >&2; exit 1; }
    done
    # Last: while it is missing, the others are made anew.
    mv "$work/ca.pem" ca.pem
fi

uid=$(id -u)
gid=$(id -g)
if [ "$uid" = 0 ]; then
    uid=10001
    gid=10001
    chown -R "$uid:$gid" "$secrets"
    # What is no secret is read by that user too, however tight root's umask was when it cloned this.
    chmod go+r "$here"/*.yaml "$here/rabbitmq.conf" "$here/rights.sh" "$here/../postgres/rights.sql"
fi
printf 'RUN_AS_UID=%s\nRUN_AS_GID=%s\n' "$uid" "$gid" >"$env"
echo "secrets are in $secrets, for user $uid"
