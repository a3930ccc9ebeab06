import type { FastifyReply, FastifyRequest } from 'fastify';
import type { z } from 'zod';
import type { Caller } from '../auth/secrets.ts';

/** Who may call: a key of any role, an operator's key, a worker's session, or anybody. */
export type Access = 'key' | 'operator' | 'worker' | 'none';

/** `octets`: the bytes themselves, as `application/octet-stream`. `tar`: an archive. `events`: server-sent events, or frames. */
export type Content = z.ZodType | 'octets' | 'tar' | 'events' | 'text' | 'json' | null;

export interface Answer {
  readonly status: number;
  readonly body: unknown;
}

export interface Call<Query, Body> {
  /** Of nobody for routes without a key. */
  readonly caller: Caller;
  readonly parameters: Readonly<Record<string, string>>;
  readonly query: Query;
  readonly body: Body;
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
  /** Aborts when the client has gone or the server stops. */
  readonly signal: AbortSignal;
}

interface RouteSpec<Query extends z.ZodType, Body extends z.ZodType> {
  readonly method: 'GET' | 'POST' | 'DELETE';
  /** With `{name}` for each parameter. */
  readonly path: string;
  readonly summary: string;
  readonly access: Access;
  readonly query?: Query;
  readonly body?: Body | 'octets';
  readonly bodyLimitBytes?: number;
  readonly answers: Readonly<Record<number, Content>>;
  /** Undefined when the handler has answered by itself. */
  readonly handle: (call: Call<z.output<Query>, z.output<Body>>) => Promise<Answer | undefined>;
}

/** One route: what Fastify serves, what OpenAPI describes and what 405 answers come from. */
export type Route = Omit<RouteSpec<z.ZodType, z.ZodType>, 'handle'> & {
  readonly handle: (call: Call<never, never>) => Promise<Answer | undefined>;
};

export function route<
  Query extends z.ZodType = z.ZodType<Record<string, never>>,
  Body extends z.ZodType = z.ZodType<undefined>,
>(spec: RouteSpec<Query, Body>): Route {
  return spec;
}
