import { execFile } from 'node:child_process';
import { createReadStream } from 'node:fs';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { type BlobRef, CocoreError } from '@cocore/protocol';
import type { AdmitBlob, BlobStore } from '../blobs/blob-store.ts';

const run = promisify(execFile);

/** Fixed, so that the same code makes the same image and so the same digest. */
const IMAGE_UUID = 'c0c04e00-0000-4000-8000-000000000000';
const MAX_IMAGE_BYTES = 16 * 1024 * 1024;
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
   * One file, owned by root, with fixed times, executable and readable by all.
   *
   * @throws CocoreError `code_invalid` for an empty file, `artifact_missing` when the host has no mkfs.erofs
   */
  async make(fileName: string, content: Uint8Array, admit: AdmitBlob): Promise<BlobRef> {
    if (content.length === 0) throw new CocoreError('code_invalid', `the file ${fileName} is empty`);
    return this.#image(admit, async (tree) => {
      const file = join(tree, fileName);
      await writeFile(file, content);
      await chmod(file, 0o555);
    });
  }

  /** With nothing in it, for functions whose code is in their image. @throws CocoreError `artifact_missing` */
  async makeEmpty(admit: AdmitBlob): Promise<BlobRef> {
    return this.#image(admit, () => Promise.resolve());
  }

  async #image(admit: AdmitBlob, fill: (tree: string) => Promise<void>): Promise<BlobRef> {
    await mkdir(this.#directory, { recursive: true });
    const work = await mkdtemp(join(this.#directory, 'code-'));
    try {
      const tree = join(work, 'tree');
      await mkdir(tree);
      await fill(tree);
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
