import { CocoreError } from './errors.ts';

/**
 * The events of an execution as frames (`docs/reference/event-frames.md`): what a follower is sent that asks for them by this media type, instead of
 * server-sent events. Output is the bytes that it is.
 */
export const EVENT_FRAMES_TYPE = 'application/vnd.cocore.events';

/** The head of a frame is the record of an execution at most, with its arguments, escaped. */
export const MAX_EVENT_HEAD_BYTES = 16 * 1024 * 1024;
export const MAX_EVENT_PAYLOAD_BYTES = 1024 * 1024;

/** Of head and payload: u32 each, little endian. */
const LENGTHS_BYTES = 8;

/** A frame without head and payload says nothing but that the connection is alive. */
export const IDLE_FRAME = new Uint8Array(LENGTHS_BYTES);

export interface EventFrame {
  /** The event as JSON, without what the payload is of it. */
  readonly head: string;
  /** In the pieces in which it came: views of them, in order. Empty for an event without payload. */
  readonly payload: readonly Uint8Array[];
}

/** All of a frame that goes before its payload. */
export function encodeEventHead(head: object, payloadBytes: number): Uint8Array {
  const text = new TextEncoder().encode(JSON.stringify(head));
  const bytes = new Uint8Array(LENGTHS_BYTES + text.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, text.length, true);
  view.setUint32(4, payloadBytes, true);
  bytes.set(text, LENGTHS_BYTES);
  return bytes;
}

/** The parts of a frame in their order. */
type Part = 'lengths' | 'head' | 'payload';

/**
 * Cuts a byte stream into frames. It copies no payload, and holds at most one frame, whose lengths it judges before it holds more.
 * After an error it must not be used again.
 */
export class EventFrameDecoder {
  #part: Part = 'lengths';
  /** How long the part is, and what is there of it. */
  #partBytes = LENGTHS_BYTES;
  #pieces: Uint8Array[] = [];
  #heldBytes = 0;
  #payloadBytes = 0;
  #head = '';

  /**
   * The frames that `bytes` complete, in order; those that say nothing are left out.
   *
   * @throws CocoreError `internal` for a frame that no server sends
   */
  *push(bytes: Uint8Array): Generator<EventFrame> {
    for (let at = 0; ;) {
      const piece = bytes.subarray(at, at + this.#partBytes - this.#heldBytes);
      at += piece.length;
      this.#heldBytes += piece.length;
      if (piece.length > 0) this.#pieces.push(piece);
      if (this.#heldBytes < this.#partBytes) return;
      const frame = this.#endPart(this.#pieces);
      this.#pieces = [];
      this.#heldBytes = 0;
      if (frame !== null) yield frame;
    }
  }

  /** Reads the part that is whole, and goes on to the next. @returns the frame, where it was its last */
  #endPart(pieces: readonly Uint8Array[]): EventFrame | null {
    switch (this.#part) {
      case 'lengths': {
        const lengths = joined(pieces);
        const view = new DataView(lengths.buffer, lengths.byteOffset, lengths.byteLength);
        const headBytes = view.getUint32(0, true);
        this.#payloadBytes = view.getUint32(4, true);
        checkLength('head', headBytes, MAX_EVENT_HEAD_BYTES);
        checkLength('payload', this.#payloadBytes, MAX_EVENT_PAYLOAD_BYTES);
        return this.#begin('head', headBytes);
      }
      case 'head':
        this.#head = new TextDecoder().decode(joined(pieces));
        return this.#begin('payload', this.#payloadBytes);
      case 'payload':
        this.#begin('lengths', LENGTHS_BYTES);
        return this.#head === '' && pieces.length === 0 ? null : { head: this.#head, payload: pieces };
    }
  }

  #begin(part: Part, bytes: number): null {
    this.#part = part;
    this.#partBytes = bytes;
    return null;
  }
}

function checkLength(what: string, bytes: number, maxBytes: number): void {
  if (bytes <= maxBytes) return;
  throw new CocoreError('internal', `the ${what} of an event is ${bytes} bytes long, and may be ${maxBytes}`);
}

function joined(pieces: readonly Uint8Array[]): Uint8Array {
  if (pieces.length === 1) return pieces[0]!;
  const all = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}
