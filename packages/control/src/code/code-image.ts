import { execFile } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type BlobRef, CocoreError, MAX_ARCHIVE_BYTES, MAX_ARCHIVE_ENTRIES } from '@cocore/protocol';
import type { AdmitBlob, BlobStore } from '../blobs/blob-store.ts';

const run = promisify(execFile);

/** Fixed, so that the same code makes the same image and so the same digest. */
const IMAGE_UUID = 'c0c04e00-0000-4000-8000-000000000000';
/** Every file of the largest directory takes a block more at most. */
const MAX_IMAGE_BYTES = MAX_ARCHIVE_BYTES + 2 * MAX_ARCHIVE_ENTRIES * 4096;
const MAKE_TIMEOUT_MS = 30_000;

/** Makes source code into the small read-only file system that a sandbox sees at `/function`. */
export class CodeImager {
  readonly #directory: string;
  readonly #blobs: BlobStore;

  /** @param directory for temporary files; made when needed */
  constructor(directory: string, blobs: BlobStore) {
    this.#directory = directory;
    this.#blobs = blobs;
  }

  /**
   * Files owned by root, with fixed times.
   *
   * @param write puts them into an empty directory
   * @throws CocoreError `artifact_missing` when the host has no mkfs.erofs, and what `write` throws
   */
  async make(write: (directory: string) => Promise<void>, admit: AdmitBlob): Promise<BlobRef> {
    await mkdir(this.#directory, { recursive: true });
    const work = await mkdtemp(join(this.#directory, 'code-'));
    try {
      const tree = join(work, 'tree');
      await mkdir(tree);
      await write(tree);
      await chmod(tree, 0o755);
      const image = join(work, 'code.erofs');
      await run('mkfs.erofs', ['-T0', `-U${IMAGE_UUID}`, '--all-root', '--quiet', image, tree], {
        timeout: MAKE_TIMEOUT_MS,
        killSignal: 'SIGKILL',
      }).catch((cause: NodeJS.ErrnoException) => {
        if (cause.code === 'ENOENT') {
          throw new CocoreError('artifact_missing', 'mkfs.erofs is not installed on the control server', { cause });
        }
        throw cause;
      });
      return await this.#blobs.put(createReadStream(image), MAX_IMAGE_BYTES, admit);
    } finally {
      await rm(work, { recursive: true, force: true });
    }
  }
}
