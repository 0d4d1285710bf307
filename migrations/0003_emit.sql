-- The way in: emit, emit_many, lock_user and the insertable view postbound.outbox.
-- Errors are of SQLSTATE class PB and fail the caller's transaction whole; docs/producers.md lists them.

create function postbound.check_id(what text, id text) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if id is null or id = '' then
        raise exception using errcode = 'PB002', message = format('%s is empty', what),
            detail = 'every change names its user',
            hint = format('give a non-empty %s of at most 256 bytes', what);
    elsif octet_length(id) > 256 then
        raise exception using errcode = 'PB003', message = format('%s is too long', what),
            detail = format('%s bytes, at most 256 are allowed', octet_length(id)),
            hint = format('use the %s itself, not a composed text', what);
    elsif id ~ '[[:cntrl:]]' then
        raise exception using errcode = 'PB004', message = format('%s contains a control character', what),
            detail = 'ids travel in HTTP headers, where control characters are not allowed',
            hint = format('strip line ends and other control characters from the %s', what);
    end if;
end
$$;
comment on function postbound.check_id(text, text) is 'Refuses an empty (PB002), over-long (PB003) or unprintable (PB004) id.';

create function postbound.emit(
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
    values (the_tenant, emit.user_id, 1, emit.action = 'deleted')
    on conflict on constraint user_head_pk do update
        set version = h.version + 1, deleted = excluded.deleted
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
comment on function postbound.emit(text, text, text, jsonb, text, text[], uuid, text) is
    'Writes one user change into the outbox, in the caller''s transaction. A null tenant is the tenant "default". Gives the event id and the user''s new version.';

create function postbound.lock_user(tenant_id text, user_id text) returns bigint
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
-- Holds the user's head until the transaction ends, so that state read after it is the newest until then.
declare
    the_tenant constant text := coalesce(lock_user.tenant_id, 'default');
    the_version bigint;
begin
    perform postbound.check_id('tenant_id', the_tenant);
    perform postbound.check_id('user_id', lock_user.user_id);
    loop
        select h.version into the_version from postbound.user_head as h
        where h.tenant_id = the_tenant and h.user_id = lock_user.user_id
        for update;
        if found then
            return the_version;
        end if;
        insert into postbound.user_head (tenant_id, user_id, version, deleted)
        values (the_tenant, lock_user.user_id, 0, false)
        on conflict on constraint user_head_pk do nothing;
    end loop;
end
$$;
comment on function postbound.lock_user(text, text) is
    'Locks the user until the transaction ends and gives the newest version (0: none yet). Call it before reading the state that will be emitted.';

create function postbound.emit_many(changes jsonb)
returns table (ordinal integer, emitted_event_id uuid, emitted_version bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    change record;
    stray text;
    what text;
    why text;
    remedy text;
begin
    if changes is null or jsonb_typeof(changes) <> 'array' then
        raise exception using errcode = 'PB010', message = 'changes is not a JSON array',
            detail = 'emit_many takes one array with an object per change',
            hint = 'pass [{"user_id": ..., "action": ..., "data": {...}}, ...]';
    end if;
    -- Key order: two callers that change the same users wait for one another instead of deadlocking.
    for change in
        select e.value as body, e.ordinality::integer as place
        from jsonb_array_elements(changes) with ordinality as e
        order by coalesce(e.value ->> 'tenant_id', 'default') collate "C", (e.value ->> 'user_id') collate "C", e.ordinality
    loop
        ordinal := change.place;
        if jsonb_typeof(change.body) <> 'object' then
            raise exception using errcode = 'PB010', message = 'the change is not an object',
                detail = format('it is of JSON type %s', jsonb_typeof(change.body)),
                hint = 'pass an object with user_id and action';
        end if;
        select k into stray from jsonb_object_keys(change.body) as k
        where k not in ('tenant_id', 'user_id', 'action', 'data', 'origin', 'targets', 'event_id', 'traceparent')
        limit 1;
        if found then
            raise exception using errcode = 'PB010', message = format('unknown key %L', left(stray, 40)),
                detail = 'known keys are tenant_id, user_id, action, data, origin, targets, event_id and traceparent',
                hint = 'put the user''s own fields inside data';
        end if;
        if jsonb_typeof(change.body -> 'targets') not in ('array', 'null') then
            raise exception using errcode = 'PB010', message = 'targets is not an array',
                detail = format('it is of JSON type %s', jsonb_typeof(change.body -> 'targets')),
                hint = 'pass an array of target names, or leave it out for all targets';
        end if;
        select e.emitted_event_id, e.emitted_version into emit_many.emitted_event_id, emit_many.emitted_version
        from postbound.emit(
            change.body ->> 'tenant_id', change.body ->> 'user_id', change.body ->> 'action',
            coalesce(change.body -> 'data', '{}'), change.body ->> 'origin',
            case when jsonb_typeof(change.body -> 'targets') = 'array'
                 then array(select jsonb_array_elements_text(change.body -> 'targets')) end,
            (change.body ->> 'event_id')::uuid, change.body ->> 'traceparent') as e;
        return next;
    end loop;
exception when others then
    -- One block for the whole call, not one per change: subtransactions are not free. It names the change at fault.
    if ordinal is null then
        raise;
    end if;
    get stacked diagnostics what = message_text, why = pg_exception_detail, remedy = pg_exception_hint;
    raise exception using errcode = sqlstate, message = format('change %s: %s', ordinal, what),
        detail = why, hint = remedy;
end
$$;
comment on function postbound.emit_many(jsonb) is
    'Writes many changes, locking users in key order; gives event id and version for each, with its place (from 1) in the array.';

-- Text columns take what any driver binds: text, varchar, json, jsonb, uuid.
create view postbound.outbox as
    select null::text as tenant_id, null::text as user_id, null::text as action, null::text as data,
           null::text as event_id, null::text as origin, null::text[] as targets, null::text as traceparent,
           null::bigint as version
    where false;
comment on view postbound.outbox is
    'Insert here; each row is one call of postbound.emit(). Reads back nothing but "returning": producers see no one''s data.';
comment on column postbound.outbox.tenant_id is 'Tenant of the user; "default" where left out.';
comment on column postbound.outbox.user_id is 'The user''s id within the tenant.';
comment on column postbound.outbox.action is 'created, updated or deleted.';
comment on column postbound.outbox.data is 'The user''s state after the change, a JSON object.';
comment on column postbound.outbox.event_id is 'A UUID of the producer''s own, for deduplication; drawn where left out.';
comment on column postbound.outbox.origin is 'The system the change came from.';
comment on column postbound.outbox.targets is 'Targets this change is for; all where left out.';
comment on column postbound.outbox.traceparent is 'W3C trace context.';
comment on column postbound.outbox.version is 'Given by "returning": the user''s new version.';

create function postbound.outbox_insert() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    select e.emitted_event_id, e.emitted_version into new.event_id, new.version
    from postbound.emit(new.tenant_id, new.user_id, new.action, coalesce(new.data, '{}')::jsonb,
                        new.origin, new.targets, new.event_id::uuid, new.traceparent) as e;
    new.tenant_id := coalesce(new.tenant_id, 'default');
    return new;
end
$$;
comment on function postbound.outbox_insert() is 'An insert into the outbox view is one call of postbound.emit().';

create trigger outbox_insert instead of insert on postbound.outbox
    for each row execute function postbound.outbox_insert();

revoke all on function postbound.emit(text, text, text, jsonb, text, text[], uuid, text) from public;
revoke all on function postbound.emit_many(jsonb) from public;
revoke all on function postbound.lock_user(text, text) from public;
revoke all on function postbound.outbox_insert() from public;
revoke all on function postbound.ensure_log_partition(date) from public;
grant usage on schema postbound to
    postbound_producer, postbound_relay, postbound_worker, postbound_operator, postbound_viewer;
grant execute on function postbound.emit(text, text, text, jsonb, text, text[], uuid, text) to postbound_producer;
grant execute on function postbound.emit_many(jsonb) to postbound_producer;
grant execute on function postbound.lock_user(text, text) to postbound_producer;
grant execute on function postbound.ensure_log_partition(date) to postbound_relay;
grant insert, select on postbound.outbox to postbound_producer;
grant select, insert, update on postbound.tenant to postbound_producer;
