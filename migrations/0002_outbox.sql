-- What producers write and the relay reads: tenants, user heads, the append-only change log, event ids.

create table postbound.tenant (
    tenant_id    text collate "C" not null,
    name         text,
    subdomain    text,
    kinde_org_id text,
    updated_at   timestamptz not null default now(),
    constraint tenant_pk primary key (tenant_id),
    constraint tenant_id_length check (octet_length(tenant_id) between 1 and 256)
);
comment on table postbound.tenant is 'What targets want to know of a tenant. A tenant without a row is known by its id alone.';
comment on column postbound.tenant.tenant_id is 'The tenant''s id, as producers give it.';
comment on column postbound.tenant.name is 'Display name; targets get the id where this is null.';
comment on column postbound.tenant.subdomain is 'Subdomain of the tenant''s site.';
comment on column postbound.tenant.kinde_org_id is 'Id of the tenant''s organization at the identity provider.';
comment on column postbound.tenant.updated_at is 'When this row last changed.';

insert into postbound.tenant (tenant_id, name) values ('default', 'Default');

create table postbound.user_head (
    tenant_id text collate "C" not null,
    user_id   text collate "C" not null,
    version   bigint not null,
    deleted   boolean not null,
    constraint user_head_pk primary key (tenant_id, user_id),
    constraint user_head_version_counts_up check (version >= 0)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
comment on table postbound.user_head is
    'One narrow row per user, locked by every change of that user, so that log order, version order and commit order are one. Never deleted.';
comment on column postbound.user_head.tenant_id is 'Tenant of the user.';
comment on column postbound.user_head.user_id is 'The user''s id within the tenant.';
comment on column postbound.user_head.version is 'Version of the newest change; 0 for a user locked before the first one. Grows over delete and re-create too.';
comment on column postbound.user_head.deleted is 'Whether the newest change was a delete.';

create sequence postbound.change_id as bigint cache 1;
comment on sequence postbound.change_id is 'Ids of the change log. Cache 1: a cached range would break the order of ids across sessions.';

create table postbound.change_log (
    id          bigint not null,
    xid         xid8 not null,
    logged_at   timestamptz not null,
    version     bigint not null,
    event_id    uuid not null,
    tenant_id   text collate "C" not null,
    user_id     text collate "C" not null,
    action      text not null,
    origin      text,
    targets     text[],
    traceparent text,
    data        jsonb not null,
    constraint change_log_pk primary key (id, logged_at),
    constraint change_log_action_known check (action in ('created', 'updated', 'deleted')),
    constraint change_log_version_positive check (version > 0)
) partition by range (logged_at);
create index change_log_xid_id on postbound.change_log (xid, id);
comment on table postbound.change_log is 'Every committed change, append-only, in daily partitions. Read by snapshot cursors; never updated.';
comment on column postbound.change_log.id is 'Order of the log; drawn while the user''s head is locked.';
comment on column postbound.change_log.xid is 'Top-level transaction that wrote the row; says in which snapshots it is visible.';
comment on column postbound.change_log.logged_at is 'Wall clock when the row was written (not when it was committed).';
comment on column postbound.change_log.version is 'The user''s version after this change, from 1.';
comment on column postbound.change_log.event_id is 'Id of the event, the producer''s own or drawn here.';
comment on column postbound.change_log.tenant_id is 'Tenant of the user.';
comment on column postbound.change_log.user_id is 'The user''s id within the tenant.';
comment on column postbound.change_log.action is 'created, updated or deleted.';
comment on column postbound.change_log.origin is 'The system the change came from; it is not echoed there.';
comment on column postbound.change_log.targets is 'Targets this change is for; null means all.';
comment on column postbound.change_log.traceparent is 'W3C trace context of the producer.';
comment on column postbound.change_log.data is 'The user''s state after the change: the canonical user, extra fields allowed. A delete may carry {}.';

create table postbound.event_key (
    event_id  uuid not null,
    digest    bytea not null,
    version   bigint not null,
    logged_at timestamptz not null default clock_timestamp(),
    constraint event_key_pk primary key (event_id),
    constraint event_key_digest_is_sha256 check (octet_length(digest) = 32)
);
create index event_key_logged_at on postbound.event_key (logged_at);
comment on table postbound.event_key is 'Event ids given by producers, kept for the deduplication window (relay.dedup_window_days), pruned by the relay.';
comment on column postbound.event_key.event_id is 'The id the producer gave.';
comment on column postbound.event_key.digest is 'sha256 over the event''s content: the same id with other content is refused.';
comment on column postbound.event_key.version is 'The version the first insert was given; a repeated insert gets the same answer.';
comment on column postbound.event_key.logged_at is 'When the id was first seen.';

create table postbound.target (
    name               text collate "C" not null,
    adapter            text not null,
    actions            text[] not null,
    origin             text not null,
    fold               boolean not null,
    config_hash        text not null,
    partitions         integer not null,
    generation         integer not null default 1,
    registered_at      timestamptz not null default now(),
    updated_at         timestamptz not null default now(),
    retired_at         timestamptz,
    constraint target_pk primary key (name),
    constraint target_name_form check (name ~ '^[a-z][a-z0-9-]{0,39}$'),
    constraint target_actions_known check (actions <@ array['created', 'updated', 'deleted'] and cardinality(actions) > 0),
    constraint target_partitions_bounded check (partitions between 1 and 256),
    constraint target_generation_positive check (generation > 0)
);
comment on table postbound.target is 'Targets as registered by postbound topology apply.';
comment on column postbound.target.name is 'Name of the target, as in the configuration.';
comment on column postbound.target.adapter is 'Adapter that speaks the target''s contract.';
comment on column postbound.target.actions is 'Actions the target wants.';
comment on column postbound.target.origin is 'Changes with this origin came from the target and are not sent back to it.';
comment on column postbound.target.fold is 'Whether waiting states of one user may be folded into the newest (coalesce in the configuration).';
comment on column postbound.target.config_hash is 'Hash of the delivery settings; a worker with another hash is not ready.';
comment on column postbound.target.partitions is 'Number of partition queues of the current generation.';
comment on column postbound.target.generation is 'Generation of the partition queues; part of their names.';
comment on column postbound.target.registered_at is 'When the target was first registered.';
comment on column postbound.target.updated_at is 'When its registration last changed.';
comment on column postbound.target.retired_at is 'When it left the configuration (topology apply --prune); null while in use.';

-- The relay keeps the log's partitions (create, attach, detach concurrently, drop), which only an owner may do.
grant usage, create on schema postbound to postbound_relay;
alter table postbound.change_log owner to postbound_relay;
grant select, insert on postbound.change_log to current_user;

create function postbound.ensure_log_partition(day date) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
-- Makes the log's partition of one UTC day, built apart and then attached: attaching does not wait for producers,
-- nor they for it, where "create table ... partition of" would block them all behind the oldest open one.
declare
    name text := 'change_log_' || to_char(day, 'YYYYMMDD');
    lower_bound timestamptz := day::timestamp at time zone 'UTC';
    upper_bound timestamptz := (day + 1)::timestamp at time zone 'UTC';
begin
    if to_regclass(format('postbound.%I', name)) is not null then
        return false;
    end if;
    -- Two at once: the second finds what the first made.
    perform pg_advisory_xact_lock(hashtextextended('postbound.ensure_log_partition', 0));
    if to_regclass(format('postbound.%I', name)) is not null then
        return false;
    end if;
    execute format('create table postbound.%I (like postbound.change_log including all)', name);
    execute format('alter table postbound.%I owner to postbound_relay', name);
    execute format('grant select on postbound.%I to postbound_operator', name);
    execute format('alter table postbound.change_log attach partition postbound.%I for values from (%L) to (%L)',
                   name, lower_bound, upper_bound);
    return true;
end
$$;
comment on function postbound.ensure_log_partition(date) is 'Makes and attaches the change log''s partition of one UTC day; false when it is there already.';

select postbound.ensure_log_partition((now() at time zone 'UTC')::date + n) from generate_series(-1, 14) as n;
