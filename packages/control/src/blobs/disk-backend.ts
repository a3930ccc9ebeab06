import { randomUUID } from 'node:crypto';
import { copyFile, link, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type BlobRef, CocoreError } from '@cocore/protocol';
import type { BlobBackend, BlobReading, KeptBlob } from './backend.ts';

const READ_BYTES = 256 * 1024;
const HEX = /^[0-9a-f]{64}$/;

/** Files under `sha256/ab/…`. A file is linked or copied beside, synced, and renamed into place. */
export class DiskBackend implements BlobBackend {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  async open(): Promise<void> {
    await mkdir(this.#root, { recursive: true });
    await rm(this.#temporaryDirectory, { recursive: true, force: true });
    await mkdir(this.#temporaryDirectory);
  }

  async size(digest: string): Promise<number | null> {
    return (await stat(this.#path(digest)).catch(nullWhenAbsent))?.size ?? null;
  }

  /** Also where it is there already: a file that the disk has damaged is replaced. */
  async keep(path: string, blob: BlobRef): Promise<boolean> {
    const isNew = (await this.size(blob.digest)) === null;
    const temporary = join(this.#temporaryDirectory, randomUUID());
    try {
      // Another file system, or a file of too many names.
      await link(path, temporary).catch(() => copyFile(path, temporary));
      await sync(temporary);
      const place = this.#path(blob.digest);
      await mkdir(dirname(place), { recursive: true });
      await rename(temporary, place);
      await sync(dirname(place));
      await sync(this.#root);
      return isNew;
    } finally {
      // Renaming one name of a file over another of the same file leaves both.
      await rm(temporary, { force: true });
    }
  }

  async read(digest: string, from: number): Promise<BlobReading> {
    const file = await open(this.#path(digest), 'r').catch((cause: unknown) => {
      throw new CocoreError('blob_not_found', `there is no blob ${digest}`, { cause });
    });
    const { size } = await file.stat();
    const start = from < size ? from : 0;
    return { bytes: size, from: start, stream: file.createReadStream({ start, highWaterMark: READ_BYTES }) };
  }

  async remove(digest: string): Promise<void> {
    await rm(this.#path(digest), { force: true });
  }

  async *list(): AsyncIterable<KeptBlob> {
    for (const shard of await readdir(this.#root)) {
      for (const name of await readdir(join(this.#root, shard))) {
        const found = HEX.test(name) ? await stat(join(this.#root, shard, name)).catch(nullWhenAbsent) : null;
        // A file that was linked has the times of its own, older life; the time of the link is this one.
        if (found !== null) yield { digest: `sha256:${name}`, keptAtMs: found.ctimeMs };
      }
    }
  }

  directUrl(): Promise<null> {
    return Promise.resolve(null);
  }

  get #root(): string {
    return join(this.#directory, 'sha256');
  }

  get #temporaryDirectory(): string {
    return join(this.#directory, 'linking');
  }

  #path(digest: string): string {
    const hex = digest.slice('sha256:'.length);
    return join(this.#root, hex.slice(0, 2), hex);
  }
}

async function sync(path: string): Promise<void> {
  await using handle = await open(path, 'r');
  await handle.sync();
}

function nullWhenAbsent(error: NodeJS.ErrnoException): null {
  if (error.code === 'ENOENT') return null;
  throw error;
}
