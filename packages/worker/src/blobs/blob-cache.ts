import { type BlobRef, CocoreError } from '@cocore/protocol';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { chmod, mkdir, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';

/** Fetches a blob by digest. What it yields is not believed. */
export type BlobSource = (digest: string, signal: AbortSignal) => Promise<Readable>;

/** A blob in use: its file stays, unchanged, until the lease is disposed. */
export interface BlobLease extends Disposable {
  readonly path: string;
}

interface Entry {
  readonly path: string;
  readonly bytes: number;
  pins: number;
  usedAtMs: number;
}

interface Download {
  readonly entry: Promise<Entry>;
  readonly abort: AbortController;
  waiting: number;
}

export interface BlobCacheOptions {
  readonly directory: string;
  readonly budgetBytes: number;
  readonly source: BlobSource;
  /** Files that the owner gave: used where they are, never evicted. */
  readonly given?: readonly string[];
  /** The pause before a blob that did not come whole is asked for again. */
  readonly retryDelayMs?: number;
}

/** How often one blob is asked for: the server may be restarted meanwhile. */
const MAX_TRIES = 4;

const FILE_NAME = /^[0-9a-f]{64}$/;

async function sha256OfFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  return `sha256:${hash.digest('hex')}`;
}

/**
 * Blobs on the worker's disk, by digest. A file is placed only when it is whole and its digest is right; one download
 * serves all who wait for it; files in use are never evicted; the others go by age when the budget is needed.
 */
export class BlobCache implements AsyncDisposable {
  readonly #options: BlobCacheOptions;
  readonly #entries = new Map<string, Entry>();
  readonly #downloads = new Map<string, Download>();
  readonly #given = new Map<string, string>();
  /** Bytes of downloads under way: they count against the budget from their beginning. */
  #reservedBytes = 0;
  #serial = 0;

  private constructor(options: BlobCacheOptions) {
    this.#options = options;
  }

  /** Takes up what an earlier life placed, and removes what it had not finished. */
  static async open(options: BlobCacheOptions): Promise<BlobCache> {
    const cache = new BlobCache(options);
    const { directory } = options;
    await mkdir(directory, { recursive: true, mode: 0o700 });
    for (const name of await readdir(directory)) {
      const path = join(directory, name);
      if (!FILE_NAME.test(name)) {
        await rm(path, { recursive: true, force: true });
        continue;
      }
      const { size, mtimeMs } = await stat(path);
      cache.#entries.set(`sha256:${name}`, { path, bytes: size, pins: 0, usedAtMs: mtimeMs });
    }
    for (const path of options.given ?? []) cache.#given.set(await sha256OfFile(path), path);
    return cache;
  }

  /**
   * The blob's file, pinned.
   *
   * @throws CocoreError `blob_not_found` when it cannot be fetched whole, or does not fit the budget
   */
  async use(ref: BlobRef, signal: AbortSignal): Promise<BlobLease> {
    signal.throwIfAborted();
    const given = this.#given.get(ref.digest);
    if (given !== undefined) return { path: given, [Symbol.dispose]: () => undefined };
    const entry = this.#entries.get(ref.digest) ?? (await this.#download(ref, signal));
    entry.pins += 1;
    entry.usedAtMs = Date.now();
    let pinned = true;
    return {
      path: entry.path,
      [Symbol.dispose]: () => {
        if (pinned) entry.pins -= 1;
        pinned = false;
      },
    };
  }

  async #download(ref: BlobRef, signal: AbortSignal): Promise<Entry> {
    let download = this.#downloads.get(ref.digest);
    if (download === undefined) {
      const abort = new AbortController();
      download = { abort, entry: this.#fetch(ref, abort.signal), waiting: 0 };
      download.entry.catch(() => undefined).finally(() => this.#downloads.delete(ref.digest));
      this.#downloads.set(ref.digest, download);
    }
    download.waiting += 1;
    const { promise: aborted, reject } = Promise.withResolvers<never>();
    const onAbort = () => reject(signal.reason as Error);
    signal.addEventListener('abort', onAbort);
    try {
      return await Promise.race([download.entry, aborted]);
    } finally {
      signal.removeEventListener('abort', onAbort);
      download.waiting -= 1;
      if (download.waiting === 0) download.abort.abort(new Error('nobody waits for the blob'));
    }
  }

  async #fetch(ref: BlobRef, signal: AbortSignal): Promise<Entry> {
    await this.#makeRoom(ref);
    this.#reservedBytes += ref.bytes;
    this.#serial += 1;
    const temporary = join(this.#options.directory, `${process.pid}-${this.#serial}.part`);
    try {
      await this.#receiveAtLast(ref, temporary, signal);
      const path = join(this.#options.directory, ref.digest.slice('sha256:'.length));
      await rename(temporary, path);
      const entry = { path, bytes: ref.bytes, pins: 0, usedAtMs: Date.now() };
      this.#entries.set(ref.digest, entry);
      return entry;
    } catch (cause) {
      await rm(temporary, { force: true });
      if (cause instanceof CocoreError || signal.aborted) throw cause;
      const why = cause instanceof Error ? cause.message : 'unknown';
      throw new CocoreError('blob_not_found', `blob ${ref.digest} cannot be fetched: ${why}`, { cause });
    } finally {
      this.#reservedBytes -= ref.bytes;
    }
  }

  async #receiveAtLast(ref: BlobRef, path: string, signal: AbortSignal): Promise<void> {
    for (let tries = 1; ; tries += 1) {
      try {
        await this.#receive(ref, path, signal);
        return;
      } catch (error) {
        if (tries === MAX_TRIES || signal.aborted) throw error;
        await rm(path, { force: true });
        await sleep(this.#options.retryDelayMs ?? 500, undefined, { signal });
      }
    }
  }

  async #receive(ref: BlobRef, path: string, signal: AbortSignal): Promise<void> {
    const body = await this.#options.source(ref.digest, signal);
    const hash = createHash('sha256');
    let bytes = 0;
    await using file = await open(path, 'wx', 0o400);
    await pipeline(
      body,
      async function (chunks: AsyncIterable<Buffer>) {
        for await (const chunk of chunks) {
          bytes += chunk.length;
          if (bytes > ref.bytes) throw new Error(`it is longer than ${ref.bytes} bytes`);
          hash.update(chunk);
          await file.writeFile(chunk);
        }
      },
      { signal },
    );
    if (bytes !== ref.bytes) throw new Error(`it has ${bytes} bytes instead of ${ref.bytes}`);
    if (`sha256:${hash.digest('hex')}` !== ref.digest) throw new Error('its digest is another');
    await file.sync();
    // Sandboxes read it under uids of their own.
    await chmod(path, 0o444);
  }

  async #makeRoom(ref: BlobRef): Promise<void> {
    const held = () => this.#reservedBytes + [...this.#entries.values()].reduce((sum, entry) => sum + entry.bytes, 0);
    const idle = [...this.#entries].filter(([, entry]) => entry.pins === 0);
    idle.sort(([, one], [, other]) => one.usedAtMs - other.usedAtMs);
    for (const [digest, entry] of idle) {
      if (held() + ref.bytes <= this.#options.budgetBytes) return;
      this.#entries.delete(digest);
      await rm(entry.path, { force: true });
    }
    if (held() + ref.bytes > this.#options.budgetBytes) {
      throw new CocoreError(
        'blob_not_found',
        `blob ${ref.digest} has ${ref.bytes} bytes, more than the disk budget of ${this.#options.budgetBytes} has left`,
      );
    }
  }

  /** Ends downloads, and writes down when each file was last used. */
  async [Symbol.asyncDispose](): Promise<void> {
    const downloads = [...this.#downloads.values()];
    for (const { abort } of downloads) abort.abort(new Error('the daemon stops'));
    await Promise.allSettled(downloads.map(({ entry }) => entry));
    for (const { path, usedAtMs } of this.#entries.values()) {
      await utimes(path, usedAtMs / 1000, usedAtMs / 1000).catch(() => undefined);
    }
  }
}
