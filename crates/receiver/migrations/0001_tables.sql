-- What the two receivers hold. Run with search_path set to the receiver's schema; every statement may run again.

create table if not exists backend_users (
    tenant_id    text        not null,
    user_id      text        not null,
    email        text,
    username     text,
    display_name text,
    avatar       text,
    role         text,
    is_active    boolean     not null default true,
    version      bigint,
    deleted_at   timestamptz,
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now(),
    constraint backend_users_pkey primary key (tenant_id, user_id),
    constraint backend_users_version_is_positive check (version > 0),
    constraint backend_users_deleted_is_inactive check (deleted_at is null or not is_active)
) with (fillfactor = 80);
comment on table backend_users is 'the backend''s users (contract s2); a deleted user stays as a tombstone that keeps its version';
comment on column backend_users.tenant_id is 'header postbound-tenant or X-Tenant-ID; ''default'' when neither was sent';
comment on column backend_users.user_id is 'the sender''s id of the user';
comment on column backend_users.email is 'as sent; not unique here; null where the user was first heard of by its delete';
comment on column backend_users.username is 'as sent; not unique here';
comment on column backend_users.display_name is 'as sent';
comment on column backend_users.avatar is 'address of the user''s picture, as sent';
comment on column backend_users.role is 'as sent';
comment on column backend_users.is_active is 'as sent; false once deleted';
comment on column backend_users.version is 'the newest version applied; null while no request bore one';
comment on column backend_users.deleted_at is 'when the user was soft-deleted; null while it lives';
comment on column backend_users.created_at is 'when the row was first written';
comment on column backend_users.updated_at is 'when the row was last changed';

create table if not exists crm_tenants (
    tenant_id   text        not null,
    name        text        not null,
    subdomain   text,
    kinde_org_id text,
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    constraint crm_tenants_pkey primary key (tenant_id)
);
comment on table crm_tenants is 'the tenants the CRM has heard of (contract s3)';
comment on column crm_tenants.tenant_id is 'tenant.id of the request';
comment on column crm_tenants.name is 'tenant.name of the latest request';
comment on column crm_tenants.subdomain is 'tenant.subdomain of the latest request';
comment on column crm_tenants.kinde_org_id is 'tenant.kindeOrgId of the latest request';
comment on column crm_tenants.created_at is 'when the tenant was first seen';
comment on column crm_tenants.updated_at is 'when its name, subdomain or organisation last changed';

create table if not exists crm_users (
    crm_user_id         text         not null,
    tenant_id           varchar(255) not null,
    user_id             text         not null,
    by_email            boolean      not null default false,
    kinde_user_id       varchar(255),
    email               varchar(255),
    name                varchar(255),
    avatar              text,
    is_active           boolean      not null default true,
    is_admin            boolean      not null default false,
    department          varchar(100),
    title               varchar(100),
    last_active_at      timestamptz,
    roles               jsonb        not null default '[]',
    permissions         jsonb        not null default '[]',
    allowed_applications jsonb       not null default '[]',
    subscription_tier   text,
    version             bigint,
    deleted_at          timestamptz,
    synced_from         varchar(50)  not null,
    last_synced_at      timestamptz  not null default now(),
    created_at          timestamptz  not null default now(),
    updated_at          timestamptz  not null default now(),
    constraint crm_users_pkey primary key (crm_user_id),
    constraint crm_users_version_is_positive check (version > 0),
    constraint crm_users_deleted_is_inactive check (deleted_at is null or not is_active)
) with (fillfactor = 80);
create unique index if not exists crm_users_one_per_sender_id on crm_users (tenant_id, user_id) where not by_email;
create unique index if not exists crm_users_one_per_email on crm_users (email) where by_email;
comment on table crm_users is 'the CRM''s users (contract s3); a deleted user stays as a tombstone that keeps its version';
comment on column crm_users.crm_user_id is 'the CRM''s own id (crm_<uuid>), given back to the sender and never changed';
comment on column crm_users.tenant_id is 'tenant.id of the request';
comment on column crm_users.user_id is 'the sender''s id of the user; in guard-less mode that of the request which created the record';
comment on column crm_users.by_email is 'true for records of the guard-less mode, which are found by e-mail and not by the sender''s id';
comment on column crm_users.kinde_user_id is 'as sent';
comment on column crm_users.email is 'as sent; null where the user was first heard of by its delete';
comment on column crm_users.name is 'as sent; null where the user was first heard of by its delete';
comment on column crm_users.avatar is 'address of the user''s picture, as sent';
comment on column crm_users.is_active is 'as sent; false once deleted';
comment on column crm_users.is_admin is 'as sent';
comment on column crm_users.department is 'as sent, at most 100 characters';
comment on column crm_users.title is 'as sent, at most 100 characters';
comment on column crm_users.last_active_at is 'as sent';
comment on column crm_users.roles is 'array of role names, as sent';
comment on column crm_users.permissions is 'array of permission names, as sent';
comment on column crm_users.allowed_applications is 'array of application codes, as sent';
comment on column crm_users.subscription_tier is 'as sent';
comment on column crm_users.version is 'the newest version applied; null while no request bore one';
comment on column crm_users.deleted_at is 'when the user was soft-deleted; null while it lives';
comment on column crm_users.synced_from is 'header X-Sync-Source of the request that created the record';
comment on column crm_users.last_synced_at is 'when a request last changed the record';
comment on column crm_users.created_at is 'when the record was first written';
comment on column crm_users.updated_at is 'when the record was last changed';

create table if not exists idempotency_keys (
    contract    text        not null,
    tenant_id   text        not null,
    key         text        not null,
    body_sha256 bytea       not null,
    response    text        not null,
    created_at  timestamptz not null default now(),
    constraint idempotency_keys_pkey primary key (contract, tenant_id, key)
);
create index if not exists idempotency_keys_created_at on idempotency_keys using brin (created_at);
comment on table idempotency_keys is 'answers of requests that succeeded whole, for the same key sent again';
comment on column idempotency_keys.contract is 's2 or s3: the same key may be used once in each';
comment on column idempotency_keys.tenant_id is 'the tenant of the request: one tenant''s keys never answer another''s';
comment on column idempotency_keys.key is 'header Idempotency-Key without its quotes';
comment on column idempotency_keys.body_sha256 is 'sha256 of the raw body the key was first used with';
comment on column idempotency_keys.response is 'the body answered then, with status 200';
comment on column idempotency_keys.created_at is 'when it was answered; rows past the retention are removed';

create table if not exists sync_logs (
    id          bigserial    not null,
    tenant_id   varchar(255) not null,
    operation   varchar(50)  not null,
    total_users integer      not null,
    successful  integer      not null default 0,
    failed      integer      not null default 0,
    details     jsonb,
    synced_at   timestamptz  not null default now(),
    constraint sync_logs_pkey primary key (id),
    constraint sync_logs_adds_up check (successful + failed = total_users)
);
comment on table sync_logs is 'one row per CRM request that was processed (contract s3); a replayed answer processes nothing';
comment on column sync_logs.id is 'order of the requests';
comment on column sync_logs.tenant_id is 'tenant.id of the request';
comment on column sync_logs.operation is 'operation of the request: user_sync';
comment on column sync_logs.total_users is 'how many users the request held';
comment on column sync_logs.successful is 'how many of them were created, updated or already held';
comment on column sync_logs.failed is 'how many of them failed';
comment on column sync_logs.details is 'source, sync type, and ids and codes of the users that failed; no personal data';
comment on column sync_logs.synced_at is 'when the request was processed';

create table if not exists request_log (
    id              bigserial   not null,
    contract        text        not null,
    tenant_id       text        not null,
    user_id         text        not null,
    version         bigint,
    action          text        not null,
    event_id        text,
    idempotency_key text,
    body_sha256     bytea       not null,
    status          integer     not null,
    outcome         text        not null,
    content         jsonb,
    received_at     timestamptz not null default clock_timestamp(),
    constraint request_log_pkey primary key (id),
    constraint request_log_contract_is_known check (contract in ('s2', 's3')),
    constraint request_log_outcome_is_known check (outcome in (
        'applied', 'duplicate', 'stale', 'replayed', 'key_conflict', 'in_progress', 'refused', 'ignored', 'fault'))
);
comment on table request_log is
    'the oracle: every user of every authenticated request, applied or not, written in the transaction of the change. '
    'For one user, the order of id is the order in which changes took effect. Holds personal data: for tests only';
comment on column request_log.id is 'order in which requests took effect, per user';
comment on column request_log.contract is 's2 or s3';
comment on column request_log.tenant_id is 'the tenant of the request; empty where the request named none';
comment on column request_log.user_id is 'the sender''s id of the user; empty where the guard-less CRM was sent none';
comment on column request_log.version is 'the version the request bore for this user; null when it bore none';
comment on column request_log.action is 's2: the action as sent; s3: deleted or synced';
comment on column request_log.event_id is 'header postbound-event-id';
comment on column request_log.idempotency_key is 'header Idempotency-Key without its quotes';
comment on column request_log.body_sha256 is 'sha256 of the raw body of the request';
comment on column request_log.status is 'the HTTP status answered';
comment on column request_log.outcome is
    'applied; duplicate (same version again); stale (older version); replayed (stored answer of the same key); '
    'key_conflict (key used with another body); in_progress (key in use); refused (invalid); '
    'ignored (guard-less: nothing to change); fault (injected)';
comment on column request_log.content is 'the user as sent; null where it cannot be stored as jsonb';
comment on column request_log.received_at is 'when the row was written, by the wall clock';
