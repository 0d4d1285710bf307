#!/usr/bin/env bash
# What docs/operations.md promises of docker-compose.yml, tried on this machine: an application changes users while workers come
# and go and every service is killed in turn; then both receivers must hold what was committed.
#
#   deploy/compose/trial.sh [OLD_IMAGE]    given an older image, it begins with that one and is upgraded on the way
#
# It removes its containers and volumes, and takes those of a `docker compose up` of this folder for its own.
set -euo pipefail
cd "$(dirname "$0")/../.."
export COMPOSE_PROFILES=demo COMPOSE_ENV_FILES=.env.example DEMO_ROUNDS=0
trap 'docker compose down --volumes --timeout 45' EXIT
deploy/compose/make-secrets.sh

say() { echo "trial: $*"; }
status() { docker compose run --rm --no-deps operator status --json; }
# Waits until so many workers are alive and own every partition between them.
workers() {
    for _ in $(seq 60); do
        if status | python3 -c "
import json, sys
status = json.load(sys.stdin)
sys.exit(len(status['workers']) != $1 or any(partition['owner'] is None for partition in status['partitions']))"; then
            say "$1 workers share all partitions"
            return
        fi
        sleep 1
    done
    say "$1 workers do not own every partition after a minute"
    exit 1
}

# What the application was refused so far: nothing may be, but by a Postgres that is killed.
refused() { docker compose logs --no-log-prefix demo | grep --count --extended-regexp 'ERROR|FATAL|error:' || true; }

docker compose build --quiet migrate
new=${POSTBOUND_IMAGE:-postbound:local}
export POSTBOUND_IMAGE=${1:-$new}
docker compose up --no-build --detach
workers 1
docker compose up --no-build --detach --no-deps --no-recreate --scale worker=3 worker
workers 3
docker compose up --no-build --detach --no-deps --no-recreate --scale worker=1 worker
workers 1
if [ "$POSTBOUND_IMAGE" != "$new" ]; then
    say "upgrade from $POSTBOUND_IMAGE to $new"
    export POSTBOUND_IMAGE=$new
    docker compose run --rm --no-deps migrate
    docker compose run --rm --no-deps topology
    docker compose up --no-build --detach --no-deps worker
    workers 1
    docker compose up --no-build --detach --no-deps relay receiver-backend receiver-crm
    workers 1
fi
say "$(refused) errors at the application"
[ "$(refused)" = 0 ] || exit 1
for service in relay worker receiver-backend receiver-crm rabbitmq postgres; do
    say "kill -s KILL $service"
    docker compose kill --signal KILL "$service"
    docker compose up --no-build --detach --no-deps --no-recreate "$service"
    workers 1
done
docker compose kill --signal TERM demo
code=$(docker wait "$(docker compose ps --all --quiet demo)")
docker compose logs --no-log-prefix demo | tail -n 3
[ "$code" = 0 ] || exit 1
docker compose run --rm --no-deps operator doctor
say 'nothing was lost'
