import { once } from 'node:events';
import type { FastifyReply } from 'fastify';

/** An answer whose end is not known yet. It is written only as fast as the client takes it. */
export class StreamedAnswer {
  readonly #raw: FastifyReply['raw'];
  readonly #signal: AbortSignal;

  /** Answers with status 200; from here on nothing can become a problem. `signal` aborts when nobody reads any more. */
  constructor(reply: FastifyReply, signal: AbortSignal, mediaType: string) {
    reply.hijack();
    this.#raw = reply.raw;
    this.#signal = signal;
    for (const [name, value] of Object.entries(reply.getHeaders())) {
      if (value !== undefined) this.#raw.setHeader(name, value);
    }
    this.#raw.writeHead(200, { 'content-type': mediaType, 'x-accel-buffering': 'no' });
  }

  /** Resolves when there is room for more. */
  async writeText(text: string, encoding: BufferEncoding = 'utf8'): Promise<void> {
    if (this.#signal.aborted) return;
    this.#raw.write(text, encoding);
    await this.#room();
  }

  /** As `writeText`; the pieces leave in one write, and none is copied. */
  async writeBytes(...pieces: readonly Uint8Array[]): Promise<void> {
    if (this.#signal.aborted) return;
    // Node holds its socket corked until the end of the turn; what is corked by `cork()` leaves in several writes.
    for (const piece of pieces) this.#raw.write(piece);
    await this.#room();
  }

  end(): void {
    this.#raw.end();
  }

  async #room(): Promise<void> {
    if (!this.#raw.writableNeedDrain) return;
    await once(this.#raw, 'drain', { signal: this.#signal }).catch(() => undefined);
  }
}
