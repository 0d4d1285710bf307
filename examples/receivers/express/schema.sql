-- What the sample keeps. Every statement may run again.
create table if not exists crm_user (
    tenant_id   text        not null,
    user_id     text        not null,
    crm_user_id uuid        not null default gen_random_uuid(),
    email       text,
    name        text,
    is_active   boolean     not null,
    profile     jsonb       not null default '{}',
    deleted_at  timestamptz,
    version     bigint      not null,
    primary key (tenant_id, user_id)
);
comment on table crm_user is 'users as Postbound told them; a deleted one stays, so that a late older state finds its version';
comment on column crm_user.user_id is 'the sender''s id: the one thing about a user that never changes';
comment on column crm_user.crm_user_id is 'our own id, told back in the answer';
comment on column crm_user.profile is 'the user as it was sent';
comment on column crm_user.deleted_at is 'when it was deleted; null while it lives';
comment on column crm_user.version is 'of the state held; an older one is refused';
