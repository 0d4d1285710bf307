-- The workflow `user_registration` (S0): behaviors by priority, each with what it keeps.

do $$
begin
    if not exists (
        select from pg_constraint
         where conrelid = 'request_log'::regclass and conname = 'request_log_contract_is_known'
           and pg_get_constraintdef(oid) like '%s0%')
    then
        alter table request_log
            drop constraint request_log_contract_is_known,
            add constraint request_log_contract_is_known check (contract in ('s0', 's2', 's3'));
    end if;
end
$$;
comment on column request_log.contract is 's0, s2 or s3';
comment on column request_log.action is 's0: the trigger; s2: the action as sent; s3: deleted or synced';

create table if not exists workflow_behaviors (
    workflow    text    not null,
    type        text    not null,
    priority    integer not null,
    enabled     boolean not null default true,
    config      jsonb   not null default '{}',
    constraint workflow_behaviors_pkey primary key (workflow, type)
);
comment on table workflow_behaviors is 'what a workflow does when it is triggered, the highest priority first; one that fails is logged, and the next one runs';
comment on column workflow_behaviors.workflow is 'the trigger';
comment on column workflow_behaviors.type is 'the behavior, see run_behavior()';
comment on column workflow_behaviors.priority is 'the highest runs first';
comment on column workflow_behaviors.enabled is 'whether it runs at all';
comment on column workflow_behaviors.config is 'its settings';
insert into workflow_behaviors (workflow, type, priority, config)
values ('user_registration', 'create-contact', 100, '{"tags": ["website_user", "active"]}'),
       ('user_registration', 'create-frontend-user', 90, '{}'),
       ('user_registration', 'send-welcome-email', 80, '{}')
on conflict (workflow, type) do nothing;

create table if not exists crm_contacts (
    crm_contact_id text        not null,
    tenant_id      text        not null,
    email          text        not null,
    first_name     text,
    last_name      text,
    phone          varchar(50),
    source         text,
    tags           jsonb       not null default '[]',
    created_at     timestamptz not null default now(),
    updated_at     timestamptz not null default now(),
    constraint crm_contacts_pkey primary key (crm_contact_id),
    constraint crm_contacts_one_per_email unique (tenant_id, email)
);
comment on table crm_contacts is 'contacts that the workflow made (contract s0, behavior create-contact)';
comment on column crm_contacts.crm_contact_id is 'the contact''s own id, given back to the sender and never changed';
comment on column crm_contacts.tenant_id is 'the tenant of the request';
comment on column crm_contacts.email is 'customerData.email';
comment on column crm_contacts.first_name is 'customerData.firstName';
comment on column crm_contacts.last_name is 'customerData.lastName';
comment on column crm_contacts.phone is 'customerData.phone, at most 50 characters';
comment on column crm_contacts.source is 'inputData.source';
comment on column crm_contacts.tags is 'tags of the behavior''s settings';
comment on column crm_contacts.created_at is 'when the contact was first written';
comment on column crm_contacts.updated_at is 'when it was last changed';

create table if not exists frontend_users (
    frontend_user_id  text        not null,
    tenant_id         text        not null,
    convex_user_id    text        not null,
    crm_contact_id    text,
    email             text,
    custom_properties jsonb       not null default '{}',
    created_at        timestamptz not null default now(),
    updated_at        timestamptz not null default now(),
    constraint frontend_users_pkey primary key (frontend_user_id),
    constraint frontend_users_one_per_sender_id unique (tenant_id, convex_user_id)
);
comment on table frontend_users is 'users that the workflow made (contract s0, behavior create-frontend-user)';
comment on column frontend_users.frontend_user_id is 'the user''s own id, given back to the sender and never changed';
comment on column frontend_users.tenant_id is 'the tenant of the request';
comment on column frontend_users.convex_user_id is 'metadata.convexUserId: the sender''s id of the user';
comment on column frontend_users.crm_contact_id is 'the contact of the same run; null where create-contact failed';
comment on column frontend_users.email is 'customerData.email';
comment on column frontend_users.custom_properties is 'convexUserId and authProvider';
comment on column frontend_users.created_at is 'when the user was first written';
comment on column frontend_users.updated_at is 'when it was last changed';

create table if not exists welcome_emails (
    email_id       bigserial   not null,
    tenant_id      text        not null,
    convex_user_id text        not null,
    address        text        not null,
    first_name     text,
    state          text        not null,
    attempts       integer     not null default 0,
    next_at        timestamptz not null default now(),
    changed_at     timestamptz not null default now(),
    constraint welcome_emails_pkey primary key (email_id),
    constraint welcome_emails_one_per_user unique (tenant_id, convex_user_id),
    constraint welcome_emails_state_is_known check (state in ('waiting', 'sending', 'sent', 'failed', 'off'))
);
create index if not exists welcome_emails_waiting on welcome_emails (next_at) where state = 'waiting';
comment on table welcome_emails is 'the one welcome of each user (contract s0, behavior send-welcome-email)';
comment on column welcome_emails.email_id is 'order of the registrations';
comment on column welcome_emails.tenant_id is 'the tenant of the request';
comment on column welcome_emails.convex_user_id is 'the sender''s id of the user';
comment on column welcome_emails.address is 'where it goes';
comment on column welcome_emails.first_name is 'customerData.firstName';
comment on column welcome_emails.state is
    'waiting; sending (handed to the mail server: if the process died then, it is not known to have been sent, and is not '
    'sent again); sent; failed (given up); off (no mail server was configured)';
comment on column welcome_emails.attempts is 'how often the mail server refused it or was not there';
comment on column welcome_emails.next_at is 'when it is tried next';
comment on column welcome_emails.changed_at is 'when the state last changed';

-- One behavior. Gives the ids it made, which later behaviors and the answer get. An error is the behavior's failure.
create or replace function run_behavior(
    p_type text, p_config jsonb, p_tenant_id text, p_input jsonb, p_ids jsonb, p_mail boolean) returns jsonb
language plpgsql as $$
declare
    v_customer jsonb := p_input->'customerData';
    v_convex_user_id text := p_input#>>'{metadata,convexUserId}';
    v_id text;
begin
    case p_type
        when 'create-contact' then
            insert into crm_contacts as held
                   (crm_contact_id, tenant_id, email, first_name, last_name, phone, source, tags)
            values ('crm_contact_' || gen_random_uuid(), p_tenant_id, v_customer->>'email', v_customer->>'firstName',
                    v_customer->>'lastName', v_customer->>'phone', p_input->>'source', coalesce(p_config->'tags', '[]'))
            on conflict (tenant_id, email) do update
               set first_name = coalesce(excluded.first_name, held.first_name),
                   last_name = coalesce(excluded.last_name, held.last_name),
                   phone = coalesce(excluded.phone, held.phone),
                   updated_at = now()
            returning crm_contact_id into v_id;
            return jsonb_build_object('crmContactId', v_id);
        when 'create-frontend-user' then
            insert into frontend_users as held
                   (frontend_user_id, tenant_id, convex_user_id, crm_contact_id, email, custom_properties)
            values ('frontend_user_' || gen_random_uuid(), p_tenant_id, v_convex_user_id, p_ids->>'crmContactId',
                    v_customer->>'email',
                    jsonb_build_object('convexUserId', v_convex_user_id,
                                       'authProvider', p_input#>>'{metadata,authProvider}'))
            on conflict (tenant_id, convex_user_id) do update
               set crm_contact_id = coalesce(excluded.crm_contact_id, held.crm_contact_id),
                   email = coalesce(excluded.email, held.email),
                   updated_at = now()
            returning frontend_user_id into v_id;
            return jsonb_build_object('frontendUserId', v_id);
        when 'send-welcome-email' then
            insert into welcome_emails (tenant_id, convex_user_id, address, first_name, state)
            values (p_tenant_id, v_convex_user_id, v_customer->>'email', v_customer->>'firstName',
                    case when p_mail then 'waiting' else 'off' end)
            on conflict (tenant_id, convex_user_id) do nothing;
            return '{}';
        else
            raise exception 'there is no behavior %', p_type;
    end case;
end
$$;

-- One guarded S0 request: key, behaviors by priority with log_and_continue, stored answer and log, in one transaction.
-- It succeeds if it made the user; else nothing is remembered under the key, so that a retry runs it again.
create or replace function run_workflow(
    p_tenant_id text, p_workflow text, p_user_id text, p_version bigint, p_key text, p_event_id text,
    p_body_sha256 bytea, p_content jsonb, p_mail boolean,
    out o_outcome text, out o_held_version bigint, out o_response text)
language plpgsql as $$
declare
    v_behavior record;
    v_ids jsonb := '{}';
    v_ran jsonb := '[]';
    v_state text;
begin
    select o_claim, c.o_response into o_outcome, o_response
      from claim_idempotency_key('s0', p_tenant_id, p_key, p_body_sha256) as c;

    if o_outcome = 'new' then
        for v_behavior in
            select type, config from workflow_behaviors
             where workflow = p_workflow and enabled order by priority desc, type
        loop
            begin
                v_ids := v_ids || run_behavior(
                    v_behavior.type, v_behavior.config, p_tenant_id, p_content->'inputData', v_ids, p_mail);
                v_ran := v_ran || jsonb_build_object('type', v_behavior.type, 'status', 'done');
            exception when others then
                get stacked diagnostics v_state = returned_sqlstate;
                -- What a later try may not meet is no behavior's failure.
                if left(v_state, 2) in ('08', '40', '53', '55', '57') then
                    raise;
                end if;
                v_ran := v_ran || jsonb_build_object('type', v_behavior.type, 'status', 'failed', 'error', v_state);
            end;
        end loop;
        o_outcome := case when v_ids ? 'frontendUserId' then 'applied' else 'refused' end;
        o_response := jsonb_build_object('success', o_outcome = 'applied', 'workflow', p_workflow) || v_ids
                      || jsonb_build_object('behaviors', v_ran);
        if p_key is not null and o_outcome = 'applied' then
            insert into idempotency_keys (contract, tenant_id, key, body_sha256, response)
            values ('s0', p_tenant_id, p_key, p_body_sha256, o_response);
        end if;
    end if;

    insert into request_log (contract, tenant_id, user_id, version, action, event_id, idempotency_key,
                             body_sha256, status, outcome, content)
    values ('s0', p_tenant_id, p_user_id, p_version, p_workflow, p_event_id, p_key,
            p_body_sha256, status_of(o_outcome), o_outcome, p_content);
end
$$;
