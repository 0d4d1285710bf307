// Takes users from Postbound, both ways it can send them here:
//   POST /api/internal/sync/users   crm-batch: up to 100 users of a tenant, a result for each
//   POST /webhooks/users            webhook: one user as a CloudEvent, signed as Standard Webhooks has it
// Run it:
//   psql "$DATABASE_URL" -f schema.sql && npm install
//   DATABASE_URL=postgres://... INTERNAL_API_KEY=... WEBHOOK_SECRETS=whsec_... PORT=3000 node server.js
// Try it: postbound receiver check --contract crm-batch --url http://127.0.0.1:3000 --api-key-file key.txt
import { createHash, timingSafeEqual } from "node:crypto";
import express from "express";
import pg from "pg";
import { Webhook } from "standardwebhooks";
import { take } from "./users.js";

const { DATABASE_URL, INTERNAL_API_KEY, WEBHOOK_SECRETS = "", HOST = "127.0.0.1", PORT = "3000" } = process.env;
if (!INTERNAL_API_KEY) throw new Error("INTERNAL_API_KEY is not set");
const pool = new pg.Pool({ connectionString: DATABASE_URL, connectionTimeoutMillis: 3000, query_timeout: 5000 });
// A connection that dies while idle must not take the process with it.
pool.on("error", (error) => console.error("database:", error.code ?? error.message));
// Several while they rotate: any of them may have signed.
const webhooks = WEBHOOK_SECRETS.split(" ").filter(Boolean).map((secret) => new Webhook(secret));

const app = express();
app.disable("x-powered-by");

// The key comes first, so that nobody else's body is read. 100 users are far more than express' own limit of 100 KB.
app.post("/api/internal/sync/users", requireKey, express.json({ limit: "8mb" }), async (req, res) => {
  const { tenant, users } = req.body ?? {};
  if (!tenant?.id || !Array.isArray(users)) return refuse(res, 400, "malformed-request", "tenant.id and users are required");
  if (tenant.id !== req.get("x-tenant-id")) return refuse(res, 400, "malformed-request", "X-Tenant-ID is another tenant");
  const results = [];
  for (const user of users) results.push(resultOf(user, await take(pool, tenant.id, user)));
  const failed = results.filter((result) => result.status === "failed").length;
  res.json({
    success: true,
    message: `took ${results.length - failed} of ${results.length} users`,
    results,
    tenant: { id: tenant.id, name: tenant.name },
    metadata: {
      operation: "user_sync",
      syncedAt: new Date().toISOString(),
      totalUsers: results.length,
      successful: results.length - failed,
      failed,
    },
  });
});

// The signature is of the raw bytes: nothing may parse them before.
app.post("/webhooks/users", express.raw({ type: () => true, limit: "1mb" }), async (req, res) => {
  if (!isSigned(req)) return refuse(res, 401, "unauthorized", "the signature is missing, wrong or out of time");
  let event;
  try {
    event = JSON.parse(req.body);
  } catch {
    return refuse(res, 400, "malformed-request", "the body is not JSON");
  }
  const { type, subject, tenantid, userversion, data } = event ?? {};
  if (!["user.created", "user.updated", "user.deleted"].includes(type)) {
    // A notice, or what is new one day: nothing to do is no failure.
    return res.json({ ignored: true });
  }
  const name = data?.name ?? data?.displayName ?? subject;
  const user = { ...data, id: subject, name, version: Number(userversion), deleted: type === "user.deleted" };
  const taken = await take(pool, tenantid, user);
  if (taken.invalid) return refuse(res, 422, "invalid-content", taken.invalid);
  if (taken.heldVersion) {
    return refuse(res, 409, "stale-version", "a newer state is held", { heldVersion: taken.heldVersion });
  }
  res.json({ id: taken.crmUserId });
});

// Bodies that cannot be read have a status of their own (400, 413). A database that is away is nobody's fault: 503 with
// Retry-After holds everything back until then. What is left is a bug of ours.
app.use((error, req, res, next) => {
  if (res.headersSent) return next(error);
  if (error.status < 500) return refuse(res, error.status, "malformed-request", "the body cannot be read");
  console.error("failed:", error.code ?? error.stack);
  if (isAway(error)) return refuse(res.set("Retry-After", "5"), 503, "unavailable", "the database is away");
  refuse(res, 500, "internal", "the request failed");
});

const server = app.listen(Number(PORT), HOST, () => console.log(`listening on ${server.address().port}`));
process.once("SIGTERM", () => server.close(() => pool.end()));

/** A user's own result. `code` and `heldVersion` tell Postbound what a failure means. */
function resultOf(user, { crmUserId, created, heldVersion, invalid }) {
  const userId = user?.id;
  if (invalid) return { userId, status: "failed", code: "invalid_user", error: invalid };
  if (heldVersion) return { userId, status: "failed", code: "stale_version", heldVersion, error: "a newer state is held" };
  return { userId, status: created ? "created" : "updated", crmUserId };
}

function requireKey(req, res, next) {
  // Digests are of one length, and compared in constant time.
  const digest = (text) => createHash("sha256").update(text).digest();
  if (timingSafeEqual(digest(req.get("x-internal-api-key") ?? ""), digest(INTERNAL_API_KEY))) return next();
  refuse(res, 401, "unauthorized", "X-Internal-API-Key is missing or wrong");
}

function isSigned(req) {
  const verifies = (webhook) => {
    try {
      webhook.verify(req.body, req.headers);
      return true;
    } catch {
      return false;
    }
  };
  return Buffer.isBuffer(req.body) && webhooks.some(verifies);
}

/** Whether the database cannot be asked just now: it says so itself, or no answer of it arrived. */
function isAway(error) {
  if (error instanceof pg.DatabaseError) return /^(08|40|53|55|57)/.test(error.code);
  return /^E[A-Z]+$/.test(error.code ?? "") || /timeout|terminated/i.test(error.message);
}

/** A refusal as RFC 9457 has it. */
function refuse(res, status, slug, detail, more = {}) {
  const problem = { type: `/problems/${slug}`, status, detail, success: false, error: detail, ...more };
  res.status(status).type("application/problem+json").send(JSON.stringify(problem));
}
