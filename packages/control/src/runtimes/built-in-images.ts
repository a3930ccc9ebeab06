import { accessSync, constants } from 'node:fs';
import { type BlobRef, type BuiltInImage, CocoreError } from '@cocore/protocol';
import type { BlobStore } from '../blobs/blob-store.ts';

/** The images that the set-up built. Each becomes a blob when something is deployed that runs in it: they are large. */
export class BuiltInImages {
  readonly #blobs: BlobStore;
  readonly #paths: Readonly<Record<BuiltInImage, string>>;
  readonly #keeping = new Map<BuiltInImage, Promise<BlobRef>>();

  /** @throws CocoreError `artifact_missing` */
  constructor(blobs: BlobStore, paths: Readonly<Record<BuiltInImage, string>>) {
    this.#blobs = blobs;
    this.#paths = paths;
    for (const path of Object.values(paths)) {
      try {
        accessSync(path, constants.R_OK);
      } catch (cause) {
        throw new CocoreError('artifact_missing', `the image ${path} cannot be read`, { cause });
      }
    }
  }

  /** @throws CocoreError `not_ready` */
  async keep(name: BuiltInImage): Promise<BlobRef> {
    const underWay = this.#keeping.get(name);
    if (underWay !== undefined) return underWay;
    // Asked each time, because a blob that no version needs goes; the store knows the file's digest.
    const keeping = this.#blobs.adopt(this.#paths[name]);
    this.#keeping.set(name, keeping);
    return keeping.finally(() => this.#keeping.delete(name));
  }
}
