import type { Readable } from 'node:stream';
import type { BlobRef } from '@cocore/protocol';

/** A blob that is being read: the bytes from `from` on, of `bytes` in all. */
export interface BlobReading {
  readonly bytes: number;
  readonly from: number;
  readonly stream: Readable;
}

export interface KeptBlob {
  readonly digest: string;
  readonly keptAtMs: number;
}

/**
 * Where whole blobs are kept, by digest. What is there is whole: a blob appears at once or not at all. The caller sees to
 * it that one digest is written or removed by one at a time.
 *
 * @throws CocoreError `not_ready` from every verb where the place cannot be reached
 */
export interface BlobBackend {
  /** @throws CocoreError `data_dir_in_use` where it is another server's, `usage` where it does not let this one in */
  open(serverId: string): Promise<void>;
  /** The length of a blob; null when it is not there. */
  size(digest: string): Promise<number | null>;
  /** Keeps what is in a file of this server's, which stays as it is and where it is. @returns false when it was there already */
  keep(path: string, blob: BlobRef): Promise<boolean>;
  /** From its beginning where there is nothing at `from`. @throws CocoreError `blob_not_found` */
  read(digest: string, from: number): Promise<BlobReading>;
  /** Nothing happens when it is not there. */
  remove(digest: string): Promise<void>;
  list(): AsyncIterable<KeptBlob>;
  /** Where a worker may read the blob for a short time without this server; null where it may not. */
  directUrl(digest: string): Promise<URL | null>;
}
