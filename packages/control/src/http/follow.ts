import { CocoreError, type ExecutionRecord, type FollowEvent, type OutputEvent } from '@cocore/protocol';
import type { FastifyReply } from 'fastify';
import type { EventHub } from '../events.ts';
import { type Cursor, type Followed, followExecution, shownAttempt } from '../output/follower.ts';
import type { OutputStore } from '../output/output-store.ts';
import { EventStream } from './event-stream.ts';

const KEEP_ALIVE_MS = 15_000;

export interface FollowParts {
  readonly hub: EventHub;
  readonly output: OutputStore;
  readonly projectId: string;
  readonly first: ExecutionRecord;
  readonly read: () => Promise<ExecutionRecord>;
  readonly lastEventId: string | null;
  readonly reply: FastifyReply;
  readonly signal: AbortSignal;
  readonly keepAliveMs?: number;
}

const formatCursor = (cursor: Cursor): string => `${cursor.attemptId}.${cursor.stdout}.${cursor.stderr}`;

/** @throws CocoreError `invalid_request` when it is not a cursor of this execution's output */
function parseCursor(text: string, record: ExecutionRecord): Cursor {
  const [, attemptId, stdout, stderr] = /^(at_[0-9a-z]{26})\.(\d{1,15})\.(\d{1,15})$/.exec(text) ?? [];
  const { output } = record;
  const isShown = attemptId === shownAttempt(record);
  const known = isShown
    ? Number(stdout) <= output.stdout.bytes && Number(stderr) <= output.stderr.bytes
    : record.attempts.some(({ id }) => id === attemptId);
  if (!known) throw new CocoreError('invalid_request', 'Last-Event-ID is not an id of this execution’s events');
  return { attemptId: attemptId!, stdout: Number(stdout), stderr: Number(stderr) };
}

/**
 * Sends server-sent events until the end is sent or the client has gone.
 *
 * @throws CocoreError `invalid_request` before anything is sent
 */
export async function follow({ first, lastEventId, reply, keepAliveMs, ...parts }: FollowParts): Promise<void> {
  const from = lastEventId === null ? null : parseCursor(lastEventId, first);
  const followed = followExecution({ ...parts, executionId: first.id, from, idleMs: keepAliveMs ?? KEEP_ALIVE_MS });
  const events = new EventStream(reply, parts.signal);
  const send = (event: FollowEvent) => events.send(event);
  for await (const news of followed) {
    if (news.kind === 'idle') {
      await events.keepAlive();
      continue;
    }
    const id = formatCursor(news.cursor);
    if (news.kind === 'restart') {
      await send({ event: 'restart', id, data: { attemptId: news.cursor.attemptId } });
      continue;
    }
    if (news.kind === 'output') await events.sendAscii('output', id, outputJson(news));
    else await send({ event: news.kind, id, data: news.record });
  }
  events.end();
}

/** An `OutputEvent`. Base64 needs no escapes, which `JSON.stringify` would look for in each character. */
function outputJson({ cursor, stream, offset, bytes }: Extract<Followed, { kind: 'output' }>): string {
  const base64 = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64');
  const rest: Omit<OutputEvent, 'base64'> = { attemptId: cursor.attemptId, stream, offset };
  return `${JSON.stringify(rest).slice(0, -1)},"base64":"${base64}"}`;
}
