/* eslint-disable */
// As `npx convex dev` writes it; committed, so that the example is type-checked without a deployment.
import { anyApi } from "convex/server";

export const api = anyApi;
export const internal = anyApi;
