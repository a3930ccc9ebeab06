import { encodeEventHead, EVENT_FRAMES_TYPE, IDLE_FRAME, type OutputHead } from '@cocore/protocol';
import type { FastifyReply } from 'fastify';
import type { SentEvent } from './event-stream.ts';
import { StreamedAnswer } from './streamed-answer.ts';

/** An answer of event frames: what an `EventStream` says, with output as bytes. */
export class FrameStream {
  readonly #answer: StreamedAnswer;

  constructor(reply: FastifyReply, signal: AbortSignal) {
    this.#answer = new StreamedAnswer(reply, signal, EVENT_FRAMES_TYPE);
  }

  /** Resolves when there is room for more. */
  async send({ event, id, data }: SentEvent): Promise<void> {
    await this.#answer.writeBytes(encodeEventHead({ event, id, data }, 0));
  }

  /** The bytes are not written to any more. */
  async sendOutput(id: string, data: OutputHead, bytes: Uint8Array): Promise<void> {
    await this.#answer.writeBytes(encodeEventHead({ event: 'output', id, data }, bytes.length), bytes);
  }

  async keepAlive(): Promise<void> {
    await this.#answer.writeBytes(IDLE_FRAME);
  }

  end(): void {
    this.#answer.end();
  }
}
