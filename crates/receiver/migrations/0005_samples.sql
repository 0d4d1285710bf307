-- The two sample receivers of the documents, as they stand there: no version, no idempotency, last writer wins.

-- The Go sample: created upserts, updated changes what exists, deleted soft-deletes; anything else does nothing.
create or replace function sample_backend_user(
    p_tenant_id text, p_user_id text, p_action text, p_version bigint,
    p_key text, p_event_id text, p_body_sha256 bytea, p_content jsonb,
    out o_outcome text)
language plpgsql as $$
declare
    v_changed integer := 0;
begin
    if p_action = 'created' then
        insert into backend_users (tenant_id, user_id) values (p_tenant_id, p_user_id) on conflict do nothing;
    end if;
    if p_action in ('created', 'updated') then
        update backend_users
           set email = coalesce(p_content->>'email', ''),
               username = coalesce(p_content->>'username', ''),
               display_name = coalesce(p_content->>'displayName', ''),
               avatar = coalesce(p_content->>'avatar', ''),
               role = coalesce(p_content->>'role', ''),
               is_active = coalesce((p_content->>'isActive')::boolean, false),
               version = p_version, deleted_at = null, updated_at = now()
         where tenant_id = p_tenant_id and user_id = p_user_id;
        get diagnostics v_changed = row_count;
    elsif p_action = 'deleted' then
        update backend_users
           set is_active = false, deleted_at = now(), version = p_version, updated_at = now()
         where tenant_id = p_tenant_id and user_id = p_user_id;
        get diagnostics v_changed = row_count;
    end if;
    o_outcome := case when v_changed > 0 then 'applied' else 'ignored' end;

    insert into request_log (contract, tenant_id, user_id, version, action, event_id, idempotency_key,
                             body_sha256, status, outcome, content)
    values ('s2', p_tenant_id, p_user_id, p_version, p_action, p_event_id, p_key,
            p_body_sha256, 200, o_outcome, p_content);
end
$$;

-- The Express sample: finds the user by e-mail alone, else creates one; a user that fails only fails itself.
create or replace function sample_crm_users(
    p_tenant_id text, p_key text, p_event_id text, p_body_sha256 bytea,
    p_user_ids text[], p_versions bigint[], p_deleted boolean[], p_errors text[], p_users jsonb[],
    out o_response text)
language plpgsql as $$
declare
    v_total integer := cardinality(p_user_ids);
    v_results json[] := array_fill(null::json, array[v_total]);
    v_outcomes text[] := array_fill('applied'::text, array[v_total]);
    v_failed integer := 0;
    v_user record;
    v_crm_user_id text;
    v_status text;
begin
    -- In the order of the e-mails, so that two batches never wait for each other's rows.
    for v_user in
        select u.*, u.content->>'email' as email
          from unnest(p_user_ids, p_versions, p_errors, p_users) with ordinality
               as u (id, version, error, content, position)
         order by u.content->>'email', u.position
    loop
        begin
            if v_user.error is not null then
                raise exception '%', v_user.error;
            end if;
            select crm_user_id into v_crm_user_id from crm_users where by_email and email = v_user.email;
            if not found then
                v_status := 'created';
                insert into crm_users (crm_user_id, tenant_id, user_id, by_email, email, name, kinde_user_id, is_active,
                                       is_admin, department, title, roles, permissions, version, synced_from)
                values ('crm_' || gen_random_uuid(), p_tenant_id, v_user.id, true, v_user.email,
                        v_user.content->>'name', v_user.content->>'kindeUserId',
                        coalesce((v_user.content->>'isActive')::boolean, true),
                        coalesce((v_user.content->>'isAdmin')::boolean, false),
                        v_user.content->>'department', v_user.content->>'title',
                        array_or_empty(v_user.content->'roles'), array_or_empty(v_user.content->'permissions'),
                        v_user.version, 'wrapper')
                returning crm_user_id into v_crm_user_id;
            else
                v_status := 'updated';
                update crm_users
                   set name = v_user.content->>'name',
                       is_active = coalesce((v_user.content->>'isActive')::boolean, is_active),
                       roles = array_or_empty(v_user.content->'roles'),
                       permissions = array_or_empty(v_user.content->'permissions'),
                       version = v_user.version, last_synced_at = now(), updated_at = now()
                 where crm_user_id = v_crm_user_id;
            end if;
            v_results[v_user.position] := json_build_object(
                'userId', v_user.id, 'status', v_status, 'crmUserId', v_crm_user_id);
        exception when others then
            v_failed := v_failed + 1;
            v_outcomes[v_user.position] := 'refused';
            v_results[v_user.position] := json_build_object(
                'userId', v_user.id, 'status', 'failed', 'error', sqlerrm);
        end;
    end loop;
    o_response := json_build_object(
        'success', true, 'message', format('Synced %s users', v_total), 'results', to_json(v_results),
        'tenant', p_tenant_id, 'syncedAt', iso_now());
    insert into sync_logs (tenant_id, operation, total_users, successful, failed)
    values (p_tenant_id, 'user_sync', v_total, v_total - v_failed, v_failed);
    perform log_crm_users(p_tenant_id, p_key, p_event_id, p_body_sha256, p_user_ids, p_versions, p_deleted,
                          v_outcomes, 200, p_users);
end
$$;
