import { constants } from 'node:fs';
import { chown, lstat, mkdir, open, readlink, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { ImportFailure, shown } from './failure.ts';

const MAX_LINKS = 40;
const MAX_FILE_BYTES = 1024 * 1024;

/**
 * Looks at an unpacked tree as a process would whose root it is: no link leads out. Nothing else writes to the tree
 * meanwhile, so what was looked at stays what it was.
 */
export class Tree {
  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
  }

  /** @returns the first MiB of a regular file as text, or null where there is none at that path */
  async readText(path: string): Promise<string | null> {
    const { real, kind } = await this.#resolve(path, false);
    if (kind !== 'file') return null;
    await using file = await open(real, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    const buffer = Buffer.alloc(MAX_FILE_BYTES);
    const { bytesRead } = await file.read(buffer, 0, MAX_FILE_BYTES, 0);
    return buffer.toString('utf8', 0, bytesRead);
  }

  /**
   * Makes the directory and those above it where they are missing, owned by root.
   *
   * @throws ImportFailure `image_refused` where something else is there
   */
  async ensureDirectory(path: string): Promise<void> {
    const { kind } = await this.#resolve(path, true);
    if (kind !== 'directory') {
      throw new ImportFailure('image_refused', `the working directory ${shown(path)} is not a directory in the image`);
    }
  }

  async #resolve(
    path: string,
    make: boolean,
  ): Promise<{ real: string; kind: 'file' | 'directory' | 'other' | 'none' }> {
    const left = path.split('/').reverse();
    const done: string[] = [];
    let links = 0;
    while (left.length > 0) {
      const part = left.pop()!;
      if (part === '' || part === '.') continue;
      if (part === '..') {
        done.pop();
        continue;
      }
      const here = join(this.#root, ...done, part);
      let found = await lstat(here).catch(() => null);
      if (found === null && make) {
        const above = join(this.#root, ...done);
        const { atime, mtime } = await lstat(above);
        await mkdir(here, 0o755);
        await chown(here, 0, 0);
        await utimes(above, atime, mtime);
        found = await lstat(here);
      }
      if (found === null) return { real: here, kind: 'none' };
      if (found.isSymbolicLink()) {
        links += 1;
        if (links > MAX_LINKS) return { real: here, kind: 'other' };
        const target = await readlink(here);
        if (target.startsWith('/')) done.length = 0;
        left.push(...target.split('/').reverse());
        continue;
      }
      done.push(part);
      if (found.isDirectory()) continue;
      const last = left.every((rest) => rest === '' || rest === '.');
      return { real: here, kind: last && found.isFile() ? 'file' : 'other' };
    }
    return { real: join(this.#root, ...done), kind: 'directory' };
  }
}
