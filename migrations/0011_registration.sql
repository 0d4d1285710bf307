-- Which settings a target was registered with, cursors of a target that comes back, and what a viewer sees of jobs.

alter table postbound.target
    add column settings jsonb not null default '{}',
    add column rewinds_before integer not null default 0;
comment on column postbound.target.settings is
    'The settings config_hash is of, by name, without secrets: what a worker with another hash is told of. {}: registered before they were kept.';
comment on column postbound.target.rewinds_before is
    'Where the count of rewinds of its next cursor begins, above that of every cursor it had: a relay that has not seen the target retired and registered anew cannot move the new one.';

-- Which items of a job are parked; nobody's data, no event ids.
grant select (target, tenant_id, user_id, version, job_id, job_item) on postbound.parked_state to postbound_viewer;
