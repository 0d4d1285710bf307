-- Remembers the tenant; touches its row only when something about it changed, so batches of one tenant run at once.
create or replace function remember_crm_tenant(p_tenant jsonb) returns void
language plpgsql as $$
begin
    perform 1 from crm_tenants
      where tenant_id = p_tenant->>'id'
        and (name, subdomain, kinde_org_id)
            is not distinct from (p_tenant->>'name', p_tenant->>'subdomain', p_tenant->>'kindeOrgId');
    if not found then
        insert into crm_tenants (tenant_id, name, subdomain, kinde_org_id)
        values (p_tenant->>'id', p_tenant->>'name', p_tenant->>'subdomain', p_tenant->>'kindeOrgId')
        on conflict (tenant_id) do update
           set name = excluded.name, subdomain = excluded.subdomain,
               kinde_org_id = excluded.kinde_org_id, updated_at = now();
    end if;
end
$$;

-- Upserts or soft-deletes one user unless a newer or the same version is held (no version: no guard).
create or replace function apply_crm_user(
    p_tenant_id text, p_source text, p_user_id text, p_version bigint, p_deleted boolean, p_user jsonb,
    out o_outcome text, out o_status text, out o_message text, out o_crm_user_id text, out o_held_version bigint)
language plpgsql as $$
declare
    v_inserted boolean;
begin
    o_outcome := 'applied';
    o_status := 'updated';
    if p_deleted then
        insert into crm_users as held (crm_user_id, tenant_id, user_id, is_active, version, deleted_at, synced_from)
        values ('crm_' || gen_random_uuid(), p_tenant_id, p_user_id, false, p_version, now(), p_source)
        on conflict (tenant_id, user_id) where not by_email do update
           set is_active = false,
               deleted_at = coalesce(held.deleted_at, excluded.deleted_at),
               version = coalesce(excluded.version, held.version),
               last_synced_at = now(), updated_at = now()
         where p_version is null or held.version is null or held.version < p_version
        returning crm_user_id into o_crm_user_id;
        o_message := 'User deleted';
    else
        insert into crm_users as held
               (crm_user_id, tenant_id, user_id, kinde_user_id, email, name, avatar, is_active, is_admin,
                department, title, last_active_at, roles, permissions, allowed_applications, subscription_tier,
                version, synced_from)
        values ('crm_' || gen_random_uuid(), p_tenant_id, p_user_id, p_user->>'kindeUserId', p_user->>'email',
                p_user->>'name', p_user->>'avatar', coalesce((p_user->>'isActive')::boolean, true),
                coalesce((p_user->>'isAdmin')::boolean, false), p_user->>'department', p_user->>'title',
                (p_user->>'lastActiveAt')::timestamptz, array_or_empty(p_user->'roles'),
                array_or_empty(p_user->'permissions'), array_or_empty(p_user->'allowedApplications'),
                p_user->>'subscriptionTier', p_version, p_source)
        on conflict (tenant_id, user_id) where not by_email do update
           set kinde_user_id = excluded.kinde_user_id, email = excluded.email, name = excluded.name,
               avatar = excluded.avatar, is_active = excluded.is_active, is_admin = excluded.is_admin,
               department = excluded.department, title = excluded.title, last_active_at = excluded.last_active_at,
               roles = excluded.roles, permissions = excluded.permissions,
               allowed_applications = excluded.allowed_applications, subscription_tier = excluded.subscription_tier,
               version = coalesce(excluded.version, held.version), deleted_at = null,
               last_synced_at = now(), updated_at = now()
         where p_version is null or held.version is null or held.version < p_version
        returning crm_user_id, xmax = 0 into o_crm_user_id, v_inserted;
        if v_inserted then
            o_status := 'created';
        end if;
        o_message := format('User %s successfully', o_status);
    end if;
    if o_crm_user_id is null then
        -- The refused upsert still locked the row, so what is read here cannot change any more.
        select crm_user_id, version into o_crm_user_id, o_held_version
          from crm_users where tenant_id = p_tenant_id and user_id = p_user_id and not by_email;
        o_outcome := case when o_held_version = p_version then 'duplicate' else 'stale' end;
        o_message := format('version %s is already held', o_held_version);
    end if;
end
$$;

-- A missing or null list reads as an empty one.
create or replace function array_or_empty(p_list jsonb) returns jsonb
language sql immutable as $$
    select case when p_list is null or p_list = 'null' then '[]' else p_list end
$$;

-- One user's result as the contract shows it, from what apply_crm_user found.
create or replace function crm_result(
    p_user_id text, p_outcome text, p_status text, p_message text, p_crm_user_id text, p_held_version bigint)
returns json
language sql stable as $$
    select json_strip_nulls(case p_outcome
        when 'stale' then json_build_object(
            'userId', p_user_id, 'status', 'failed', 'crmUserId', p_crm_user_id,
            'error', format('stale version: held %s', p_held_version),
            'code', 'stale_version', 'heldVersion', p_held_version)
        else json_build_object(
            'userId', p_user_id, 'status', p_status, 'crmUserId', p_crm_user_id, 'message', p_message)
    end)
$$;

-- A user's result that failed before or at the change.
create or replace function crm_failure(p_user_id text, p_code text, p_error text) returns json
language sql immutable as $$
    select json_build_object('userId', p_user_id, 'status', 'failed', 'error', p_error, 'code', p_code)
$$;

create or replace function iso_now() returns text
language sql stable as $$
    select to_char(now() at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- Appends one log row per user of a batch, in the order of the request.
create or replace function log_crm_users(
    p_tenant_id text, p_key text, p_event_id text, p_body_sha256 bytea,
    p_user_ids text[], p_versions bigint[], p_deleted boolean[], p_outcomes text[], p_status integer, p_users jsonb[])
returns void
language sql as $$
    insert into request_log (contract, tenant_id, user_id, version, action, event_id, idempotency_key,
                             body_sha256, status, outcome, content)
    select 's3', p_tenant_id, u.id, u.version, case when u.deleted then 'deleted' else 'synced' end, p_event_id, p_key,
           p_body_sha256, p_status, u.outcome, u.content
      from unnest(p_user_ids, p_versions, p_deleted, p_outcomes, p_users)
           with ordinality as u (id, version, deleted, outcome, content, position)
     order by u.position
$$;

-- One guarded S3 request in one round trip: key, every user under a savepoint of its own, stored answer, logs.
-- p_codes and p_errors hold what the request's checks found wrong with a user (null: nothing); such a user only fails.
create or replace function sync_crm_users(
    p_tenant jsonb, p_source text, p_sync_type text, p_key text, p_event_id text, p_body_sha256 bytea,
    p_user_ids text[], p_versions bigint[], p_deleted boolean[], p_codes text[], p_errors text[], p_users jsonb[],
    out o_outcome text, out o_response text)
language plpgsql as $$
declare
    v_tenant_id text := p_tenant->>'id';
    v_total integer := cardinality(p_user_ids);
    v_failed integer := 0;
    v_failures jsonb := '[]';
    v_results json[] := array_fill(null::json, array[v_total]);
    v_outcomes text[] := array_fill(null::text, array[v_total]);
    v_user record;
    v_applied record;
begin
    select o_claim, c.o_response into o_outcome, o_response
      from claim_idempotency_key('s3', v_tenant_id, p_key, p_body_sha256) as c;
    if o_outcome <> 'new' then
        perform log_crm_users(v_tenant_id, p_key, p_event_id, p_body_sha256, p_user_ids, p_versions, p_deleted,
                              array_fill(o_outcome, array[v_total]), status_of(o_outcome), p_users);
        return;
    end if;

    perform remember_crm_tenant(p_tenant);
    -- In the order of the ids, so that two batches never wait for each other's rows.
    for v_user in
        select * from unnest(p_user_ids, p_versions, p_deleted, p_codes, p_errors, p_users)
                      with ordinality as u (id, version, deleted, code, error, content, position)
         order by u.id
    loop
        begin
            if v_user.error is not null then
                v_outcomes[v_user.position] := case v_user.code when 'fault' then 'fault' else 'refused' end;
                v_results[v_user.position] := crm_failure(v_user.id, v_user.code, v_user.error);
            else
                v_applied := apply_crm_user(v_tenant_id, p_source, v_user.id, v_user.version, v_user.deleted,
                                            v_user.content);
                v_outcomes[v_user.position] := v_applied.o_outcome;
                v_results[v_user.position] := crm_result(v_user.id, v_applied.o_outcome, v_applied.o_status,
                    v_applied.o_message, v_applied.o_crm_user_id, v_applied.o_held_version);
            end if;
        exception when data_exception or integrity_constraint_violation then
            v_outcomes[v_user.position] := 'refused';
            v_results[v_user.position] := crm_failure(v_user.id, 'invalid_user', sqlerrm);
        end;
        if v_results[v_user.position]->>'status' = 'failed' then
            v_failed := v_failed + 1;
            v_failures := v_failures || jsonb_build_object(
                'userId', v_user.id, 'code', v_results[v_user.position]->>'code');
        end if;
    end loop;

    o_outcome := 'applied';
    o_response := json_build_object(
        'success', true,
        'message', case when v_failed = 0 then format('Successfully synced %s users', v_total)
                        else format('Synced %s of %s users', v_total - v_failed, v_total) end,
        'results', to_json(v_results),
        'tenant', json_build_object('id', v_tenant_id, 'name', p_tenant->>'name'),
        'metadata', json_build_object('operation', 'user_sync', 'syncedAt', iso_now(), 'totalUsers', v_total,
                                      'successful', v_total - v_failed, 'failed', v_failed));
    -- Only an answer without a failure is final; with one, the same request may fare better next time.
    if p_key is not null and v_failed = 0 then
        insert into idempotency_keys (contract, tenant_id, key, body_sha256, response)
        values ('s3', v_tenant_id, p_key, p_body_sha256, o_response);
    end if;
    insert into sync_logs (tenant_id, operation, total_users, successful, failed, details)
    values (v_tenant_id, 'user_sync', v_total, v_total - v_failed, v_failed,
            jsonb_build_object('source', p_source, 'syncType', p_sync_type, 'failures', v_failures));
    perform log_crm_users(v_tenant_id, p_key, p_event_id, p_body_sha256, p_user_ids, p_versions, p_deleted,
                          v_outcomes, 200, p_users);
end
$$;
