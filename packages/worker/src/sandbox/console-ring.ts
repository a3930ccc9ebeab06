const FIRST_BYTES = 1024;

/** The last bytes of a console: what a guest prints costs at most `capacity` bytes, however much it is, and little when it is little. */
export class ConsoleRing {
  readonly #capacity: number;
  #ring = Buffer.alloc(0);
  #written = 0;

  constructor(capacity = 64 * 1024) {
    this.#capacity = capacity;
  }

  push(bytes: Uint8Array): void {
    this.#grow(this.#written + bytes.length);
    const kept = bytes.subarray(Math.max(0, bytes.length - this.#ring.length));
    let at = (this.#written + bytes.length - kept.length) % this.#ring.length;
    for (let from = 0; from < kept.length;) {
      const count = Math.min(kept.length - from, this.#ring.length - at);
      this.#ring.set(kept.subarray(from, from + count), at);
      from += count;
      at = (at + count) % this.#ring.length;
    }
    this.#written += bytes.length;
  }

  /** Before it has its capacity, it begins with the first byte. */
  #grow(needed: number): void {
    if (needed <= this.#ring.length || this.#ring.length === this.#capacity) return;
    const before = this.#ring;
    this.#ring = Buffer.alloc(Math.min(this.#capacity, Math.max(FIRST_BYTES, 2 * before.length, needed)));
    this.#ring.set(before);
  }

  /** Printable ASCII and newlines; everything else is a dot, so that it is safe in logs and on terminals. */
  text(): string {
    const end = this.#written % this.#capacity;
    const bytes =
      this.#written <= this.#capacity
        ? this.#ring.subarray(0, this.#written)
        : Buffer.concat([this.#ring.subarray(end), this.#ring.subarray(0, end)]);
    return bytes
      .toString('latin1')
      .replaceAll('\r\n', '\n')
      .replaceAll(/[^\n\x20-\x7e]/g, '.');
  }
}

/** The last line that says something, cut to `length`. */
export function lastLine(text: string, length = 200): string {
  const lines = text.split('\n').map((line) => line.trim());
  return (lines.findLast((line) => line !== '') ?? '').slice(0, length);
}
