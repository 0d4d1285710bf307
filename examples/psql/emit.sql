-- Changes one's own user row and tells Postbound, in one transaction:
--   psql "$DATABASE_URL" -v user_id=user-1 -v name='Ada Lovelace' -f emit.sql
\set ON_ERROR_STOP on
begin;

with saved as (
    insert into app_user as u (id, email, name)
    values (:'user_id', :'user_id' || '@example.com', :'name')
    on conflict (id) do update set name = excluded.name
    returning u.*
)
insert into postbound.outbox (user_id, action, data)
select id, 'updated', json_build_object('email', email, 'displayName', name, 'isActive', is_active) from saved
returning event_id, version
\gset

commit;
\echo event_id=:event_id version=:version
