/** `changed`: its record. `output`: more bytes are committed. `ended`: its record is final, and all output committed. */
export type ExecutionSignal = 'changed' | 'output' | 'ended';

/** Tells followers in this process that an execution has news. What the news is, they read from the store. */
export class EventHub {
  readonly #listeners = new Map<string, Set<(signal: ExecutionSignal) => void>>();

  publish(executionId: string, signal: ExecutionSignal): void {
    for (const listener of this.#listeners.get(executionId) ?? []) listener(signal);
  }

  /** @returns what ends the subscription */
  subscribe(executionId: string, listener: (signal: ExecutionSignal) => void): Disposable {
    let listeners = this.#listeners.get(executionId);
    if (listeners === undefined) {
      listeners = new Set();
      this.#listeners.set(executionId, listeners);
    }
    listeners.add(listener);
    return {
      [Symbol.dispose]: () => {
        listeners.delete(listener);
        if (listeners.size === 0 && this.#listeners.get(executionId) === listeners) this.#listeners.delete(executionId);
      },
    };
  }
}
