import { CocoreError, type ExecutionRecord, type FollowEvent, isTerminal, type StreamName } from '@cocore/protocol';
import type { FastifyReply } from 'fastify';
import type { EventHub } from '../events.ts';
import type { OutputStore } from '../output/output-store.ts';
import { EventStream } from './event-stream.ts';
import { shownAttempt } from './executions.ts';

const KEEP_ALIVE_MS = 15_000;
const STREAMS = ['stdout', 'stderr'] as const;
/** Sent from one stream before the other has its turn. */
const TURN_BYTES = 256 * 1024;

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

/** Where a follower is: the attempt whose output it was sent, and how much of each stream. */
interface Cursor {
  readonly attemptId: string;
  readonly stdout: number;
  readonly stderr: number;
}

const formatCursor = (cursor: Cursor): string => `${cursor.attemptId}.${cursor.stdout}.${cursor.stderr}`;

/** @throws CocoreError `invalid_request` when it is not a cursor of this execution's output */
function parseCursor(text: string, record: ExecutionRecord): Cursor {
  const [, attemptId, stdout, stderr] = /^(at_[0-9a-z]{26})\.(\d{1,15})\.(\d{1,15})$/.exec(text) ?? [];
  const { output } = record;
  const known =
    attemptId === shownAttempt(record) &&
    Number(stdout) <= output.stdout.bytes &&
    Number(stderr) <= output.stderr.bytes;
  if (!known) throw new CocoreError('invalid_request', 'Last-Event-ID is not an id of this execution’s events');
  return { attemptId, stdout: Number(stdout), stderr: Number(stderr) };
}

/**
 * Sends server-sent events until the end is sent or the client has gone. It reads output only as fast as the client takes it, so a slow
 * client costs one piece of memory.
 *
 * @throws CocoreError `invalid_request` before anything is sent
 */
export async function follow(parts: FollowParts): Promise<void> {
  const { hub, output, first, read, reply, signal, projectId } = parts;
  let record = first;
  let cursor: Cursor =
    parts.lastEventId === null
      ? { attemptId: shownAttempt(record), stdout: 0, stderr: 0 }
      : parseCursor(parts.lastEventId, record);
  const news = new News(hub, record.id, signal);
  using _subscription = news;
  record = await read();

  const events = new EventStream(reply, signal);
  const send = (event: FollowEvent) => events.send(event);
  const sendOutput = async (stream: StreamName, until: number): Promise<void> => {
    const attempt = { projectId, attemptId: cursor.attemptId };
    for await (const bytes of output.read(attempt, stream, cursor[stream], until)) {
      if (signal.aborted) return;
      const offset = cursor[stream];
      cursor = { ...cursor, [stream]: offset + bytes.length };
      const data = { attemptId: cursor.attemptId, stream, offset, base64: Buffer.from(bytes).toString('base64') };
      await send({ event: 'output', id: formatCursor(cursor), data });
    }
  };

  let isNew = true;
  while (!signal.aborted) {
    const ended = isTerminal(record.state);
    if (isNew) await send({ event: 'execution', id: formatCursor(cursor), data: record });
    while (!signal.aborted && STREAMS.some((stream) => cursor[stream] < record.output[stream].bytes)) {
      for (const stream of STREAMS) {
        const until = Math.min(record.output[stream].bytes, cursor[stream] + TURN_BYTES);
        if (cursor[stream] < until) await sendOutput(stream, until);
      }
    }
    if (ended) {
      await send({ event: 'end', id: formatCursor(cursor), data: record });
      break;
    }
    while (!(await news.next(parts.keepAliveMs ?? KEEP_ALIVE_MS)) && !signal.aborted) await events.keepAlive();
    isNew = news.take();
    record = await read();
  }
  events.end();
}

/** Gathers what is published while the follower is busy. */
class News implements Disposable {
  readonly #subscription: Disposable;
  readonly #signal: AbortSignal;
  #hasNews = false;
  #hasChange = false;
  #wake: (() => void) | null = null;

  constructor(hub: EventHub, executionId: string, signal: AbortSignal) {
    this.#signal = signal;
    this.#subscription = hub.subscribe(executionId, (what) => {
      this.#hasNews = true;
      this.#hasChange ||= what !== 'output';
      this.#wake?.();
    });
  }

  /** Waits for news. False when there was none in the time. */
  async next(timeoutMs: number): Promise<boolean> {
    if (!this.#hasNews && !this.#signal.aborted) {
      await new Promise<void>((resolve) => {
        const done = () => {
          clearTimeout(timer);
          this.#signal.removeEventListener('abort', done);
          this.#wake = null;
          resolve();
        };
        const timer = setTimeout(done, timeoutMs);
        this.#signal.addEventListener('abort', done);
        this.#wake = done;
      });
    }
    const hadNews = this.#hasNews;
    this.#hasNews = false;
    return hadNews;
  }

  /** Whether the record has changed since it was last asked. */
  take(): boolean {
    const hadChange = this.#hasChange;
    this.#hasChange = false;
    return hadChange;
  }

  [Symbol.dispose](): void {
    this.#subscription[Symbol.dispose]();
  }
}
