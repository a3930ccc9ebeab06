import { CocoreError } from '@cocore/protocol';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import type { Authenticator, Caller } from '../auth/secrets.ts';
import type { ServerNames } from '../auth/server-names.ts';
import { parseJsonBody } from './json-body.ts';
import { hasBody, invalidInput, refuseMalformed, sendProblem } from './problems.ts';
import { Readers } from './readers.ts';
import type { Route } from './route.ts';

const DEFAULT_BODY_BYTES = 64 * 1024;
/** Names that a key would have in a query; there it would end up in logs. */
const KEY_PARAMETERS = /^(?:api[_-]?key|key|token|access[_-]?token|authorization|secret)$/i;
const NOBODY: Caller = { keyId: '', projectId: '', role: 'developer' };

export interface AppParts {
  readonly authenticator: Authenticator;
  readonly names: ServerNames;
  readonly log: Logger;
  readonly tls: { readonly cert: string; readonly key: string } | null;
  /** Aborts when the server stops. */
  readonly stopping: AbortSignal;
}

/** The HTTP side: routes from the table, and one way for each thing that can be wrong with a request. */
export function buildApp(parts: AppParts, routes: readonly Route[]): FastifyInstance {
  const { log, names, tls } = parts;
  const app = fastify({
    logger: false,
    exposeHeadRoutes: false,
    forceCloseConnections: true,
    bodyLimit: DEFAULT_BODY_BYTES,
    // An absent Host is refused like a wrong one.
    http: { requireHostHeader: false },
    ...(tls === null ? {} : { https: { ...tls, requireHostHeader: false, minVersion: 'TLSv1.2' as const } }),
    routerOptions: { maxParamLength: 256 },
    genReqId: requestIds(),
    clientErrorHandler: (error, socket) => refuseMalformed(error, socket),
    frameworkErrors: (error, request, reply) =>
      sendProblem(error, request as FastifyRequest, reply as unknown as FastifyReply, log),
  }) as unknown as FastifyInstance;
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_request, body, done) => {
    try {
      done(null, parseJsonBody(body as Buffer));
    } catch (error) {
      done(error as Error);
    }
  });
  app.addContentTypeParser('application/octet-stream', (_request, payload, done) => done(null, payload));
  app.setErrorHandler((error, request, reply) => sendProblem(error, request, reply, log));
  app.setNotFoundHandler((request, reply) => {
    sendProblem(notFound(routes, request, reply), request, reply, log);
  });
  app.addHook('onRequest', (request, reply, done) => {
    void reply.header('x-content-type-options', 'nosniff').header('cache-control', 'no-store');
    if (names.includes(request.headers.host ?? '')) done();
    else done(new CocoreError('host_not_allowed', 'this server does not answer to that Host'));
  });
  const readers = new Readers(parts.stopping);
  for (const one of routes) addRoute(app, one, parts, readers);
  return app;
}

/** They name requests of this server, in this life of it, and of no other. */
function requestIds(): () => string {
  const life = crypto.randomUUID();
  let count = 0;
  return () => `${life}-${(count += 1)}`;
}

function addRoute(app: FastifyInstance, one: Route, parts: AppParts, readers: Readers): void {
  app.route({
    method: one.method,
    url: one.path.replaceAll(/\{(\w+)\}/g, ':$1'),
    ...(one.bodyLimitBytes === undefined ? {} : { bodyLimit: one.bodyLimitBytes }),
    onRequest: async (request) => {
      refuseKeyInQuery(request);
      request.caller = await callerOf(one, request, parts.authenticator);
      checkMediaType(one, request);
    },
    handler: async (request, reply) => {
      const query = one.query === undefined ? emptyQuery(request) : parse(one.query, request.query, 'the query');
      const body = bodyOf(one, request);
      const answer = await one
        .handle({
          caller: request.caller,
          parameters: request.params as Record<string, string>,
          query: query as never,
          body: body as never,
          request,
          reply,
          signal: readers.signalOf(reply.raw),
        })
        .catch((error: unknown) => breakOff(error, request, reply, parts.log));
      if (answer === undefined) return reply;
      return reply.code(answer.status).send(answer.body);
    },
  });
}

/** An answer that has begun cannot become a problem: its connection is cut, so that the client does not wait for more. */
function breakOff(error: unknown, request: FastifyRequest, reply: FastifyReply, log: Logger): undefined {
  if (!reply.raw.headersSent) throw error;
  log.error({ err: error, requestId: request.id, url: request.url }, 'an answer broke off');
  reply.raw.destroy();
}

declare module 'fastify' {
  interface FastifyRequest {
    caller: Caller;
  }
}

async function callerOf(one: Route, request: FastifyRequest, authenticator: Authenticator): Promise<Caller> {
  if (one.access === 'none' || one.access === 'worker') return NOBODY;
  const caller = await authenticator.authenticate(request.headers.authorization);
  if (one.access === 'operator' && caller.role !== 'operator') {
    throw new CocoreError('forbidden', 'this needs a key of the role operator');
  }
  return caller;
}

function refuseKeyInQuery(request: FastifyRequest): void {
  for (const name of Object.keys(request.query as object)) {
    if (!KEY_PARAMETERS.test(name)) continue;
    throw new CocoreError('unauthenticated', 'a key is taken from the Authorization header only, never from the URL');
  }
}

function checkMediaType(one: Route, request: FastifyRequest): void {
  if (one.method !== 'POST') return;
  const type = request.headers['content-type']?.split(';')[0]?.trim().toLowerCase();
  const wanted = one.body === 'octets' ? 'application/octet-stream' : 'application/json';
  if (type === wanted || (type === undefined && !hasBody(request) && one.body !== 'octets')) return;
  throw new CocoreError('unsupported_media_type', `the body must be ${wanted}`);
}

function bodyOf(one: Route, request: FastifyRequest): unknown {
  if (one.body === undefined || one.body === 'octets') return request.body;
  return parse(one.body, request.body ?? {}, 'the body');
}

function emptyQuery(request: FastifyRequest): Record<string, never> {
  const [name] = Object.keys(request.query as object);
  if (name !== undefined) throw new CocoreError('invalid_request', `the query is not valid: ${name} is not known here`);
  return {};
}

function parse(schema: NonNullable<Route['query']>, value: unknown, what: string): unknown {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw invalidInput(parsed.error, what);
}

function notFound(routes: readonly Route[], request: FastifyRequest, reply: FastifyReply): CocoreError {
  const path = request.url.split('?')[0]!;
  const allowed = routes.filter((one) => patternOf(one.path).test(path)).map((one) => one.method);
  if (allowed.length === 0) return new CocoreError('route_not_found', `there is no ${path}`);
  void reply.header('allow', allowed.join(', '));
  return new CocoreError('method_not_allowed', `${request.method} is not possible here`);
}

const patternOf = (path: string): RegExp =>
  new RegExp(`^${path.replaceAll('.', '\\.').replaceAll(/\{\w+\}/g, '[^/]+')}$`);
