import type { Clock } from '../../src/index.ts';

/** A clock that moves only when it is told to. */
export class ManualClock implements Clock {
  #nowMs = Date.UTC(2026, 0, 1);
  #uptimeMs = 1_000_000;

  readonly nowMs = () => this.#nowMs;
  readonly uptimeMs = () => this.#uptimeMs;

  advance(ms: number): void {
    this.#nowMs += ms;
    this.#uptimeMs += ms;
  }

  /** Sets the time of day otherwise, as an administrator or a time server does. */
  jump(ms: number): void {
    this.#nowMs += ms;
  }
}
