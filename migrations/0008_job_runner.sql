-- What the active relay needs to run jobs: it counts what is under way and what failed, without reading whole jobs.

create index job_item_watched on postbound.job_item (job_id, state) where state in ('sent', 'dead');
create index job_unfinished on postbound.job (target, job_id) where finished_at is null;
-- Letters on their way in a replay are left out by the next.
create index job_item_letter on postbound.job_item (letter_id) where state in ('waiting', 'sent');
-- Whom no reconcile may send: few, and looked up per user.
create index job_item_cancelled on postbound.job_item (tenant_id, user_id) where state = 'skipped' and reason = 'cancelled';

grant select on postbound.parked_state, postbound.erased_user to postbound_relay;
