import { CocoreError, errorOfProblem, Problem } from '@cocore/protocol';
import type { z } from 'zod';

export type Fetch = typeof globalThis.fetch;

export interface HttpOptions {
  /** `http(s)://host:port`, without a path. */
  readonly url: string;
  readonly apiKey: string;
  readonly fetch: Fetch;
}

export type Query = Record<string, string | number | undefined>;

const RETRY_DELAYS_MS = [100, 300, 1_000, 2_000];

/** Of a server that cannot be reached or says that it is not ready. */
export const isPassing = (error: unknown): boolean =>
  error instanceof CocoreError && ['server_unreachable', 'not_ready'].includes(error.code);

const delay = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** Requests with the key, answers through their schemas, problems as `CocoreError`. */
export class Http {
  readonly #options: HttpOptions;

  constructor(options: HttpOptions) {
    this.#options = options;
  }

  /** Of the server. */
  get url(): string {
    return this.#options.url;
  }

  /**
   * The answer's response when it is a success.
   *
   * @throws CocoreError the problem's own, or `server_unreachable`
   */
  async request(method: string, path: string, init: RequestInit & { query?: Query } = {}): Promise<Response> {
    const { query, ...rest } = init;
    const url = new URL(path, this.#options.url);
    for (const [name, value] of Object.entries(query ?? {})) {
      if (value !== undefined) url.searchParams.set(name, String(value));
    }
    const headers = new Headers(rest.headers);
    headers.set('authorization', `Bearer ${this.#options.apiKey}`);
    let response: Response;
    try {
      // A redirect would carry the key to another place.
      response = await this.#options.fetch(url, { ...rest, method, headers, redirect: 'error' });
    } catch (cause) {
      if (rest.signal?.aborted === true) throw cause;
      throw unreachable(this.#options.url, cause);
    }
    if (!response.ok) throw await problemOf(response);
    return response;
  }

  async json<T>(
    method: string,
    path: string,
    schema: z.ZodType<T>,
    init: { query?: Query; body?: unknown; signal?: AbortSignal } = {},
  ): Promise<T> {
    const { body, ...rest } = init;
    const response = await this.request(method, path, {
      ...rest,
      ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
    });
    return parse(schema, await this.#textOf(response));
  }

  /** A request that is safe to send again: tried anew while the server cannot be reached or says that it is not ready. */
  async retried<T>(send: () => Promise<T>): Promise<T> {
    for (const delayMs of RETRY_DELAYS_MS) {
      try {
        return await send();
      } catch (error) {
        if (!isPassing(error)) throw error;
        await delay(delayMs);
      }
    }
    return send();
  }

  async #textOf(response: Response): Promise<string> {
    try {
      return await response.text();
    } catch (cause) {
      throw unreachable(this.#options.url, cause);
    }
  }
}

function parse<T>(schema: z.ZodType<T>, text: string): T {
  try {
    return schema.parse(JSON.parse(text));
  } catch (cause) {
    throw new CocoreError('internal', 'the server’s answer is not what this client knows', { cause });
  }
}

export function unreachable(url: string, cause: unknown): CocoreError {
  const reasons: string[] = [];
  for (let at = cause; at instanceof Error; at = at.cause) reasons.push(at.message);
  return new CocoreError('server_unreachable', `${url} cannot be reached: ${reasons.at(-1) ?? String(cause)}`, {
    cause,
  });
}

async function problemOf(response: Response): Promise<CocoreError> {
  const text = await response.text().catch(() => '');
  try {
    return errorOfProblem(Problem.parse(JSON.parse(text)));
  } catch {
    return new CocoreError('internal', `the answer is ${response.status} without a problem document`);
  }
}
