import { execFile } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type BlobRef, CocoreError } from '@cocore/protocol';
import type { AdmitBlob, BlobStore } from '../blobs/blob-store.ts';
import type { CodeTree } from './code-tree.ts';
import { writeTree } from './write-tree.ts';

const run = promisify(execFile);

/** Fixed, so that the same code makes the same image and so the same digest. */
const IMAGE_UUID = 'c0c04e00-0000-4000-8000-000000000000';
const BLOCK_BYTES = 4096;
const MAKE_TIMEOUT_MS = 120_000;

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
   * Files owned by root, with fixed times: the same tree makes the same bytes.
   *
   * @throws CocoreError `artifact_missing` when the host has no mkfs.erofs
   */
  async make(code: CodeTree, admit: AdmitBlob): Promise<BlobRef> {
    await mkdir(this.#directory, { recursive: true });
    const work = await mkdtemp(join(this.#directory, 'code-'));
    try {
      const tree = join(work, 'tree');
      await mkdir(tree);
      await writeTree(code, tree);
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
      const { bytes, entries } = code.limits;
      // Every file takes a block more at most, and what the file system says of it another.
      return await this.#blobs.put(createReadStream(image), bytes + 2 * entries * BLOCK_BYTES, admit);
    } finally {
      await rm(work, { recursive: true, force: true });
    }
  }
}
