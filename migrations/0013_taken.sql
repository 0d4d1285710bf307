-- Whoever takes a parked user may lose the partition before the outcome is written. Its next owner, the only one then, need
-- not wait until the user is due again by itself.

alter table postbound.parked_user add column taken_until timestamptz;
comment on column postbound.parked_user.taken_until is
    'When the user was taken for an attempt last: the next_attempt_at that was set meanwhile. Equal to it: the attempt has left no outcome.';

alter table postbound.doubt add column taken_until timestamptz;
comment on column postbound.doubt.taken_until is
    'When the state was taken for sending last: the due_at that was set meanwhile. Equal to it: the sending has left no outcome.';
