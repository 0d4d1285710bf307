-- Claims a key for the rest of the transaction. o_claim says what is known of it:
--   new           nobody used it (or none was sent): go on, and store the answer if it succeeds
--   replayed      it succeeded with the same body: o_response is the answer to give again
--   key_conflict  it succeeded with another body
--   in_progress   another transaction holds it right now
create or replace function claim_idempotency_key(
    p_contract text, p_tenant_id text, p_key text, p_body_sha256 bytea,
    out o_claim text, out o_response text)
language plpgsql as $$
declare
    v_body_sha256 bytea;
begin
    o_claim := 'new';
    if p_key is null then
        return;
    end if;
    if not pg_try_advisory_xact_lock(hashtextextended(concat_ws(e'\x1f', p_contract, p_tenant_id, p_key), 0)) then
        o_claim := 'in_progress';
        return;
    end if;
    select body_sha256, response into v_body_sha256, o_response
      from idempotency_keys
     where contract = p_contract and tenant_id = p_tenant_id and key = p_key;
    if found and v_body_sha256 = p_body_sha256 then
        o_claim := 'replayed';
    elsif found then
        o_claim := 'key_conflict';
        o_response := null;
    end if;
end
$$;

-- The HTTP status that goes with an outcome of a whole request.
create or replace function status_of(p_outcome text) returns integer
language sql immutable as $$
    select case p_outcome
        when 'stale' then 409
        when 'in_progress' then 409
        when 'key_conflict' then 422
        else 200
    end
$$;
