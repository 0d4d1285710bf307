-- The user directory (contract S4): what front ends read, webhooks of identity providers fill, and logins are checked
-- against. A schema of its own: the outbox does not depend on it, and an installation without it leaves it empty.

create schema directory;
comment on schema directory is 'The user directory: users as webhooks and the API have them, and their sessions.';

create table directory.users (
    tenant_id        text collate "C" not null,
    id               text collate "C" not null,
    state            jsonb not null,
    version          bigint not null,
    email            text generated always as (state ->> 'email') stored,
    first_name       text generated always as (state ->> 'firstName') stored,
    last_name        text generated always as (state ->> 'lastName') stored,
    image_url        text generated always as (state ->> 'imageUrl') stored,
    theme            text generated always as (coalesce(state ->> 'theme', 'system')) stored,
    is_active        boolean generated always as ((state -> 'isActive') is distinct from 'false'::jsonb) stored,
    deleted_at       timestamptz,
    delete_reason    text,
    clerk_updated_at timestamptz,
    clerk_profile    jsonb,
    recent           jsonb not null default '[]',
    created_at       timestamptz not null default now(),
    updated_at       timestamptz not null default now(),
    constraint users_pk primary key (tenant_id, id),
    constraint users_state_is_object check (jsonb_typeof(state) = 'object'),
    constraint users_version_counts_up check (version >= 0),
    constraint users_clerk_word_is_whole check (clerk_updated_at is null or clerk_profile is not null),
    constraint users_recent_is_list check (jsonb_typeof(recent) = 'array')
) with (fillfactor = 80);
create index users_email on directory.users (tenant_id, lower(email)) where email is not null;
comment on table directory.users is 'One row per user the directory was told of, deleted ones included: a tombstone is what refuses a late webhook.';
comment on column directory.users.tenant_id is 'Tenant of the user.';
comment on column directory.users.id is 'The user''s id, for Clerk''s users theirs (user_...). The same as in the outbox.';
comment on column directory.users.state is 'The whole state as it was last emitted from here, fields without a column included.';
comment on column directory.users.version is 'Version of that state in the outbox; 0 for a delete of someone never heard of. Behind user_head where another producer wrote since.';
comment on column directory.users.email is 'Primary e-mail address.';
comment on column directory.users.first_name is 'Given name.';
comment on column directory.users.last_name is 'Family name.';
comment on column directory.users.image_url is 'Address of the picture.';
comment on column directory.users.theme is 'Appearance the user chose; system unless chosen. No webhook changes it.';
comment on column directory.users.is_active is 'Whether the user may sign in, if not deleted.';
comment on column directory.users.deleted_at is 'When the user was soft-deleted; null for a living one.';
comment on column directory.users.delete_reason is 'Why, where whoever deleted the user said so.';
comment on column directory.users.clerk_updated_at is 'Clerk''s own time of the newest change it told of; an older one changes nothing.';
comment on column directory.users.clerk_profile is 'What Clerk said then: only what it says otherwise later is a change by Clerk.';
comment on column directory.users.recent is 'States of the last minutes with their versions, newest last: by them a system''s late echo of one is told from a change.';
comment on column directory.users.created_at is 'When the row was made.';
comment on column directory.users.updated_at is 'When it last changed.';

create table directory.sessions (
    session_id text collate "C" not null,
    tenant_id  text collate "C" not null,
    user_id    text collate "C" not null,
    created_at timestamptz not null default now(),
    ended_at   timestamptz,
    end_reason text,
    constraint sessions_pk primary key (session_id),
    constraint sessions_of_user foreign key (tenant_id, user_id) references directory.users (tenant_id, id),
    constraint sessions_end_is_whole check ((ended_at is null) = (end_reason is null)),
    constraint sessions_end_reason_known check (end_reason in ('signed_out', 'user_deleted', 'user_inactive'))
);
create index sessions_open_of_user on directory.sessions (tenant_id, user_id) where ended_at is null;
comment on table directory.sessions is 'Sign-ins of users of the directory. A delete or deactivation ends them in its own transaction.';
comment on column directory.sessions.session_id is 'The session''s id: Clerk''s (claim sid), else drawn.';
comment on column directory.sessions.tenant_id is 'Tenant of the user.';
comment on column directory.sessions.user_id is 'Who signed in.';
comment on column directory.sessions.created_at is 'When.';
comment on column directory.sessions.ended_at is 'When it ended; null while it is open.';
comment on column directory.sessions.end_reason is 'signed_out, user_deleted or user_inactive.';

create function directory.lock_user(tenant_id text, user_id text)
returns table (head_version bigint, head_deleted boolean, newest jsonb, known boolean, row_version bigint,
               tombstone boolean, clerk_updated_at timestamptz, clerk_profile jsonb, recent jsonb)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
-- Holds the user until the transaction ends and gives the newest state, whoever wrote it: the directory's own row where
-- that is of the newest version, else user_state, else the part of the log that user_state has not got to yet.
declare
    held directory.users;
    head record;
    unread xid8;
begin
    head_version := postbound.lock_user(lock_user.tenant_id, lock_user.user_id);
    select h.deleted into head_deleted from postbound.user_head as h
    where h.tenant_id = lock_user.tenant_id and h.user_id = lock_user.user_id;
    select u.* into held from directory.users as u where u.tenant_id = lock_user.tenant_id and u.id = lock_user.user_id;
    known := found;
    row_version := coalesce(held.version, 0);
    tombstone := held.deleted_at is not null;
    clerk_updated_at := held.clerk_updated_at;
    clerk_profile := held.clerk_profile;
    recent := coalesce(held.recent, '[]');
    newest := held.state;
    if head_version > row_version then
        select s.version, s.data into head from postbound.user_state as s
        where s.tenant_id = lock_user.tenant_id and s.user_id = lock_user.user_id;
        newest := coalesce(head.data, newest);
        if head.version is distinct from head_version then
            -- What no window of user_state has seen has an xid of its last snapshot or a later one.
            select pg_snapshot_xmin(c.done_snapshot) into unread from postbound.stream_cursor as c where c.stream = 'user_state';
            select nullif(c.data, '{}') into newest from (
                select l.data, l.version from postbound.change_log as l
                where l.xid >= coalesce(unread, '0') and l.tenant_id = lock_user.tenant_id and l.user_id = lock_user.user_id
                order by l.version desc limit 1
            ) as c;
            newest := coalesce(newest, head.data, held.state);
        end if;
    end if;
    newest := coalesce(newest, '{}');
    return next;
end
$$;
comment on function directory.lock_user(text, text) is
    'Locks a user until the transaction ends; gives the head, the newest state and what the directory keeps beside it.';

-- postbound.erase_user proves an erasure in erased_user: what the directory keeps of the user goes with it.
create function directory.erase_user() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from directory.sessions as s where s.tenant_id = new.tenant_id and s.user_id = new.user_id;
    update directory.users as u
    set state = '{"isActive": false}', delete_reason = null, clerk_profile = case when u.clerk_updated_at is not null then '{}'::jsonb end,
        recent = '[]', deleted_at = coalesce(u.deleted_at, now()), updated_at = now()
    where u.tenant_id = new.tenant_id and u.id = new.user_id and u.version <= new.version;
    return null;
end
$$;
comment on function directory.erase_user() is 'Leaves nothing of an erased user in the directory but the tombstone.';
create trigger erase_from_directory after insert or update on postbound.erased_user
    for each row execute function directory.erase_user();

revoke all on function directory.lock_user(text, text) from public;
revoke all on function directory.erase_user() from public;
grant usage on schema directory to postbound_ingress, postbound_operator;
grant execute on function directory.lock_user(text, text) to postbound_ingress;
grant select, insert, update on directory.users, directory.sessions to postbound_ingress;
grant select on directory.users, directory.sessions to postbound_operator;
-- Whom the ingress may lock and emit for is decided in its own migration (0015): it is a producer.
