-- What the active relay needs to run jobs: it counts what is under way and what failed, without reading whole jobs.

create index job_item_watched on postbound.job_item (job_id, state) where state in ('sent', 'dead');
create index job_unfinished on postbound.job (target, job_id) where finished_at is null;

grant select on postbound.parked_state, postbound.erased_user to postbound_relay;
