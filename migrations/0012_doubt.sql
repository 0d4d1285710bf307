-- The oldest version that may be on its way in a request of unknown outcome: it is what a newer success may be put right
-- after. The newest one says too little: with two on their way, the older may be executed over the newer. And which targets
-- take states, for all their workers to know.

alter table postbound.parked_user add column unknown_oldest bigint not null default 0;
comment on column postbound.parked_user.unknown_oldest is 'Oldest version of which an attempt ended, or may have ended, without anyone knowing how; 0: none.';
comment on column postbound.parked_user.unknown_version is 'Newest version of which an attempt ended, or may have ended, without anyone knowing how; 0: none.';
-- Of what is there only the newest was kept.
update postbound.parked_user set unknown_oldest = 1 where unknown_version > 0;
update postbound.doubt set late_version = 1 where late_version > 1;
comment on column postbound.doubt.late_version is 'Oldest version such a request may carry: while the target was told none above it, there is nothing to put right.';

alter table postbound.worker
    add column succeeded_targets text[] not null default '{}',
    add column succeeded_at timestamptz[] not null default '{}';
comment on column postbound.worker.succeeded_targets is 'Targets that have taken a state from this worker.';
comment on column postbound.worker.succeeded_at is
    'When each of them last did: to the other workers the sign that a user who is refused there is refused alone.';
