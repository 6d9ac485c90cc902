#!/usr/bin/env bash
set -Eeo pipefail
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	initdb --username=postgres --auth=trust --no-sync --locale=en_US.utf8 > /dev/null
	pg_ctl -o "-c listen_addresses=''" -w start > /dev/null
	for f in /docker-entrypoint-initdb.d/*.sql; do psql --no-psqlrc -q -f "$f"; done
	[ "$1" = postgres ] || exec "$@"
	pg_ctl -m fast -w stop > /dev/null
fi
exec "$@"
