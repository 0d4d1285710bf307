/* eslint-disable */
// As `npx convex dev` writes it; committed, so that the example is type-checked without a deployment.
import type { ApiFromModules, FilterApi, FunctionReference } from "convex/server";
import type * as crons from "../crons.js";
import type * as postbound from "../postbound.js";
import type * as users from "../users.js";

declare const fullApi: ApiFromModules<{
  crons: typeof crons;
  postbound: typeof postbound;
  users: typeof users;
}>;
export declare const api: FilterApi<typeof fullApi, FunctionReference<any, "public">>;
export declare const internal: FilterApi<typeof fullApi, FunctionReference<any, "internal">>;
