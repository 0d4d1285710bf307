// Changes one's own user row and tells Postbound, in one transaction:
//   npm install && DATABASE_URL=postgres://... node emit.js user-1 "Ada Lovelace"
import pg from "pg";

const [userId = "user-1", name = "Ada Lovelace"] = process.argv.slice(2);
const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
await client.connect();
try {
  await client.query("begin");
  const saved = await client.query(
    `insert into app_user as u (id, email, name) values ($1, $1 || '@example.com', $2)
     on conflict (id) do update set name = excluded.name
     returning u.email, u.name, u.is_active`,
    [userId, name],
  );
  const { email, name: displayName, is_active: isActive } = saved.rows[0];
  const emitted = await client.query(
    `insert into postbound.outbox (user_id, action, data) values ($1, $2, $3) returning event_id, version`,
    [userId, "updated", { email, displayName, isActive }],
  );
  await client.query("commit");
  const { event_id, version } = emitted.rows[0];
  console.log(`event_id=${event_id} version=${version}`);
} finally {
  await client.end();
}
