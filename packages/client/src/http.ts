import { CocoreError, errorOfProblem, Problem } from '@cocore/protocol';
import type { z } from 'zod';
import type { Answer, Outgoing, Transport } from './transport.ts';

export interface HttpOptions {
  /** `http(s)://host:port`, without a path. */
  readonly url: string;
  readonly apiKey: string;
  /** To that server. */
  readonly transport: Transport;
}

export type Query = Record<string, string | number | undefined>;

export type RequestOptions = Partial<Pick<Outgoing, 'headers' | 'body' | 'signal'>> & { readonly query?: Query };

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
   * The answer when it is a success.
   *
   * @throws CocoreError the problem's own, or `server_unreachable`
   */
  async request(method: string, path: string, options: RequestOptions = {}): Promise<Answer> {
    const { query, headers, ...rest } = options;
    const { url, apiKey, transport } = this.#options;
    let answer: Answer;
    try {
      answer = await transport.send({
        ...rest,
        method,
        path: withQuery(path, query),
        headers: { ...headers, authorization: `Bearer ${apiKey}` },
      });
    } catch (cause) {
      if (rest.signal?.aborted === true) throw cause;
      throw unreachable(url, cause);
    }
    if (answer.status < 200 || answer.status > 299) throw await problemOf(answer);
    return answer;
  }

  async json<T>(
    method: string,
    path: string,
    schema: z.ZodType<T>,
    options: { query?: Query; body?: unknown; signal?: AbortSignal } = {},
  ): Promise<T> {
    const { body, ...rest } = options;
    const answer = await this.request(method, path, {
      ...rest,
      ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
    });
    return parse(schema, await this.#textOf(answer));
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

  async #textOf(answer: Answer): Promise<string> {
    try {
      return await answer.text();
    } catch (cause) {
      throw unreachable(this.#options.url, cause);
    }
  }
}

function withQuery(path: string, query: Query = {}): string {
  const parts: string[] = [];
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined) parts.push(`${name}=${encodeURIComponent(value)}`);
  }
  return parts.length === 0 ? path : `${path}?${parts.join('&')}`;
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
  // Where a name has several addresses, there is an error for each.
  for (let at = cause; at instanceof Error; at = at instanceof AggregateError ? at.errors[0] : at.cause) {
    reasons.push(at.message);
  }
  return new CocoreError('server_unreachable', `${url} cannot be reached: ${reasons.at(-1) ?? String(cause)}`, {
    cause,
  });
}

async function problemOf(answer: Answer): Promise<CocoreError> {
  const text = await answer.text().catch(() => '');
  try {
    return errorOfProblem(Problem.parse(JSON.parse(text)));
  } catch {
    return new CocoreError('internal', `the answer is ${answer.status} without a problem document`);
  }
}
