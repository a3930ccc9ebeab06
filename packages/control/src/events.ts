/**
 * `changed`: its record. `output`: more bytes are committed. `ended`: its record is final, and all output committed. `maybe`: any of it may have happened at
 * another server whose word was lost.
 */
export type ExecutionSignal = 'changed' | 'output' | 'ended';
export type HeardSignal = ExecutionSignal | 'maybe';

interface Listener {
  readonly hear: (signal: HeardSignal) => void;
  /** Since listeners were last asked to look. */
  hasHeard: boolean;
}

/** Tells followers in this process that an execution has news. What the news is, they read from the store. */
export class EventHub {
  readonly #listeners = new Map<string, Set<Listener>>();
  /** Tells other servers, where there may be any. */
  tellOthers: ((executionId: string, signal: ExecutionSignal) => void) | null = null;

  publish(executionId: string, signal: ExecutionSignal): void {
    this.hear(executionId, signal);
    this.tellOthers?.(executionId, signal);
  }

  /** What another server has published. */
  hear(executionId: string, signal: HeardSignal): void {
    for (const listener of this.#listeners.get(executionId) ?? []) {
      listener.hasHeard = true;
      listener.hear(signal);
    }
  }

  /** Has those look who have heard nothing since they were last asked to. */
  look(): void {
    for (const listeners of this.#listeners.values()) {
      for (const listener of listeners) {
        if (!listener.hasHeard) listener.hear('maybe');
        listener.hasHeard = false;
      }
    }
  }

  /** @returns what ends the subscription */
  subscribe(executionId: string, hear: (signal: HeardSignal) => void): Disposable {
    const listener: Listener = { hear, hasHeard: true };
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
