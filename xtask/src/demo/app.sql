-- The demo's application: a table of its own, and a login that may change it and write to the outbox, no more.
create schema app;
create table app.users (
    tenant_id         text not null,
    user_id           text not null,
    email             text not null,
    username          text not null,
    display_name      text not null,
    avatar            text not null,
    role              text not null default 'user',
    roles             text[] not null default '{user}',
    is_active         boolean not null default true,
    is_admin          boolean not null default false,
    department        text,
    title             text,
    subscription_tier text,
    changes           bigint not null default 1,
    deleted_at        timestamptz,
    primary key (tenant_id, user_id)
);
comment on table app.users is 'The source: what every target has to equal in the end.';
comment on column app.users.avatar is 'New with every change, so that each state can be told from all others, at the targets too.';
comment on column app.users.changes is 'The application''s own count of changes, against which Postbound''s versions are checked.';

create function app.state(u app.users) returns jsonb language sql stable as $$
    select jsonb_build_object(
        'email', u.email, 'username', u.username, 'displayName', u.display_name, 'avatar', u.avatar, 'role', u.role,
        'roles', u.roles, 'isActive', u.is_active, 'isAdmin', u.is_admin, 'department', u.department, 'title', u.title,
        'subscriptionTier', u.subscription_tier)
$$;
comment on function app.state is 'A user as Postbound wants it: the whole state, in the names of schemas/user.schema.json.';

create role demo_app login;
grant usage on schema app to demo_app;
grant select, insert, update on app.users to demo_app;
grant postbound_producer to demo_app;
