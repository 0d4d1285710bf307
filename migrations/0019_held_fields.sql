-- What targets that watch fields hold of them, so that an update which leaves those fields alone need not be sent.

create table postbound.held_fields (
    target    text collate "C" not null,
    tenant_id text collate "C" not null,
    user_id   text collate "C" not null,
    version   bigint not null,
    digest    bytea not null,
    constraint held_fields_pk primary key (target, tenant_id, user_id),
    constraint held_fields_digest_length check (octet_length(digest) = 32)
) with (fillfactor = 70);
comment on table postbound.held_fields is
    'Digests of the fields a target watches (changed_fields), of the version it holds. Written after the ledger; a row counts only while its version is the ledger''s delivered_version, so one that is missing or late costs a request and nothing else.';
comment on column postbound.held_fields.target is 'The target.';
comment on column postbound.held_fields.tenant_id is 'Tenant of the user.';
comment on column postbound.held_fields.user_id is 'The user.';
comment on column postbound.held_fields.version is 'The version the digest is of.';
comment on column postbound.held_fields.digest is 'sha256 over names and values of the fields.';
grant select, insert, update on postbound.held_fields to postbound_worker;

create function postbound.forget_held_fields() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from postbound.held_fields as f where f.tenant_id = new.tenant_id and f.user_id = new.user_id;
    return null;
end
$$;
comment on function postbound.forget_held_fields() is 'Digests of an erased user''s data go with it.';
revoke all on function postbound.forget_held_fields() from public;
create trigger forget_held_fields after insert or update on postbound.erased_user
    for each row execute function postbound.forget_held_fields();
