import type { AttemptStream } from '@cocore/protocol';

/** Of all streams together. */
const RECENT_BYTES = 16 * 1024 * 1024;
/** What a piece counts as at least: it costs more than its bytes. */
const MIN_PIECE_BYTES = 4 * 1024;
/** A smaller one may be a small part of what came over the network with it, which must not be kept for it. */
const OWN_BYTES = 16 * 1024;

interface Piece {
  readonly key: string;
  readonly offset: number;
  readonly bytes: Uint8Array;
  /** What it counts as. */
  readonly cost: number;
}

/**
 * What was committed last, so that who follows it is given it from memory: it is read within moments, by as many as follow. Committed bytes never change,
 * so what is here is right; what is not here is read from where it is kept.
 */
export class RecentOutput {
  readonly #maxBytes: number;
  readonly #minPieceBytes: number;
  /** In the order in which they came. */
  readonly #pieces = new Set<Piece>();
  readonly #byStream = new Map<string, Piece[]>();
  #cost = 0;

  constructor(maxBytes = RECENT_BYTES, minPieceBytes = MIN_PIECE_BYTES) {
    this.#maxBytes = maxBytes;
    this.#minPieceBytes = minPieceBytes;
  }

  /** Committed bytes; the array is not written to any more. */
  add(attemptId: string, stream: AttemptStream, offset: number, bytes: Uint8Array): void {
    const key = keyOf(attemptId, stream);
    const own = bytes.length < OWN_BYTES ? Uint8Array.from(bytes) : bytes;
    const piece = { key, offset, bytes: own, cost: Math.max(bytes.length, this.#minPieceBytes) };
    const of = this.#byStream.get(key);
    if (of === undefined) this.#byStream.set(key, [piece]);
    else of.push(piece);
    this.#pieces.add(piece);
    this.#cost += piece.cost;
    for (const oldest of this.#pieces) {
      if (this.#cost <= this.#maxBytes) break;
      this.#forget(oldest);
    }
  }

  /** What is here from the offset on, in one piece; null when that byte is not. */
  at(attemptId: string, stream: AttemptStream, offset: number): Uint8Array | null {
    const piece = this.#byStream
      .get(keyOf(attemptId, stream))
      ?.findLast((one) => one.offset <= offset && offset < one.offset + one.bytes.length);
    return piece === undefined ? null : piece.bytes.subarray(offset - piece.offset);
  }

  #forget(piece: Piece): void {
    this.#pieces.delete(piece);
    this.#cost -= piece.cost;
    const of = this.#byStream.get(piece.key)!;
    of.shift();
    if (of.length === 0) this.#byStream.delete(piece.key);
  }
}

const keyOf = (attemptId: string, stream: AttemptStream): string => `${attemptId}.${stream}`;
