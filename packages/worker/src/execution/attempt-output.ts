import {
  ATTEMPT_STREAMS,
  type AttemptStream,
  type OfStreams,
  ofStreams,
  STREAM_WINDOW_BYTES,
  type StreamEnd,
} from '@cocore/protocol';
import { createHash, type Hash } from 'node:crypto';
import { ByteWindow } from './byte-window.ts';

/** Bytes of one stream that are ready to be sent. */
export interface OutputPiece {
  readonly stream: AttemptStream;
  readonly offset: number;
  readonly data: Buffer;
  /** The data with free room before it, where that was asked for: what goes before it there goes with it in one piece, uncopied. */
  readonly message: Buffer;
}

const EMPTY_SHA256 = createHash('sha256').digest('hex');

/** One stream: kept bytes from what the server acknowledged on, and how far the guest may be told that it is kept. */
class OutputStream {
  readonly window: ByteWindow;
  /** Most streams stay empty: null until the first byte. */
  #hash: Hash | null = null;
  sent: number;
  /** Bytes that came after the limit: counted, not kept. */
  discarded = 0;
  digest: string | null = null;
  readonly #start: number;

  /** @param start how many bytes came in an earlier life of the daemon, and are not here */
  constructor(start = 0) {
    this.#start = start;
    this.window = new ByteWindow(STREAM_WINDOW_BYTES, start);
    this.sent = start;
  }

  /** What the guest may be told is kept. What was cut is no burden to anybody once the rest is acknowledged. */
  get credit(): number {
    const { start, end } = this.window;
    return start === end ? end + this.discarded : start;
  }

  push(bytes: Uint8Array): void {
    this.window.push(bytes);
    this.#hash ??= createHash('sha256');
    this.#hash.update(bytes);
  }

  end(): StreamEnd {
    this.digest ??= `sha256:${this.#hash?.digest('hex') ?? EMPTY_SHA256}`;
    const end = { bytes: this.window.end, sha256: this.digest, truncated: this.discarded > 0 };
    return this.#start === 0 ? end : { ...end, hashFrom: this.#start };
  }
}

/**
 * The streams of one attempt between guest and control server: limited, hashed, kept until the server has them, and sent
 * again from where the server says after a reconnection. It holds at most the window of each stream.
 */
export class AttemptOutput {
  readonly #streams = ofStreams(() => new OutputStream());
  readonly #onReady: () => void;
  readonly #onCredit: (stream: AttemptStream, offset: number) => void;
  #leftBytes: number;
  #turn = 0;
  #isGivenUp = false;

  /**
   * @param limitBytes of both output streams together; what the function left has limits that the guest must keep
   * @param onReady there is something to send
   * @param onCredit the guest may be told that everything before the offset is kept
   */
  constructor(
    limitBytes: number,
    onReady: () => void,
    onCredit: (stream: AttemptStream, offset: number) => void = () => undefined,
  ) {
    this.#leftBytes = limitBytes;
    this.#onReady = onReady;
    this.#onCredit = onCredit;
  }

  /** That of an attempt whose bytes are not here any more. */
  static spent(ends: OfStreams<StreamEnd>): AttemptOutput {
    const output = new AttemptOutput(0, () => undefined);
    for (const name of ATTEMPT_STREAMS) output.#streams[name] = new OutputStream(ends[name].bytes);
    return output;
  }

  /** Before anything came: what is before these offsets came in an earlier life of the daemon, and the server has it. */
  beginAt(offsets: OfStreams<number>): void {
    for (const name of ATTEMPT_STREAMS) this.#streams[name] = new OutputStream(offsets[name]);
    this.#leftBytes -= offsets.stdout + offsets.stderr;
  }

  /** Whether bytes came beyond the limit, and are not kept. */
  get isCut(): boolean {
    return Object.values(this.#streams).some(({ discarded }) => discarded > 0);
  }

  /** The next bytes of a stream, from the guest. */
  push(name: AttemptStream, data: Uint8Array): void {
    if (this.#isGivenUp) return;
    const stream = this.#streams[name];
    const isOutput = name === 'stdout' || name === 'stderr';
    const kept = isOutput ? data.subarray(0, this.#leftBytes) : data;
    if (isOutput) this.#leftBytes -= kept.length;
    stream.discarded += data.length - kept.length;
    if (kept.length > 0) {
      stream.push(kept);
      this.#onReady();
    }
    if (kept.length < data.length) this.#onCredit(name, stream.credit);
  }

  /** Up to `maxBytes` that were not sent yet, the streams in turn; null when all is sent. @param before how much room is left free before them */
  take(maxBytes: number, before = 0): OutputPiece | null {
    for (let tries = 0; tries < ATTEMPT_STREAMS.length && !this.#isGivenUp; tries += 1) {
      const name = ATTEMPT_STREAMS[this.#turn]!;
      this.#turn = (this.#turn + 1) % ATTEMPT_STREAMS.length;
      const stream = this.#streams[name];
      if (stream.sent === stream.window.end) continue;
      const message = stream.window.slice(stream.sent, maxBytes, before);
      const data = message.subarray(before);
      const piece = { stream: name, offset: stream.sent, data, message };
      stream.sent += data.length;
      return piece;
    }
    return null;
  }

  /** From which byte on each stream is here. */
  get heldFrom(): OfStreams<number> {
    return ofStreams((name) => this.#streams[name].window.start);
  }

  get allSent(): boolean {
    return this.#isGivenUp || Object.values(this.#streams).every((stream) => stream.sent === stream.window.end);
  }

  /** The server has everything before the offset. An offset that it cannot have is not believed. */
  acknowledge(name: AttemptStream, offset: number): void {
    const stream = this.#streams[name];
    if (offset <= stream.window.start || offset > stream.window.end) return;
    stream.window.forget(offset);
    stream.sent = Math.max(stream.sent, offset);
    this.#onCredit(name, stream.credit);
  }

  /**
   * A new session: the server has everything before the offset, and wants the rest (again). False when bytes that it wants are not here any
   * more.
   */
  resume(name: AttemptStream, offset: number): boolean {
    this.acknowledge(name, offset);
    const stream = this.#streams[name];
    stream.sent = stream.window.start;
    if (!this.allSent) this.#onReady();
    return offset >= stream.window.start;
  }

  /** As `resume` for all streams. @returns those of which bytes are gone */
  resumeAll(offsets: OfStreams<number>): AttemptStream[] {
    return ATTEMPT_STREAMS.filter((name) => !this.resume(name, offsets[name]));
  }

  /** Nothing more is taken or sent: what the server has is all that it gets. */
  giveUp(): void {
    this.#isGivenUp = true;
  }

  /** Lengths and digests of what was kept. After the first call nothing may be pushed. */
  end(): OfStreams<StreamEnd> {
    return ofStreams((name) => this.#streams[name].end());
  }
}
