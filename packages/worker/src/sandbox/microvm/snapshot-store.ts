import { createHash } from 'node:crypto';
import { mkdir, open, readdir, rename, rm, stat, utimes, type FileHandle } from 'node:fs/promises';
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
/** How often a daemon looks whether another one has finished the snapshot that it waits for. */
const LOOK_MS = 50;

/**
 * Snapshots of machines that have booted and have nothing of any function in them: one file each, named by its key's hash, whole or absent.
 * Who asks first for one that is missing makes it; everybody else, in this daemon or another, waits for that.
 */
export class SnapshotStore {
  readonly #options: SnapshotStoreOptions;
  readonly #making = new Map<string, Promise<void>>();

  constructor(options: SnapshotStoreOptions) {
    this.#options = options;
  }

  /**
   * The snapshot of `key`, open for reading: it can be read to its end even when it is evicted meanwhile. When it is missing, `make` is called
   * with the path of the file to write.
   *
   * @throws what `make` throws; nothing is left then
   */
  async open(key: SnapshotKey, make: (path: string) => Promise<void>): Promise<FileHandle> {
    const name = nameOf(key);
    for (;;) {
      const file = await this.#openExisting(name);
      if (file !== null) return file;
      let making = this.#making.get(name);
      if (making === undefined) {
        making = this.#make(name, make).finally(() => this.#making.delete(name));
        this.#making.set(name, making);
      }
      await making;
    }
  }

  /** Forgets a snapshot that turned out not to work. */
  async discard(key: SnapshotKey): Promise<void> {
    await rm(join(this.#options.directory, nameOf(key)), { force: true });
  }

  async #openExisting(name: string): Promise<FileHandle | null> {
    const path = join(this.#options.directory, name);
    try {
      const file = await open(path);
      await this.#touch(path);
      return file;
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null;
      throw error;
    }
  }

  async #touch(path: string): Promise<void> {
    const seconds = (this.#options.now ?? Date.now)() / 1000;
    await utimes(path, seconds, seconds).catch(() => undefined);
  }

  async #make(name: string, make: (path: string) => Promise<void>): Promise<void> {
    const { directory } = this.#options;
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const path = join(directory, name);
    const { dev, ino } = await stat(directory, { bigint: true });
    const lock = await takeHostLock(`snapshot/${dev}/${ino}/${name}`);
    if (lock === null) {
      // Another daemon is at it; its lock goes with it, finished or dead.
      await sleep(LOOK_MS);
      return;
    }
    await using _lock = lock;
    const unfinished = join(directory, `${MAKING}${name}`);
    try {
      await rm(unfinished, { force: true });
      await make(unfinished);
      await this.#touch(unfinished);
      await rename(unfinished, path);
    } catch (error) {
      await rm(unfinished, { force: true });
      throw error;
    }
    await this.#evict(name);
  }

  async #evict(newest: string): Promise<void> {
    const { directory, budgetBytes } = this.#options;
    const names = (await readdir(directory)).filter((name) => !name.startsWith(MAKING));
    const found = await Promise.all(
      names.map(async (name) => {
        const { size, mtimeMs } = await stat(join(directory, name)).catch(() => ({ size: 0, mtimeMs: 0 }));
        return { name, size, mtimeMs };
      }),
    );
    let bytes = found.reduce((sum, { size }) => sum + size, 0);
    for (const { name, size } of found.sort((one, other) => one.mtimeMs - other.mtimeMs)) {
      if (bytes <= budgetBytes) return;
      if (name === newest) continue;
      await rm(join(directory, name), { force: true });
      bytes -= size;
    }
  }
}

function nameOf(key: SnapshotKey): string {
  const entries = Object.entries(key).sort(([one], [other]) => (one < other ? -1 : 1));
  return createHash('sha256').update(JSON.stringify(entries)).digest('hex').slice(0, 32);
}
