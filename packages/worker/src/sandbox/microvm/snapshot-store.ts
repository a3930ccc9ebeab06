import { createHash, randomBytes } from 'node:crypto';
import { type FileHandle, mkdir, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { takeHostLock } from '../../host/lock.ts';

/** Everything that a snapshot depends on. Two that differ in anything never serve each other. */
export type SnapshotKey = Readonly<Record<string, string | number>>;

export interface SnapshotStoreOptions {
  /** Shared by the daemons of this host that run as this user; what is in it is made by them alone. */
  readonly directory: string;
  /** Of all snapshots together; the least recently used go first. The one that was made last always stays. */
  readonly budgetBytes: number;
  /** Milliseconds since the epoch; the order of use is kept in the files' times. */
  readonly now?: () => number;
}

const MAKING = '.making-';
/** Nobody is at one that was begun longer ago. */
const HALF_MADE_MS = 600_000;
/** How often a daemon looks whether another one has finished the snapshot that it waits for. */
const LOOK_MS = 50;

/** A snapshot that is open for reading: its files can be read to their end even when it is evicted meanwhile. */
export interface Snapshot extends AsyncDisposable {
  /** Where its files are, unless it was evicted since. */
  readonly directory: string;
  /** In the order in which they were named. */
  readonly files: readonly FileHandle[];
}

/** Makes a snapshot: writes each of its files into the directory. */
export type MakeSnapshot = (directory: string) => Promise<void>;

/**
 * Snapshots of machines that have booted and have nothing of any function in them: a directory each, named by its key's hash, whole or
 * absent. Who asks first for one that is missing makes it; everybody else, in this daemon or another of its network namespace, waits for that.
 */
export class SnapshotStore {
  readonly #options: SnapshotStoreOptions;
  readonly #making = new Map<string, Promise<void>>();

  constructor(options: SnapshotStoreOptions) {
    this.#options = options;
  }

  /**
   * The snapshot of `key`, which has the named files. When one of them is missing, `make` is called.
   *
   * @throws what `make` throws; nothing is left then
   */
  async open(key: SnapshotKey, fileNames: readonly string[], make: MakeSnapshot): Promise<Snapshot> {
    const name = nameOf(key);
    for (;;) {
      const snapshot = await this.#openExisting(name, fileNames);
      if (snapshot !== null) return snapshot;
      let making = this.#making.get(name);
      if (making === undefined) {
        making = this.#make(name, fileNames, make).finally(() => this.#making.delete(name));
        this.#making.set(name, making);
      }
      await making;
    }
  }

  /** Forgets a snapshot that turned out not to work. */
  async discard(key: SnapshotKey): Promise<void> {
    await rm(join(this.#options.directory, nameOf(key)), { recursive: true, force: true });
  }

  async #openExisting(name: string, fileNames: readonly string[]): Promise<Snapshot | null> {
    const directory = join(this.#options.directory, name);
    await using scope = new AsyncDisposableStack();
    const files: FileHandle[] = [];
    for (const fileName of fileNames) {
      const file = await openIfThere(join(directory, fileName));
      if (file === null) return null;
      files.push(scope.use(file));
    }
    await this.#touch(directory);
    const owned = scope.move();
    return { directory, files, [Symbol.asyncDispose]: () => owned.disposeAsync() };
  }

  async #touch(path: string): Promise<void> {
    const seconds = (this.#options.now ?? Date.now)() / 1000;
    await utimes(path, seconds, seconds).catch(() => undefined);
  }

  async #make(name: string, fileNames: readonly string[], make: MakeSnapshot): Promise<void> {
    const { directory } = this.#options;
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const { dev, ino } = await stat(directory, { bigint: true });
    const lock = await takeHostLock(`snapshot/${dev}/${ino}/${name}`);
    if (lock === null) {
      // Another daemon is at it; its lock goes with it, finished or dead.
      await sleep(LOOK_MS);
      return;
    }
    await using _lock = lock;
    if (await this.#isThere(name, fileNames)) return;
    // A daemon in another network namespace does not see the lock, and may be at it too: each has a place of its own.
    const unfinished = join(directory, `${MAKING}${name}-${randomBytes(6).toString('hex')}`);
    try {
      await mkdir(unfinished, { mode: 0o700 });
      await make(unfinished);
      await this.#touch(unfinished);
      await this.#place(unfinished, name, fileNames);
    } finally {
      await rm(unfinished, { recursive: true, force: true });
    }
    await this.#evict(name);
  }

  /** Under its name, unless one is there; what is there and not whole gives way. */
  async #place(unfinished: string, name: string, fileNames: readonly string[]): Promise<void> {
    const path = join(this.#options.directory, name);
    for (;;) {
      try {
        await rename(unfinished, path);
        return;
      } catch (error) {
        const { code } = error as NodeJS.ErrnoException;
        if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error;
      }
      if (await this.#isThere(name, fileNames)) return;
      await rm(path, { recursive: true, force: true });
    }
  }

  async #isThere(name: string, fileNames: readonly string[]): Promise<boolean> {
    await using found = await this.#openExisting(name, fileNames);
    return found !== null;
  }

  async #evict(newest: string): Promise<void> {
    const { directory, budgetBytes, now = Date.now } = this.#options;
    const all = await readdir(directory);
    for (const half of all.filter((name) => name.startsWith(MAKING))) {
      const path = join(directory, half);
      const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Infinity }));
      if (now() - mtimeMs > HALF_MADE_MS) await rm(path, { recursive: true, force: true });
    }
    const names = all.filter((name) => !name.startsWith(MAKING));
    const found = await Promise.all(
      names.map(async (name) => {
        const path = join(directory, name);
        const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: 0 }));
        return { name, size: await bytesIn(path), mtimeMs };
      }),
    );
    let bytes = found.reduce((sum, { size }) => sum + size, 0);
    for (const { name, size } of found.sort((one, other) => one.mtimeMs - other.mtimeMs)) {
      if (bytes <= budgetBytes) return;
      if (name === newest) continue;
      await rm(join(directory, name), { recursive: true, force: true });
      bytes -= size;
    }
  }
}

async function openIfThere(path: string): Promise<FileHandle | null> {
  try {
    return await open(path);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : '';
    if (code === 'ENOENT' || code === 'ENOTDIR') return null;
    throw error;
  }
}

/** Of the files in a directory; 0 when it is gone. */
async function bytesIn(directory: string): Promise<number> {
  const names = await readdir(directory).catch(() => []);
  const sizes = names.map((name) =>
    stat(join(directory, name)).then(
      ({ size }) => size,
      () => 0,
    ),
  );
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
}

function nameOf(key: SnapshotKey): string {
  const entries = Object.entries(key).sort(([one], [other]) => (one < other ? -1 : 1));
  return createHash('sha256').update(JSON.stringify(entries)).digest('hex').slice(0, 32);
}
