// A client of `postbound ingress` for producers that cannot reach Postgres. It needs `fetch` and nothing else: Node 18 and
// later, Deno, Bun, Convex, Cloudflare Workers.

/** The whole state of a user after a change; fields: schemas/user.schema.json. Others pass through. */
export type UserState = { email?: string | null; [field: string]: unknown };

/** One change of one user. */
export interface Change {
  /** The tenant; `default` where left out. */
  tenantId?: string;
  userId: string;
  action: "created" | "updated" | "deleted";
  /** The whole state, not a difference. A delete may leave it out. */
  data?: UserState;
  /** The system the change came from: its target does not get it back. */
  origin?: string;
  /** The only targets it is for; all where left out. */
  targets?: string[];
}

export interface EmitOptions {
  /** Names this change, whatever happens: the same key for every attempt, another one for every other change. */
  idempotencyKey: string;
  /** Waits so long, in whole seconds, until all targets have the change. */
  waitSeconds?: number;
}

/** What became of a change. */
export interface Emitted {
  eventId: string;
  /** The user's version, from 1. */
  version: number;
  tenantId: string;
  userId: string;
  /** `synced`: all targets have it. */
  status: "pending" | "synced";
  /** Where `waitSeconds` was given: the user's ids by target and system, such as `links.welcome.frontendUserId`. */
  links?: Record<string, Record<string, string>>;
  /** Where `waitSeconds` was given: targets that have not got it yet. */
  pending?: string[];
}

export interface ClientOptions {
  /** Where the ingress is, such as `https://sync.example.com`. */
  url: string;
  /** A token of `[ingress.tokens]` with the scope `events`. */
  token: string;
  /** Attempts within one call. Default 3. */
  attempts?: number;
  /** Time for one attempt beyond what it waits for, in ms. Default 20000: longer than the ingress takes for any request. */
  timeoutMs?: number;
  fetch?: typeof fetch;
}

/** The ingress refused the change, or could not be reached. */
export class PostboundError extends Error {
  override readonly name = "PostboundError";

  constructor(
    message: string,
    /** The HTTP status; undefined where there was no answer. */
    readonly status: number | undefined,
    /** Whether the same call, with the same key, may succeed later. */
    readonly retryable: boolean,
    /** How long the ingress asks to wait, in ms. */
    readonly retryAfterMs: number | undefined,
    /** The problem details (RFC 9457), where there were any. */
    readonly problem: Record<string, unknown> | undefined,
  ) {
    super(message);
  }
}

/** A longer pause than this is the caller's to make: the error says how long. */
const PAUSE_MAX_MS = 30_000;

export class PostboundClient {
  readonly #options: Required<ClientOptions>;

  constructor(options: ClientOptions) {
    this.#options = {
      attempts: 3,
      timeoutMs: 20_000,
      fetch: (input, init) => fetch(input, init),
      ...options,
      url: options.url.replace(/\/+$/, ""),
    };
  }

  /**
   * Writes a change. Repeats it where that may help; when it throws a retryable error, call it again later with the same key
   * and the same change.
   */
  async emit(change: Change, options: EmitOptions): Promise<Emitted> {
    // Made once: the same key with other bytes is refused.
    const body = JSON.stringify(change);
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#send(body, options);
      } catch (error) {
        const last = attempt >= this.#options.attempts;
        if (last || !(error instanceof PostboundError) || !error.retryable) throw error;
        const pauseMs = error.retryAfterMs ?? 200 * 2 ** attempt * (0.5 + Math.random());
        if (pauseMs > PAUSE_MAX_MS) throw error;
        await sleep(pauseMs);
      }
    }
  }

  async #send(body: string, { idempotencyKey, waitSeconds }: EmitOptions): Promise<Emitted> {
    const { url, token, timeoutMs, fetch } = this.#options;
    const headers: Record<string, string> = {
      authorization: `Bearer ${token}`,
      "content-type": "application/json",
      "idempotency-key": `"${idempotencyKey.replace(/[\\"]/g, "\\$&")}"`,
    };
    if (waitSeconds) headers["prefer"] = `wait=${Math.floor(waitSeconds)}`;
    let response: Response;
    let text: string;
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), timeoutMs + (waitSeconds ?? 0) * 1000);
    try {
      response = await fetch(`${url}/v1/events`, { method: "POST", headers, body, signal: abort.signal });
      text = await response.text();
    } catch (error) {
      throw new PostboundError(`no answer from the ingress: ${String(error)}`, undefined, true, undefined, undefined);
    } finally {
      clearTimeout(timer);
    }
    const answer = parse(text);
    if (response.ok && answer) return answer as unknown as Emitted;
    throw refusal(response, answer);
  }
}

function refusal(response: Response, problem: Record<string, unknown> | undefined): PostboundError {
  const { status } = response;
  const inUse = status === 409 && problem?.["type"] === "/problems/idempotency-key-in-progress";
  const retryable = inUse || status === 408 || status === 429 || status >= 500;
  const seconds = Number(response.headers.get("retry-after") ?? Number.NaN);
  const detail = typeof problem?.["detail"] === "string" ? problem["detail"] : response.statusText;
  const retryAfterMs = Number.isFinite(seconds) ? seconds * 1000 : undefined;
  return new PostboundError(`the ingress answered ${status}: ${detail}`, status, retryable, retryAfterMs, problem);
}

function parse(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
