-- The application of a chaos run: users, and every change of them, written in the transaction that tells Postbound.
create schema app;
create table app.users (
    tenant_id text not null,
    user_id   text not null,
    version   bigint not null,
    action    text not null,
    mark      text not null,
    bare      boolean not null,
    deletes   boolean not null,
    primary key (tenant_id, user_id)
);
comment on table app.users is 'Each user''s newest state.';
comment on column app.users.version is 'The application''s own count of changes.';
comment on column app.users.mark is 'What tells this state from all others, at the receivers too.';
comment on column app.users.bare is 'Whether a delete says no more than who is gone.';
comment on column app.users.deletes is 'Whether the last writer wanted the user gone, if it was there.';

create table app.changes (
    tenant_id text not null,
    user_id   text not null,
    version   bigint not null,
    action    text not null,
    mark      text not null unique,
    bare      boolean not null,
    primary key (tenant_id, user_id, version)
);
comment on table app.changes is 'Every committed change: what the checker holds all else against.';

-- What the ledger said and when, for the checker: which version was settled before a request began.
create table app.ledger_steps (
    step              bigint generated always as identity primary key,
    target            text not null,
    tenant_id         text not null,
    user_id           text not null,
    delivered_version bigint not null,
    dead_version      bigint not null,
    xid               xid not null default pg_current_xact_id()::xid
);
create function app.note_ledger_step() returns trigger language plpgsql security definer as $$
begin
    insert into app.ledger_steps (target, tenant_id, user_id, delivered_version, dead_version)
    values (new.target, new.tenant_id, new.user_id, new.delivered_version, new.dead_version);
    return null;
end
$$;
create trigger note_ledger_step after insert or update on postbound.delivery_ledger
    for each row execute function app.note_ledger_step();

create role chaos_app login;
grant usage on schema app to chaos_app;
grant select, insert, update on app.users to chaos_app;
grant select, insert on app.changes to chaos_app;
grant postbound_producer to chaos_app;
