import { v } from "convex/values";
import { internal } from "./_generated/api";
import type { Id } from "./_generated/dataModel";
import { internalMutation, type MutationCtx } from "./_generated/server";

/** A user registers: the row and the word to Postbound are one transaction. */
export const register = internalMutation({
  args: { email: v.string(), firstName: v.string(), lastName: v.string(), authProvider: v.string() },
  handler: async (ctx, profile) => {
    const userId = await ctx.db.insert("users", { ...profile, deleted: false });
    await changed(ctx, userId);
    return userId;
  },
});

export const rename = internalMutation({
  args: { userId: v.id("users"), firstName: v.string(), lastName: v.string() },
  handler: async (ctx, { userId, ...name }) => {
    await ctx.db.patch(userId, name);
    await changed(ctx, userId);
  },
});

export const remove = internalMutation({
  args: { userId: v.id("users") },
  handler: async (ctx, { userId }) => {
    await ctx.db.patch(userId, { deleted: true });
    await changed(ctx, userId);
  },
});

/** Call it in every mutation that changes a user, after the change. */
async function changed(ctx: MutationCtx, userId: Id<"users">): Promise<void> {
  const waiting = await ctx.db
    .query("unsynced")
    .withIndex("by_user", (row) => row.eq("userId", userId))
    .unique();
  if (waiting) {
    // Whoever has the lease sees the new revision when it is done, and goes on.
    const leasedUntil = waiting.refused === undefined ? waiting.leasedUntil : 0;
    const revision = Math.max(Date.now(), waiting.revision + 1);
    await ctx.db.patch(waiting._id, { revision, failures: 0, refused: undefined, leasedUntil });
  } else {
    await ctx.db.insert("unsynced", { userId, revision: Date.now(), leasedUntil: 0, failures: 0 });
  }
  // Scheduled with the mutation: it runs if and only if this commits.
  await ctx.scheduler.runAfter(0, internal.postbound.push, { userId });
}
