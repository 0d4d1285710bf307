// Tells Postbound of a user: node dist/example.js USER NAME, with POSTBOUND_URL and POSTBOUND_TOKEN set.
import { randomUUID } from "node:crypto";
import { PostboundClient, PostboundError } from "./client.js";

const { POSTBOUND_URL: url, POSTBOUND_TOKEN: token } = process.env;
const [userId, displayName] = process.argv.slice(2);
if (!url || !token || !userId || !displayName) {
  console.error("usage: POSTBOUND_URL=... POSTBOUND_TOKEN=... node dist/example.js USER NAME");
  process.exit(2);
}

const client = new PostboundClient({ url, token });
try {
  const emitted = await client.emit(
    { userId, action: "updated", data: { email: `${userId}@example.com`, displayName, isActive: true } },
    // Stored with the change where a crash may come between: see examples/convex.
    { idempotencyKey: randomUUID() },
  );
  console.log(`event_id=${emitted.eventId} version=${emitted.version}`);
} catch (error) {
  if (!(error instanceof PostboundError)) throw error;
  console.error(error.message);
  process.exit(1);
}
