-- Time travel: how a Postgres or a RabbitMQ that has gone back is told from one that has not, and what heals it.
-- See "Time travel" in docs/ARCHITECTURE.md.

create table postbound.witness (
    only_row          boolean not null default true,
    epoch             bigint not null default 1,
    lineage           uuid not null default gen_random_uuid(),
    beat              bigint not null default 0,
    system_identifier bigint,
    timeline          integer,
    version_max       bigint not null default 0,
    beat_at           timestamptz,
    halted            text,
    halted_at         timestamptz,
    constraint witness_pk primary key (only_row),
    constraint witness_one_row check (only_row),
    constraint witness_counts_not_negative check (epoch > 0 and beat >= 0 and version_max >= 0),
    constraint witness_halt_has_a_time check ((halted is null) = (halted_at is null))
) with (fillfactor = 50);
comment on table postbound.witness is
    'What this database knows of the history it shares with RabbitMQ, whose queue postbound.witness says the same of its side. The relay compares the two before it publishes.';
comment on column postbound.witness.only_row is 'Always true: there is one row.';
comment on column postbound.witness.epoch is 'Grows with every rebase. Of two histories, the one with the greater epoch is the newer.';
comment on column postbound.witness.lineage is 'Name of the history, drawn at its beginning.';
comment on column postbound.witness.beat is
    'Grows by one whenever changes were published since, at most once a second; written here first, then in RabbitMQ. A database that has fewer beats than RabbitMQ has lost commits. 0: RabbitMQ holds no witness of this history yet.';
comment on column postbound.witness.system_identifier is 'The cluster cursors are of: transaction ids in them mean nothing in another one.';
comment on column postbound.witness.timeline is 'The cluster''s timeline at the last beat; a promotion moves it.';
comment on column postbound.witness.version_max is 'The greatest version that was published.';
comment on column postbound.witness.beat_at is 'When the last beat was.';
comment on column postbound.witness.halted is 'Why the relay publishes nothing, and which command mends it; null: both sides agree.';
comment on column postbound.witness.halted_at is 'Since when.';
insert into postbound.witness default values;

grant select on postbound.witness to postbound_worker, postbound_operator, postbound_viewer;
grant select, update on postbound.witness to postbound_relay;
grant update on postbound.witness to postbound_operator;

-- The version floor is where a new user's versions begin. A default costs emit nothing, and a rebase can raise it.
alter table postbound.user_head alter column version set default 1;
comment on column postbound.user_head.version is
    'Version of the newest change; 0 for a user locked before the first one. Grows over delete and re-create too. Its default is the first version of a new user: a rebase raises it above all versions of the future that was lost.';

create or replace function postbound.emit(
    tenant_id text,
    user_id text,
    action text,
    data jsonb default '{}',
    origin text default null,
    targets text[] default null,
    event_id uuid default null,
    traceparent text default null,
    out emitted_event_id uuid,
    out emitted_version bigint
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    the_tenant constant text := coalesce(emit.tenant_id, 'default');
    the_data constant jsonb := coalesce(emit.data, '{}');
    the_digest bytea;
    seen record;
    unknown text;
begin
    -- Short-circuits keep the good case to a few comparisons; check_id says what is wrong with a bad one.
    if emit.user_id is null or octet_length(emit.user_id) not between 1 and 256 or emit.user_id ~ '[[:cntrl:]]' then
        perform postbound.check_id('user_id', emit.user_id);
    end if;
    if octet_length(the_tenant) not between 1 and 256 or the_tenant ~ '[[:cntrl:]]' then
        perform postbound.check_id('tenant_id', the_tenant);
    end if;
    if emit.origin is not null and (octet_length(emit.origin) not between 1 and 256 or emit.origin ~ '[[:cntrl:]]') then
        perform postbound.check_id('origin', emit.origin);
    end if;
    if emit.action is null or emit.action not in ('created', 'updated', 'deleted') then
        raise exception using errcode = 'PB001', message = format('unknown action %L', left(emit.action, 40)),
            detail = 'known actions are created, updated and deleted',
            hint = 'name what happened to the user, in lower case';
    end if;
    if jsonb_typeof(the_data) <> 'object' then
        raise exception using errcode = 'PB005', message = 'data is not a JSON object',
            detail = format('it is of JSON type %s', jsonb_typeof(the_data)),
            hint = 'pass the user''s fields as one object, not as an array or an encoded string';
    end if;
    -- As text, which is what travels: the stored form may be compressed, and a short number such as 1e100000 is long.
    if octet_length(the_data::text) > 262144 then
        raise exception using errcode = 'PB006', message = 'data is too large',
            detail = format('%s bytes, at most 262144 (256 KiB) are allowed', octet_length(the_data::text)),
            hint = 'store large content elsewhere and pass a link to it';
    end if;
    if emit.targets is not null then
        select t into unknown from unnest(emit.targets) as t
        where t is null or not exists (select from postbound.target as known where known.name = t and known.retired_at is null)
        limit 1;
        if found then
            raise exception using errcode = 'PB007', message = format('unknown target %L', left(unknown, 40)),
                detail = format('registered targets: %s', coalesce(
                    (select string_agg(known.name, ', ' order by known.name) from postbound.target as known where known.retired_at is null), 'none')),
                hint = 'register the target with: postbound topology apply';
        end if;
    end if;

    if emit.event_id is not null then
        -- Same user, same id: whoever holds the head goes first, the other finds the first one's answer.
        perform postbound.lock_user(the_tenant, emit.user_id);
        the_digest := sha256(convert_to(jsonb_build_array(
            the_tenant, emit.user_id, emit.action, the_data, emit.origin, to_jsonb(emit.targets))::text, 'UTF8'));
        select k.digest, k.version into seen from postbound.event_key as k where k.event_id = emit.event_id;
        if found then
            if seen.digest <> the_digest then
                raise exception using errcode = 'PB009', message = format('event id %s was used with other content', emit.event_id),
                    detail = 'an event id names one event: tenant, user, action, data, origin and targets must all be the same',
                    hint = 'draw a new event id for a new change';
            end if;
            emitted_event_id := emit.event_id;
            emitted_version := seen.version;
            return;
        end if;
    end if;

    -- The head first, the log id second: for one user, id order = version order = commit order.
    insert into postbound.user_head as h (tenant_id, user_id, version, deleted)
    values (the_tenant, emit.user_id, default, emit.action = 'deleted')
    on conflict on constraint user_head_pk do update
        set version = greatest(h.version + 1, excluded.version), deleted = excluded.deleted
        where not (h.deleted and emit.action = 'updated')
    returning h.version into emitted_version;
    if not found then
        raise exception using errcode = 'PB008', message = format('user %L is deleted', emit.user_id),
            detail = 'an update would bring a deleted user back',
            hint = 'emit created to re-create the user on purpose';
    end if;

    emitted_event_id := coalesce(emit.event_id, gen_random_uuid());
    if emit.event_id is not null then
        insert into postbound.event_key (event_id, digest, version)
        values (emit.event_id, the_digest, emitted_version)
        on conflict on constraint event_key_pk do nothing;
        if not found then
            raise exception using errcode = 'PB009', message = format('event id %s was used with other content', emit.event_id),
                detail = 'a concurrent transaction used the same event id for another user',
                hint = 'draw a new event id for a new change';
        end if;
    end if;
    insert into postbound.change_log
        (id, xid, logged_at, version, event_id, tenant_id, user_id, action, origin, targets, traceparent, data)
    values
        (nextval('postbound.change_id'), pg_current_xact_id(), clock_timestamp(), emitted_version, emitted_event_id,
         the_tenant, emit.user_id, emit.action, emit.origin, emit.targets,
         -- W3C: a malformed traceparent is ignored, never an error.
         case when emit.traceparent ~ '^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' then emit.traceparent end,
         the_data);
end
$$;

create or replace function postbound.import_users(tenant_id text, user_ids text[], states text[], targets text[])
returns table (place integer, outcome text)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
-- Only users nobody has written yet: a user with a head is not even locked, so no producer waits for an import.
declare
    given_id text;
begin
    perform postbound.check_id('tenant_id', import_users.tenant_id);
    foreach given_id in array import_users.user_ids loop
        perform postbound.check_id('user_id', given_id);
    end loop;
    return query
    with given as (
        select distinct on (g.user_id) g.user_id, g.state::jsonb as state, g.place::integer as place
        from unnest(import_users.user_ids, import_users.states) with ordinality as g (user_id, state, place)
        order by g.user_id, g.place
    ), judged as (
        select g.user_id, g.state, g.place,
               case when jsonb_typeof(g.state) <> 'object' then 'not_an_object'
                    when octet_length(g.state::text) > 262144 then 'too_large' end as refusal,
               exists (select from postbound.user_head as h
                       where h.tenant_id = import_users.tenant_id and h.user_id = g.user_id collate "C" and h.version > 0) as known
        from given as g
    ), heads as (
        -- A head of version 0 was made by lock_user: no change has been written yet.
        insert into postbound.user_head as h (tenant_id, user_id, deleted)
        select import_users.tenant_id, j.user_id, false from judged as j
        where j.refusal is null and not j.known order by j.user_id collate "C"
        on conflict on constraint user_head_pk do update set version = excluded.version, deleted = false where h.version = 0
        returning h.user_id, h.version
    ), written as (
        insert into postbound.user_state as s
            (tenant_id, user_id, version, action, event_id, logged_at, data, targets)
        select import_users.tenant_id, j.user_id, h.version, 'created', gen_random_uuid(), clock_timestamp(), j.state, import_users.targets
        from judged as j join heads as h on h.user_id = j.user_id collate "C"
        returning s.user_id
    )
    select j.place, coalesce(j.refusal, case when w.user_id is null then 'known' else 'imported' end)
    from judged as j left join written as w on w.user_id = j.user_id collate "C";
end
$$;

create function postbound.of_another_cluster(foreign_cursors boolean, row_xmin xid) returns boolean
language sql stable
set search_path = pg_catalog, pg_temp
as $$
-- A dump makes the key of user_head after it has loaded all rows, and nobody can emit before the key is there: rows that
-- are older than the key came with a dump. Null: cursors and rows are of this cluster.
    select case when of_another_cluster.foreign_cursors then
        age(of_another_cluster.row_xmin) > (
            select age(k.xmin) from pg_constraint as k
            where k.conrelid = 'postbound.user_head'::regclass and k.conname = 'user_head_pk') end
$$;
comment on function postbound.of_another_cluster(boolean, xid) is
    'Whether a row of the log was restored from a dump rather than written here; null where cursors are of this cluster anyway.';

create function postbound.rebase(version_floor bigint, foreign_cursors boolean, delete_lost boolean)
returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
-- Makes this database the truth again after it lost commits that were published. Producers wait until it ends.
declare
    the_floor bigint;
    users bigint;
    lost bigint;
    lost_shown jsonb;
    parked bigint;
    letters bigint;
    changes bigint;
begin
    -- Whoever has written to the log holds a lock on this table: from here on the log stands still.
    lock table postbound.user_head in access exclusive mode;
    select 1000000 + greatest(rebase.version_floor, w.version_max,
        (select max(h.version) from postbound.user_head as h),
        (select max(greatest(l.delivered_version, l.dead_version)) from postbound.delivery_ledger as l))
    into the_floor from postbound.witness as w;

    -- A projection that is behind would never get to these states: their versions are below the floor.
    insert into postbound.user_state as s
        (tenant_id, user_id, version, action, event_id, origin, logged_at, data, targets)
    select c.tenant_id, c.user_id, c.version, c.action, c.event_id, c.origin, c.logged_at, c.data, c.targets
    from postbound.user_head as h
    join postbound.change_log as c on c.tenant_id = h.tenant_id and c.user_id = h.user_id and c.version = h.version
    left join postbound.user_state as known on known.tenant_id = h.tenant_id and known.user_id = h.user_id
    where known.version is distinct from h.version
    on conflict on constraint user_state_pk do update
        set version = excluded.version, action = excluded.action, event_id = excluded.event_id,
            origin = excluded.origin, logged_at = excluded.logged_at, targets = excluded.targets,
            data = case when excluded.action = 'deleted' and excluded.data = '{}' then s.data else excluded.data end
        where s.version < excluded.version;

    -- What workers parked or buried of the lost future since the database went back: the log does not have it.
    with days as (
        select to_date(right(i.inhrelid::regclass::text, 8), 'YYYYMMDD')::timestamp at time zone 'UTC' as since
        from pg_inherits as i where i.inhparent = 'postbound.change_log'::regclass
    ), gone as (
        delete from postbound.parked_state as p
        where p.log_id > 0 and p.logged_at >= (select min(since) from days)
          and not exists (select from postbound.change_log as c
                          where c.id = p.log_id and c.event_id = p.event_id)
        returning 1
    ) select count(*) into parked from gone;
    delete from postbound.parked_user as p
    where not exists (select from postbound.parked_state as s
                      where s.target = p.target and s.tenant_id = p.tenant_id and s.user_id = p.user_id);
    with days as (
        select to_date(right(i.inhrelid::regclass::text, 8), 'YYYYMMDD')::timestamp at time zone 'UTC' as since
        from pg_inherits as i where i.inhparent = 'postbound.change_log'::regclass
    ), gone as (
        delete from postbound.doubt as d
        where d.log_id > 0 and d.logged_at >= (select min(since) from days)
          and not exists (select from postbound.change_log as c
                          where c.id = d.log_id and c.event_id = d.event_id)
    ), discarded as (
        update postbound.dead_letter as d set discarded_at = clock_timestamp(), discarded_by = session_user
        where d.discarded_at is null and d.log_id > 0 and d.logged_at >= (select min(since) from days)
          and not exists (select from postbound.change_log as c
                          where c.id = d.log_id and c.event_id = d.event_id)
        returning 1
    ) select count(*) into letters from discarded;

    -- What a stream has still to publish.
    create temporary table rebase_waiting on commit drop as
        select l.id, l.logged_at, l.tenant_id, l.user_id from postbound.change_log as l
        where postbound.of_another_cluster(rebase.foreign_cursors, l.xmin) is false
           or exists (
                select from postbound.stream_cursor as c
                where not pg_visible_in_snapshot(l.xid, c.done_snapshot)
                  and (c.open_snapshot is null or l.id > c.confirmed_id or not pg_visible_in_snapshot(l.xid, c.open_snapshot)));
    if rebase.foreign_cursors then
        -- Transaction ids of rows and cursors are another cluster's. Snapshots of one cluster are nested, so the number of
        -- streams that had not read a row takes the place of its xid: it stays as it was who has read what. What was
        -- written here since has real ids, above all of these.
        create temporary table rebase_order on commit drop as
            select c.stream, c.done_snapshot,
                   row_number() over (order by pg_snapshot_xmax(c.done_snapshot), pg_snapshot_xmin(c.done_snapshot),
                                                (select count(*) from pg_snapshot_xip(c.done_snapshot)) desc) as place
            from postbound.stream_cursor as c;
        update postbound.change_log as l
        set xid = (3 + (select count(*) from pg_temp.rebase_order as o
                        where not pg_visible_in_snapshot(l.xid, o.done_snapshot)))::text::xid8
        where postbound.of_another_cluster(true, l.xmin);
        update postbound.stream_cursor as c
        set done_snapshot = format('%s:%s:', 3 + o.place, 3 + o.place)::pg_snapshot, open_snapshot = null, confirmed_id = null
        from pg_temp.rebase_order as o where o.stream = c.stream;
    end if;
    -- It goes out under versions above those of the lost future too: a target, or the ledger, may hold another change under
    -- the version it was given. Targets that are sent the user's newest state again are not sent it: it may have been sent
    -- to them before, and under the key it had then they would take the newest state for a repetition.
    with raised as (
        update postbound.change_log as l
        set version = l.version + the_floor,
            targets = array(
                select t.name from postbound.target as t
                where t.retired_at is null and postbound.admits(t.actions, t.name, l.action, l.targets)
                  and not (t.fold and coalesce(postbound.admits(t.actions, t.name, s.action, s.targets), false)))
        from pg_temp.rebase_waiting as w
        left join postbound.user_state as s on s.tenant_id = w.tenant_id and s.user_id = w.user_id
        where l.id = w.id and l.logged_at = w.logged_at
        returning l.event_id, l.version
    ), keys as (
        update postbound.event_key as k set version = r.version from raised as r where k.event_id = r.event_id
    ) select count(*) into changes from raised;

    -- Users only the lost future had, as far as the ledger knows: who was created in it and delivered before the database
    -- went back is known to the targets alone.
    select count(*), coalesce(jsonb_agg(jsonb_build_object('tenant', u.tenant_id, 'user', u.user_id))
                              filter (where u.place <= 20), '[]')
    into lost, lost_shown
    from (select d.*, row_number() over (order by d.tenant_id, d.user_id) as place
          from (select distinct l.tenant_id, l.user_id from postbound.delivery_ledger as l
                where not exists (select from postbound.user_head as h where h.tenant_id = l.tenant_id
                                  and h.user_id = l.user_id and h.version > 0)) as d) as u;
    if rebase.delete_lost then
        insert into postbound.user_head as h (tenant_id, user_id, version, deleted)
        select distinct l.tenant_id, l.user_id, 1, true from postbound.delivery_ledger as l
        where not exists (select from postbound.user_head as h
                          where h.tenant_id = l.tenant_id and h.user_id = l.user_id and h.version > 0)
        on conflict on constraint user_head_pk do update set version = excluded.version, deleted = true;
        insert into postbound.user_state (tenant_id, user_id, version, action, event_id, logged_at, data)
        select h.tenant_id, h.user_id, 1, 'deleted', gen_random_uuid(), clock_timestamp(), '{}'
        from postbound.user_head as h
        where h.version = 1 and h.deleted
          and not exists (select from postbound.user_state as s where s.tenant_id = h.tenant_id and s.user_id = h.user_id);
    end if;

    -- A target that gets every event is sent nothing again: with whom it was in step, it stays so.
    update postbound.delivery_ledger as g
    set delivered_version = case when g.delivered_version > 0 then least(g.delivered_version, h.version) + the_floor else 0 end,
        dead_version = case when g.dead_version > 0 then least(g.dead_version, h.version) + the_floor else 0 end
    from postbound.target as t, postbound.user_head as h
    where t.name = g.target and not t.fold and h.tenant_id = g.tenant_id and h.user_id = g.user_id and h.version > 0
      and not exists (select from pg_temp.rebase_waiting as w where w.tenant_id = g.tenant_id and w.user_id = g.user_id);

    update postbound.erased_user as e set version = e.version + the_floor from postbound.user_head as h
    where h.tenant_id = e.tenant_id and h.user_id = e.user_id and h.version = e.version;
    update postbound.user_head set version = version + the_floor where version > 0;
    get diagnostics users = row_count;
    update postbound.user_state set version = version + the_floor;
    execute format('alter table postbound.user_head alter column version set default %s', the_floor + 1);

    -- Keys of resent states are made of their job's number, and the lost future may have had the next ones.
    perform setval(pg_get_serial_sequence('postbound.job', 'job_id'),
                   1000000 + greatest((select max(j.job_id) from postbound.job as j), 0));

    -- Another generation of queues; those of the lost future are never read again.
    insert into postbound.drained_partition (target, generation, partition)
    select t.name, g.generation, p from postbound.target as t
    cross join lateral (values (t.generation, t.partitions), (t.draining_generation, t.draining_partitions))
        as g (generation, partitions)
    cross join lateral generate_series(0, g.partitions - 1) as p
    where g.generation is not null and t.retired_at is null
    on conflict do nothing;
    update postbound.target set generation = generation + 1, draining_generation = null, draining_partitions = null,
        updated_at = now()
    where retired_at is null;
    update postbound.stream_cursor set rewinds = rewinds + 1, updated_at = now();
    update postbound.job_item as i set state = 'waiting' from postbound.job as j
    where j.job_id = i.job_id and j.finished_at is null and i.state = 'sent';
    return jsonb_build_object('version_floor', the_floor, 'users', users, 'lost_users', lost, 'lost_users_shown', lost_shown,
                              'parked_states', parked, 'letters', letters, 'changes', changes);
end
$$;
comment on function postbound.rebase(bigint, boolean, boolean) is
    'After this database lost commits that had been published: raises all versions above those of the lost future, gives targets another generation of queues, throws away what was stored of it. Locks out producers while it runs.';
revoke all on function postbound.rebase(bigint, boolean, boolean) from public;
grant execute on function postbound.rebase(bigint, boolean, boolean) to postbound_operator;
-- The function's owner is not the log's (see 0002).
grant update (xid, version) on postbound.change_log to current_user;
