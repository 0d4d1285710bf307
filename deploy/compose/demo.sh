#!/bin/bash
# An application whose users change, and whether the reference receivers end up with what it committed. Exit 0: they do.
set -euo pipefail
export PGHOST=postgres PGDATABASE=postbound
as_app() { PGPASSWORD=$(cat /run/secrets/app-password) psql --username=app --quiet --no-psqlrc --set=ON_ERROR_STOP=1 "$@"; }
as_owner() { PGPASSWORD=$(cat /run/secrets/postgres-password) psql --username=postgres --quiet --no-psqlrc --set=ON_ERROR_STOP=1 --tuples-only --no-align "$@"; }

as_owner --command "create schema if not exists demo authorization app;"
as_app --command "
create table if not exists demo.users (
    user_id text primary key, email text not null, name text not null, round int not null, deleted boolean not null,
    returns boolean not null default false, version bigint not null default 0);"

# One transaction: a few users change, and the outbox is told of the rows as they are now. What a change is depends on the
# round: first all register, then names change, every twentieth user goes, and comes back with the next change.
change() { # round, first user, last user
    as_app --set=round="$1" --set=first="$2" --set=last="$3" <<'SQL'
begin;
insert into demo.users as u (user_id, email, name, round, deleted)
select 'user-' || n, 'user-' || n || '@acme.example', 'User ' || n || ' of round ' || :round, :round, false
from generate_series(:first, :last) as n
on conflict (user_id) do update
set round = excluded.round, name = excluded.name, returns = u.deleted, deleted = not u.deleted and (hashtext(u.user_id) + :round) % 20 = 0;
with told as (
    insert into postbound.outbox (tenant_id, user_id, action, data)
    select 'acme', user_id, case when deleted then 'deleted' when version = 0 or returns then 'created' else 'updated' end,
           case when deleted then '{}'::jsonb else jsonb_build_object('email', email, 'displayName', name) end
    from demo.users where user_id in (select 'user-' || n from generate_series(:first, :last) as n) order by user_id
    returning user_id, version)
update demo.users as u set version = told.version from told where u.user_id = told.user_id;
commit;
SQL
}

# Users of the source that a receiver has not, or has otherwise.
difference() { # table, its column for the name
    as_owner --command "
    select count(*) from demo.users as u left join receiver.$1 as t on t.tenant_id = 'acme' and t.user_id = u.user_id
    where t.version is distinct from u.version or (t.deleted_at is not null) <> u.deleted
       or not u.deleted and (t.email, t.$2) is distinct from (u.email, u.name)"
}
report() {
    backend=$(difference backend_users display_name) &&
        crm=$(difference crm_users name) &&
        users=$(as_owner --command 'select count(*) from demo.users') || return
    echo "demo: round $1: $users users, $((users - backend)) as committed at the backend, $((users - crm)) at the CRM"
}

failed=0
round=0
# Told to stop, it ends its round and looks at what arrived.
trap 'DEMO_ROUNDS=1' TERM
while [ "$DEMO_ROUNDS" = 0 ] || [ "$round" -lt "$DEMO_ROUNDS" ]; do
    round=$((round + 1))
    for ((first = 1; first <= DEMO_USERS; first += 10)); do
        # An application repeats what did not commit; whether it did is not known of a server that died.
        until change "$round" "$first" $((first + 9 > DEMO_USERS ? DEMO_USERS : first + 9)); do
            failed=$((failed + 1))
            [ "$failed" -lt 240 ] || { echo 'demo: too many transactions failed'; exit 1; }
            sleep 0.5
        done
    done
    report "$round" || true
done
for _ in $(seq 60); do
    if report "$round, waiting" && [ "$backend" = 0 ] && [ "$crm" = 0 ]; then
        echo "demo: both hold what was committed; $failed transactions failed and were made again"
        exit 0
    fi
    sleep 1
done
echo 'demo: they differ after a minute; docker compose run --rm operator status'
exit 1
