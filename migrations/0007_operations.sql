-- Operators' work on tables that are not theirs to write: importing the users of day one, and erasing one.
-- Both go through functions, so that an operator's login can do these two things and nothing else to heads and states.

create function postbound.import_users(tenant_id text, user_ids text[], states text[], targets text[])
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
        insert into postbound.user_head as h (tenant_id, user_id, version, deleted)
        select import_users.tenant_id, j.user_id, 1, false from judged as j
        where j.refusal is null and not j.known order by j.user_id collate "C"
        on conflict on constraint user_head_pk do update set version = 1, deleted = false where h.version = 0
        returning h.user_id
    ), written as (
        insert into postbound.user_state as s
            (tenant_id, user_id, version, action, event_id, logged_at, data, targets)
        select import_users.tenant_id, j.user_id, 1, 'created', gen_random_uuid(), clock_timestamp(), j.state, import_users.targets
        from judged as j join heads as h on h.user_id = j.user_id collate "C"
        returning s.user_id
    )
    select j.place, coalesce(j.refusal, case when w.user_id is null then 'known' else 'imported' end)
    from judged as j left join written as w on w.user_id = j.user_id collate "C";
end
$$;
comment on function postbound.import_users(text, text[], text[], text[]) is
    'Gives users nobody has written yet a first version and a state. Per place in the arrays (a user named twice: the first): imported, known, not_an_object or too_large.';

create function postbound.erase_user(tenant_id text, user_id text, force boolean default false) returns jsonb
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
    where t.retired_at is null and postbound.admits(t.actions, t.name, 'deleted', aimed_at)
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
comment on function postbound.erase_user(text, text, boolean) is
    'Removes a user''s data everywhere in this database, once the delete has reached every target that is sent it (or by force). Null: no such user. Scans the log.';

-- The function's owner is not the log's (see 0002).
grant update (data, targets) on postbound.change_log to current_user;

revoke all on function postbound.import_users(text, text[], text[], text[]) from public;
revoke all on function postbound.erase_user(text, text, boolean) from public;
grant execute on function postbound.import_users(text, text[], text[], text[]) to postbound_operator;
grant execute on function postbound.erase_user(text, text, boolean) to postbound_operator;
revoke insert, update on postbound.user_head, postbound.user_state, postbound.erased_user from postbound_operator;
revoke delete on postbound.identity_link from postbound_operator;

-- What a viewer's status and doctor count: who is wanted where, and open letters. Nobody's data, no event ids.
grant select (targets) on postbound.user_state to postbound_viewer;
grant select (letter_id, target, tenant_id, user_id, version, action, logged_at, reason, class, status, attempts, last_failed_at)
    on postbound.open_dead_letter to postbound_viewer;
