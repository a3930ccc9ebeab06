import {
  beginOutputFrame,
  MAX_OUTPUT_FRAME_DATA_BYTES,
  OUTPUT_HEADER_BYTES,
  type WorkerMessage,
} from '@cocore/protocol';
import type { AttemptOutput } from '../execution/attempt-output.ts';

/** The part of a WebSocket that is written to. */
export interface MessageSink {
  readonly bufferedAmount: number;
  /** What is sent waits for `flush`. */
  send(data: string | Uint8Array, written: (error?: Error | null) => void): void;
  flush(): void;
}

/** Output is held back while this much waits in the socket, so that a control message never waits behind more. */
const MAX_BUFFERED_BYTES = 256 * 1024;
/** How long the facts of an attempt may wait for more: what a short function is about goes as one, and is committed as one. */
const HOLD_MS = 50;

interface Source {
  readonly channel: number;
  readonly output: AttemptOutput;
  /** Facts that wait, in order; null once facts go at once. */
  held: WorkerMessage[] | null;
  /** Until when they do, by `performance.now`. */
  readonly heldUntilMs: number;
  /** Sent once, when all output before it has been. */
  atEnd: WorkerMessage | null;
}

/**
 * What one session sends. Control messages go in their turn of the event loop; output goes in turn over the attempts, as the socket takes it; the end of
 * an attempt goes after the last of its output. The first facts of an attempt wait for its output or its end, for a moment. What is sent in one turn
 * leaves in one write.
 */
export class Outbox {
  readonly #sink: MessageSink;
  readonly #sources = new Map<number, Source>();
  /** Those that may have something to send. */
  readonly #ready = new Set<Source>();
  /** The socket has enough, so that something waits. */
  #isHeldUp = false;
  #closed = false;
  #scheduled = false;
  #timer: NodeJS.Timeout | null = null;

  constructor(sink: MessageSink) {
    this.#sink = sink;
  }

  /** Sends a control message before any output that waits, and after the facts that do. */
  send(message: WorkerMessage): void {
    this.#releaseAll();
    this.#send(message);
  }

  /** @param first what the server must know before all else about the attempt; @param isUrgent whether it waits for nothing */
  add(channel: number, output: AttemptOutput, first: WorkerMessage, isUrgent: boolean): void {
    const heldUntilMs = performance.now() + HOLD_MS;
    this.#sources.set(channel, { channel, output, held: isUrgent ? null : [first], heldUntilMs, atEnd: null });
    if (isUrgent) this.#send(first);
    else this.#timer ??= setTimeout(() => this.#releaseDue(), HOLD_MS);
    this.wake(channel);
  }

  /** A fact about the channel's attempt, after those before. */
  tell(channel: number, message: WorkerMessage): void {
    const held = this.#sources.get(channel)?.held ?? null;
    if (held === null) this.#send(message);
    else held.push(message);
  }

  /** Sends `message` after the channel's output, and the channel is done. */
  finish(channel: number, message: WorkerMessage): void {
    const source = this.#sources.get(channel);
    if (source === undefined || source.atEnd !== null) return;
    source.atEnd = message;
    this.wake(channel);
  }

  remove(channel: number): void {
    const source = this.#sources.get(channel);
    if (source !== undefined) this.#remove(source);
  }

  close(): void {
    this.#closed = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#sources.clear();
    this.#ready.clear();
    this.#sink.flush();
  }

  /** The channel may have something to send. Work is put off to the end of the turn, so that pieces that come together go together. */
  wake(channel: number): void {
    const source = this.#sources.get(channel);
    if (source === undefined) return;
    this.#ready.add(source);
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled || this.#closed) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#pump();
      this.#sink.flush();
      this.#scheduled = false;
    });
  }

  readonly #written = () => {
    if (this.#isHeldUp) this.#schedule();
  };

  #send(message: WorkerMessage): void {
    if (this.#closed) return;
    this.#sink.send(JSON.stringify(message), this.#written);
    this.#schedule();
  }

  #remove(source: Source): void {
    this.#sources.delete(source.channel);
    this.#ready.delete(source);
    this.#release(source);
  }

  #release(source: Source): void {
    const { held } = source;
    source.held = null;
    for (const message of held ?? []) this.#send(message);
  }

  /** Those that have waited long enough. */
  #releaseDue(): void {
    this.#timer = null;
    const nowMs = performance.now();
    for (const source of this.#sources.values()) {
      if (source.held === null) continue;
      // Timers fire up to a millisecond early, and those that come next may go with it.
      if (source.heldUntilMs - nowMs < 1) {
        this.#release(source);
        continue;
      }
      this.#timer = setTimeout(() => this.#releaseDue(), source.heldUntilMs - nowMs);
      return;
    }
  }

  #releaseAll(): void {
    if (this.#timer === null) return;
    clearTimeout(this.#timer);
    this.#timer = null;
    for (const source of this.#sources.values()) this.#release(source);
  }

  #pump(): void {
    this.#isHeldUp = false;
    // A source that was served goes to the end of the line.
    for (const source of this.#ready) {
      this.#isHeldUp = this.#sink.bufferedAmount > MAX_BUFFERED_BYTES;
      if (this.#closed || this.#isHeldUp) return;
      const { channel } = source;
      const piece = source.output.take(MAX_OUTPUT_FRAME_DATA_BYTES, OUTPUT_HEADER_BYTES);
      this.#ready.delete(source);
      if (piece !== null) {
        this.#release(source);
        beginOutputFrame(piece.message, { channel, stream: piece.stream, offset: piece.offset });
        this.#sink.send(piece.message, this.#written);
        this.#ready.add(source);
      } else if (source.atEnd !== null) {
        this.#remove(source);
        this.#send(source.atEnd);
      }
    }
  }
}
