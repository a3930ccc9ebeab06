/** Clients that wait for jobs of a queue that tells nobody when one has ended: all of them by one query, again and again. */
const PAUSE_MS = 1;

export class Waiters {
  readonly #waiting = new Map<string, () => void>();
  readonly #endedOf: (ids: readonly string[]) => Promise<readonly string[]>;
  #asking = false;

  /** @param endedOf which of the ids have ended */
  constructor(endedOf: (ids: readonly string[]) => Promise<readonly string[]>) {
    this.#endedOf = endedOf;
  }

  /** Resolves when the job has ended. */
  async end(id: string): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.set(id, resolve);
    if (!this.#asking) void this.#ask();
    await promise;
  }

  async #ask(): Promise<void> {
    this.#asking = true;
    while (this.#waiting.size > 0) {
      for (const id of await this.#endedOf([...this.#waiting.keys()])) {
        this.#waiting.get(id)!();
        this.#waiting.delete(id);
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
    this.#asking = false;
  }
}
