import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import { CocoreError, invalidRequest, isErrorCode, MAX_BLOB_BYTES, problemOf } from '@cocore/protocol';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import { z } from 'zod';
import { isDiskFailure } from '../disk-failure.ts';
import { DatabaseFailure } from '../store/postgres/errors.ts';

/** Of a refused body: what is longer, or slower, is cut off with its connection. */
const MAX_DISCARDED_BYTES = 2 * MAX_BLOB_BYTES;
const DISCARD_MS = 30_000;

const IssueParameters = z.object({ code: z.string() });

/**
 * A schema's failure as an error. An issue that names a code of its own gives its code to the whole.
 *
 * @param what begins the message: `the body`
 */
export function invalidInput(error: z.ZodError, what: string): CocoreError {
  const { message, details } = invalidRequest(error, what);
  const codes = error.issues.flatMap((issue) => {
    if (issue.code !== 'custom') return [];
    const parameters = IssueParameters.safeParse(issue.params);
    return parameters.success && isErrorCode(parameters.data.code) ? [parameters.data.code] : [];
  });
  return new CocoreError(codes[0] ?? 'invalid_request', message, { details });
}

/** What Fastify refuses by itself, in the words of the table. */
function cocoreErrorOf(error: unknown): CocoreError {
  if (error instanceof CocoreError) return error;
  const { code, statusCode, message } = error as { code?: string; statusCode?: number; message?: string };
  switch (code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new CocoreError('payload_too_large', 'the body is larger than this route takes', { cause: error });
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new CocoreError('unsupported_media_type', 'the body is of a type that this route does not take', {
        cause: error,
      });
    default:
      if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) {
        return new CocoreError('invalid_request', message ?? 'the request is not valid', { cause: error });
      }
      if (isDiskFailure(error)) {
        const what = error instanceof DatabaseFailure ? 'database' : 'disk';
        return new CocoreError('not_ready', `the server’s ${what} takes nothing now`, { cause: error });
      }
      return new CocoreError('internal', 'the server failed', { cause: error });
  }
}

/** The client has gone before its body had come: nobody's fault here, and nobody reads the answer. */
function isBrokenOff(error: unknown, { raw }: FastifyRequest): boolean {
  return raw.errored === error && (error as NodeJS.ErrnoException).code === 'ECONNRESET' && raw.socket.destroyed;
}

/** What the client is told of an error; what is the server's own fault is logged. */
export function knownError(error: unknown, request: FastifyRequest, log: Logger): CocoreError {
  const known = isBrokenOff(error, request)
    ? new CocoreError('invalid_request', 'the body breaks off', { cause: error })
    : cocoreErrorOf(error);
  if (known.code === 'internal' || isDiskFailure(known.cause)) {
    log.error({ err: error, requestId: request.id, url: request.url }, 'a request failed');
  }
  return known;
}

export function sendProblem(error: unknown, request: FastifyRequest, reply: FastifyReply, log: Logger): void {
  const known = knownError(error, request, log);
  if (known.code === 'unauthenticated') void reply.header('www-authenticate', 'Bearer');
  // Fastify closes the connection of a body that is too large: the client, still sending, would be reset before it has read why.
  void reply.removeHeader('connection');
  if (hasBody(request) && !request.raw.complete) discardBody(request.raw);
  void reply
    .code(known.status === 0 ? 500 : known.status)
    .header('content-type', 'application/problem+json')
    .send(JSON.stringify(problemOf(known, request.id)));
}

/** Reads what is left of a refused body and throws it away, so that the client gets to read the answer; within bounds. */
function discardBody(body: IncomingMessage): void {
  let left = MAX_DISCARDED_BYTES;
  const timer = setTimeout(() => body.destroy(), DISCARD_MS).unref();
  body.once('close', () => clearTimeout(timer));
  body.on('data', (bytes: Buffer) => {
    left -= bytes.length;
    if (left < 0) body.destroy();
  });
  body.resume();
}

export const hasBody = ({ headers }: FastifyRequest): boolean =>
  (headers['content-length'] ?? '0') !== '0' || headers['transfer-encoding'] !== undefined;

/** For what is not HTTP at all, and so has no request. */
export function refuseMalformed(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const problem = problemOf(
    new CocoreError('invalid_request', `the request is not valid HTTP (${error.code ?? 'unknown'})`),
  );
  const body = JSON.stringify(problem);
  socket.end(
    [
      'HTTP/1.1 400 Bad Request',
      'Content-Type: application/problem+json',
      `Content-Length: ${Buffer.byteLength(body)}`,
      'Connection: close',
      '',
      body,
    ].join('\r\n'),
  );
}
