import { type ExecutionRecord, isTerminal } from '@cocore/protocol';
import type { EventHub, HeardSignal } from '../events.ts';

/** Listens from when it is made, so that an end between reading and waiting is not missed. */
export class AwaitedEnd implements Disposable {
  readonly #subscription: Disposable;
  #hasEnded = false;
  #record: ExecutionRecord | null = null;
  #wake: (() => void) | null = null;

  constructor(hub: EventHub, executionId: string, read: () => Promise<ExecutionRecord>) {
    const hear = (signal: HeardSignal, record: ExecutionRecord | null) => {
      if (signal === 'ended') this.#end(record);
      // What cannot be read now is asked for again.
      if (signal === 'maybe')
        read().then(
          (now) => isTerminal(now.state) && this.#end(now),
          () => undefined,
        );
    };
    this.#subscription = hub.subscribe(executionId, hear, { isAwaiting: true });
  }

  /** @returns the record if it came with the end; null if it is to be read, which has ended or not */
  within(ms: number, signal: AbortSignal): Promise<ExecutionRecord | null> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        signal.removeEventListener('abort', done);
        resolve(this.#record);
      };
      const timer = setTimeout(done, ms);
      signal.addEventListener('abort', done);
      this.#wake = done;
      if (this.#hasEnded || signal.aborted) done();
    });
  }

  #end(record: ExecutionRecord | null): void {
    this.#hasEnded = true;
    this.#record ??= record;
    this.#wake?.();
  }

  [Symbol.dispose](): void {
    this.#subscription[Symbol.dispose]();
  }
}
