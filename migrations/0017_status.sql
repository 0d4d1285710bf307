-- What postbound ingress reads and does for front ends: where a user stands, and trying it again.

-- Where a user stands at each target; nobody's state.
grant select on postbound.parked_user, postbound.breaker, postbound.erased_user to postbound_ingress;
grant select (target, tenant_id, user_id, due_at) on postbound.doubt to postbound_ingress;
grant select (letter_id, target, tenant_id, user_id, version, reason, class, status, detail, last_failed_at, unreadable)
    on postbound.open_dead_letter to postbound_ingress;

-- A retry makes a parked user due, replays a letter, and is in the audit trail under the token's name.
grant update (next_attempt_at) on postbound.parked_user to postbound_ingress;
grant select, insert on postbound.job, postbound.job_item to postbound_ingress;
grant select, insert (acting_as, command, filter, counts) on postbound.audit to postbound_ingress;
