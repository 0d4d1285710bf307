-- What parking and its refunds have to know: when a parked user's last attempts failed, and which version a target wants.

alter table postbound.parked_user add column recent_failures timestamptz[] not null default '{}';
comment on column postbound.parked_user.recent_failures is
    'When the last attempts that counted failed, as far back as the breaker''s window: an opening breaker takes them back.';
update postbound.parked_user set recent_failures = array[last_failed_at] where attempts > 0 and last_failed_at is not null;

create function postbound.wanted_version(target text, tenant_id text, user_id text, after_id bigint) returns bigint
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
-- The log is gone through (it has no index by user) only if the newest change is not wanted, or not known yet, and for
-- two million rows at most, about a second: beyond, the newest version is taken for wanted.
    select case
        when s.version = h.version and postbound.admits(t.actions, t.name, s.action, s.targets) then h.version
        when (select last_value from postbound.change_id) - wanted_version.after_id > 2000000 then h.version
        else greatest(
            l.delivered_version, l.dead_version,
            (select max(c.version) from postbound.change_log as c
             where c.id > wanted_version.after_id and c.tenant_id = h.tenant_id and c.user_id = h.user_id
               and postbound.admits(t.actions, t.name, c.action, c.targets)),
            0)
    end
    from postbound.target as t
    join postbound.user_head as h on h.tenant_id = wanted_version.tenant_id and h.user_id = wanted_version.user_id
    left join postbound.user_state as s on s.tenant_id = h.tenant_id and s.user_id = h.user_id
    left join postbound.delivery_ledger as l
      on l.target = t.name and l.tenant_id = h.tenant_id and l.user_id = h.user_id
    where t.name = wanted_version.target
$$;
comment on function postbound.wanted_version(text, text, text, bigint) is
    'The newest version of a user that a target''s filters admit, as far as it is newer than a place in the log or settled there; 0: none is. Names nobody''s data.';
revoke all on function postbound.wanted_version(text, text, text, bigint) from public;
grant execute on function postbound.wanted_version(text, text, text, bigint) to postbound_worker;
