import { STDIN_WINDOW_BYTES } from '@cocore/protocol';
import type { Writable } from 'node:stream';

/**
 * The function's standard input: written to its pipe in order, acknowledged when the pipe has taken it. What waits here is bounded
 * by the window. Once nobody reads any more, everything is acknowledged and dropped.
 */
export class FunctionInput {
  readonly #pipe: Writable;
  readonly #acknowledge: (offset: number) => void;
  #received = 0;
  #acknowledged = 0;
  #told = 0;
  #telling = false;
  #ended = false;
  #closed = false;

  constructor(pipe: Writable, acknowledge: (offset: number) => void) {
    this.#pipe = pipe;
    this.#acknowledge = acknowledge;
    const closed = () => {
      this.#closed = true;
      this.#took(this.#received);
    };
    pipe.on('error', closed).on('close', closed);
  }

  /** False when it is not the next bytes, or more than may be sent. */
  push(offset: number, data: Uint8Array): boolean {
    const end = offset + data.length;
    if (this.#ended || offset !== this.#received || end > this.#told + STDIN_WINDOW_BYTES) return false;
    this.#received = end;
    // Both ends are in one process: the host has not counted these bytes as sent yet.
    if (this.#closed) queueMicrotask(() => this.#took(end));
    else
      this.#pipe.write(data, (error) => {
        if (error == null) this.#took(end);
      });
    return true;
  }

  end(length: number): boolean {
    if (this.#ended || length !== this.#received) return false;
    this.#ended = true;
    this.#pipe.end();
    return true;
  }

  /** From now on it is told what was taken: acknowledgements come after the start. */
  tell(): void {
    this.#telling = true;
    this.#took(this.#acknowledged);
  }

  #took(offset: number): void {
    this.#acknowledged = Math.max(this.#acknowledged, offset);
    if (!this.#telling || this.#acknowledged === this.#told) return;
    this.#told = this.#acknowledged;
    this.#acknowledge(this.#told);
  }
}
