/** One at a time for each digest, in the order in which they ask. */
export class DigestLocks {
  readonly #last = new Map<string, Promise<void>>();

  async hold<T>(digest: string, work: () => Promise<T>): Promise<T> {
    const { promise: done, resolve } = Promise.withResolvers<void>();
    const before = this.#last.get(digest);
    this.#last.set(digest, done);
    try {
      await before;
      return await work();
    } finally {
      if (this.#last.get(digest) === done) this.#last.delete(digest);
      resolve();
    }
  }
}
