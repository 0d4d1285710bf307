-- Identity links of several systems behind one target, safe against answers that are written late; and which targets may be
-- sent a newest state aside, now that links tell whom an event target has heard of.

alter table postbound.identity_link
    add column system  text collate "C" not null default '',
    add column version bigint not null default 0,
    add constraint identity_link_system_length check (octet_length(system) <= 64),
    drop constraint identity_link_pk,
    add constraint identity_link_pk primary key (target, tenant_id, user_id, system);
comment on table postbound.identity_link is
    'The ids of each user in the systems at and behind a target, kept apart from the ledger because they are indexed and hardly ever change. When a link was last confirmed, the ledger says (delivered_at). A delete leaves them, so that the target''s own report of it still finds the user; an erasure removes them.';
comment on column postbound.identity_link.system is
    'The field of the answer that named the id, where a target speaks for several systems (S0a: frontendUserId, crmContactId); empty: the target''s own id.';
comment on column postbound.identity_link.version is
    'The user''s version whose delivery first told this id: an answer to an older one does not change it. 0: not known.';
comment on column postbound.identity_link.linked_at is 'When the target first answered with this id.';

create function postbound.takes_newest_states(fold boolean, actions text[]) returns boolean
language sql immutable parallel safe
return fold or actions = array['created'];
comment on function postbound.takes_newest_states(boolean, text[]) is
    'Whether a job may send a user''s newest state to a target, past events that wait: where states fold, and where the target hears of nothing but registrations. Of those any state is as good, and one is enough.';

create function postbound.has_heard_of(target text, tenant_id text, user_id text) returns boolean
language sql stable parallel safe
set search_path = pg_catalog, pg_temp
as $$
-- A target that has never told an id of anybody tells none: the ledger has to do.
    select exists (select from postbound.identity_link as i
                   where i.target = has_heard_of.target and i.tenant_id = has_heard_of.tenant_id
                     and i.user_id = has_heard_of.user_id)
        or exists (select from postbound.delivery_ledger as l
                   where l.target = has_heard_of.target and l.tenant_id = has_heard_of.tenant_id
                     and l.user_id = has_heard_of.user_id and l.delivered_version > 0)
           and not exists (select from postbound.identity_link as i where i.target = has_heard_of.target)
$$;
comment on function postbound.has_heard_of(text, text, text) is
    'Whether a target that hears of registrations has heard of this one: a link of the user exists, or, where the target tells no ids, the ledger has a delivery. Jobs pass over such users, so that nobody is welcomed twice.';

-- The active relay asks it of the users of jobs.
grant select on postbound.identity_link to postbound_relay;
