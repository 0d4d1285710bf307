-- Which tenants a target wants is known where it is decided what goes to it: the relay publishes nothing of others, jobs
-- pass over them, and nobody counts as out of sync at a target that does not want its tenant.

alter table postbound.target
    add column tenants jsonb generated always as (nullif((settings ->> 'tenants')::jsonb, '[]')) stored;
comment on column postbound.target.tenants is
    'The tenants whose users the target wants, of its registered settings; null: all. A worker looks again by its own.';

create function postbound.admits(actions text[], tenants jsonb, target text, tenant text, action text, targets text[])
returns boolean
language sql immutable parallel safe
return action = any(actions) and (tenants is null or tenants ? tenant) and (targets is null or target = any(targets));
comment on function postbound.admits(text[], jsonb, text, text, text, text[]) is
    'Whether a target (its actions, its tenants, its name) wants a change (its tenant, its action, its target list).';
comment on function postbound.admits(text[], text, text, text[]) is
    'The same whatever the tenant, for processes of the version before, while they are replaced.';

-- What follows is as it was, but for the tenant: in 0005, 0009, 0007 and 0020.

create or replace function postbound.sync_state(tenant_id text, user_id text)
returns table (target text, state text)
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
-- For a front end's "is this user's sync pending?". Names nobody's data.
    select t.name,
           case
               when coalesce(l.delivered_version, 0) >= h.version then 'in_sync'
               when p.user_id is not null then 'retrying'
               when coalesce(l.dead_version, 0) >= h.version then 'failed'
               when s.version >= h.version and not postbound.admits(t.actions, t.tenants, t.name, h.tenant_id, s.action, s.targets) then 'in_sync'
               else 'pending'
           end
    from postbound.user_head as h
    cross join postbound.target as t
    left join postbound.user_state as s on s.tenant_id = h.tenant_id and s.user_id = h.user_id
    left join postbound.delivery_ledger as l on l.target = t.name and l.tenant_id = h.tenant_id and l.user_id = h.user_id
    left join postbound.parked_user as p on p.target = t.name and p.tenant_id = h.tenant_id and p.user_id = h.user_id
    where h.tenant_id = sync_state.tenant_id and h.user_id = sync_state.user_id and h.version > 0 and t.retired_at is null
    order by t.name
$$;

create or replace function postbound.wanted_version(target text, tenant_id text, user_id text, after_id bigint) returns bigint
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
-- The log is gone through (it has no index by user) only if the newest change is not wanted, or not known yet, and for
-- two million rows at most, about a second: beyond, the newest version is taken for wanted.
    select case
        when s.version = h.version and postbound.admits(t.actions, t.tenants, t.name, h.tenant_id, s.action, s.targets) then h.version
        when (select last_value from postbound.change_id) - wanted_version.after_id > 2000000 then h.version
        else greatest(
            l.delivered_version, l.dead_version,
            (select max(c.version) from postbound.change_log as c
             where c.id > wanted_version.after_id and c.tenant_id = h.tenant_id and c.user_id = h.user_id
               and postbound.admits(t.actions, t.tenants, t.name, h.tenant_id, c.action, c.targets)),
            0)
    end
    from postbound.target as t
    join postbound.user_head as h on h.tenant_id = wanted_version.tenant_id and h.user_id = wanted_version.user_id
    left join postbound.user_state as s on s.tenant_id = h.tenant_id and s.user_id = h.user_id
    left join postbound.delivery_ledger as l
      on l.target = t.name and l.tenant_id = h.tenant_id and l.user_id = h.user_id
    where t.name = wanted_version.target
$$;

create or replace function postbound.erase_user(tenant_id text, user_id text, force boolean default false) returns jsonb
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
-- Removes a user's data up to the newest version, and leaves versions, ids and the proof. What is left of a change that is
-- no delete is for no target any more (targets = '{}'): nobody is ever sent the empty state it now has.
declare
    head record;
    aimed_at text[];
    missing jsonb;
    keeps jsonb;
    log_rows bigint;
    letters bigint;
    parked bigint;
    links bigint;
begin
    select h.version, h.deleted into head from postbound.user_head as h
    where h.tenant_id = erase_user.tenant_id and h.user_id = erase_user.user_id and h.version > 0
    for update;
    if not found then
        return null;
    end if;
    select c.targets into aimed_at from postbound.change_log as c
    where c.tenant_id = erase_user.tenant_id and c.user_id = erase_user.user_id and c.version = head.version;
    if not found then
        select s.targets into aimed_at from postbound.user_state as s
        where s.tenant_id = erase_user.tenant_id and s.user_id = erase_user.user_id and s.version = head.version;
    end if;
    select coalesce(jsonb_agg(jsonb_build_object('target', t.name, 'delivered_version', coalesce(l.delivered_version, 0))
                              order by t.name), '[]')
    into missing
    from postbound.target as t
    left join postbound.delivery_ledger as l
      on l.target = t.name and l.tenant_id = erase_user.tenant_id and l.user_id = erase_user.user_id
    where t.retired_at is null and postbound.admits(t.actions, t.tenants, t.name, erase_user.tenant_id, 'deleted', aimed_at)
      and coalesce(l.delivered_version, 0) < head.version;
    -- A projection that is behind may have the user's data in hand, and write it after this.
    if not exists (select from postbound.user_state as s
                   where s.tenant_id = erase_user.tenant_id and s.user_id = erase_user.user_id and s.version >= head.version) then
        missing := missing || jsonb_build_object('target', 'user_state', 'delivered_version', coalesce(
            (select s.version from postbound.user_state as s
             where s.tenant_id = erase_user.tenant_id and s.user_id = erase_user.user_id), 0));
    end if;
    select coalesce(jsonb_agg(l.target order by l.target), '[]') into keeps
    from postbound.delivery_ledger as l
    where l.tenant_id = erase_user.tenant_id and l.user_id = erase_user.user_id and l.present
      and l.target in (select t.name from postbound.target as t);
    if not erase_user.force and (not head.deleted or jsonb_array_length(missing) > 0) then
        return jsonb_build_object('erased', false, 'version', head.version, 'deleted', head.deleted,
                                  'missing', missing, 'still_present', keeps);
    end if;

    insert into postbound.erased_user as e (tenant_id, user_id, version)
    values (erase_user.tenant_id, erase_user.user_id, head.version)
    on conflict on constraint erased_user_pk do update
        set version = excluded.version, erased_at = clock_timestamp(), erased_by = session_user;
    update postbound.change_log as c
    set data = '{}', targets = case c.action when 'deleted' then c.targets else '{}' end
    where c.tenant_id = erase_user.tenant_id and c.user_id = erase_user.user_id and c.version <= head.version;
    get diagnostics log_rows = row_count;
    update postbound.user_state as s
    set data = '{}', targets = case s.action when 'deleted' then s.targets else '{}' end
    where s.tenant_id = erase_user.tenant_id and s.user_id = erase_user.user_id and s.version <= head.version;
    update postbound.dead_letter as d set data = '{}', detail = ''
    where d.tenant_id = erase_user.tenant_id and d.user_id = erase_user.user_id and d.version <= head.version;
    get diagnostics letters = row_count;
    -- A delete still has to arrive; with another body it needs another key.
    delete from postbound.parked_state as p
    where p.tenant_id = erase_user.tenant_id and p.user_id = erase_user.user_id and p.version <= head.version
      and p.action <> 'deleted';
    get diagnostics parked = row_count;
    update postbound.parked_state as p set data = '{}', resend = p.resend + 1
    where p.tenant_id = erase_user.tenant_id and p.user_id = erase_user.user_id and p.version <= head.version
      and p.data <> '{}';
    delete from postbound.parked_user as p
    where p.tenant_id = erase_user.tenant_id and p.user_id = erase_user.user_id
      and not exists (select from postbound.parked_state as s
                      where s.target = p.target and s.tenant_id = p.tenant_id and s.user_id = p.user_id);
    update postbound.parked_user as p set detail = ''
    where p.tenant_id = erase_user.tenant_id and p.user_id = erase_user.user_id;
    delete from postbound.doubt as d
    where d.tenant_id = erase_user.tenant_id and d.user_id = erase_user.user_id and d.version <= head.version
      and d.action <> 'deleted';
    update postbound.doubt as d set data = '{}', resend = d.resend + 1
    where d.tenant_id = erase_user.tenant_id and d.user_id = erase_user.user_id and d.version <= head.version
      and d.data <> '{}';
    delete from postbound.identity_link as i
    where i.tenant_id = erase_user.tenant_id and i.user_id = erase_user.user_id;
    get diagnostics links = row_count;
    return jsonb_build_object('erased', true, 'version', head.version, 'deleted', head.deleted, 'missing', missing,
                              'still_present', keeps, 'log_rows', log_rows, 'letters', letters,
                              'parked_states', parked, 'links', links);
end
$$;

create or replace function postbound.rebase(version_floor bigint, foreign_cursors boolean, delete_lost boolean)
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

    -- What a stream has still to publish. And what it has published to a target that gets every event, and that is not
    -- settled there: messages go with their queues, and there is no newest state to make up for them.
    create temporary table rebase_waiting on commit drop as
        select l.id, l.logged_at, l.tenant_id, l.user_id, l.version, c.stream, null::bigint as xid_to_publish
        from postbound.change_log as l
        join postbound.stream_cursor as c
          on rebase.foreign_cursors and postbound.of_another_cluster(true, l.xmin) is false
          or not pg_visible_in_snapshot(l.xid, c.done_snapshot)
             and (c.open_snapshot is null or l.id > c.confirmed_id or not pg_visible_in_snapshot(l.xid, c.open_snapshot))
        union all
        select l.id, l.logged_at, l.tenant_id, l.user_id, l.version, t.name,
               case when p.log_id is null then l.xid::text::bigint end
        from postbound.target as t
        join postbound.stream_cursor as c on c.stream = t.name
        join postbound.change_log as l
          on postbound.admits(t.actions, t.tenants, t.name, l.tenant_id, l.action, l.targets)
         and not (rebase.foreign_cursors and postbound.of_another_cluster(true, l.xmin) is false)
         and (pg_visible_in_snapshot(l.xid, c.done_snapshot)
              or l.id <= c.confirmed_id and pg_visible_in_snapshot(l.xid, c.open_snapshot))
        left join postbound.delivery_ledger as g
          on g.target = t.name and g.tenant_id = l.tenant_id and g.user_id = l.user_id
        left join postbound.parked_state as p
          on p.target = t.name and p.tenant_id = l.tenant_id and p.user_id = l.user_id and p.version = l.version
         and p.log_id = l.id
        where t.retired_at is null and not t.fold
          and l.version > greatest(coalesce(g.delivered_version, 0), coalesce(g.dead_version, 0));
    -- Those are published again, but for what is parked; the ledger has all others that are read with them.
    update postbound.stream_cursor as c
    set done_snapshot = format('%s:%s:', w.since, w.since)::pg_snapshot, open_snapshot = null, confirmed_id = null
    from (
        select u.stream, least(u.since, (
            -- Where they are replaced, snapshots have to stay nested.
            select min(pg_snapshot_xmin(o.done_snapshot)::text::bigint) from postbound.stream_cursor as o
            where o.stream = u.stream or rebase.foreign_cursors)) as since
        from (select r.stream, min(r.xid_to_publish) as since from pg_temp.rebase_waiting as r group by r.stream) as u
        where u.since is not null
    ) as w
    where w.stream = c.stream;
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
                where t.retired_at is null and postbound.admits(t.actions, t.tenants, t.name, l.tenant_id, l.action, l.targets)
                  and case when t.fold then not coalesce(postbound.admits(t.actions, t.tenants, t.name, l.tenant_id, s.action, s.targets), false)
                      else t.name = any(w.streams) end)
        from (
            select r.id, r.logged_at, r.tenant_id, r.user_id, array_agg(r.stream) as streams
            from pg_temp.rebase_waiting as r group by r.id, r.logged_at, r.tenant_id, r.user_id
        ) as w
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

    -- A target that gets every event is sent no newest state: whatever is kept of its users' versions is raised like them, so
    -- that what was settled stays so, and nothing else. What the ledger says of the lost future ends below what still waits.
    with waiting as (
        select w.stream, w.tenant_id, w.user_id, min(w.version) - 1 as before
        from pg_temp.rebase_waiting as w group by w.stream, w.tenant_id, w.user_id
    )
    update postbound.delivery_ledger as g
    set delivered_version = case when g.delivered_version > 0 then least(g.delivered_version, n.newest) + the_floor else 0 end,
        dead_version = case when g.dead_version > 0 then least(g.dead_version, n.newest) + the_floor else 0 end
    from (
        select l.target, l.tenant_id, l.user_id, coalesce(w.before, h.version) as newest
        from postbound.delivery_ledger as l
        join postbound.target as t on t.name = l.target and not t.fold
        join postbound.user_head as h on h.tenant_id = l.tenant_id and h.user_id = l.user_id and h.version > 0
        left join waiting as w on w.stream = l.target and w.tenant_id = l.tenant_id and w.user_id = l.user_id
    ) as n
    where g.target = n.target and g.tenant_id = n.tenant_id and g.user_id = n.user_id;
    update postbound.parked_state as p set version = p.version + the_floor
    from postbound.target as t where t.name = p.target and not t.fold;
    update postbound.parked_user as p
    set unknown_version = p.unknown_version + the_floor,
        unknown_oldest = case when p.unknown_oldest > 0 then p.unknown_oldest + the_floor else 0 end
    from postbound.target as t where t.name = p.target and not t.fold and p.unknown_version > 0;
    update postbound.doubt as d set version = d.version + the_floor, late_version = d.late_version + the_floor
    from postbound.target as t where t.name = d.target and not t.fold;
    -- What was imported is still what was imported.
    update postbound.job_item as i set version = coalesce(i.version, 1) + the_floor
    from postbound.job as j
    where j.job_id = i.job_id and j.kind = 'import'
      and (i.state in ('waiting', 'sent') or i.state = 'skipped' and i.reason = 'cancelled');

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
    -- What is parked is in this database.
    update postbound.job_item as i set state = 'waiting' from postbound.job as j
    where j.job_id = i.job_id and j.finished_at is null and i.state = 'sent'
      and not exists (select from postbound.parked_state as p where p.job_id = i.job_id and p.job_item = i.item);
    return jsonb_build_object('version_floor', the_floor, 'users', users, 'lost_users', lost, 'lost_users_shown', lost_shown,
                              'parked_states', parked, 'letters', letters, 'changes', changes);
end
$$;
