import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { BlobRef } from '@cocore/protocol';

interface Note {
  readonly path: string;
  /** Size, times and inode: whoever changes the file changes them. */
  readonly facts: string;
  readonly digest: string;
}

/** Digests of large files of the host, each read once: a note of its path, size and times stands for it later. */
export class AdoptedFiles {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** Removes the notes of files that are not there any more. */
  async open(): Promise<void> {
    await mkdir(this.#directory, { recursive: true });
    for (const name of await readdir(this.#directory)) {
      const notePath = join(this.#directory, name);
      const note = await readNote(notePath);
      const there = note === null ? null : await stat(note.path).catch(() => null);
      if (there === null) await rm(notePath, { force: true });
    }
  }

  async refOf(path: string): Promise<BlobRef> {
    const { size, mtimeMs, ino } = await stat(path);
    const notePath = join(this.#directory, `${createHash('sha256').update(path).digest('hex').slice(0, 16)}.json`);
    const facts = JSON.stringify({ size, mtimeMs, ino });
    const note = await readNote(notePath);
    if (note !== null && note.path === path && note.facts === facts) return { digest: note.digest, bytes: size };
    const hash = createHash('sha256');
    let bytes = 0;
    for await (const chunk of createReadStream(path, { highWaterMark: 1024 * 1024 })) {
      bytes += (chunk as Buffer).length;
      hash.update(chunk as Buffer);
    }
    const digest = `sha256:${hash.digest('hex')}`;
    await writeFile(notePath, JSON.stringify({ path, facts, digest } satisfies Note));
    return { digest, bytes };
  }
}

async function readNote(path: string): Promise<Note | null> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as Note;
  } catch {
    // None, or one that a crash cut short.
    return null;
  }
}
