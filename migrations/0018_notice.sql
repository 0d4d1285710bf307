-- Notices: what subscribed webhook targets are told beside users' states. They are no states: nothing folds them, they have
-- no order and no version, and each is told until the target takes it or the horizon is over.

create table postbound.notice (
    notice_id       bigint generated always as identity,
    event_id        uuid not null default gen_random_uuid(),
    target          text collate "C" not null,
    kind            text not null,
    tenant_id       text collate "C",
    user_id         text collate "C",
    data            jsonb not null,
    noted_at        timestamptz not null default clock_timestamp(),
    attempts        integer not null default 0,
    next_attempt_at timestamptz not null default clock_timestamp(),
    first_failed_at timestamptz,
    reason          text,
    dead_at         timestamptz,
    constraint notice_pk primary key (notice_id),
    constraint notice_kind_known check (kind in ('identity.linked', 'sync.completed')),
    constraint notice_user_is_whole check ((tenant_id is null) = (user_id is null)),
    constraint notice_attempts_not_negative check (attempts >= 0)
) with (fillfactor = 80);
create index notice_due on postbound.notice (target, next_attempt_at) where dead_at is null;
comment on table postbound.notice is
    'What subscribed targets are still to be told: a user was linked, a resync is done. Written in the transaction that did it; gone once the target has taken it.';
comment on column postbound.notice.notice_id is 'Order of writing; no order of telling.';
comment on column postbound.notice.event_id is 'Id of the CloudEvent: the same for every attempt.';
comment on column postbound.notice.target is 'Who is told.';
comment on column postbound.notice.kind is 'The CloudEvent''s type: identity.linked or sync.completed.';
comment on column postbound.notice.tenant_id is 'Tenant of the user, where it is about one.';
comment on column postbound.notice.user_id is 'The user, where it is about one.';
comment on column postbound.notice.data is 'What is told: ids and counts, nobody''s state.';
comment on column postbound.notice.noted_at is 'When it happened.';
comment on column postbound.notice.attempts is 'Attempts begun.';
comment on column postbound.notice.next_attempt_at is 'When it is told next; whoever takes it sets this ahead.';
comment on column postbound.notice.first_failed_at is 'First failed attempt; the horizon counts from here.';
comment on column postbound.notice.reason is 'Why the last attempt failed, a word of a closed set.';
comment on column postbound.notice.dead_at is 'When it was given up; kept for thirty days.';

create function postbound.subscribes(settings jsonb, kind text) returns boolean
language sql immutable parallel safe
return position('"' || kind || '"' in coalesce(settings ->> 'notices', '')) > 0;
comment on function postbound.subscribes(jsonb, text) is
    'Whether a target''s registered settings (postbound.target.settings) ask for notices of this kind.';

-- Workers write them with links, and tell them; the active relay writes them with the end of a resync.
grant select, insert, update, delete on postbound.notice to postbound_worker;
grant select, insert on postbound.notice to postbound_relay;
-- Operators have those that were given up told again.
grant select, update (attempts, next_attempt_at, first_failed_at, dead_at) on postbound.notice to postbound_operator;
grant select (notice_id, event_id, target, kind, tenant_id, user_id, noted_at, attempts, next_attempt_at, first_failed_at, reason, dead_at)
    on postbound.notice to postbound_viewer;

-- An erased user's ids are told nobody any more.
create function postbound.forget_notices() returns trigger
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from postbound.notice as n where n.tenant_id = new.tenant_id and n.user_id = new.user_id;
    return null;
end
$$;
comment on function postbound.forget_notices() is 'Removes an erased user''s notices with the erasure.';
revoke all on function postbound.forget_notices() from public;
create trigger erased_user_forget_notices after insert or update on postbound.erased_user
    for each row execute function postbound.forget_notices();
