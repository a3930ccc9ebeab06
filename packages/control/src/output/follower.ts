import { type ExecutionRecord, isTerminal, type StreamName } from '@cocore/protocol';
import type { EventHub } from '../events.ts';
import type { OutputStore } from './output-store.ts';

const STREAMS = ['stdout', 'stderr'] as const;
/** Given from one stream before the other has its turn. */
const TURN_BYTES = 256 * 1024;

/** Where a follower is: the attempt whose output it was given, and how much of each stream. */
export interface Cursor {
  readonly attemptId: string;
  readonly stdout: number;
  readonly stderr: number;
}

/** The attempt whose output stands for the execution's. */
export const shownAttempt = (record: ExecutionRecord): string => record.decidingAttempt ?? record.attempts.at(-1)!.id;

export interface FollowerParts {
  readonly hub: EventHub;
  readonly output: OutputStore;
  readonly projectId: string;
  readonly executionId: string;
  /** As it is now. */
  readonly read: () => Promise<ExecutionRecord>;
  /** Where to go on from; null for the beginning. */
  readonly from: Cursor | null;
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
  | { readonly kind: 'idle' };

/**
 * An execution as it goes on: its record at once and at each change, its output as it is committed, and the final record after all output.
 * Nothing is read before it is asked for, so a slow follower costs one piece of memory. It ends early when the signal aborts.
 */
export async function* followExecution(parts: FollowerParts): AsyncGenerator<Followed> {
  const { hub, output, projectId, executionId, read, signal, idleMs } = parts;
  using news = new News(hub, executionId, signal);
  let record = await read();
  let cursor = parts.from ?? { attemptId: shownAttempt(record), stdout: 0, stderr: 0 };
  let isNew = true;
  while (!signal.aborted) {
    if (isNew) yield { kind: 'execution', cursor, record };
    while (!signal.aborted && STREAMS.some((stream) => cursor[stream] < record.output[stream].bytes)) {
      for (const stream of STREAMS) {
        const until = Math.min(record.output[stream].bytes, cursor[stream] + TURN_BYTES);
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
    isNew = news.take();
    record = await read();
  }
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
