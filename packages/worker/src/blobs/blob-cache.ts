import { type BlobRef, CocoreError, LARGE_BLOB_BYTES, MAX_TOLD_BLOBS } from '@cocore/protocol';
import { createHash } from 'node:crypto';
import { createReadStream, type Stats, statSync } from 'node:fs';
import { chmod, mkdir, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { type BlobSource, download } from './download.ts';
import { Room } from './room.ts';

/** A blob in use: its file stays, unchanged, until the lease is disposed. */
export interface BlobLease extends Disposable {
  readonly path: string;
}

interface Entry {
  readonly digest: string;
  readonly path: string;
  readonly bytes: number;
  /** Of the file when its bytes were last seen to be right; null before the first time in this life. */
  seen: { readonly mtimeMs: number; readonly ino: number } | null;
  /** Under way, for all who want to use it. */
  check: Promise<boolean> | null;
  pins: number;
  usedAtMs: number;
  /** That is about to be written into the file's times. */
  isTelling: boolean;
}

interface Download {
  readonly entry: Promise<Entry>;
  readonly abort: AbortController;
  waiting: number;
  /** Pinned by the download until all who waited have their own pins. */
  pinned: Entry | null;
}

export interface BlobCacheOptions {
  readonly directory: string;
  readonly budgetBytes: number;
  readonly source: BlobSource;
  /** Files that the owner gave: used where they are, never evicted. */
  readonly given?: readonly string[];
  /** The pause before a blob that did not come whole is asked for again. */
  readonly retryDelayMs?: number;
  /** `largeBlobs` gives another answer. */
  readonly onChange?: () => void;
}

const RETRY_DELAY_MS = 500;
/** The times of a file that is used all the time are written as often. */
const TELL_MS = 1_000;
const FILE_NAME = /^[0-9a-f]{64}$/;

async function sha256OfFile(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path, { highWaterMark: 1024 * 1024 }), hash);
  return `sha256:${hash.digest('hex')}`;
}

/**
 * Blobs on the worker's disk, by digest. A file is placed only when it is whole and its digest is right, and is read again before its
 * use when it is from an earlier life or has been written to since; one download serves all who wait for it; files in use are never
 * evicted; the others go by their last use when the budget is needed. Their times say it: of a file, access is its last use.
 */
export class BlobCache implements AsyncDisposable {
  readonly #options: BlobCacheOptions;
  readonly #entries = new Map<string, Entry>();
  readonly #downloads = new Map<string, Download>();
  readonly #given = new Map<string, { readonly path: string; readonly bytes: number }>();
  readonly #room: Room;
  /** Writing of times and removing of files under way. */
  readonly #chores = new Set<Promise<unknown>>();
  #serial = 0;

  private constructor(options: BlobCacheOptions) {
    this.#options = options;
    this.#room = new Room(options.budgetBytes, (bytes) => this.#evict(bytes));
  }

  /** Takes up what an earlier life placed, as far as it has room, and removes what it had not finished. */
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
      const { size, atimeMs } = await stat(path);
      cache.#add(entryOf({ digest: `sha256:${name}`, path, bytes: size, seen: null, pins: 0, usedAtMs: atimeMs }));
      cache.#room.take(size);
    }
    cache.#evict(cache.#room.excessBytes);
    for (const path of options.given ?? []) {
      cache.#given.set(await sha256OfFile(path), { path, bytes: (await stat(path)).size });
    }
    return cache;
  }

  /** Digests of the large blobs that are here, those used last first. */
  largeBlobs(): string[] {
    const kept = [...this.#entries.values()].sort((one, other) => other.usedAtMs - one.usedAtMs);
    const given = [...this.#given].map(([digest, { bytes }]) => ({ digest, bytes }));
    const large = [...given, ...kept].filter(({ bytes }) => bytes >= LARGE_BLOB_BYTES);
    return [...new Set(large.map(({ digest }) => digest))].slice(0, MAX_TOLD_BLOBS);
  }

  /**
   * The blob's file, pinned. Where the budget is in use it waits until there is room.
   *
   * @param onFetch called when it is not here, before it is fetched
   * @throws CocoreError `blob_not_found` when it cannot be fetched whole, or is larger than the budget
   */
  async use(ref: BlobRef, signal: AbortSignal, onFetch: () => void = () => undefined): Promise<BlobLease> {
    signal.throwIfAborted();
    const given = this.#given.get(ref.digest);
    if (given !== undefined) return { path: given.path, [Symbol.dispose]: () => undefined };
    let entry = await this.#useKept(ref.digest, signal);
    if (entry === null) {
      onFetch();
      entry = await this.#download(ref, signal);
    }
    entry.usedAtMs = Date.now();
    this.#tellUse(entry);
    let isPinned = true;
    return {
      path: entry.path,
      [Symbol.dispose]: () => {
        if (isPinned) this.#unpin(entry);
        isPinned = false;
      },
    };
  }

  #tellUse(entry: Entry): void {
    if (entry.isTelling) return;
    entry.isTelling = true;
    setTimeout(() => {
      entry.isTelling = false;
      const { path, seen, usedAtMs } = entry;
      if (seen !== null) this.#chore(utimes(path, usedAtMs / 1000, seen.mtimeMs / 1000));
    }, TELL_MS).unref();
  }

  /** Pinned, when it is here and its bytes are right. */
  async #useKept(digest: string, signal: AbortSignal): Promise<Entry | null> {
    const entry = this.#entries.get(digest);
    if (entry === undefined) return null;
    entry.pins += 1;
    const now = lookAt(entry.path);
    if (now !== null && isAsSeen(entry, now)) return entry;
    try {
      if (now?.size === entry.bytes && (await unlessAborted(this.#isRight(entry), signal))) return entry;
    } catch (error) {
      this.#unpin(entry);
      throw error;
    }
    this.#drop(entry);
    this.#unpin(entry);
    return null;
  }

  #isRight(entry: Entry): Promise<boolean> {
    entry.check ??= this.#check(entry).finally(() => (entry.check = null));
    return entry.check;
  }

  async #check(entry: Entry): Promise<boolean> {
    try {
      const before = await stat(entry.path);
      if ((await sha256OfFile(entry.path)) !== entry.digest) return false;
      entry.seen = timesOf(before);
      return true;
    } catch {
      // It cannot be read: the disk, or somebody, took it away.
      return false;
    }
  }

  /** Pinned. */
  async #download(ref: BlobRef, signal: AbortSignal): Promise<Entry> {
    const download = this.#downloads.get(ref.digest) ?? this.#startDownload(ref);
    download.waiting += 1;
    try {
      const entry = await unlessAborted(download.entry, signal);
      entry.pins += 1;
      return entry;
    } finally {
      download.waiting -= 1;
      if (download.waiting === 0) {
        if (this.#downloads.get(ref.digest) === download) this.#downloads.delete(ref.digest);
        download.abort.abort(new Error('nobody waits for the blob'));
        if (download.pinned !== null) this.#unpin(download.pinned);
      }
    }
  }

  #startDownload(ref: BlobRef): Download {
    const abort = new AbortController();
    const entry = this.#fetch(ref, abort.signal).then((fetched) => {
      if (download.waiting > 0) download.pinned = fetched;
      else this.#unpin(fetched);
      return fetched;
    });
    const download: Download = { abort, entry, waiting: 0, pinned: null };
    this.#downloads.set(ref.digest, download);
    entry
      .catch(() => undefined)
      .finally(() => {
        if (this.#downloads.get(ref.digest) === download) this.#downloads.delete(ref.digest);
      });
    return download;
  }

  /** Pinned: what waits for room must not drop it before anybody has seen it. */
  async #fetch(ref: BlobRef, signal: AbortSignal): Promise<Entry> {
    const { directory, budgetBytes, source, retryDelayMs = RETRY_DELAY_MS } = this.#options;
    if (!this.#room.fits(ref.bytes)) {
      throw notFetched(ref, `it has ${ref.bytes} bytes, more than the disk budget of ${budgetBytes}`);
    }
    await this.#room.begin(ref.bytes, signal);
    this.#serial += 1;
    const temporary = join(directory, `${process.pid}-${this.#serial}.part`);
    let isKept = false;
    try {
      await Promise.allSettled(this.#chores);
      await download(ref, temporary, source, retryDelayMs, signal);
      // Sandboxes read it under uids of their own.
      await chmod(temporary, 0o444);
      const path = join(directory, ref.digest.slice('sha256:'.length));
      const seen = timesOf(await stat(temporary));
      await rename(temporary, path);
      // Of a download that was given up, and ended all the same.
      const earlier = this.#entries.get(ref.digest);
      if (earlier !== undefined) {
        earlier.pins += 1;
        return earlier;
      }
      const usedAtMs = Date.now();
      const entry = entryOf({ digest: ref.digest, path, bytes: ref.bytes, seen, pins: 1, usedAtMs });
      this.#add(entry);
      isKept = true;
      return entry;
    } catch (cause) {
      await rm(temporary, { force: true });
      if (signal.aborted) throw cause;
      throw notFetched(ref, cause instanceof Error ? cause.message : 'unknown', cause);
    } finally {
      this.#room.end(ref.bytes, isKept);
    }
  }

  #add(entry: Entry): void {
    this.#entries.set(entry.digest, entry);
    if (entry.bytes >= LARGE_BLOB_BYTES) this.#options.onChange?.();
  }

  #drop(entry: Entry): void {
    if (this.#entries.get(entry.digest) !== entry) return;
    this.#entries.delete(entry.digest);
    this.#room.give(entry.bytes);
    this.#chore(rm(entry.path, { force: true }));
    if (entry.bytes >= LARGE_BLOB_BYTES) this.#options.onChange?.();
  }

  #unpin(entry: Entry): void {
    entry.pins -= 1;
    if (entry.pins === 0) this.#room.retry();
  }

  /** Drops those that nobody uses, the longest unused first, until so many bytes are free; none when that is not possible. */
  #evict(bytes: number): boolean {
    const idle = [...this.#entries.values()].filter(({ pins }) => pins === 0);
    if (idle.reduce((sum, entry) => sum + entry.bytes, 0) < bytes) return false;
    idle.sort((one, other) => one.usedAtMs - other.usedAtMs);
    let freed = 0;
    for (const entry of idle) {
      if (freed >= bytes) break;
      freed += entry.bytes;
      this.#drop(entry);
    }
    return true;
  }

  #chore(work: Promise<unknown>): void {
    const chore = work.catch(() => undefined).finally(() => this.#chores.delete(chore));
    this.#chores.add(chore);
  }

  /** Ends downloads. */
  async [Symbol.asyncDispose](): Promise<void> {
    const downloads = [...this.#downloads.values()];
    for (const { abort } of downloads) abort.abort(new Error('the daemon stops'));
    await Promise.allSettled(downloads.map(({ entry }) => entry));
    await Promise.allSettled(this.#chores);
  }
}

const entryOf = (facts: Omit<Entry, 'check' | 'isTelling'>): Entry => ({
  ...facts,
  check: null,
  isTelling: false,
});

/** Null when it cannot be told. Here and now: what the kernel has in memory takes 3 µs, and to ask another thread for it takes 27. */
function lookAt(path: string): Stats | null {
  try {
    return statSync(path, { throwIfNoEntry: false }) ?? null;
  } catch {
    return null;
  }
}

/** @throws the signal's reason, at once when it aborts */
async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  const { promise: aborted, reject } = Promise.withResolvers<never>();
  const onAbort = () => reject(signal.reason as Error);
  signal.addEventListener('abort', onAbort);
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

const notFetched = ({ digest }: BlobRef, why: string, cause?: unknown): CocoreError =>
  new CocoreError('blob_not_found', `blob ${digest} cannot be fetched: ${why}`, { cause });

const timesOf = ({ mtimeMs, ino }: Stats): { mtimeMs: number; ino: number } => ({ mtimeMs: Math.round(mtimeMs), ino });

/** Times to the millisecond: that is what can be written back. */
const isAsSeen = ({ bytes, seen }: Entry, now: Stats): boolean =>
  seen !== null && now.size === bytes && Math.round(now.mtimeMs) === seen.mtimeMs && now.ino === seen.ino;
