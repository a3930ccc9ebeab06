import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { OutputStore } from './output/output-store.ts';
import type { Retention, Store } from './store/store.ts';

const SWEEP_MS = 60_000;
/** What one transaction removes; other writes go between two. */
const KEYS_PAGE = 500;
const EXECUTIONS_PAGE = 50;

export interface RecordSweeperParts {
  readonly store: Store;
  readonly output: OutputStore;
  readonly retention: Retention;
  readonly log: Logger;
}

/** Removes what the store keeps for a time only, in pages, so that nobody waits for it. */
export class RecordSweeper {
  readonly #parts: RecordSweeperParts;

  constructor(parts: RecordSweeperParts) {
    this.#parts = parts;
  }

  /** Sweeps at once and every minute until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.sweep(signal).catch((error: unknown) =>
        this.#parts.log.error({ err: error }, 'a sweep of records failed'),
      );
      await sleep(SWEEP_MS, undefined, { signal, ref: false }).catch(() => undefined);
    }
  }

  async sweep(signal: AbortSignal): Promise<void> {
    const { store, retention, log } = this.#parts;
    while (!signal.aborted && (await store.forgetIdempotencyKeys(KEYS_PAGE)) === KEYS_PAGE);
    let expired = 0;
    for (let page = EXECUTIONS_PAGE; page === EXECUTIONS_PAGE && !signal.aborted; expired += page) {
      page = await store.expireExecutions(retention, EXECUTIONS_PAGE);
    }
    // Files of an earlier life, which ended between the two, are among them.
    await this.#removeOutputs(signal);
    if (expired > 0) log.info({ expired }, 'executions that are kept no more are removed');
  }

  /** What cannot be removed now is tried again at the next sweep, and holds up no other. */
  async #removeOutputs(signal: AbortSignal): Promise<void> {
    const { store, output, log } = this.#parts;
    for (let after = ''; !signal.aborted;) {
      const removed = await store.listRemovedOutputs(after, EXECUTIONS_PAGE);
      if (removed.length === 0) return;
      const gone: string[] = [];
      for (const one of removed) {
        const { attemptId } = one;
        await output.remove(one).then(
          () => gone.push(attemptId),
          (error: unknown) => log.warn({ err: error, attemptId }, 'output that is kept no more could not be removed'),
        );
      }
      await store.forgetRemovedOutputs(gone);
      after = removed.at(-1)!.attemptId;
    }
  }
}
