import { createHash, randomUUID } from 'node:crypto';
import { mkdir, open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type BlobRef, CocoreError } from '@cocore/protocol';
import { AdoptedFiles } from './adopted.ts';
import type { BlobBackend, BlobReading, KeptBlob } from './backend.ts';
import { DigestLocks } from './digest-locks.ts';

/** Writes down whose a blob is, once its bytes are kept: it throws when the project may not have it. */
export type AdmitBlob = (blob: BlobRef) => Promise<void>;

export type Spare = (digest: string) => Promise<boolean>;

/** What another server removes now is waited for, and asked about again after this long. */
const SPARE_AGAIN_MS = 200;

/**
 * Bytes named by their SHA-256. What comes in goes to a file of this server's first, because its name is known at its end;
 * from there the backend takes it. Memory holds a piece of it at a time.
 */
export class BlobStore {
  readonly #backend: BlobBackend;
  readonly #temporaryDirectory: string;
  readonly #adopted: AdoptedFiles;
  readonly #spare: Spare | null;
  readonly #locks = new DigestLocks();
  /** Adopted for the server itself: whoever needs them next may have no row yet. */
  readonly #own = new Set<string>();

  /**
   * @param directory for what is under way; made when needed
   * @param spare where other servers remove blobs of the same place: says that one is about to be needed, and is false while it is being removed
   */
  constructor(directory: string, backend: BlobBackend, spare: Spare | null = null) {
    this.#spare = spare;
    this.#backend = backend;
    this.#temporaryDirectory = join(directory, 'tmp');
    this.#adopted = new AdoptedFiles(join(directory, 'adopted'));
  }

  /** Removes what an earlier life of the server left half-written. @throws CocoreError as `BlobBackend.open` */
  async open(serverId: string): Promise<void> {
    await rm(this.#temporaryDirectory, { recursive: true, force: true });
    await mkdir(this.#temporaryDirectory, { recursive: true });
    await this.#adopted.open();
    await this.#backend.open(serverId);
  }

  /**
   * Keeps a stream of bytes. Nothing is left of one that fails or is not admitted.
   *
   * @throws CocoreError `payload_too_large`, `not_ready`
   */
  async put(source: AsyncIterable<Uint8Array>, maxBytes: number, admit?: AdmitBlob): Promise<BlobRef> {
    const temporary = join(this.#temporaryDirectory, randomUUID());
    const hash = createHash('sha256');
    let bytes = 0;
    try {
      {
        await using file = await open(temporary, 'wx', 0o600);
        for await (const chunk of source) {
          bytes += chunk.length;
          if (bytes > maxBytes) {
            throw new CocoreError('payload_too_large', `a blob may have at most ${maxBytes} bytes`);
          }
          hash.update(chunk);
          await file.writeFile(chunk);
        }
      }
      const blob = { digest: `sha256:${hash.digest('hex')}`, bytes };
      await this.#keep(temporary, blob, admit);
      return blob;
    } finally {
      await rm(temporary, { force: true });
    }
  }

  /**
   * Keeps a large file of the host, which must not change from then on: on disk it is linked where the file system can. Without
   * admission it is the server's own, and stays for this life of the server.
   *
   * @param known what is in the file, of whoever has just read it whole; without it, it is read here
   * @throws CocoreError `not_ready`
   */
  async adopt(path: string, admit?: AdmitBlob, known?: BlobRef): Promise<BlobRef> {
    const blob = known ?? (await this.#adopted.refOf(path));
    if (admit === undefined) this.#own.add(blob.digest);
    await this.#keep(path, blob, admit);
    return blob;
  }

  /** From its beginning where it has nothing at `from`. @throws CocoreError `blob_not_found`, `not_ready` */
  read(digest: string, from = 0): Promise<BlobReading> {
    return this.#backend.read(digest, from);
  }

  /** Where a worker may read the blob for a short time without this server; null where it may not. */
  directUrl(digest: string): Promise<URL | null> {
    return this.#backend.directUrl(digest);
  }

  list(): AsyncIterable<KeptBlob> {
    return this.#backend.list();
  }

  /** What this server adopted for itself is needed as long as it lives. */
  async spareOwn(): Promise<void> {
    for (const digest of this.#own) await this.#spare?.(digest);
  }

  /** Removes a blob unless somebody needs it, of which nothing changes meanwhile: who keeps the same bytes waits. */
  async removeUnless(digest: string, isNeeded: () => Promise<boolean>): Promise<boolean> {
    return this.#locks.hold(digest, async () => {
      if (this.#own.has(digest) || (await isNeeded())) return false;
      await this.#backend.remove(digest);
      return true;
    });
  }

  async #keep(path: string, blob: BlobRef, admit: AdmitBlob | undefined): Promise<void> {
    await this.#locks.hold(blob.digest, async () => {
      while (this.#spare !== null && !(await this.#spare(blob.digest))) await sleep(SPARE_AGAIN_MS);
      const isNew = await this.#backend.keep(path, blob);
      try {
        await admit?.(blob);
      } catch (error) {
        if (isNew) await this.#backend.remove(blob.digest);
        throw error;
      }
    });
  }
}
