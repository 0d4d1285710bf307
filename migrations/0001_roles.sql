-- Group roles, one per part of Postbound, none of which can log in: grant them to the login roles of your services.
-- Roles belong to the cluster, so a second database on the same cluster finds them already there.
do $$
declare
    role_name text;
begin
    foreach role_name in array array[
        'postbound_producer', 'postbound_relay', 'postbound_worker', 'postbound_operator', 'postbound_viewer'
    ] loop
        begin
            execute format('create role %I nologin', role_name);
        exception when duplicate_object or unique_violation then
            null;  -- another database of this cluster made it, perhaps this very moment
        end;
    end loop;
    -- Tables handed to the relay (see 0002) can only be handed over by a member.
    -- Usage, not membership: who creates a role is a member without the right to use it, from PostgreSQL 16 on.
    if not pg_has_role(current_user, 'postbound_relay', 'usage') then
        execute format('grant postbound_relay to %I', current_user);
    end if;
end
$$;

create schema if not exists postbound;
comment on schema postbound is 'Postbound: a transactional outbox of user changes, and the state of their delivery.';
