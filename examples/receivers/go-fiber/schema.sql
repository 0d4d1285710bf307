-- What the sample keeps. Every statement may run again.
create table if not exists backend_user (
    tenant_id    text        not null,
    user_id      text        not null,
    email        text,
    username     text,
    display_name text,
    avatar       text,
    role         text,
    is_active    boolean     not null,
    deleted_at   timestamptz,
    version      bigint      not null,
    primary key (tenant_id, user_id)
);
comment on table backend_user is 'users as Postbound told them; a deleted one stays, so that a late older state finds its version';
comment on column backend_user.user_id is 'the sender''s id: the one thing about a user that never changes';
comment on column backend_user.deleted_at is 'when it was deleted; null while it lives';
comment on column backend_user.version is 'of the state held; an older one is refused';
