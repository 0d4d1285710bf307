-- Webhooks back to the sender (S0b): what was changed here is told there, by an outbox of the receiver's own.

create table if not exists notifications (
    id         bigserial   not null,
    contract   text        not null,
    message_id text        not null default 'msg_' || replace(gen_random_uuid()::text, '-', ''),
    tenant_id  text        not null,
    user_id    text        not null,
    body       text        not null,
    attempts   integer     not null default 0,
    next_at    timestamptz not null default now(),
    sent_at    timestamptz,
    constraint notifications_pkey primary key (id),
    constraint notifications_message_id_once unique (message_id)
);
create index if not exists notifications_waiting on notifications (contract, id) where sent_at is null;
comment on table notifications is 'webhooks to the sender, written in the transaction of the change; sent in order, one user''s next only after the last';
comment on column notifications.id is 'order of the changes';
comment on column notifications.contract is 's2 or s3: whose change it is';
comment on column notifications.message_id is 'header webhook-id, the same at every try';
comment on column notifications.tenant_id is 'the user''s tenant';
comment on column notifications.user_id is 'the sender''s id of the user';
comment on column notifications.body is 'the body as it is signed and sent';
comment on column notifications.attempts is 'how often it was sent without being taken';
comment on column notifications.next_at is 'when it is sent next';
comment on column notifications.sent_at is 'when it was taken; null until then';

-- The backend's own id of a user: that which the registration workflow answered, else the sender's.
create or replace function own_user_id(p_tenant_id text, p_user_id text) returns text
language sql stable as $$
    select coalesce((select frontend_user_id from frontend_users
                      where tenant_id = p_tenant_id and convex_user_id = p_user_id), p_user_id)
$$;

-- Somebody changes a user in the backend itself: the fields given, which the webhook then tells with the version they
-- were made to. False: there is no such user.
create or replace function change_backend_user(p_tenant_id text, p_user_id text, p_changes jsonb) returns boolean
language plpgsql as $$
declare
    v_version bigint;
begin
    update backend_users
       set email = case when p_changes ? 'email' then p_changes->>'email' else email end,
           username = case when p_changes ? 'username' then p_changes->>'username' else username end,
           display_name = case when p_changes ? 'displayName' then p_changes->>'displayName' else display_name end,
           avatar = case when p_changes ? 'avatar' then p_changes->>'avatar' else avatar end,
           role = case when p_changes ? 'role' then p_changes->>'role' else role end,
           is_active = case when p_changes ? 'isActive' then (p_changes->>'isActive')::boolean else is_active end,
           updated_at = now()
     where tenant_id = p_tenant_id and user_id = p_user_id and deleted_at is null
    returning version into v_version;
    if not found then
        return false;
    end if;
    insert into notifications (contract, tenant_id, user_id, body)
    values ('s2', p_tenant_id, p_user_id, jsonb_build_object('event', 'user.updated', 'data',
            p_changes || jsonb_build_object('frontendUserId', own_user_id(p_tenant_id, p_user_id), 'version', v_version)));
    return true;
end
$$;

-- Somebody deletes a user in the backend itself.
create or replace function remove_backend_user(p_tenant_id text, p_user_id text, p_reason text) returns boolean
language plpgsql as $$
begin
    update backend_users set is_active = false, deleted_at = now(), updated_at = now()
     where tenant_id = p_tenant_id and user_id = p_user_id and deleted_at is null;
    if not found then
        return false;
    end if;
    insert into notifications (contract, tenant_id, user_id, body)
    values ('s2', p_tenant_id, p_user_id, jsonb_build_object('event', 'user.deleted', 'data', jsonb_strip_nulls(
            jsonb_build_object('frontendUserId', own_user_id(p_tenant_id, p_user_id), 'reason', p_reason))));
    return true;
end
$$;

-- What naive systems do: they tell the sender of the very state it sent, as they hold it.
create or replace function echo_user(p_contract text, p_tenant_id text, p_user_id text) returns void
language sql as $$
    insert into notifications (contract, tenant_id, user_id, body)
    select p_contract, p_tenant_id, p_user_id, case when held.deleted
        then jsonb_build_object('event', 'user.deleted', 'data', jsonb_build_object('frontendUserId', held.id))
        else jsonb_build_object('event', 'user.updated', 'data', held.state || jsonb_build_object('frontendUserId', held.id))
        end
    from (
        select own_user_id(tenant_id, user_id) as id, deleted_at is not null as deleted,
               jsonb_build_object('email', email, 'username', username, 'displayName', display_name, 'avatar', avatar,
                                  'role', role, 'isActive', is_active) as state
          from backend_users where p_contract = 's2' and tenant_id = p_tenant_id and user_id = p_user_id
        union all
        select own_user_id(tenant_id, user_id), deleted_at is not null,
               jsonb_build_object('email', email, 'name', name, 'avatar', avatar, 'isActive', is_active,
                                  'isAdmin', is_admin, 'department', department, 'title', title, 'roles', roles,
                                  'permissions', permissions, 'allowedApplications', allowed_applications,
                                  'subscriptionTier', subscription_tier)
          from crm_users where p_contract = 's3' and tenant_id = p_tenant_id and user_id = p_user_id
    ) as held
$$;
