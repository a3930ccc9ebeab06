import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import { syncDirectory } from '../host/place-durably.ts';

/** Written as zeros when it is made: a write into what is there already needs no change of the file system's own records to be durable. */
const LOG_BYTES = 1024 * 1024;

/**
 * A file of lines, of which each write is durable before it is answered. What is behind the last line is zeros, or a line that was being written when
 * the process died.
 */
export class EndLog {
  readonly path: string;
  readonly #synced: FileHandle;
  readonly #plain: FileHandle;
  readonly #size: number;
  #end: number;
  /** The last of what is there, which the disk may not have yet. */
  #loose: Buffer = Buffer.alloc(0);

  private constructor(path: string, size: number, synced: FileHandle, plain: FileHandle, end: number) {
    this.path = path;
    this.#size = size;
    this.#synced = synced;
    this.#plain = plain;
    this.#end = end;
  }

  /** A new one that begins with `text`. When it resolves, the file and its name are on the disk. */
  static async create(directory: string, name: string, text: string): Promise<EndLog> {
    const path = join(directory, name);
    const plain = await open(path, 'wx', 0o600);
    try {
      const bytes = Buffer.from(text);
      // Twice what is in it at first: what is copied from log to log stays in proportion to what is written.
      const size = Math.max(LOG_BYTES, 2 * bytes.length);
      await plain.writeFile(Buffer.concat([bytes], size));
      await plain.sync();
      await syncDirectory(directory);
      return new EndLog(path, size, await open(path, constants.O_WRONLY | constants.O_DSYNC), plain, bytes.length);
    } catch (error) {
      await plain.close();
      throw error;
    }
  }

  /** Whether another of that many bytes goes in without making the file longer. */
  hasRoom(bytes: number): boolean {
    return this.#end + bytes <= this.#size;
  }

  /** @param isDurable whether it must outlive a power cut: with all before it, since nothing is read behind a gap */
  async append(text: string, isDurable: boolean): Promise<void> {
    const bytes = Buffer.from(text);
    const unsynced = Buffer.concat([this.#loose, bytes]);
    if (isDurable) await writeAt(this.#synced, unsynced, this.#end - this.#loose.length);
    else await writeAt(this.#plain, bytes, this.#end);
    this.#loose = isDurable ? Buffer.alloc(0) : unsynced;
    this.#end += bytes.length;
  }

  async close(): Promise<void> {
    await Promise.all([this.#synced.close(), this.#plain.close()]);
  }
}

async function writeAt(file: FileHandle, bytes: Buffer, position: number): Promise<void> {
  for (let written = 0; written < bytes.length;) {
    written += (await file.write(bytes, written, bytes.length - written, position + written)).bytesWritten;
  }
}

/** The lines of such a file. The last one is left out when it is not whole. */
export function linesOf(bytes: Buffer): string[] {
  const zero = bytes.indexOf(0);
  const text = (zero === -1 ? bytes : bytes.subarray(0, zero)).toString('utf8');
  return text.split('\n').slice(0, -1);
}
