// The users' table. The whole guard is the `where` of the two statements: it is judged under the row's lock, so that of
// two requests that arrive at once the newer state wins, whichever comes first.

const UPSERT = `-- upsert_user
insert into crm_user as held (tenant_id, user_id, email, name, is_active, profile, version)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict (tenant_id, user_id) do update
   set email = excluded.email, name = excluded.name, is_active = excluded.is_active, profile = excluded.profile,
       deleted_at = null, version = excluded.version
 where held.version <= excluded.version
returning crm_user_id as "crmUserId", xmax = 0 as created`;

// A delete may be all that is ever heard of a user, and may bear nothing but the id.
const DELETE = `-- delete_user
insert into crm_user as held (tenant_id, user_id, is_active, deleted_at, version)
values ($1, $2, false, now(), $3)
on conflict (tenant_id, user_id) do update
   set is_active = false, deleted_at = coalesce(held.deleted_at, excluded.deleted_at), version = excluded.version
 where held.version <= excluded.version
returning crm_user_id as "crmUserId", false as created`;

const HELD = `-- held_version
select version from crm_user where tenant_id = $1 and user_id = $2`;

/**
 * Takes one state of one user: `{ id, version, deleted, email, name, isActive, ... }`.
 * Gives `{ crmUserId, created }`, `{ heldVersion }` where a newer state is held, or `{ invalid }` with what is wrong.
 */
export async function take(pool, tenantId, user) {
  const invalid = problemOf(user);
  if (invalid) return { invalid };
  const { id, version, deleted, email, name, isActive = true } = user;
  try {
    const { rows } = deleted
      ? await pool.query(DELETE, [tenantId, id, version])
      : await pool.query(UPSERT, [tenantId, id, email, name, isActive, user, version]);
    if (rows.length > 0) return rows[0];
    const held = await pool.query(HELD, [tenantId, id]);
    return { heldVersion: Number(held.rows[0].version) };
  } catch (error) {
    // Content that the table cannot hold is that user's alone; everything else is nobody's, and goes on as an error.
    if (/^2[23]/.test(error.code ?? "")) return { invalid: `it cannot be stored (${error.code})` };
    throw error;
  }
}

function problemOf(user) {
  if (typeof user?.id !== "string" || user.id === "") return "id is required";
  if (!Number.isSafeInteger(user.version) || user.version < 1) return "version must be a positive integer";
  if (user.deleted) return undefined;
  if (typeof user.email !== "string" || !user.email.includes("@")) return "email must be an address";
  if (typeof user.name !== "string" || user.name === "") return "name is required";
  if (user.isActive !== undefined && typeof user.isActive !== "boolean") return "isActive must be true or false";
  return undefined;
}
