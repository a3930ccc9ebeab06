import type { ServerMessage } from '@cocore/protocol';

/** The part of a WebSocket that is written to. */
export interface MessageSink {
  readonly bufferedAmount: number;
  send(data: string | Buffer, options: { binary: false; fin: boolean }, written: (error?: Error | null) => void): void;
  ping(): void;
}

/** The socket is given no more while it has so much: what it has, nothing overtakes any more. */
const MAX_BUFFERED_BYTES = 256 * 1024;
/** Longer messages go in pieces, so that it is seen that they go. */
const PIECE_BYTES = 256 * 1024;

interface Waiting {
  readonly text: string;
  readonly bytes: number;
  readonly sent: (() => void) | null;
}

/** A long message of which the socket has the beginning. */
interface Begun {
  readonly bytes: Buffer;
  readonly sent: (() => void) | null;
  at: number;
}

/**
 * What one session sends. Assignments may be large: all else goes before those that wait. What takes an assignment back is said in its place where that
 * waits, which is to say that neither is sent; so it never comes first.
 */
export class Outbox {
  readonly #sink: MessageSink;
  readonly #onLeft: () => void;
  readonly #first: Waiting[] = [];
  readonly #assignments = new Map<string, Waiting>();
  #begun: Begun | null = null;
  #waitingBytes = 0;
  #leftBytes = 0;
  #isClosed = false;

  /** @param onLeft is called whenever less is unsent than before */
  constructor(sink: MessageSink, onLeft: () => void) {
    this.#sink = sink;
    this.#onLeft = onLeft;
  }

  /** What waits here, and in the socket. */
  get unsentBytes(): number {
    return this.#waitingBytes + this.#sink.bufferedAmount;
  }

  /** What the network has taken in all. */
  get leftBytes(): number {
    return this.#leftBytes;
  }

  /** @param sent is called when nothing of it is here any more, unless the session ends before */
  send(message: ServerMessage, sent: (() => void) | null = null): void {
    if (this.#isClosed) return;
    if (message.type === 'AttemptRevoke' && this.#takeBack(message.attemptId)) return;
    const text = JSON.stringify(message);
    const waiting = { text, bytes: Buffer.byteLength(text), sent };
    this.#waitingBytes += waiting.bytes;
    if (message.type === 'AttemptAssign') this.#assignments.set(message.attemptId, waiting);
    else this.#first.push(waiting);
    this.#feed();
  }

  close(): void {
    this.#isClosed = true;
    this.#first.length = 0;
    this.#assignments.clear();
    this.#begun = null;
    this.#waitingBytes = 0;
  }

  /** Whether its assignment had not been begun: then its worker never hears of it. */
  #takeBack(attemptId: string): boolean {
    const waiting = this.#assignments.get(attemptId);
    if (waiting === undefined) return false;
    this.#assignments.delete(attemptId);
    this.#waitingBytes -= waiting.bytes;
    waiting.sent?.();
    return true;
  }

  #feed(): void {
    while (!this.#isClosed && this.#sink.bufferedAmount < MAX_BUFFERED_BYTES) {
      if (this.#begun !== null) {
        this.#sendPiece(this.#begun);
        continue;
      }
      const next = this.#takeNext();
      if (next === null) return;
      const { text, bytes, sent } = next;
      if (bytes > PIECE_BYTES) {
        this.#begun = { bytes: Buffer.from(text), sent, at: 0 };
      } else {
        this.#waitingBytes -= bytes;
        this.#sink.send(text, { binary: false, fin: true }, (error) => this.#left(bytes, sent, error));
      }
    }
  }

  #takeNext(): Waiting | null {
    const first = this.#first.shift();
    if (first !== undefined) return first;
    for (const [attemptId, waiting] of this.#assignments) {
      this.#assignments.delete(attemptId);
      return waiting;
    }
    return null;
  }

  #sendPiece(begun: Begun): void {
    const piece = begun.bytes.subarray(begun.at, begun.at + PIECE_BYTES);
    begun.at += piece.length;
    const fin = begun.at === begun.bytes.length;
    this.#waitingBytes -= piece.length;
    const sent = fin ? begun.sent : null;
    this.#sink.send(piece, { binary: false, fin }, (error) => this.#left(piece.length, sent, error));
    // Its worker hears nothing of a message before all of it is there, but that this server lives.
    if (fin) this.#begun = null;
    else this.#sink.ping();
  }

  #left(bytes: number, sent: (() => void) | null, error: Error | null | undefined): void {
    if (this.#isClosed || (error !== undefined && error !== null)) return;
    this.#leftBytes += bytes;
    sent?.();
    this.#feed();
    this.#onLeft();
  }
}
