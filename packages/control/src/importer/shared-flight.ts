interface Flight<T, P> {
  readonly promise: Promise<T>;
  readonly stop: AbortController;
  readonly listeners: Set<(progress: P) => void>;
  waiters: number;
  latest: P | null;
}

/** One run for all who want the same at the same time. Who gives up leaves the others theirs; the last one's leaving ends the run. */
export class SharedFlights<T, P> {
  readonly #flights = new Map<string, Flight<T, P>>();

  /**
   * @param start runs when nobody waits for `key` yet
   * @throws the run's error, or the signal's reason
   */
  async join(
    key: string,
    start: (report: (progress: P) => void, signal: AbortSignal) => Promise<T>,
    onProgress: (progress: P) => void,
    signal: AbortSignal | null,
  ): Promise<T> {
    signal?.throwIfAborted();
    const flight = this.#flights.get(key) ?? this.#begin(key, start);
    flight.waiters += 1;
    flight.listeners.add(onProgress);
    if (flight.latest !== null) onProgress(flight.latest);
    const left = Promise.withResolvers<never>();
    const leave = () => left.reject(signal!.reason as Error);
    signal?.addEventListener('abort', leave, { once: true });
    try {
      return await Promise.race([flight.promise, left.promise]);
    } finally {
      signal?.removeEventListener('abort', leave);
      flight.listeners.delete(onProgress);
      flight.waiters -= 1;
      if (flight.waiters === 0) {
        // Whoever comes now must not join what is being ended.
        if (this.#flights.get(key) === flight) this.#flights.delete(key);
        flight.stop.abort(signal?.reason);
      }
    }
  }

  #begin(key: string, start: (report: (progress: P) => void, signal: AbortSignal) => Promise<T>): Flight<T, P> {
    const stop = new AbortController();
    const listeners = new Set<(progress: P) => void>();
    const report = (progress: P) => {
      flight.latest = progress;
      for (const listener of listeners) listener(progress);
    };
    const flight: Flight<T, P> = {
      promise: Promise.resolve().then(() => start(report, stop.signal)),
      stop,
      listeners,
      waiters: 0,
      latest: null,
    };
    // Nobody may be left to see it fail.
    flight.promise.catch(() => undefined);
    this.#flights.set(key, flight);
    return flight;
  }
}
