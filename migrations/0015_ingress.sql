-- What comes in over HTTP: the role of postbound ingress, webhooks seen, changes that wait for an identity link, and
-- answers kept for idempotency keys.

do $$
begin
    create role postbound_ingress nologin;
exception when duplicate_object or unique_violation then
    null;  -- another database of this cluster made it, perhaps this very moment
end
$$;

create table postbound.inbound_message (
    source      text collate "C" not null,
    message_id  text collate "C" not null,
    digest      bytea not null,
    outcome     text not null,
    received_at timestamptz not null default clock_timestamp(),
    constraint inbound_message_pk primary key (source, message_id),
    constraint inbound_message_id_length check (octet_length(message_id) between 1 and 256),
    constraint inbound_message_digest_is_sha256 check (octet_length(digest) = 32),
    constraint inbound_message_outcome_known
        check (outcome in ('applied', 'echo', 'older', 'deleted', 'waiting'))
);
create index inbound_message_received_at on postbound.inbound_message (received_at);
comment on table postbound.inbound_message is
    'Webhooks that were taken in, by the sender''s id: a repeated one is answered and changes nothing. Written in the transaction of the change; pruned after ingress.dedup_window_days.';
comment on column postbound.inbound_message.source is 'The source, as in the configuration.';
comment on column postbound.inbound_message.message_id is 'The sender''s id of the message; for one without, body: and the digest.';
comment on column postbound.inbound_message.digest is 'sha256 of the raw body.';
comment on column postbound.inbound_message.outcome is
    'applied: a new version; echo: the state was known; older: a newer one was held; deleted: the user is gone for good; waiting: see inbound_waiting.';
comment on column postbound.inbound_message.received_at is 'When it was taken in.';

create table postbound.inbound_waiting (
    waiting_id  bigint generated always as identity,
    source      text collate "C" not null,
    message_id  text collate "C" not null,
    tenant_id   text collate "C",
    target      text collate "C" not null,
    system      text collate "C" not null,
    external_id text collate "C" not null,
    body        jsonb not null,
    received_at timestamptz not null default clock_timestamp(),
    tries       integer not null default 0,
    tried_at    timestamptz,
    due_at      timestamptz not null default clock_timestamp(),
    reason      text not null,
    constraint inbound_waiting_pk primary key (waiting_id),
    constraint inbound_waiting_once unique (source, message_id),
    constraint inbound_waiting_tries_not_negative check (tries >= 0)
);
create index inbound_waiting_due_at on postbound.inbound_waiting (due_at);
create index inbound_waiting_external_id on postbound.inbound_waiting (source, external_id, waiting_id);
comment on table postbound.inbound_waiting is
    'Inbound changes of users whose external id is linked to none of ours yet. Tried again until the link is there, oldest first for each user.';
comment on column postbound.inbound_waiting.waiting_id is 'Order of arrival.';
comment on column postbound.inbound_waiting.source is 'The source, as in the configuration.';
comment on column postbound.inbound_waiting.message_id is 'The sender''s id of the message.';
comment on column postbound.inbound_waiting.tenant_id is 'The tenant the user must be of; null: any.';
comment on column postbound.inbound_waiting.target is 'The target whose id it is.';
comment on column postbound.inbound_waiting.system is 'Which of the target''s ids; empty: any.';
comment on column postbound.inbound_waiting.external_id is 'The id that is linked to no user of ours.';
comment on column postbound.inbound_waiting.body is 'The body as it came, to be read again once the user is known. Personal data.';
comment on column postbound.inbound_waiting.received_at is 'When it was taken in.';
comment on column postbound.inbound_waiting.tries is 'How often it was tried again.';
comment on column postbound.inbound_waiting.tried_at is 'When it was last tried again.';
comment on column postbound.inbound_waiting.due_at is 'When it is tried again.';
comment on column postbound.inbound_waiting.reason is 'What it waits for: a class, never a payload.';

create table postbound.inbound_order (
    source     text collate "C" not null,
    tenant_id  text collate "C" not null,
    user_id    text collate "C" not null,
    ordered_at timestamptz not null,
    constraint inbound_order_pk primary key (source, tenant_id, user_id)
) with (fillfactor = 80);
comment on table postbound.inbound_order is
    'The sender''s own time of the newest change taken from it, per user, where its bodies bear one: an older one never overwrites a newer one. Clerk''s is in the directory.';
comment on column postbound.inbound_order.source is 'The source, as in the configuration.';
comment on column postbound.inbound_order.tenant_id is 'Tenant of the user.';
comment on column postbound.inbound_order.user_id is 'The user.';
comment on column postbound.inbound_order.ordered_at is 'The sender''s time of the newest change.';

create table postbound.inbound_answer (
    caller      text collate "C" not null,
    key         text collate "C" not null,
    digest      bytea not null,
    tenant_id   text collate "C" not null,
    user_id     text collate "C" not null,
    event_id    uuid not null,
    version     bigint not null,
    answered_at timestamptz not null default clock_timestamp(),
    constraint inbound_answer_pk primary key (caller, key),
    constraint inbound_answer_key_length check (octet_length(key) between 1 and 255),
    constraint inbound_answer_digest_is_sha256 check (octet_length(digest) = 32)
);
create index inbound_answer_answered_at on postbound.inbound_answer (answered_at);
comment on table postbound.inbound_answer is
    'What POST /v1/events answered, by Idempotency-Key: a repeated request is answered the same and writes nothing. Pruned after ingress.dedup_window_days.';
comment on column postbound.inbound_answer.caller is 'The bearer token''s name in the configuration.';
comment on column postbound.inbound_answer.key is 'The Idempotency-Key.';
comment on column postbound.inbound_answer.digest is 'sha256 of the raw body: the same key with another body is refused.';
comment on column postbound.inbound_answer.tenant_id is 'Tenant of the user.';
comment on column postbound.inbound_answer.user_id is 'The user.';
comment on column postbound.inbound_answer.event_id is 'Id of the event that was written.';
comment on column postbound.inbound_answer.version is 'The user''s version it was given.';
comment on column postbound.inbound_answer.answered_at is 'When it was written.';

-- postbound.erase_user proves an erasure in erased_user before it removes the user's links: what still waits under one of
-- them goes with the user.
create function postbound.erase_inbound() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from postbound.inbound_waiting as w using postbound.identity_link as l
    where l.tenant_id = new.tenant_id and l.user_id = new.user_id and w.target = l.target and w.external_id = l.external_id;
    delete from postbound.inbound_waiting as w
    where w.target = '' and w.external_id = new.user_id and coalesce(w.tenant_id, 'default') = new.tenant_id;
    delete from postbound.inbound_order as o where o.tenant_id = new.tenant_id and o.user_id = new.user_id;
    return null;
end
$$;
comment on function postbound.erase_inbound() is 'Leaves nothing of an erased user among the inbound changes that wait.';
create trigger erase_from_inbound after insert or update on postbound.erased_user
    for each row execute function postbound.erase_inbound();
revoke all on function postbound.erase_inbound() from public;

grant usage on schema postbound to postbound_ingress;
-- It writes changes, as any producer.
grant execute on function postbound.emit(text, text, text, jsonb, text, text[], uuid, text) to postbound_ingress;
grant execute on function postbound.emit_many(jsonb) to postbound_ingress;
grant execute on function postbound.lock_user(text, text) to postbound_ingress;
grant insert, select on postbound.outbox to postbound_ingress;
-- It reads a user's newest state to merge a partial change into, and how far its delivery is.
grant select on postbound.migrations, postbound.target, postbound.tenant, postbound.user_head, postbound.user_state,
    postbound.change_log, postbound.stream_cursor, postbound.delivery_ledger, postbound.identity_link to postbound_ingress;
grant select, insert, update, delete on postbound.inbound_message, postbound.inbound_waiting, postbound.inbound_order,
    postbound.inbound_answer to postbound_ingress;
-- Operators look, and hurry what waits or drop it.
grant select on postbound.inbound_message, postbound.inbound_waiting, postbound.inbound_order, postbound.inbound_answer
    to postbound_operator;
grant update (due_at, reason) on postbound.inbound_waiting to postbound_operator;
grant delete on postbound.inbound_waiting to postbound_operator;
grant select on postbound.inbound_message to postbound_viewer;
grant select (waiting_id, source, message_id, tenant_id, target, system, external_id, received_at, tries, tried_at, due_at, reason)
    on postbound.inbound_waiting to postbound_viewer;
