-- What the relay and the workers keep: cursors, leases, the delivery ledger, identity links, the latest state.

create table postbound.stream_cursor (
    stream        text collate "C" not null,
    done_snapshot pg_snapshot not null,
    open_snapshot pg_snapshot,
    confirmed_id  bigint,
    lease_token   bigint not null default 0,
    rewinds       integer not null default 0,
    updated_at    timestamptz not null default now(),
    constraint stream_cursor_pk primary key (stream),
    constraint stream_cursor_window_is_whole check ((open_snapshot is null) = (confirmed_id is null))
) with (fillfactor = 50);
comment on table postbound.stream_cursor is 'How far each stream has read the change log: one row per target, and one for user_state.';
comment on column postbound.stream_cursor.stream is 'The target''s name, or user_state (which no target can be called).';
comment on column postbound.stream_cursor.done_snapshot is 'S1: all changes visible in it are published and confirmed.';
comment on column postbound.stream_cursor.open_snapshot is 'S2: the window being published is what S2 sees and S1 does not, by id. Never replaced before it is done.';
comment on column postbound.stream_cursor.confirmed_id is 'All rows of the window up to this id are confirmed. Written only together with its S2.';
comment on column postbound.stream_cursor.lease_token is 'Fence: only the relay with this token or a newer one may move the cursor.';
comment on column postbound.stream_cursor.rewinds is 'Grows when an operator rewinds the cursor, so that the active relay sees it and starts over from there.';
comment on column postbound.stream_cursor.updated_at is 'When the cursor last moved.';

create table postbound.relay_lease (
    only_row   boolean not null default true,
    holder     text,
    token      bigint not null default 0,
    expires_at timestamptz not null default '-infinity',
    constraint relay_lease_pk primary key (only_row),
    constraint relay_lease_one_row check (only_row)
) with (fillfactor = 50);
comment on table postbound.relay_lease is 'Which relay is the active one.';
comment on column postbound.relay_lease.only_row is 'Always true: there is one row.';
comment on column postbound.relay_lease.holder is 'The active relay, host:pid:nonce; null when it gave the lease back.';
comment on column postbound.relay_lease.token is 'Grows with every takeover; fences cursors against a relay that lost the lease.';
comment on column postbound.relay_lease.expires_at is 'From then on another relay may take over.';
insert into postbound.relay_lease default values;

create table postbound.worker (
    worker_id  uuid not null,
    label      text not null,
    targets    text[] not null,
    started_at timestamptz not null default now(),
    expires_at timestamptz not null,
    constraint worker_pk primary key (worker_id)
) with (fillfactor = 50);
comment on table postbound.worker is 'One heartbeat row per running worker; its partition leases live as long as this row does.';
comment on column postbound.worker.worker_id is 'Drawn at start.';
comment on column postbound.worker.label is 'host:pid, for people.';
comment on column postbound.worker.targets is 'Targets the worker serves.';
comment on column postbound.worker.started_at is 'When the worker started.';
comment on column postbound.worker.expires_at is 'End of all its leases unless renewed.';

create table postbound.partition_lease (
    target      text collate "C" not null,
    partition   integer not null,
    worker_id   uuid not null,
    acquired_at timestamptz not null default now(),
    constraint partition_lease_pk primary key (target, partition),
    constraint partition_lease_of_target foreign key (target) references postbound.target (name),
    constraint partition_lease_partition_bounded check (partition between 0 and 255)
);
comment on table postbound.partition_lease is 'Who owns which partition of which target; in force while the worker''s heartbeat row is.';
comment on column postbound.partition_lease.target is 'The target.';
comment on column postbound.partition_lease.partition is 'Partition number from 0.';
comment on column postbound.partition_lease.worker_id is 'The owner.';
comment on column postbound.partition_lease.acquired_at is 'When it took the partition.';

create table postbound.delivery_ledger (
    target            text collate "C" not null,
    tenant_id         text collate "C" not null,
    user_id           text collate "C" not null,
    delivered_version bigint not null default 0,
    dead_version      bigint not null default 0,
    present           boolean not null default false,
    delivered_at      timestamptz,
    dead_at           timestamptz,
    dead_reason       text,
    constraint delivery_ledger_pk primary key (target, tenant_id, user_id),
    constraint delivery_ledger_versions_not_negative check (delivered_version >= 0 and dead_version >= 0),
    constraint delivery_ledger_present_was_delivered check (not present or delivered_version > 0)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
comment on table postbound.delivery_ledger is 'Which target holds which version of which user. No secondary index, so that updates stay in the page (HOT).';
comment on column postbound.delivery_ledger.target is 'The target.';
comment on column postbound.delivery_ledger.tenant_id is 'Tenant of the user.';
comment on column postbound.delivery_ledger.user_id is 'The user.';
comment on column postbound.delivery_ledger.delivered_version is 'Newest version the target took; 0: none.';
comment on column postbound.delivery_ledger.dead_version is 'Newest version that went to the dead-letter queue; open while above delivered_version.';
comment on column postbound.delivery_ledger.present is 'Whether the target holds the user (false before the first and after a delete).';
comment on column postbound.delivery_ledger.delivered_at is 'When delivered_version was settled.';
comment on column postbound.delivery_ledger.dead_at is 'When dead_version was settled.';
comment on column postbound.delivery_ledger.dead_reason is 'Why dead_version died: a class, never a payload.';

create table postbound.identity_link (
    target      text collate "C" not null,
    tenant_id   text collate "C" not null,
    user_id     text collate "C" not null,
    external_id text collate "C" not null,
    linked_at   timestamptz not null default now(),
    constraint identity_link_pk primary key (target, tenant_id, user_id),
    constraint identity_link_external_id_length check (octet_length(external_id) between 1 and 512)
);
create index identity_link_external_id on postbound.identity_link (target, external_id);
comment on table postbound.identity_link is 'The target''s own id of each user, kept apart from the ledger because it is indexed and hardly ever changes.';
comment on column postbound.identity_link.target is 'The target.';
comment on column postbound.identity_link.tenant_id is 'Tenant of the user.';
comment on column postbound.identity_link.user_id is 'Our id of the user.';
comment on column postbound.identity_link.external_id is 'The target''s id of the user (S3: crmUserId).';
comment on column postbound.identity_link.linked_at is 'When the target first answered with this id.';

create table postbound.user_state (
    tenant_id text collate "C" not null,
    user_id   text collate "C" not null,
    version   bigint not null,
    action    text not null,
    event_id  uuid not null,
    origin    text,
    logged_at timestamptz not null,
    data      jsonb not null,
    constraint user_state_pk primary key (tenant_id, user_id),
    constraint user_state_version_positive check (version > 0)
) with (fillfactor = 80);
comment on table postbound.user_state is 'Each user''s latest state: a projection of the log, fed in batches by a stream of its own.';
comment on column postbound.user_state.tenant_id is 'Tenant of the user.';
comment on column postbound.user_state.user_id is 'The user.';
comment on column postbound.user_state.version is 'Version of this state.';
comment on column postbound.user_state.action is 'The change that led to it; deleted marks a tombstone.';
comment on column postbound.user_state.event_id is 'The event that led to it.';
comment on column postbound.user_state.origin is 'Where that change came from.';
comment on column postbound.user_state.logged_at is 'When that change was written.';
comment on column postbound.user_state.data is 'The state. A delete keeps the last known one until the user is erased.';

-- 1:1: sees nothing: the stream starts with the oldest row of the log.
insert into postbound.stream_cursor (stream, done_snapshot) values ('user_state', '1:1:');

-- Every process asks which migration the database is at before it begins.
grant select on postbound.migrations to postbound_relay, postbound_worker, postbound_operator, postbound_viewer;
grant select on postbound.target, postbound.tenant, postbound.user_state to postbound_relay, postbound_worker;
-- Delete: the relay sweeps rows of workers long dead.
grant select, delete on postbound.worker to postbound_relay;
grant select on postbound.partition_lease to postbound_relay;
grant select, update on postbound.stream_cursor, postbound.relay_lease to postbound_relay;
grant select, insert, update on postbound.user_state to postbound_relay;
grant select, delete on postbound.event_key to postbound_relay;
grant select on postbound.change_id to postbound_relay, postbound_operator, postbound_viewer;

grant select, insert, update, delete on postbound.worker, postbound.partition_lease to postbound_worker;
grant select, insert, update on postbound.delivery_ledger, postbound.identity_link to postbound_worker;

grant select on all tables in schema postbound to postbound_operator;
grant insert, update on postbound.target, postbound.tenant, postbound.stream_cursor to postbound_operator;
grant delete on postbound.partition_lease to postbound_operator;

-- A viewer sees counts and states, no one's data and no event ids.
grant select on postbound.tenant, postbound.target, postbound.stream_cursor, postbound.relay_lease, postbound.worker,
    postbound.partition_lease, postbound.delivery_ledger, postbound.identity_link, postbound.user_head to postbound_viewer;
grant select (id, xid, logged_at, version, tenant_id, user_id, action, origin, targets) on postbound.change_log to postbound_viewer;
grant select (tenant_id, user_id, version, action, origin, logged_at) on postbound.user_state to postbound_viewer;
