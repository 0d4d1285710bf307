-- A delete ends the user's sessions, whoever wrote it; attempts to tell a notice are counted when they have failed.

create function directory.end_sessions_of_deleted() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- A sign-in holds this row: it is over before, and its session ends here, or it waits and finds the user deleted.
    perform from directory.users as u where u.tenant_id = new.tenant_id and u.id = new.user_id for update;
    if found then
        update directory.sessions as s set ended_at = now(), end_reason = 'user_deleted'
        where s.tenant_id = new.tenant_id and s.user_id = new.user_id and s.ended_at is null;
    end if;
    return null;
end
$$;
comment on function directory.end_sessions_of_deleted() is
    'Ends the sessions of a user whom any producer deletes, in that transaction: whoever is made anew under the id has none of them.';
revoke all on function directory.end_sessions_of_deleted() from public;
create trigger end_sessions_of_deleted after update of deleted on postbound.user_head
    for each row when (new.deleted and not old.deleted) execute function directory.end_sessions_of_deleted();

update directory.sessions as s set ended_at = now(), end_reason = 'user_deleted'
from postbound.user_head as h
where h.tenant_id = s.tenant_id and h.user_id = s.user_id and h.deleted and s.ended_at is null;
comment on table directory.sessions is
    'Sign-ins of users of the directory. A delete by any producer, and a deactivation through the directory, ends them in its own transaction.';

comment on column postbound.notice.attempts is 'Attempts that failed.';
