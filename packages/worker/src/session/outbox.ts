import { encodeOutputFrame, MAX_OUTPUT_FRAME_DATA_BYTES, type WorkerMessage } from '@cocore/protocol';
import type { AttemptOutput } from '../execution/attempt-output.ts';

/** The part of a WebSocket that is written to. */
export interface MessageSink {
  readonly bufferedAmount: number;
  send(data: string | Uint8Array, written: (error?: Error | null) => void): void;
}

/** Output is held back while this much waits in the socket, so that a control message never waits behind more. */
const MAX_BUFFERED_BYTES = 256 * 1024;

interface Source {
  readonly channel: number;
  readonly output: AttemptOutput;
  /** Sent once, when all output before it has been. */
  atEnd: WorkerMessage | null;
}

/**
 * What one session sends. Control messages go at once; output goes in turn over the attempts, as the socket takes it; the end of
 * an attempt goes after the last of its output.
 */
export class Outbox {
  readonly #sink: MessageSink;
  readonly #sources = new Map<number, Source>();
  #closed = false;
  #scheduled = false;

  constructor(sink: MessageSink) {
    this.#sink = sink;
  }

  /** Sends a control message before any output that waits. */
  send(message: WorkerMessage): void {
    if (!this.#closed) this.#sink.send(JSON.stringify(message), this.#written);
  }

  add(channel: number, output: AttemptOutput): void {
    this.#sources.set(channel, { channel, output, atEnd: null });
    this.wake();
  }

  /** Sends `message` after the channel's output, and the channel is done. */
  finish(channel: number, message: WorkerMessage): void {
    const source = this.#sources.get(channel);
    if (source === undefined || source.atEnd !== null) return;
    source.atEnd = message;
    this.wake();
  }

  remove(channel: number): void {
    this.#sources.delete(channel);
  }

  close(): void {
    this.#closed = true;
    this.#sources.clear();
  }

  /** There may be something to send. Work is put off to the end of the turn, so that pieces that come together go together. */
  wake(): void {
    if (this.#scheduled || this.#closed) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#pump();
    });
  }

  readonly #written = () => this.wake();

  #pump(): void {
    // A source that was served goes to the end of the line.
    for (const [channel, source] of this.#sources) {
      if (this.#closed || this.#sink.bufferedAmount > MAX_BUFFERED_BYTES) return;
      const piece = source.output.take(MAX_OUTPUT_FRAME_DATA_BYTES);
      if (piece !== null) {
        this.#sink.send(encodeOutputFrame({ channel, ...piece }), this.#written);
        this.#sources.delete(channel);
        this.#sources.set(channel, source);
      } else if (source.atEnd !== null) {
        this.#sources.delete(channel);
        this.send(source.atEnd);
      }
    }
  }
}
