import { CocoreError, EVENT_FRAMES_TYPE, type ExecutionRecord } from '@cocore/protocol';
import type { FastifyReply } from 'fastify';
import type { EventHub } from '../events.ts';
import { type Cursor, followExecution, PIECE_BYTES } from '../output/follower.ts';
import { shownAttempt } from '../shown-attempt.ts';
import type { OutputStore } from '../output/output-store.ts';
import { EventStream } from './event-stream.ts';
import { FrameStream } from './frame-stream.ts';

const KEEP_ALIVE_MS = 15_000;

export interface FollowParts {
  readonly hub: EventHub;
  readonly output: OutputStore;
  readonly projectId: string;
  readonly first: ExecutionRecord;
  readonly read: () => Promise<ExecutionRecord>;
  /** The media types that the client accepts. */
  readonly accept: string;
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

/** Whether a client that accepts these media types takes frames. */
const takesFrames = (accept: string): boolean =>
  accept.split(',').some((type) => type.split(';')[0]!.trim().toLowerCase() === EVENT_FRAMES_TYPE);

/**
 * Sends events, as frames or as server-sent events, until the end is sent or the client has gone.
 *
 * @throws CocoreError `invalid_request` before anything is sent
 */
export async function follow({ first, accept, lastEventId, reply, keepAliveMs, ...parts }: FollowParts): Promise<void> {
  const from = lastEventId === null ? null : parseCursor(lastEventId, first);
  const isFrames = takesFrames(accept);
  const followed = followExecution({
    ...parts,
    executionId: first.id,
    from,
    pieceBytes: PIECE_BYTES[isFrames ? 'bytes' : 'text'],
    idleMs: keepAliveMs ?? KEEP_ALIVE_MS,
  });
  const events = isFrames ? new FrameStream(reply, parts.signal) : new EventStream(reply, parts.signal);
  for await (const news of followed) {
    if (news.kind === 'idle') {
      await events.keepAlive();
      continue;
    }
    const id = formatCursor(news.cursor);
    const { attemptId } = news.cursor;
    if (news.kind === 'restart') await events.send({ event: 'restart', id, data: { attemptId } });
    else if (news.kind === 'output') {
      await events.sendOutput(id, { attemptId, stream: news.stream, offset: news.offset }, news.bytes);
    } else await events.send({ event: news.kind, id, data: news.record });
  }
  events.end();
}
