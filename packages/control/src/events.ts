import type { ExecutionRecord } from '@cocore/protocol';

/**
 * `changed`: its record. `output`: more bytes are committed. `ended`: its record is final, and all output committed. `maybe`: any of it may have happened at
 * another server whose word was lost.
 */
export type ExecutionSignal = 'changed' | 'output' | 'ended';
export type HeardSignal = ExecutionSignal | 'maybe';

/** @param record with `ended`, where whoever published it has it */
type Hear = (signal: HeardSignal, record: ExecutionRecord | null) => void;

interface Listener {
  readonly hear: Hear;
  /** It waits for the end, and wants the record of it. */
  readonly isAwaiting: boolean;
  /** Since listeners were last asked to look. */
  hasHeard: boolean;
}

/** Tells followers in this process that an execution has news. What the news is, they read from the store, but for the record of an end that they wait for. */
export class EventHub {
  readonly #listeners = new Map<string, Set<Listener>>();
  /** Tells other servers, where there may be any. */
  tellOthers: ((executionId: string, signal: ExecutionSignal) => void) | null = null;

  /** @param record with `ended`, if it is at hand */
  publish(executionId: string, signal: ExecutionSignal, record: ExecutionRecord | null = null): void {
    this.hear(executionId, signal, record);
    this.tellOthers?.(executionId, signal);
  }

  /** What another server has published. */
  hear(executionId: string, signal: HeardSignal, record: ExecutionRecord | null = null): void {
    for (const listener of this.#listeners.get(executionId) ?? []) {
      listener.hasHeard = true;
      listener.hear(signal, record);
    }
  }

  /** Whether somebody in this process waits for its end, and would have its record with it. */
  isAwaited(executionId: string): boolean {
    for (const { isAwaiting } of this.#listeners.get(executionId) ?? []) if (isAwaiting) return true;
    return false;
  }

  /** Has those look who have heard nothing since they were last asked to. */
  look(): void {
    for (const listeners of this.#listeners.values()) {
      for (const listener of listeners) {
        if (!listener.hasHeard) listener.hear('maybe', null);
        listener.hasHeard = false;
      }
    }
  }

  /** @returns what ends the subscription */
  subscribe(executionId: string, hear: Hear, { isAwaiting = false } = {}): Disposable {
    const listener: Listener = { hear, isAwaiting, hasHeard: true };
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
