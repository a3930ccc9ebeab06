import { randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { CocoreError } from '@cocore/protocol';
import { z } from 'zod';

const ServerFile = z.object({ serverId: z.string().min(1).max(128) });

/** Where one server keeps everything; one server at a time. */
export class DataDir implements Disposable {
  readonly path: string;
  readonly #lock: DatabaseSync;

  private constructor(path: string, lock: DatabaseSync) {
    this.path = path;
    this.#lock = lock;
  }

  /**
   * Makes the directory when needed, for this user only, and locks it. The lock is the kernel's: it ends with the process, however
   * that ends.
   *
   * @throws CocoreError `data_dir_in_use`
   */
  static open(path: string): DataDir {
    mkdirSync(path, { recursive: true, mode: 0o700 });
    const lock = new DatabaseSync(join(path, 'lock'), { timeout: 0 });
    try {
      lock.exec('BEGIN EXCLUSIVE');
    } catch (cause) {
      lock.close();
      throw new CocoreError('data_dir_in_use', `another server uses ${path}`, { cause });
    }
    return new DataDir(path, lock);
  }

  file(...names: string[]): string {
    return join(this.path, ...names);
  }

  /** Made at random at the first start. */
  serverId(): string {
    const path = this.file('server.json');
    try {
      return ServerFile.parse(JSON.parse(readFileSync(path, 'utf8'))).serverId;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
    const serverId = randomBytes(16).toString('hex');
    this.writePrivate('server.json', `${JSON.stringify({ serverId })}\n`);
    return serverId;
  }

  /** Whole or not at all, readable by this user only. */
  writePrivate(name: string, text: string): void {
    const temporary = this.file(`${name}.new`);
    writeFileSync(temporary, text, { mode: 0o600, flush: true });
    renameSync(temporary, this.file(name));
  }

  [Symbol.dispose](): void {
    this.#lock.close();
  }
}
