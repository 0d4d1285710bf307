import { cronJobs } from "convex/server";
import { internal } from "./_generated/api";

const crons = cronJobs();
crons.interval("send what was left behind", { minutes: 1 }, internal.postbound.sweep, {});
export default crons;
