import { once } from 'node:events';
import type { FastifyReply } from 'fastify';

export interface SentEvent {
  readonly event: string;
  /** A cursor to go on from, where there is one. */
  readonly id?: string;
  /** As JSON. */
  readonly data: unknown;
}

/** An answer of server-sent events. It is written only as fast as the client takes it. */
export class EventStream {
  readonly #raw: FastifyReply['raw'];
  readonly #signal: AbortSignal;

  /** Answers with status 200; from here on nothing can become a problem. `signal` aborts when nobody reads any more. */
  constructor(reply: FastifyReply, signal: AbortSignal) {
    reply.hijack();
    this.#raw = reply.raw;
    this.#signal = signal;
    for (const [name, value] of Object.entries(reply.getHeaders())) {
      if (value !== undefined) this.#raw.setHeader(name, value);
    }
    this.#raw.writeHead(200, { 'content-type': 'text/event-stream', 'x-accel-buffering': 'no' });
  }

  /** Resolves when there is room for more. */
  async send({ event, id, data }: SentEvent): Promise<void> {
    const cursor = id === undefined ? '' : `id: ${id}\n`;
    await this.#write(`event: ${event}\n${cursor}data: ${JSON.stringify(data)}\n\n`);
  }

  /** As `send`, of an event whose id and JSON are ASCII, so that nobody looks at each character again. */
  async sendAscii(event: string, id: string, json: string): Promise<void> {
    await this.#write(`event: ${event}\nid: ${id}\ndata: ${json}\n\n`, 'latin1');
  }

  /** Keeps what stands between here and the client from taking the connection for dead. */
  async keepAlive(): Promise<void> {
    await this.#write(': still here\n\n');
  }

  end(): void {
    this.#raw.end();
  }

  async #write(text: string, encoding: BufferEncoding = 'utf8'): Promise<void> {
    if (this.#signal.aborted || this.#raw.write(text, encoding)) return;
    await once(this.#raw, 'drain', { signal: this.#signal }).catch(() => undefined);
  }
}
