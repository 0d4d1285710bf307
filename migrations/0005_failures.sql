-- What happens between "sent" and "settled", and what operators do about it: parked users, doubt, circuit breakers,
-- shared rate limits, dead letters, jobs, the audit trail.

create table postbound.parked_user (
    target          text collate "C" not null,
    tenant_id       text collate "C" not null,
    user_id         text collate "C" not null,
    key_hash        bigint not null,
    attempts        integer not null default 0,
    repeats         integer not null default 0,
    next_attempt_at timestamptz not null,
    parked_at       timestamptz not null default clock_timestamp(),
    first_failed_at timestamptz,
    last_failed_at  timestamptz,
    reason          text not null,
    class           text not null,
    status          integer,
    detail          text not null default '',
    unknown_version bigint not null default 0,
    constraint parked_user_pk primary key (target, tenant_id, user_id),
    constraint parked_user_key_hash_is_32_bits check (key_hash between 0 and 4294967295),
    constraint parked_user_counts_not_negative check (attempts >= 0 and repeats between 0 and attempts),
    constraint parked_user_class_known check (class in ('transient', 'unknown', 'permanent', 'whole_target', 'held'))
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
create index parked_user_due on postbound.parked_user (target, next_attempt_at);
comment on table postbound.parked_user is
    'Users who wait for another attempt at a target: one schedule per target and user; their states are in parked_state.';
comment on column postbound.parked_user.target is 'The target.';
comment on column postbound.parked_user.tenant_id is 'Tenant of the user.';
comment on column postbound.parked_user.user_id is 'The user.';
comment on column postbound.parked_user.key_hash is 'First four bytes of sha256(tenant 0x1f user), big-endian: modulo P it is the partition.';
comment on column postbound.parked_user.attempts is 'Attempts that failed for this user''s own sake. Those a failing target is to blame for do not count.';
comment on column postbound.parked_user.repeats is 'Those of them since whose predecessor the target took another user''s state (the first one counts).';
comment on column postbound.parked_user.next_attempt_at is 'From then on the partition''s owner tries again; taking the user sets it a minute ahead.';
comment on column postbound.parked_user.parked_at is 'When the user was parked.';
comment on column postbound.parked_user.first_failed_at is 'First failed attempt; the horizon counts from here, less the time the breaker was open. Null: none was made.';
comment on column postbound.parked_user.last_failed_at is 'Last failed attempt.';
comment on column postbound.parked_user.reason is 'Why, a word of a closed set (http_422, timeout, breaker_open, ...).';
comment on column postbound.parked_user.class is 'Class of the last failure; held: no attempt failed, the target was closed to all.';
comment on column postbound.parked_user.status is 'HTTP status of the last answer.';
comment on column postbound.parked_user.detail is 'The target''s own words, secrets and personal data masked.';
comment on column postbound.parked_user.unknown_version is 'Newest version of which an attempt ended without anyone knowing how; 0: none.';

create table postbound.parked_state (
    target      text collate "C" not null,
    tenant_id   text collate "C" not null,
    user_id     text collate "C" not null,
    version     bigint not null,
    event_id    uuid not null,
    log_id      bigint not null,
    action      text not null,
    send_as     text,
    resend      integer not null default 0,
    origin      text,
    traceparent text,
    logged_at   timestamptz not null,
    job_id      bigint,
    job_item    bigint,
    job_repeats boolean,
    data        jsonb not null,
    constraint parked_state_pk primary key (target, tenant_id, user_id, version),
    constraint parked_state_action_known check (action in ('created', 'updated', 'deleted')),
    constraint parked_state_send_as_known check (send_as in ('created', 'updated', 'deleted')),
    constraint parked_state_job_is_whole check ((job_id is null) = (job_item is null) and (job_id is null) = (job_repeats is null))
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
comment on table postbound.parked_state is
    'States that wait with a parked user: for a folding target the newest, and a delete before it; else every one, in order.';
comment on column postbound.parked_state.target is 'The target.';
comment on column postbound.parked_state.tenant_id is 'Tenant of the user.';
comment on column postbound.parked_state.user_id is 'The user.';
comment on column postbound.parked_state.version is 'Version of the state.';
comment on column postbound.parked_state.event_id is 'The event that holds it.';
comment on column postbound.parked_state.log_id is 'Its place in the change log.';
comment on column postbound.parked_state.action is 'What happened to the user.';
comment on column postbound.parked_state.send_as is 'What the target is told, fixed at the first attempt; null before it.';
comment on column postbound.parked_state.resend is 'Grows with every deliberate new idempotency key for the same state.';
comment on column postbound.parked_state.origin is 'Where the change came from.';
comment on column postbound.parked_state.traceparent is 'W3C trace context of the producer.';
comment on column postbound.parked_state.logged_at is 'When the change was written.';
comment on column postbound.parked_state.job_id is 'The job that sent it, if one did.';
comment on column postbound.parked_state.job_item is 'Its item in that job.';
comment on column postbound.parked_state.job_repeats is 'Whether the job sends what the target holds already.';
comment on column postbound.parked_state.data is 'The state.';

create table postbound.doubt (
    target    text collate "C" not null,
    tenant_id text collate "C" not null,
    user_id   text collate "C" not null,
    key_hash  bigint not null,
    due_at    timestamptz not null,
    late_version bigint not null,
    version   bigint not null,
    event_id  uuid not null,
    log_id    bigint not null,
    action    text not null,
    send_as   text not null,
    resend    integer not null,
    logged_at timestamptz not null,
    data      jsonb not null,
    constraint doubt_pk primary key (target, tenant_id, user_id),
    constraint doubt_resend_positive check (resend > 0)
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
create index doubt_due on postbound.doubt (target, due_at);
comment on table postbound.doubt is
    'Users of a target without a version guard where a request of unknown outcome may still be executed late, over a newer state: that one is sent once more.';
comment on column postbound.doubt.target is 'The target.';
comment on column postbound.doubt.tenant_id is 'Tenant of the user.';
comment on column postbound.doubt.user_id is 'The user.';
comment on column postbound.doubt.key_hash is 'As in parked_user.';
comment on column postbound.doubt.due_at is 'When no such request can be executed any more, and the newest state is sent again, if it is a newer one.';
comment on column postbound.doubt.late_version is 'Newest version such a request may carry: while the target was told none above it, there is nothing to put right.';
comment on column postbound.doubt.version is 'Version of the newest delivered state.';
comment on column postbound.doubt.event_id is 'The event that holds it.';
comment on column postbound.doubt.log_id is 'Its place in the change log.';
comment on column postbound.doubt.action is 'What happened to the user.';
comment on column postbound.doubt.send_as is 'What the target was told.';
comment on column postbound.doubt.resend is 'Makes the idempotency key a new one.';
comment on column postbound.doubt.logged_at is 'When the change was written.';
comment on column postbound.doubt.data is 'The state.';

create table postbound.breaker (
    target       text collate "C" not null,
    tenant_id    text collate "C" not null default '',
    opened_at    timestamptz not null default clock_timestamp(),
    cause        text not null,
    reason       text not null,
    status       integer,
    detail       text not null default '',
    retry_at     timestamptz,
    pause_ms     bigint not null default 0,
    probe_until  timestamptz,
    paused_by    text,
    pause_reason text,
    constraint breaker_pk primary key (target, tenant_id),
    constraint breaker_cause_known check (cause in ('whole_target', 'failing_share', 'operator')),
    constraint breaker_pause_has_a_name check ((paused_by is null) = (pause_reason is null)),
    constraint breaker_waits_for_something check (retry_at is not null or paused_by is not null)
) with (fillfactor = 50);
comment on table postbound.breaker is
    'Open circuit breakers and operators'' pauses, shared by all workers; no row: closed, requests go out. Changes are announced on channel postbound_breaker.';
comment on column postbound.breaker.target is 'The target.';
comment on column postbound.breaker.tenant_id is 'The tenant it is open for; empty: for all.';
comment on column postbound.breaker.opened_at is 'Since when.';
comment on column postbound.breaker.cause is 'whole_target: an answer that speaks of the target; failing_share: most deliveries failed; operator: a pause.';
comment on column postbound.breaker.reason is 'Reason of the failure that opened it, a word of a closed set.';
comment on column postbound.breaker.status is 'HTTP status of that failure.';
comment on column postbound.breaker.detail is 'The target''s own words, masked.';
comment on column postbound.breaker.retry_at is 'When one probe may go out; null: not before an operator resumes.';
comment on column postbound.breaker.pause_ms is 'The last pause of our own choice; the next one is twice as long.';
comment on column postbound.breaker.probe_until is 'A probe is out until then.';
comment on column postbound.breaker.paused_by is 'The operator who paused it, if one did.';
comment on column postbound.breaker.pause_reason is 'What they gave as the reason.';

create table postbound.outage (
    target    text collate "C" not null,
    tenant_id text collate "C" not null,
    opened_at timestamptz not null,
    closed_at timestamptz not null,
    cause     text not null,
    reason    text not null,
    constraint outage_pk primary key (target, tenant_id, opened_at),
    constraint outage_ends_after_it_began check (closed_at >= opened_at)
);
comment on table postbound.outage is 'Times a breaker was open: they do not count to a delivery''s horizon. Pruned by the relay after 90 days.';
comment on column postbound.outage.target is 'The target.';
comment on column postbound.outage.tenant_id is 'The tenant; empty: all.';
comment on column postbound.outage.opened_at is 'From.';
comment on column postbound.outage.closed_at is 'To.';
comment on column postbound.outage.cause is 'As in breaker.';
comment on column postbound.outage.reason is 'As in breaker.';

create table postbound.rate_window (
    target      text collate "C" not null,
    slot_ms     bigint not null,
    newest_slot bigint not null,
    granted     integer[] not null,
    constraint rate_window_pk primary key (target),
    constraint rate_window_slot_positive check (slot_ms > 0)
) with (fillfactor = 50);
comment on table postbound.rate_window is 'Requests granted to workers in the last span of a target''s rate limit, in slots of time.';
comment on column postbound.rate_window.target is 'The target.';
comment on column postbound.rate_window.slot_ms is 'Length of a slot in milliseconds.';
comment on column postbound.rate_window.newest_slot is 'Number of the newest slot since the epoch.';
comment on column postbound.rate_window.granted is 'Requests granted per slot, the newest first.';

create table postbound.job (
    job_id              bigint generated always as identity,
    kind                text not null,
    target              text collate "C" not null,
    filter              jsonb not null,
    state               text not null default 'filling',
    state_reason        text,
    use_current         boolean not null default false,
    new_key             boolean not null default false,
    rate_per_second     double precision,
    stop_after_failures integer,
    created_by          text not null default session_user,
    created_as          text,
    created_at          timestamptz not null default clock_timestamp(),
    finished_at         timestamptz,
    constraint job_pk primary key (job_id),
    constraint job_of_target foreign key (target) references postbound.target (name),
    constraint job_kind_known check (kind in ('replay', 'resync', 'reconcile', 'import')),
    constraint job_state_known check (state in ('filling', 'running', 'paused', 'stopped', 'cancelled', 'done')),
    constraint job_rate_positive check (rate_per_second > 0),
    constraint job_finished_is_over check ((finished_at is not null) = (state in ('cancelled', 'done')))
);
comment on table postbound.job is 'Replays, resyncs, reconciles and imports: what the active relay sends through the backfill queues, one target each.';
comment on column postbound.job.job_id is 'The job.';
comment on column postbound.job.kind is 'replay of dead letters, resync of a tenant, reconcile of stale users, import of existing ones.';
comment on column postbound.job.target is 'The target it sends to.';
comment on column postbound.job.filter is 'What was asked for.';
comment on column postbound.job.state is 'filling: items are being written; running; paused by an operator; stopped after failures; cancelled; done: every item is settled.';
comment on column postbound.job.state_reason is 'Why it is paused, stopped or cancelled.';
comment on column postbound.job.use_current is 'Whether a replay sends the user''s newest state rather than the letter''s.';
comment on column postbound.job.new_key is 'Whether states are sent under a new idempotency key.';
comment on column postbound.job.rate_per_second is 'Users sent per second at most; null: as fast as live traffic leaves room.';
comment on column postbound.job.stop_after_failures is 'Dead items after which it stops; null: never.';
comment on column postbound.job.created_by is 'Database login of the operator.';
comment on column postbound.job.created_as is 'Who they said they are.';
comment on column postbound.job.created_at is 'When it was made.';
comment on column postbound.job.finished_at is 'When it was done or cancelled.';

create table postbound.job_item (
    job_id     bigint not null,
    item       bigint not null,
    tenant_id  text collate "C" not null,
    user_id    text collate "C" not null,
    letter_id  bigint,
    version    bigint,
    state      text not null default 'waiting',
    reason     text,
    settled_at timestamptz,
    constraint job_item_pk primary key (job_id, item),
    constraint job_item_of_job foreign key (job_id) references postbound.job (job_id),
    constraint job_item_state_known check (state in ('waiting', 'sent', 'delivered', 'superseded', 'dead', 'skipped')),
    constraint job_item_settled_has_a_time check ((settled_at is null) = (state in ('waiting', 'sent')))
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
comment on table postbound.job_item is 'One user, or one dead letter, of a job, and what became of it.';
comment on column postbound.job_item.job_id is 'The job.';
comment on column postbound.job_item.item is 'Place in the job from 1: the order of sending.';
comment on column postbound.job_item.tenant_id is 'Tenant of the user.';
comment on column postbound.job_item.user_id is 'The user.';
comment on column postbound.job_item.letter_id is 'The dead letter, in a replay.';
comment on column postbound.job_item.version is 'The version that was sent.';
comment on column postbound.job_item.state is
    'waiting; sent: published, or parked for a retry; delivered; superseded: the target holds it or a newer one; dead: it failed again; skipped: nothing to send.';
comment on column postbound.job_item.reason is 'Why it is dead or skipped.';
comment on column postbound.job_item.settled_at is 'When it was settled.';

create table postbound.dead_letter (
    letter_id       bigint generated always as identity,
    target          text collate "C" not null,
    replay          integer not null default 0,
    event_id        uuid,
    log_id          bigint,
    tenant_id       text collate "C",
    user_id         text collate "C",
    version         bigint,
    action          text,
    origin          text,
    traceparent     text,
    logged_at       timestamptz,
    data            jsonb,
    unreadable      bytea,
    reason          text not null,
    class           text not null,
    status          integer,
    detail          text not null default '',
    attempts        integer not null default 0,
    unknown_outcome boolean not null default false,
    resend          integer not null default 0,
    first_failed_at timestamptz,
    last_failed_at  timestamptz not null,
    archived_at     timestamptz not null default clock_timestamp(),
    replayed_at     timestamptz,
    discarded_at    timestamptz,
    discarded_by    text,
    constraint dead_letter_pk primary key (letter_id),
    constraint dead_letter_once_per_event unique (target, event_id),
    constraint dead_letter_is_an_event_or_unreadable check (
        num_nulls(event_id, log_id, tenant_id, user_id, version, action, logged_at, data) = case when unreadable is null then 0 else 8 end),
    constraint dead_letter_discarded_by_someone check ((discarded_at is null) = (discarded_by is null))
);
create index dead_letter_user on postbound.dead_letter (target, tenant_id, user_id);
create index dead_letter_last_failed on postbound.dead_letter (target, last_failed_at);
create unique index dead_letter_unreadable_once on postbound.dead_letter (target, sha256(unreadable)) where unreadable is not null;
comment on table postbound.dead_letter is
    'Deliveries that were given up, moved here from the dead-letter queues. Open is computed (see view open_dead_letter), never stored: a newer success closes a letter by itself.';
comment on column postbound.dead_letter.letter_id is 'The letter.';
comment on column postbound.dead_letter.target is 'The target.';
comment on column postbound.dead_letter.replay is 'The job in which it failed last; 0: in none. A letter that fails again keeps its row.';
comment on column postbound.dead_letter.event_id is 'The event; null for a message nobody can read.';
comment on column postbound.dead_letter.log_id is 'Its place in the change log.';
comment on column postbound.dead_letter.tenant_id is 'Tenant of the user.';
comment on column postbound.dead_letter.user_id is 'The user.';
comment on column postbound.dead_letter.version is 'Version of the state.';
comment on column postbound.dead_letter.action is 'What happened to the user.';
comment on column postbound.dead_letter.origin is 'Where the change came from.';
comment on column postbound.dead_letter.traceparent is 'W3C trace context of the producer.';
comment on column postbound.dead_letter.logged_at is 'When the change was written.';
comment on column postbound.dead_letter.data is 'The state; {} once the user is erased.';
comment on column postbound.dead_letter.unreadable is 'The message as it came, where nobody can read it.';
comment on column postbound.dead_letter.reason is 'Why, a word of a closed set (http_422, result_refused, delivery_limit, unreadable, ...).';
comment on column postbound.dead_letter.class is 'Class of the failure: transient, unknown, permanent, diverged, broker, unreadable.';
comment on column postbound.dead_letter.status is 'HTTP status of the last answer.';
comment on column postbound.dead_letter.detail is 'The target''s own words, secrets and personal data masked.';
comment on column postbound.dead_letter.attempts is 'Attempts that failed.';
comment on column postbound.dead_letter.unknown_outcome is 'Whether an attempt ended without anyone knowing how: a replay then keeps its idempotency key.';
comment on column postbound.dead_letter.resend is 'Number of the idempotency key the last attempt was sent under: 0 for the first one.';
comment on column postbound.dead_letter.first_failed_at is 'First failed attempt.';
comment on column postbound.dead_letter.last_failed_at is 'Last failed attempt.';
comment on column postbound.dead_letter.archived_at is 'When it was moved here.';
comment on column postbound.dead_letter.replayed_at is 'When a replay of it was delivered.';
comment on column postbound.dead_letter.discarded_at is 'When an operator gave it up.';
comment on column postbound.dead_letter.discarded_by is 'Who did.';

create view postbound.open_dead_letter as
    select d.*
    from postbound.dead_letter as d
    left join postbound.target as t on t.name = d.target
    left join postbound.delivery_ledger as l
      on l.target = d.target and l.tenant_id = d.tenant_id and l.user_id = d.user_id
    where d.discarded_at is null and d.replayed_at is null
      and (not coalesce(t.fold, true)
           or coalesce(l.delivered_version, 0) < coalesce(d.version, 1)
           -- A resync is made because the ledger cannot be trusted: what failed in a job waits for a later success.
           or d.replay > 0 and coalesce(l.delivered_at, '-infinity') < d.last_failed_at);
comment on view postbound.open_dead_letter is
    'Letters somebody has to do something about: not discarded, not replayed, and (where states fold) not overtaken by a newer success.';
do $$
declare
    shown record;
begin
    -- Its columns are the table's.
    for shown in
        select attname, col_description(attrelid, attnum) as comment from pg_attribute
        where attrelid = 'postbound.dead_letter'::regclass and attnum > 0 and not attisdropped
    loop
        execute format('comment on column postbound.open_dead_letter.%I is %L', shown.attname, shown.comment);
    end loop;
end
$$;

create table postbound.audit (
    audit_id bigint generated always as identity,
    at       timestamptz not null default clock_timestamp(),
    login    text not null default session_user,
    acting_as text,
    command  text not null,
    filter   jsonb not null default '{}',
    counts   jsonb not null default '{}',
    constraint audit_pk primary key (audit_id)
);
comment on table postbound.audit is 'Every operator''s action. Append-only.';
comment on column postbound.audit.audit_id is 'Order of the actions.';
comment on column postbound.audit.at is 'When.';
comment on column postbound.audit.login is 'Database login.';
comment on column postbound.audit.acting_as is 'Who they said they are (--as).';
comment on column postbound.audit.command is 'What they did: dead-letters replay, targets pause, ...';
comment on column postbound.audit.filter is 'On what.';
comment on column postbound.audit.counts is 'How many it touched.';

create table postbound.erased_user (
    tenant_id text collate "C" not null,
    user_id   text collate "C" not null,
    version   bigint not null,
    erased_at timestamptz not null default clock_timestamp(),
    erased_by text not null default session_user,
    constraint erased_user_pk primary key (tenant_id, user_id)
);
comment on table postbound.erased_user is 'Proof of erasure: which user''s data was removed everywhere, by whom, when.';
comment on column postbound.erased_user.tenant_id is 'Tenant of the user.';
comment on column postbound.erased_user.user_id is 'The user.';
comment on column postbound.erased_user.version is 'Version up to which data was removed; what a later registration under the same id writes is not touched.';
comment on column postbound.erased_user.erased_at is 'When.';
comment on column postbound.erased_user.erased_by is 'Database login of the operator.';

alter table postbound.user_state add column targets text[];
comment on column postbound.user_state.targets is 'Targets the change that led to it is for; null means all.';

create function postbound.admits(actions text[], target text, action text, targets text[]) returns boolean
language sql immutable parallel safe
return action = any(actions) and (targets is null or target = any(targets));
comment on function postbound.admits(text[], text, text, text[]) is
    'Whether a target (its actions, its name) wants a change (its action, its target list).';

create function postbound.sync_state(tenant_id text, user_id text)
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
               when s.version >= h.version and not postbound.admits(t.actions, t.name, s.action, s.targets) then 'in_sync'
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
comment on function postbound.sync_state(text, text) is
    'Where a user stands at each target: in_sync, pending, retrying or failed (dead-lettered). No row: the user was never written.';
revoke all on function postbound.sync_state(text, text) from public;
grant execute on function postbound.sync_state(text, text) to postbound_producer, postbound_operator, postbound_viewer;

-- Workers park, doubt, break and settle; they move dead letters into the archive.
grant select, insert, update, delete on postbound.parked_user, postbound.parked_state, postbound.doubt, postbound.breaker
    to postbound_worker;
grant select, insert, update on postbound.outage, postbound.rate_window to postbound_worker;
grant select, insert, update on postbound.dead_letter to postbound_worker;
grant select, update on postbound.job_item to postbound_worker;
grant select on postbound.job, postbound.erased_user, postbound.user_head to postbound_worker;

-- The active relay runs jobs: it reads letters and states, sends items, and finds stale users by itself.
grant select on postbound.parked_user, postbound.delivery_ledger, postbound.dead_letter, postbound.open_dead_letter,
    postbound.breaker to postbound_relay;
grant select, insert, update on postbound.job, postbound.job_item to postbound_relay;
grant delete on postbound.job, postbound.job_item to postbound_relay;
grant select, delete on postbound.outage to postbound_relay;

-- Operators pause, retry, replay, discard and erase.
grant select, insert, update, delete on postbound.breaker to postbound_operator;
grant select, insert on postbound.outage to postbound_operator;
-- Who and when, the database says.
grant select, insert (acting_as, command, filter, counts) on postbound.audit to postbound_operator;
grant select, update, delete on postbound.parked_user, postbound.parked_state, postbound.doubt to postbound_operator;
grant select, insert, update on postbound.job, postbound.job_item to postbound_operator;
grant select, update on postbound.dead_letter to postbound_operator;
grant select, insert, update on postbound.erased_user, postbound.user_state, postbound.user_head to postbound_operator;
grant select on postbound.open_dead_letter to postbound_operator;
grant delete on postbound.identity_link to postbound_operator;

grant select on postbound.parked_user, postbound.breaker, postbound.outage, postbound.rate_window, postbound.job,
    postbound.job_item, postbound.audit, postbound.erased_user to postbound_viewer;
grant select (letter_id, target, replay, event_id, tenant_id, user_id, version, action, logged_at, reason, class, status, attempts,
    first_failed_at, last_failed_at, archived_at, replayed_at, discarded_at, discarded_by) on postbound.dead_letter to postbound_viewer;
