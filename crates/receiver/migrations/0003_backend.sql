-- Upserts or soft-deletes one user unless a newer or the same version is held.
-- No version means no guard: the request is applied and the held version stays.
create or replace function apply_backend_user(
    p_tenant_id text, p_user_id text, p_action text, p_version bigint, p_content jsonb,
    out o_outcome text, out o_held_version bigint)
language plpgsql as $$
begin
    o_outcome := 'applied';
    if p_action = 'deleted' then
        insert into backend_users as held (tenant_id, user_id, is_active, version, deleted_at)
        values (p_tenant_id, p_user_id, false, p_version, now())
        on conflict (tenant_id, user_id) do update
           set is_active = false,
               deleted_at = coalesce(held.deleted_at, excluded.deleted_at),
               version = coalesce(excluded.version, held.version),
               updated_at = now()
         where p_version is null or held.version is null or held.version < p_version
        returning version into o_held_version;
    else
        insert into backend_users as held
               (tenant_id, user_id, email, username, display_name, avatar, role, is_active, version)
        values (p_tenant_id, p_user_id, p_content->>'email', p_content->>'username', p_content->>'displayName',
                p_content->>'avatar', p_content->>'role',
                coalesce((p_content->>'isActive')::boolean, true), p_version)
        on conflict (tenant_id, user_id) do update
           set email = excluded.email,
               username = excluded.username,
               display_name = excluded.display_name,
               avatar = excluded.avatar,
               role = excluded.role,
               is_active = excluded.is_active,
               version = coalesce(excluded.version, held.version),
               deleted_at = null,
               updated_at = now()
         where p_version is null or held.version is null or held.version < p_version
        returning version into o_held_version;
    end if;
    if not found then
        -- The refused upsert still locked the row, so what is read here cannot change any more.
        select version into o_held_version from backend_users where tenant_id = p_tenant_id and user_id = p_user_id;
        o_outcome := case when o_held_version = p_version then 'duplicate' else 'stale' end;
    end if;
end
$$;

-- One guarded S2 request in one round trip: key, version guard, change, stored answer and log, all or nothing.
create or replace function sync_backend_user(
    p_tenant_id text, p_user_id text, p_action text, p_version bigint,
    p_key text, p_event_id text, p_body_sha256 bytea, p_content jsonb,
    out o_outcome text, out o_held_version bigint, out o_response text)
language plpgsql as $$
begin
    select o_claim, c.o_response into o_outcome, o_response
      from claim_idempotency_key('s2', p_tenant_id, p_key, p_body_sha256) as c;

    if o_outcome = 'new' then
        select a.o_outcome, a.o_held_version into o_outcome, o_held_version
          from apply_backend_user(p_tenant_id, p_user_id, p_action, p_version, p_content) as a;
        if o_outcome <> 'stale' then
            o_response := json_strip_nulls(
                json_build_object('success', true, 'id', p_user_id, 'version', p_version));
            if p_key is not null then
                insert into idempotency_keys (contract, tenant_id, key, body_sha256, response)
                values ('s2', p_tenant_id, p_key, p_body_sha256, o_response);
            end if;
        end if;
    end if;

    insert into request_log (contract, tenant_id, user_id, version, action, event_id, idempotency_key,
                             body_sha256, status, outcome, content)
    values ('s2', p_tenant_id, p_user_id, p_version, p_action, p_event_id, p_key,
            p_body_sha256, status_of(o_outcome), o_outcome, p_content);
end
$$;
