import type { ServerResponse } from 'node:http';

/** Given to all: making an error for each costs more than reading the request. */
const GONE = new Error('the client has gone');

/** Who waits for answers. Few go before they have theirs, so a signal costs little until it aborts. */
export class Readers {
  readonly #stopping: AbortSignal;
  readonly #waiting = new Set<AbortController>();

  /** `stopping` aborts when the server stops. */
  constructor(stopping: AbortSignal) {
    this.#stopping = stopping;
    stopping.addEventListener('abort', () => {
      for (const controller of this.#waiting) controller.abort(GONE);
    });
  }

  /** Aborts when the client goes, or the server stops, before all of the answer is sent. */
  signalOf(answer: ServerResponse): AbortSignal {
    if (answer.destroyed || this.#stopping.aborted) return AbortSignal.abort(GONE);
    const controller = new AbortController();
    this.#waiting.add(controller);
    answer.once('close', () => {
      this.#waiting.delete(controller);
      if (!answer.writableFinished) controller.abort(GONE);
    });
    return controller.signal;
  }
}
