-- What a rebase and workers both write is locked before anything of it is written: a rebase that is half done and has to be
-- rolled back for a deadlock keeps producers waiting for nothing.

create function postbound.lock_for_rebase() returns void
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- In this mode none of their rows can be locked either; all can be read.
    lock table postbound.delivery_ledger, postbound.parked_user, postbound.parked_state, postbound.doubt,
        postbound.user_state, postbound.job_item in exclusive mode;
end
$$;
comment on function postbound.lock_for_rebase() is
    'First step of a rebase: waits for workers and relay to have written what they write, and keeps them from writing more. Ends in a deadlock at worst, with nothing done yet.';
revoke all on function postbound.lock_for_rebase() from public;
grant execute on function postbound.lock_for_rebase() to postbound_operator;

comment on column postbound.witness.beat is
    'Grows by one whenever changes were published since, at most once a second; written here first, then in RabbitMQ. A database that has fewer beats than RabbitMQ has lost commits. 0: a history begins, and RabbitMQ is given its name before the first beat.';
