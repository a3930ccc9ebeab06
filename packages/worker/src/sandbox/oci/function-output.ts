import { MAX_GUEST_DATA_BYTES, STREAM_WINDOW_BYTES } from '@cocore/protocol';
import type { Readable } from 'node:stream';

/**
 * One output stream of a function, read from its pipe as fast as credit and receiver allow, and no faster: what is held
 * here is at most one chunk, then the pipe is full and the function waits.
 */
export class FunctionOutput {
  /** Bytes passed on. */
  length = 0;
  /** Resolves when the last byte has been passed on. */
  readonly over: Promise<void>;
  readonly #pipe: Readable;
  readonly #send: (offset: number, data: Uint8Array) => boolean;
  readonly #over = Promise.withResolvers<void>();
  #acknowledged = 0;
  #open = false;
  #ended = false;

  /** @param send takes a piece, and says whether it can take another now */
  constructor(pipe: Readable, send: (offset: number, data: Uint8Array) => boolean) {
    this.#pipe = pipe;
    this.#send = send;
    this.over = this.#over.promise;
    const ended = () => {
      this.#ended = true;
      this.pump();
    };
    pipe.on('readable', () => this.pump());
    pipe.on('end', ended).on('error', ended).on('close', ended);
  }

  /** From now on output goes out; before, it waits in the pipe. */
  open(): void {
    this.#open = true;
    this.pump();
  }

  /** False for what was never sent. */
  acknowledge(offset: number): boolean {
    if (offset > this.length) return false;
    this.#acknowledged = Math.max(this.#acknowledged, offset);
    this.pump();
    return true;
  }

  pump(): void {
    if (!this.#open) return;
    for (;;) {
      const room = this.#acknowledged + STREAM_WINDOW_BYTES - this.length;
      if (room <= 0) return;
      const chunk = this.#pipe.read() as Buffer | null;
      if (chunk === null) break;
      const piece = chunk.subarray(0, Math.min(room, MAX_GUEST_DATA_BYTES));
      if (piece.length < chunk.length) this.#pipe.unshift(chunk.subarray(piece.length));
      const offset = this.length;
      this.length += piece.length;
      if (!this.#send(offset, piece)) return;
    }
    if (this.#ended) this.#over.resolve();
  }

  /** What the pipe holds now, of a process that wrote little and ended. */
  async rest(): Promise<Buffer> {
    const chunks: Buffer[] = [];
    this.#pipe.on('readable', () => {
      for (let chunk; (chunk = this.#pipe.read() as Buffer | null) !== null;) chunks.push(chunk);
    });
    for (let chunk; (chunk = this.#pipe.read() as Buffer | null) !== null;) chunks.push(chunk);
    if (!this.#ended) await new Promise<void>((resolve) => this.#pipe.once('close', () => resolve()));
    return Buffer.concat(chunks);
  }
}
