import { randomUUID } from 'node:crypto';
import { type FileHandle, mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';

type Read = (offset: number, length: number) => Promise<Uint8Array>;

/** Bytes that lie somewhere, and are read a piece at a time when they are needed. */
export class Content {
  readonly bytes: number;
  readonly #read: Read;
  readonly #offset: number;

  private constructor(bytes: number, read: Read, offset = 0) {
    this.bytes = bytes;
    this.#read = read;
    this.#offset = offset;
  }

  static of(bytes: Uint8Array): Content {
    return new Content(bytes.length, (offset, length) => Promise.resolve(bytes.subarray(offset, offset + length)));
  }

  /** Of a file that stays open and as it is. */
  static ofFile(file: FileHandle, bytes: number): Content {
    return new Content(bytes, async (offset, length) => {
      const buffer = Buffer.allocUnsafe(length);
      const { bytesRead } = await file.read(buffer, 0, length, offset);
      return buffer.subarray(0, bytesRead);
    });
  }

  /** A part of it, which must lie within it. */
  slice(offset: number, bytes: number): Content {
    return new Content(bytes, this.#read, this.#offset + offset);
  }

  /** At most `length` bytes from `offset` on. @throws Error when there are none where there should be some */
  async read(offset: number, length: number): Promise<Uint8Array> {
    const wanted = Math.min(length, this.bytes - offset);
    if (wanted <= 0) return new Uint8Array();
    const piece = await this.#read(this.#offset + offset, wanted);
    if (piece.length === 0) throw new Error('a file is shorter than it was');
    return piece;
  }

  async *pieces(pieceBytes: number): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < this.bytes;) {
      const piece = await this.read(at, pieceBytes);
      at += piece.length;
      yield piece;
    }
  }
}

/** A stream's bytes in a file without a name: they go when it is disposed of, and with the process at the latest. */
export class SpooledContent implements AsyncDisposable {
  readonly content: Content;
  readonly #file: FileHandle;

  private constructor(file: FileHandle, bytes: number) {
    this.#file = file;
    this.content = Content.ofFile(file, bytes);
  }

  /** @param directory for the file; made when needed */
  static async of(source: AsyncIterable<Uint8Array>, directory: string): Promise<SpooledContent> {
    await mkdir(directory, { recursive: true });
    const path = join(directory, `spool-${randomUUID()}`);
    await using scope = new AsyncDisposableStack();
    const file = scope.use(await open(path, 'wx+', 0o600));
    await rm(path);
    let bytes = 0;
    for await (const piece of source) {
      await file.writeFile(piece);
      bytes += piece.length;
    }
    scope.move();
    return new SpooledContent(file, bytes);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#file.close();
  }
}
