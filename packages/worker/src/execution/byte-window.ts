const NOTHING = Buffer.alloc(0);

/**
 * The bytes of a stream between two moving offsets, in a ring that grows to at most `capacity`: what a stream holds does
 * not depend on how it was cut into pieces.
 */
export class ByteWindow {
  readonly #capacity: number;
  #ring = NOTHING;
  #start: number;
  #end: number;

  /** @param start the offset of the first byte that comes */
  constructor(capacity: number, start = 0) {
    this.#capacity = capacity;
    this.#start = start;
    this.#end = start;
  }

  /** The first byte held. */
  get start(): number {
    return this.#start;
  }

  /** One after the last byte held. */
  get end(): number {
    return this.#end;
  }

  /** Copies the bytes in. @throws RangeError when they do not fit */
  push(bytes: Uint8Array): void {
    const needed = this.#end - this.#start + bytes.length;
    if (needed > this.#capacity) throw new RangeError(`a window of ${this.#capacity} bytes cannot hold ${needed}`);
    if (needed > this.#ring.length) this.#grow(needed);
    const at = this.#end % this.#ring.length;
    const first = bytes.subarray(0, this.#ring.length - at);
    this.#ring.set(first, at);
    this.#ring.set(bytes.subarray(first.length), 0);
    this.#end += bytes.length;
  }

  /**
   * A copy of at most `count` bytes from `offset`, which is held.
   *
   * @param before so many bytes are left free before them, and belong to what is returned
   */
  slice(offset: number, count: number, before = 0): Buffer {
    const to = Math.min(offset + count, this.#end);
    if (offset < this.#start || offset > this.#end) throw new RangeError(`the window does not hold ${offset}`);
    const length = to - offset;
    const out = Buffer.allocUnsafe(before + length);
    if (length === 0) return out;
    const at = offset % this.#ring.length;
    const first = this.#ring.subarray(at, Math.min(at + length, this.#ring.length));
    out.set(first, before);
    out.set(this.#ring.subarray(0, length - first.length), before + first.length);
    return out;
  }

  /** Forgets the bytes before `offset`, which is not beyond the end. */
  forget(offset: number): void {
    if (offset > this.#end) throw new RangeError(`the window ends before ${offset}`);
    this.#start = Math.max(this.#start, offset);
    if (this.#start === this.#end) this.#ring = NOTHING;
  }

  #grow(needed: number): void {
    const held = this.slice(this.#start, this.#end - this.#start);
    let size = Math.max(4096, this.#ring.length);
    while (size < needed) size *= 2;
    this.#ring = Buffer.allocUnsafe(Math.min(size, this.#capacity));
    const at = this.#start % this.#ring.length;
    const first = held.subarray(0, this.#ring.length - at);
    this.#ring.set(first, at);
    this.#ring.set(held.subarray(first.length), 0);
  }
}
