import { CUT_OFF_MS } from '@cocore/protocol';
import { type Clock, uptimeClock } from '../host/clock.ts';

export interface ContactOptions {
  /** The control server may not have heard this worker for the limit; called again and again while that is so. */
  readonly onCutOff: () => void;
  readonly uptime?: Clock;
  readonly limitMs?: number;
  readonly lookMs?: number;
}

/**
 * How long the control server may not have heard this worker, over all sessions: only an answer proves that it did, and no later than what it answers
 * was sent. So the lease that the server counts from what it hears is never over before this limit is.
 */
export class Contact implements Disposable {
  readonly #options: ContactOptions;
  readonly #uptime: Clock;
  readonly #timer: NodeJS.Timeout;
  #heardMs: number;

  constructor(options: ContactOptions) {
    this.#options = options;
    this.#uptime = options.uptime ?? uptimeClock();
    this.#heardMs = this.#uptime();
    this.#timer = setInterval(() => this.look(), options.lookMs ?? 1_000).unref();
  }

  /** The server has answered what was sent at this time, by the uptime clock. */
  answered(sentMs: number): void {
    this.#heardMs = Math.max(this.#heardMs, sentMs);
  }

  look(): void {
    if (this.#uptime() - this.#heardMs > (this.#options.limitMs ?? CUT_OFF_MS)) this.#options.onCutOff();
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}
