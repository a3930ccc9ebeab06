import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { Clock } from '../clock.ts';
import type { Store } from '../store/store.ts';
import type { BlobStore } from './blob-store.ts';

/** How long a project may keep a blob that none of its versions and executions names. */
export const UNUSED_BLOB_TTL_MS = 24 * 60 * 60_000;
/** How long what a build made is kept after the last deployment that used it. */
export const UNUSED_LAYER_TTL_MS = 30 * 24 * 60 * 60_000;
/** How long bytes stay that no project has: what is being deployed may need them, and clocks of stores differ. */
export const ORPHAN_TTL_MS = 60 * 60_000;
const SWEEP_MS = 60 * 60_000;

export interface BlobSweeperParts {
  readonly store: Store;
  readonly blobs: BlobStore;
  readonly clock: Clock;
  /** Whether other servers may keep and remove blobs in the same place; not so if not given. */
  readonly isShared?: boolean;
  readonly log: Logger;
}

/** Removes blobs that nobody needs: of uploads that were never used, deployments that failed, crashes between bytes and row. */
export class BlobSweeper {
  readonly #parts: BlobSweeperParts;

  constructor(parts: BlobSweeperParts) {
    this.#parts = parts;
  }

  /** Sweeps at once and every hour until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.sweep(signal).catch((error: unknown) =>
        this.#parts.log.error({ err: error }, 'a sweep of blobs failed'),
      );
      await sleep(SWEEP_MS, undefined, { signal, ref: false }).catch(() => undefined);
    }
  }

  async sweep(signal: AbortSignal): Promise<void> {
    const { store, blobs, clock, log } = this.#parts;
    // In time, before others would remove them.
    await blobs.spareOwn();
    await store.forgetUnusedBlobs({ layersMs: UNUSED_LAYER_TTL_MS, blobsMs: UNUSED_BLOB_TTL_MS });
    let removed = 0;
    for await (const { digest, keptAtMs } of blobs.list()) {
      if (signal.aborted) return;
      if (keptAtMs > clock.nowMs() - ORPHAN_TTL_MS || (await store.isBlobNeeded(digest))) continue;
      if (await this.#remove(digest)) removed += 1;
    }
    if (removed > 0) log.info({ removed }, 'blobs that nobody needs are removed');
  }

  async #remove(digest: string): Promise<boolean> {
    const { store, blobs, isShared = false } = this.#parts;
    if (!isShared) return blobs.removeUnless(digest, () => store.isBlobNeeded(digest));
    if ((await store.condemnBlob(digest)) !== 'remove') return false;
    try {
      return await blobs.removeUnless(digest, () => Promise.resolve(false));
    } finally {
      await store.forgetCondemnedBlob(digest);
    }
  }
}
