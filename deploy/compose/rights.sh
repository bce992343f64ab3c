#!/bin/sh
# Makes the daemons' role with its password, and gives it the rights that it needs and no others: it can
# neither change the schema nor what is on the record. Run by compose.yaml after the schema was made; again
# does no harm.
set -eu
umask 077
secrets=${SECRETS:-/run/secrets}
rights=${RIGHTS:-/rights.sql}
PGHOST=${PGHOST:-postgres}
export PGHOST PGUSER=stratavore PGDATABASE=stratavore PGSSLMODE=verify-full PGSSLROOTCERT="$secrets/ca"

# A password stands in files only.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '*:*:stratavore:stratavore:%s\n' "$(cat "$secrets/postgres-password")" >"$work/pgpass"
export PGPASSFILE="$work/pgpass" APP_PASSWORD_FILE="$secrets/postgres-app-password"
cat >"$work/role.sql" <<'END'
\set password `cat "$APP_PASSWORD_FILE"`
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'stratavore_app') AS missing \gset
\if :missing
CREATE ROLE stratavore_app;
\endif
ALTER ROLE stratavore_app LOGIN NOSUPERUSER PASSWORD :'password';
-- To tell whose transaction stays open.
GRANT pg_read_all_stats TO stratavore_app;
END
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --single-transaction --file "$work/role.sql" --file "$rights"
echo "stratavore_app has its rights"
