/** A share of the disk budget, for one download. */
interface Waiting {
  readonly bytes: number;
  readonly admit: () => void;
}

/** How many downloads go on at once; more would only share the same line. */
const MAX_DOWNLOADS = 8;

/**
 * The budget that blobs and downloads share. A download begins when its whole size has room and few others are under way; until then
 * it waits, in the order of asking, but one that has room goes past one that has not: what holds the room may wait for it.
 */
export class Room {
  readonly #budgetBytes: number;
  /** Gives room back, if it can all be given, by dropping what nobody uses. */
  readonly #makeRoom: (bytes: number) => boolean;
  readonly #waiting = new Set<Waiting>();
  #usedBytes = 0;
  #downloads = 0;

  constructor(budgetBytes: number, makeRoom: (bytes: number) => boolean) {
    this.#budgetBytes = budgetBytes;
    this.#makeRoom = makeRoom;
  }

  /** How much more is taken than there is. */
  get excessBytes(): number {
    return Math.max(0, this.#usedBytes - this.#budgetBytes);
  }

  fits(bytes: number): boolean {
    return bytes <= this.#budgetBytes;
  }

  /** Takes room for a download. @throws the signal's reason */
  async begin(bytes: number, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const waiting = { bytes, admit: resolve };
    const onAbort = () => {
      if (this.#waiting.delete(waiting)) reject(signal.reason as Error);
    };
    signal.addEventListener('abort', onAbort);
    this.#waiting.add(waiting);
    this.retry();
    try {
      await promise;
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** A download is over; what it brought stays when it is kept. */
  end(bytes: number, isKept: boolean): void {
    this.#downloads -= 1;
    if (!isKept) this.#usedBytes -= bytes;
    this.retry();
  }

  /** A blob is there that no download brought. */
  take(bytes: number): void {
    this.#usedBytes += bytes;
  }

  /** A blob is gone. */
  give(bytes: number): void {
    this.#usedBytes -= bytes;
  }

  /** Something has changed that downloads may wait for. */
  retry(): void {
    for (const waiting of this.#waiting) {
      if (this.#downloads >= MAX_DOWNLOADS) return;
      const missing = this.#usedBytes + waiting.bytes - this.#budgetBytes;
      if (missing > 0 && !this.#makeRoom(missing)) continue;
      this.#waiting.delete(waiting);
      this.#usedBytes += waiting.bytes;
      this.#downloads += 1;
      waiting.admit();
    }
  }
}
