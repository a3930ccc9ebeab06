/** The last bytes of a console: what a guest prints costs at most `capacity` bytes, however much it is. */
export class ConsoleRing {
  readonly #ring: Buffer;
  #written = 0;

  constructor(capacity = 64 * 1024) {
    this.#ring = Buffer.alloc(capacity);
  }

  push(bytes: Uint8Array): void {
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

  /** Printable ASCII and newlines; everything else is a dot, so that it is safe in logs and on terminals. */
  text(): string {
    const end = this.#written % this.#ring.length;
    const bytes =
      this.#written <= this.#ring.length
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
