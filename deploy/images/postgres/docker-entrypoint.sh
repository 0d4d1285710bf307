#!/bin/sh
# The part of the official image's entrypoint that docker-compose.yml relies on.
set -eu
as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }

if [ "$1" != postgres ]; then exec "$@"; fi
mkdir -p "$PGDATA" /run/postgresql
chown postgres:postgres "$PGDATA" /run/postgresql
chmod 700 "$PGDATA"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    password=$(mktemp)
    cat "$POSTGRES_PASSWORD_FILE" > "$password"
    chown postgres "$password"
    as_postgres initdb --username="${POSTGRES_USER:-postgres}" --pwfile="$password" --auth-local=trust \
        --auth-host=scram-sha-256 --data-checksums
    rm "$password"
    echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
    echo "listen_addresses = '*'" >> "$PGDATA/postgresql.conf"
    as_postgres pg_ctl --options="-c listen_addresses=''" --wait start
    as_postgres createdb --username="${POSTGRES_USER:-postgres}" "${POSTGRES_DB:-postgres}" || true
    as_postgres pg_ctl --mode=fast --wait stop
fi
exec setpriv --reuid=postgres --regid=postgres --init-groups "$@"
