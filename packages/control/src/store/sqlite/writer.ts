import { Worker } from 'node:worker_threads';
import { CocoreError, type ErrorCode } from '@cocore/protocol';
import { DiskFailure } from '../../disk-failure.ts';
import { askedBy, type AskedWrites, type WriteVerb } from '../verbs/verbs.ts';

/** What goes to the writer's thread. The time is the asker's: threads share no clock that a test could move. */
export interface WriteRequest {
  readonly id: number;
  readonly verb: WriteVerb;
  readonly nowMs: number;
  readonly parameters: readonly unknown[];
}

export type WriteReply = { readonly id: number } & (
  | { readonly value: unknown }
  | {
      readonly refused: {
        readonly code: ErrorCode;
        readonly message: string;
        readonly details: Record<string, unknown>;
      };
    }
  | { readonly failed: string; readonly isDisk: boolean }
);

export type FromThread =
  | { readonly kind: 'ready' }
  | { readonly kind: 'closed' }
  | { readonly kind: 'replies'; readonly replies: readonly WriteReply[] };
export type ToThread =
  { readonly kind: 'writes'; readonly writes: readonly WriteRequest[] } | { readonly kind: 'close' };

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/**
 * The thread that writes. A commit waits for the disk, which took half of the time of the thread that it ran in (40 % of the server's, at
 * 1,250 executions a second); here it waits beside the gateway, and what arrives in the meantime is the next group.
 */
export class Writer {
  readonly verbs: AskedWrites;
  readonly #thread: Worker;
  readonly #now: () => number;
  readonly #waiting = new Map<number, Waiting>();
  #batch: WriteRequest[] = [];
  #hasFailed = false;
  #lastId = 0;
  #closing: Promise<void> | null = null;

  private constructor(thread: Worker, now: () => number) {
    this.#thread = thread;
    this.#now = now;
    this.verbs = askedBy((verb, parameters) => this.#ask(verb, parameters));
    thread.on('message', (message: FromThread) => {
      if (message.kind === 'replies') for (const reply of message.replies) this.#settle(reply);
    });
  }

  /** Starts the thread and waits until the schema is up to date. A thread that dies later takes the process with it. */
  static async start(path: string, now: () => number): Promise<Writer> {
    const thread = new Worker(new URL('./writer-thread.ts', import.meta.url), { workerData: { path, nowMs: now() } });
    await new Promise<void>((resolve, reject) => {
      thread.once('error', reject);
      thread.once('message', () => {
        thread.off('error', reject);
        resolve();
      });
    });
    return new Writer(thread, now);
  }

  /** Commits what was asked for, then ends the thread. */
  close(): Promise<void> {
    this.#closing ??= new Promise((resolve) => {
      this.#post();
      this.#thread.once('exit', () => resolve());
      this.#thread.postMessage({ kind: 'close' } satisfies ToThread);
    });
    return this.#closing;
  }

  /** Whether it can write: when a write has failed for another reason than that it was refused, another is tried. */
  async isWritable(): Promise<boolean> {
    if (!this.#hasFailed) return true;
    this.#hasFailed = false;
    return this.verbs.tryWrite().then(
      () => true,
      () => false,
    );
  }

  #ask(verb: WriteVerb, parameters: readonly unknown[]): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#closing !== null) {
        reject(new Error('the store is closed'));
        return;
      }
      this.#lastId += 1;
      this.#waiting.set(this.#lastId, { resolve, reject });
      if (this.#batch.length === 0) setImmediate(() => this.#post());
      this.#batch.push({ id: this.#lastId, verb, nowMs: this.#now(), parameters });
    });
  }

  #post(): void {
    const writes = this.#batch;
    this.#batch = [];
    if (writes.length > 0) this.#thread.postMessage({ kind: 'writes', writes } satisfies ToThread);
  }

  #settle(reply: WriteReply): void {
    const waiting = this.#waiting.get(reply.id)!;
    this.#waiting.delete(reply.id);
    if ('value' in reply) waiting.resolve(reply.value);
    else if ('refused' in reply) {
      const { code, message, details } = reply.refused;
      waiting.reject(new CocoreError(code, message, { details }));
    } else {
      this.#hasFailed = true;
      waiting.reject(reply.isDisk ? new DiskFailure(reply.failed) : new Error(reply.failed));
    }
  }
}
