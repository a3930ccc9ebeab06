import { createHash, randomUUID } from 'node:crypto';
import { createReadStream, type ReadStream } from 'node:fs';
import { link, mkdir, open, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type BlobRef, CocoreError } from '@cocore/protocol';

/** Says whether a blob may be kept, once its size and digest are known: it throws when not. */
export type AdmitBlob = (blob: BlobRef) => Promise<void>;

/**
 * Files named by their SHA-256, under `blobs/sha256/ab/…`. A blob is written beside, synced, and renamed into place, so
 * what has its name is whole.
 */
export class BlobStore {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** Removes what an earlier life of the server left half-written. */
  async open(): Promise<void> {
    await rm(this.#temporaryDirectory, { recursive: true, force: true });
    await mkdir(this.#temporaryDirectory, { recursive: true });
    await mkdir(join(this.#directory, 'sha256'), { recursive: true });
  }

  /**
   * Keeps a stream of bytes. Nothing is left of one that fails or is not admitted.
   *
   * @throws CocoreError `payload_too_large`
   */
  async put(source: AsyncIterable<Uint8Array>, maxBytes: number, admit?: AdmitBlob): Promise<BlobRef> {
    const temporary = join(this.#temporaryDirectory, randomUUID());
    const hash = createHash('sha256');
    let bytes = 0;
    try {
      {
        await using file = await open(temporary, 'wx', 0o600);
        for await (const chunk of source) {
          bytes += chunk.length;
          if (bytes > maxBytes) {
            throw new CocoreError('payload_too_large', `a blob may have at most ${maxBytes} bytes`);
          }
          hash.update(chunk);
          await file.writeFile(chunk);
        }
        await file.sync();
      }
      const blob = { digest: `sha256:${hash.digest('hex')}`, bytes };
      await admit?.(blob);
      await this.#moveIn(temporary, blob.digest);
      return blob;
    } finally {
      await rm(temporary, { force: true });
    }
  }

  /**
   * Keeps a large file of the host: linked where the file system can, else copied. It is read once; a note of its path,
   * size and times stands for it later.
   */
  async adopt(path: string): Promise<BlobRef> {
    const { size, mtimeMs, ino } = await stat(path);
    const notePath = join(
      this.#directory,
      `adopted-${createHash('sha256').update(path).digest('hex').slice(0, 16)}.json`,
    );
    const facts = JSON.stringify({ path, size, mtimeMs, ino });
    const note = await readFile(notePath, 'utf8').catch(() => null);
    if (note !== null) {
      const { facts: noted, digest } = JSON.parse(note) as { facts: string; digest: string };
      const kept = await stat(this.path(digest)).catch(() => null);
      if (noted === facts && kept?.size === size) return { digest, bytes: size };
    }
    const hash = createHash('sha256');
    for await (const chunk of createReadStream(path, { highWaterMark: 1024 * 1024 })) hash.update(chunk as Buffer);
    const digest = `sha256:${hash.digest('hex')}`;
    await this.#linkOrCopy(path, digest, size);
    await writeFile(notePath, JSON.stringify({ facts, digest }));
    return { digest, bytes: size };
  }

  /** @throws CocoreError `blob_not_found` */
  async read(digest: string): Promise<{ bytes: number; stream: ReadStream }> {
    const file = await open(this.path(digest), 'r').catch((cause: unknown) => {
      throw new CocoreError('blob_not_found', `there is no blob ${digest}`, { cause });
    });
    const { size } = await file.stat();
    return { bytes: size, stream: file.createReadStream({ highWaterMark: 256 * 1024 }) };
  }

  path(digest: string): string {
    const hex = digest.slice('sha256:'.length);
    return join(this.#directory, 'sha256', hex.slice(0, 2), hex);
  }

  get #temporaryDirectory(): string {
    return join(this.#directory, 'tmp');
  }

  async #linkOrCopy(path: string, digest: string, bytes: number): Promise<void> {
    const temporary = join(this.#temporaryDirectory, randomUUID());
    const linked = await link(path, temporary).then(
      () => true,
      () => false,
    );
    if (!linked) {
      const copied = await this.put(createReadStream(path, { highWaterMark: 1024 * 1024 }), bytes);
      if (copied.digest !== digest) throw new Error(`${path} changed while it was read`);
      return;
    }
    try {
      await this.#moveIn(temporary, digest);
    } finally {
      await rm(temporary, { force: true });
    }
  }

  async #moveIn(temporary: string, digest: string): Promise<void> {
    const path = this.path(digest);
    await mkdir(dirname(path), { recursive: true });
    await rename(temporary, path);
    for (const directory of [dirname(path), dirname(dirname(path))]) {
      await using handle = await open(directory, 'r');
      await handle.sync();
    }
  }
}
