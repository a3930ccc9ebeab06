import { readSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { BLOCK_BYTES, MAX_INLINE_BYTES } from './erofs-format.ts';
import type { Content, File } from './tree.ts';

const PIECE_BYTES = 1024 * 1024;

/**
 * The bytes of files as they come out of the layers: whole blocks where the image has them, from its second block on, and what is left after
 * them, which the image has beside the inodes, in a file of tails.
 */
export class Contents implements AsyncDisposable {
  readonly #image: FileHandle;
  readonly #tails: FileHandle;
  /** The first block after all that came. */
  #endBlock = 1;
  #tailsBytes = 0;
  #pendingBlocks: Buffer[] = [];
  #pendingTails: Buffer[] = [];
  #writtenBlocks = BLOCK_BYTES;
  #writtenTails = 0;
  /** Of the file whose bytes come. */
  #blocksLeft = 0;
  #padding = 0;

  private constructor(image: FileHandle, tails: FileHandle) {
    this.#image = image;
    this.#tails = tails;
  }

  static async open(imagePath: string, tailsPath: string): Promise<Contents> {
    const image = await open(imagePath, 'wx+', 0o600);
    return new Contents(image, await open(tailsPath, 'wx+', 0o600));
  }

  get image(): FileHandle {
    return this.#image;
  }

  /** The place of a file of so many bytes, which come next. */
  begin(bytes: number): Content {
    const rest = bytes % BLOCK_BYTES;
    const tailBytes = rest <= MAX_INLINE_BYTES ? rest : 0;
    const blocks = Math.ceil((bytes - tailBytes) / BLOCK_BYTES);
    const content = { block: this.#endBlock, blocks, tailAt: this.#tailsBytes, tailBytes };
    this.#endBlock += blocks;
    this.#tailsBytes += tailBytes;
    this.#blocksLeft = bytes - tailBytes;
    this.#padding = blocks * BLOCK_BYTES - this.#blocksLeft;
    return content;
  }

  /** Bytes of the file, which may not change before they are flushed. */
  push(chunk: Buffer): void {
    const inBlocks = Math.min(chunk.length, this.#blocksLeft);
    if (inBlocks > 0) {
      this.#pendingBlocks.push(chunk.subarray(0, inBlocks));
      this.#blocksLeft -= inBlocks;
      if (this.#blocksLeft === 0 && this.#padding > 0) this.#pendingBlocks.push(Buffer.alloc(this.#padding));
    }
    if (inBlocks < chunk.length) this.#pendingTails.push(chunk.subarray(inBlocks));
  }

  async flush(): Promise<void> {
    // Of small files there are many small pieces; writing each by itself would take most of the time.
    const [blocks, tails] = [Buffer.concat(this.#pendingBlocks), Buffer.concat(this.#pendingTails)];
    this.#pendingBlocks = [];
    this.#pendingTails = [];
    await writeAt(this.#image, blocks, this.#writtenBlocks);
    await writeAt(this.#tails, tails, this.#writtenTails);
    this.#writtenBlocks += blocks.length;
    this.#writtenTails += tails.length;
  }

  /**
   * Closes the gaps that files have left which a later layer removed or replaced.
   *
   * @param files those that are left, in the order in which they came
   * @returns the first block after them
   */
  async close(files: readonly File[]): Promise<number> {
    let end = 1;
    for (const { content } of files) {
      if (content.blocks === 0) continue;
      if (content.block !== end) await this.#move(content, end);
      end += content.blocks;
    }
    await this.#image.truncate(end * BLOCK_BYTES);
    return end;
  }

  /** What comes after the whole blocks. */
  readTail({ tailAt, tailBytes }: Content, into: Buffer, at: number): void {
    if (readSync(this.#tails.fd, into, at, tailBytes, tailAt) !== tailBytes) throw new Error('a tail is gone');
  }

  /** At most so many bytes from the beginning of a file. */
  async read({ bytes, content }: File, maxBytes: number): Promise<Buffer> {
    const buffer = Buffer.alloc(Math.min(bytes, maxBytes));
    const inBlocks = Math.min(bytes - content.tailBytes, buffer.length);
    await this.#image.read(buffer, 0, inBlocks, content.block * BLOCK_BYTES);
    await this.#tails.read(buffer, inBlocks, buffer.length - inBlocks, content.tailAt);
    return buffer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#image.close();
    await this.#tails.close();
  }

  async #move(content: Content, block: number): Promise<void> {
    const buffer = Buffer.alloc(PIECE_BYTES);
    const bytes = content.blocks * BLOCK_BYTES;
    for (let done = 0; done < bytes;) {
      const length = Math.min(bytes - done, buffer.length);
      const { bytesRead } = await this.#image.read(buffer, 0, length, content.block * BLOCK_BYTES + done);
      if (bytesRead === 0) throw new Error('a file is gone');
      await writeAt(this.#image, buffer.subarray(0, bytesRead), block * BLOCK_BYTES + done);
      done += bytesRead;
    }
    content.block = block;
  }
}

export async function writeAt(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    done += (await file.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
  }
}
