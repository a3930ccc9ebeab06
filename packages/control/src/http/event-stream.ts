import type { OutputHead } from '@cocore/protocol';
import type { FastifyReply } from 'fastify';
import { StreamedAnswer } from './streamed-answer.ts';

export interface SentEvent {
  readonly event: string;
  /** A cursor to go on from, where there is one. */
  readonly id?: string;
  /** As JSON. */
  readonly data: unknown;
}

/** An answer of server-sent events. */
export class EventStream {
  readonly #answer: StreamedAnswer;

  constructor(reply: FastifyReply, signal: AbortSignal) {
    this.#answer = new StreamedAnswer(reply, signal, 'text/event-stream');
  }

  /** Resolves when there is room for more. */
  async send({ event, id, data }: SentEvent): Promise<void> {
    const cursor = id === undefined ? '' : `id: ${id}\n`;
    await this.#answer.writeText(`event: ${event}\n${cursor}data: ${JSON.stringify(data)}\n\n`);
  }

  /** An `OutputEvent`. Base64 needs no escapes, which `JSON.stringify` would look for in each character, and all of it is ASCII. */
  async sendOutput(id: string, head: OutputHead, bytes: Uint8Array): Promise<void> {
    const base64 = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64');
    const json = `${JSON.stringify(head).slice(0, -1)},"base64":"${base64}"}`;
    await this.#answer.writeText(`event: output\nid: ${id}\ndata: ${json}\n\n`, 'latin1');
  }

  /** Keeps what stands between here and the client from taking the connection for dead. */
  async keepAlive(): Promise<void> {
    await this.#answer.writeText(': still here\n\n');
  }

  end(): void {
    this.#answer.end();
  }
}
