// The durable way from Convex to Postbound. A mutation that changes a user leaves a row in `unsynced` and schedules `push`.
// Scheduled actions run at most once, so `sweep` (crons.ts) schedules again whatever a lost action left behind.
import { v } from "convex/values";
import { PostboundClient, PostboundError, type Change } from "../../typescript-client/src/client";
import { internal } from "./_generated/api";
import { internalAction, internalMutation } from "./_generated/server";

/** Time one push may take: more than its one attempt does. */
const LEASE_MS = 60_000;
const ATTEMPT_MS = 20_000;
const PAUSE_MAX_MS = 600_000;

/** The system of the welcome workflow's target: `[targets.welcome] adapter = "workflow-trigger"`. */
const WELCOME = "welcome";

export const push = internalAction({
  args: { userId: v.id("users") },
  handler: async (ctx, { userId }): Promise<void> => {
    const claimed = await ctx.runMutation(internal.postbound.claim, { userId });
    if (!claimed) return;
    const { change, revision } = claimed;
    const client = new PostboundClient({
      url: required("POSTBOUND_URL"),
      token: required("POSTBOUND_TOKEN"),
      attempts: 1,
      timeoutMs: ATTEMPT_MS,
    });
    try {
      const emitted = await client.emit(change, { idempotencyKey: `${userId}-${revision}`, waitSeconds: 3 });
      const links = emitted.links?.[WELCOME] ?? {};
      await ctx.runMutation(internal.postbound.done, { userId, revision, links, synced: emitted.status === "synced" });
    } catch (error) {
      if (!(error instanceof PostboundError)) throw error;
      const { message, status, retryable, retryAfterMs } = error;
      // What is wrong with the change itself stays wrong; a wrong token or address is mended by somebody.
      const forGood = !retryable && status !== undefined && [400, 409, 413, 422].includes(status);
      const pauseMs = Math.max(retryAfterMs ?? 0, 1_000);
      await ctx.runMutation(internal.postbound.failed, { userId, revision, message, forGood, pauseMs });
    }
  },
});

/** Takes the user's lease and gives what is to be sent; null: somebody else has it. */
export const claim = internalMutation({
  args: { userId: v.id("users") },
  handler: async (ctx, { userId }): Promise<{ change: Change; revision: number } | null> => {
    const row = await ctx.db
      .query("unsynced")
      .withIndex("by_user", (row) => row.eq("userId", userId))
      .unique();
    const user = await ctx.db.get(userId);
    if (!row || row.leasedUntil > Date.now()) return null;
    if (!user) {
      // Users are marked as deleted, never removed: of this one nothing is left to tell.
      await ctx.db.delete(row._id);
      return null;
    }
    const { email, firstName, lastName, authProvider, deleted } = user;
    const action = deleted ? "deleted" : user.lastSyncedAt === undefined ? "created" : "updated";
    const data = { email, firstName, lastName, authProvider, convexUserId: userId };
    const newest: Change = { userId, action, data };
    // One that got no answer may have been taken: it goes again as it was.
    const attempt = row.attempt ?? { revision: row.revision, change: newest };
    await ctx.db.patch(row._id, { attempt, leasedUntil: Date.now() + LEASE_MS });
    return attempt as { change: Change; revision: number };
  },
});

/** Postbound has it. What changed meanwhile is sent next. */
export const done = internalMutation({
  args: {
    userId: v.id("users"),
    revision: v.number(),
    links: v.record(v.string(), v.string()),
    synced: v.boolean(),
  },
  handler: async (ctx, { userId, revision, links, synced }) => {
    const { frontendUserId, crmContactId } = links;
    await ctx.db.patch(userId, {
      lastSyncedAt: Date.now(),
      ...(frontendUserId === undefined ? {} : { frontendUserId }),
      ...(crmContactId === undefined ? {} : { crmContactId }),
    });
    const row = await ctx.db
      .query("unsynced")
      .withIndex("by_user", (row) => row.eq("userId", userId))
      .unique();
    if (!row) return;
    if (row.revision === revision) {
      await ctx.db.delete(row._id);
      // The ids come later: the sync status, or a webhook target, tells them.
      if (!synced) console.log(`user ${userId} is with Postbound, and on its way to the targets`);
      return;
    }
    await ctx.db.patch(row._id, { attempt: undefined, leasedUntil: 0, failures: 0 });
    await ctx.scheduler.runAfter(0, internal.postbound.push, { userId });
  },
});

/** Comes again later, under the same key, unless the change is refused for good. */
export const failed = internalMutation({
  args: {
    userId: v.id("users"),
    revision: v.number(),
    message: v.string(),
    forGood: v.boolean(),
    pauseMs: v.number(),
  },
  handler: async (ctx, { userId, revision, message, forGood, pauseMs }) => {
    const row = await ctx.db
      .query("unsynced")
      .withIndex("by_user", (row) => row.eq("userId", userId))
      .unique();
    if (!row) return;
    if (forGood) {
      // Sent again only with the user's next change, which may be there already.
      const newer = row.revision > revision;
      const leasedUntil = newer ? 0 : Number.MAX_SAFE_INTEGER;
      await ctx.db.patch(row._id, { attempt: undefined, refused: message, leasedUntil });
      if (newer) await ctx.scheduler.runAfter(0, internal.postbound.push, { userId });
      return;
    }
    const failures = row.failures + 1;
    const pause = Math.max(pauseMs, Math.min(PAUSE_MAX_MS, 1_000 * 2 ** failures));
    await ctx.db.patch(row._id, { failures, leasedUntil: Date.now() + pause });
    await ctx.scheduler.runAfter(pause, internal.postbound.push, { userId });
  },
});

/** Schedules what a lost action left behind. */
export const sweep = internalMutation({
  args: {},
  handler: async (ctx) => {
    const abandoned = await ctx.db
      .query("unsynced")
      .withIndex("by_lease", (row) => row.lt("leasedUntil", Date.now()))
      .take(100);
    for (const { userId } of abandoned) {
      await ctx.scheduler.runAfter(0, internal.postbound.push, { userId });
    }
  },
});

function required(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: npx convex env set ${name} ...`);
  return value;
}
