import { createHash } from 'node:crypto';
import { type ExecutionRecord, isTerminal, type StreamName } from '@cocore/protocol';
import type { EventHub } from '../events.ts';
import { shownAttempt } from '../shown-attempt.ts';
import type { OutputStore } from './output-store.ts';

const STREAMS = ['stdout', 'stderr'] as const;
/** Good values of `pieceBytes`: bytes go out of the memory in which they are, text is made of them for each follower. */
export const PIECE_BYTES = { text: 64 * 1024, bytes: 256 * 1024 };
/** Output may keep news from another server from being looked for: while there is nothing but output, the record is read this often. */
const READ_MS = 1_000;

/** Where a follower is: the attempt whose output it was given, and how much of each stream. */
export interface Cursor {
  readonly attemptId: string;
  readonly stdout: number;
  readonly stderr: number;
}

export interface FollowerParts {
  readonly hub: EventHub;
  readonly output: OutputStore;
  readonly projectId: string;
  readonly executionId: string;
  /** As it is now. */
  readonly read: () => Promise<ExecutionRecord>;
  /** Where to go on from; null for the beginning. */
  readonly from: Cursor | null;
  /** The most that is given in one piece, and from one stream before the other has its turn. */
  readonly pieceBytes: number;
  /** How long there may be no news before it says so. */
  readonly idleMs: number;
  readonly signal: AbortSignal;
}

/** What a follower is given; `cursor` is where it is after it. */
export type Followed =
  | { readonly kind: 'execution' | 'end'; readonly cursor: Cursor; readonly record: ExecutionRecord }
  | {
      readonly kind: 'output';
      readonly cursor: Cursor;
      readonly stream: StreamName;
      readonly offset: number;
      readonly bytes: Uint8Array;
    }
  /** What follows is of another attempt, and from its beginning. */
  | { readonly kind: 'restart'; readonly cursor: Cursor }
  | { readonly kind: 'idle' };

/**
 * An execution as it goes on: its record at once and at each change, its output as it is committed, and the final record after all output.
 * When another attempt's output takes the place of what was given, it goes on where it is if that begins with the same bytes, else it restarts.
 * Nothing is read before it is asked for, so a slow follower costs one piece of memory. It ends early when the signal aborts.
 */
export async function* followExecution(parts: FollowerParts): AsyncGenerator<Followed> {
  const { hub, output, projectId, executionId, read, signal, pieceBytes, idleMs } = parts;
  using news = new News(hub, executionId, signal);
  let record = await read();
  let readAtMs = performance.now();
  let cursor = parts.from ?? { attemptId: shownAttempt(record), stdout: 0, stderr: 0 };
  let isNew = true;
  while (!signal.aborted) {
    if (isNew) yield { kind: 'execution', cursor, record };
    if (shownAttempt(record) !== cursor.attemptId) {
      const change = await nextCursor(parts, cursor, record);
      if (change !== null) {
        cursor = change.cursor;
        if (change.isRestart) yield { kind: 'restart', cursor };
      }
    }
    const isHere = shownAttempt(record) === cursor.attemptId;
    let ends = { stdout: record.output.stdout.bytes, stderr: record.output.stderr.bytes };
    for (;;) {
      while (isHere && !signal.aborted && isMore(ends, cursor)) {
        for (const stream of STREAMS) {
          const until = Math.min(ends[stream], cursor[stream] + pieceBytes);
          if (cursor[stream] >= until) continue;
          const attempt = { projectId, attemptId: cursor.attemptId };
          for await (const bytes of output.read(attempt, stream, cursor[stream], until)) {
            if (signal.aborted) return;
            const offset = cursor[stream];
            cursor = { ...cursor, [stream]: offset + bytes.length };
            yield { kind: 'output', cursor, stream, offset, bytes };
          }
        }
      }
      if (isTerminal(record.state)) {
        yield { kind: 'end', cursor, record };
        return;
      }
      while (!(await news.next(idleMs)) && !signal.aborted) yield { kind: 'idle' };
      if (signal.aborted) return;
      // Mostly it is that there is more output, and then how much is known without a look into the store.
      const isOutput = isHere && !news.isOther && performance.now() - readAtMs < READ_MS;
      const committed = isOutput ? output.committed(cursor.attemptId) : null;
      if (committed === null || !isMore(committed, cursor)) break;
      ends = committed;
    }
    isNew = news.take();
    const before = record;
    record = await read();
    readAtMs = performance.now();
    // Of what another server did, and whose word was lost.
    isNew ||= statusOf(record) !== statusOf(before);
  }
}

const isMore = (ends: Record<StreamName, number>, cursor: Cursor): boolean =>
  STREAMS.some((stream) => cursor[stream] < ends[stream]);

/** All that changes without a word of output. */
const statusOf = ({ output: _, attempts, waiting: __, ...rest }: ExecutionRecord): string =>
  JSON.stringify([rest, attempts.map(({ lastBeatAt: ___, agentAgeMs: ____, ...attempt }) => attempt)]);

/**
 * Where a follower goes on in the output of the attempt that the record shows now. Null while that has not written enough to tell.
 */
async function nextCursor(
  { output, projectId }: FollowerParts,
  cursor: Cursor,
  record: ExecutionRecord,
): Promise<{ readonly cursor: Cursor; readonly isRestart: boolean } | null> {
  const attemptId = shownAttempt(record);
  const restart = { cursor: { attemptId, stdout: 0, stderr: 0 }, isRestart: true };
  const isShorter = STREAMS.some((stream) => record.output[stream].bytes < cursor[stream]);
  if (isShorter) return isTerminal(record.state) ? restart : null;
  for (const stream of STREAMS) {
    const was = output.read({ projectId, attemptId: cursor.attemptId }, stream, 0, cursor[stream]);
    const is = output.read({ projectId, attemptId }, stream, 0, cursor[stream]);
    if (!(await isSame(was, is))) return restart;
  }
  return { cursor: { ...cursor, attemptId }, isRestart: false };
}

/** Whether two streams of the same length, in pieces of any sizes, hold the same. */
async function isSame(one: AsyncIterable<Uint8Array>, other: AsyncIterable<Uint8Array>): Promise<boolean> {
  const [first, second] = [createHash('sha256'), createHash('sha256')];
  for await (const piece of one) first.update(piece);
  for await (const piece of other) second.update(piece);
  return first.digest().equals(second.digest());
}

/** Gathers what is published while the follower is busy. */
class News implements Disposable {
  readonly #subscription: Disposable;
  readonly #signal: AbortSignal;
  #hasNews = false;
  #hasChange = false;
  #isOther = false;
  #wake: (() => void) | null = null;

  constructor(hub: EventHub, executionId: string, signal: AbortSignal) {
    this.#signal = signal;
    this.#subscription = hub.subscribe(executionId, (what) => {
      this.#hasNews = true;
      this.#hasChange ||= what === 'changed' || what === 'ended';
      this.#isOther ||= what !== 'output';
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

  /** Whether there was more than output since it was last taken. */
  get isOther(): boolean {
    return this.#isOther;
  }

  /** Whether the record has changed since it was last asked. */
  take(): boolean {
    const hadChange = this.#hasChange;
    this.#hasChange = false;
    this.#isOther = false;
    return hadChange;
  }

  [Symbol.dispose](): void {
    this.#subscription[Symbol.dispose]();
  }
}
