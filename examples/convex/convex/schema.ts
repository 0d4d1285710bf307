import { defineSchema, defineTable } from "convex/server";
import { v } from "convex/values";

export default defineSchema({
  users: defineTable({
    email: v.string(),
    firstName: v.string(),
    lastName: v.string(),
    authProvider: v.string(),
    deleted: v.boolean(),
    // Told by Postbound when the targets have the user.
    frontendUserId: v.optional(v.string()),
    crmContactId: v.optional(v.string()),
    lastSyncedAt: v.optional(v.number()),
  }).index("by_email", ["email"]),

  // One row per user whose newest state Postbound has not acknowledged. It is written in the mutation that changes the user,
  // and removed in the one that has the answer: the change is not lost whatever happens in between.
  unsynced: defineTable({
    userId: v.id("users"),
    // Grows with each of the user's changes.
    revision: v.number(),
    // What is being sent, under its revision: sent again unchanged until there is an answer, whatever changed meanwhile.
    attempt: v.optional(v.object({ revision: v.number(), change: v.any() })),
    // Who sends the user's state has this long; nobody else does meanwhile, so an older state never overtakes a newer one.
    leasedUntil: v.number(),
    failures: v.number(),
    // Why the last attempt was refused for good, for a person to look at.
    refused: v.optional(v.string()),
  })
    .index("by_user", ["userId"])
    .index("by_lease", ["leasedUntil"]),
});
