import { execFile } from 'node:child_process';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const BLOCK_BYTES = 64 * 1024;
const READ_BYTES = 4 * 2 ** 20;

interface Extent {
  readonly offset: number;
  readonly data: Buffer;
}

/**
 * Empty file systems for sandboxes: ext4 is made once for each size, and what it wrote (some tens of KiB) is kept in memory, so that a
 * sandbox's sparse file is written in a millisecond and nothing is copied. No journal and no checksums: the file lives as long as its
 * sandbox.
 */
export class ScratchTemplates {
  readonly #directory: string;
  readonly #made = new Map<number, Promise<Extent[]>>();

  /** @param directory for temporary files */
  constructor(directory: string) {
    this.#directory = directory;
  }

  async prepare(sizeMiB: number): Promise<void> {
    await this.#extents(sizeMiB);
  }

  /** Makes the file for one sandbox, readable and writable by `uid` alone. */
  async write(path: string, sizeMiB: number, uid: number): Promise<void> {
    const extents = await this.#extents(sizeMiB);
    await using file = await open(path, 'wx', 0o600);
    await file.truncate(sizeMiB * 2 ** 20);
    for (const { offset, data } of extents) await file.write(data, 0, data.length, offset);
    await file.chown(uid, uid);
  }

  #extents(sizeMiB: number): Promise<Extent[]> {
    let made = this.#made.get(sizeMiB);
    if (made === undefined) {
      made = this.#make(sizeMiB);
      this.#made.set(sizeMiB, made);
      made.catch(() => this.#made.delete(sizeMiB));
    }
    return made;
  }

  async #make(sizeMiB: number): Promise<Extent[]> {
    const directory = await mkdtemp(join(this.#directory, 'scratch-'));
    try {
      const path = join(directory, 'scratch');
      const features = '^has_journal,^metadata_csum,^resize_inode';
      const options = ['-q', '-F', '-m', '0', '-O', features, '-E', 'lazy_itable_init=0,nodiscard'];
      await promisify(execFile)('mkfs.ext4', [...options, path, `${sizeMiB}M`]);
      return await writtenExtents(path);
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  }
}

/** The parts of a file that are not zero. Most of it is a hole, which is read at memory speed. */
async function writtenExtents(path: string): Promise<Extent[]> {
  await using file = await open(path);
  const { size } = await file.stat();
  const piece = Buffer.alloc(READ_BYTES);
  const zeros = Buffer.alloc(BLOCK_BYTES);
  const extents: Extent[] = [];
  for (let offset = 0; offset < size;) {
    const { bytesRead } = await file.read(piece, 0, READ_BYTES, offset);
    for (let at = 0; at < bytesRead; at += BLOCK_BYTES) {
      const block = piece.subarray(at, Math.min(at + BLOCK_BYTES, bytesRead));
      if (!block.equals(zeros.subarray(0, block.length)))
        extents.push({ offset: offset + at, data: Buffer.from(block) });
    }
    offset += bytesRead;
  }
  return extents;
}
