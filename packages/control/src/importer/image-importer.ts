import { createHash } from 'node:crypto';
import { mkdir, readdir, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { CocoreError } from '@cocore/protocol';
import type { Connect, Resolve } from './egress/egress-proxy.ts';
import type { ImportedImage, ImportProgress, ImportRequest } from './image.ts';
import { ImportStore, type StoreScope } from './import-store.ts';
import { jailIds, removeTree } from './jail.ts';
import { DEFAULT_IMPORT_LIMITS, type ImportLimits } from './limits.ts';
import { type Imported, importOnce, type OneImport, SpoiledLayer } from './one-import.ts';
import { type ImageReference, parseReference } from './reference.ts';
import { SharedFlights } from './shared-flight.ts';
import { Slots } from './slots.ts';

const DEFAULT_CONCURRENCY = 2;
const DEFAULT_STORE_BYTES = 8 * 1024 * 1024 * 1024;

export interface ImageImporterOptions {
  /** The importer's own folder; nothing is written outside of it. */
  readonly directory: string;
  readonly limits?: Partial<ImportLimits>;
  /** Imports that run at the same time; the others wait. */
  readonly concurrency?: number;
  /** What layers and finished file systems of earlier imports may take, all scopes together. */
  readonly storeBytes?: number;
  /** A file of certificate authorities, beside the host's own, that registries are trusted by. */
  readonly authorities?: string | null;
  /** How the way out finds and reaches hosts; for tests. */
  readonly resolve?: Resolve;
  readonly connect?: Connect;
}

/** Makes container images of registries into read-only file systems, each in a jail of its own. */
export class ImageImporter implements AsyncDisposable {
  readonly #options: ImageImporterOptions;
  readonly #limits: ImportLimits;
  readonly #slots: Slots;
  readonly #store: ImportStore;
  readonly #flights = new SharedFlights<Imported, ImportProgress>();
  readonly #stop = new AbortController();
  /** What goes on after an answer, and must end before this is closed. */
  readonly #afterwards = new Set<Promise<void>>();
  #running: Promise<unknown>[] = [];
  #directory: string;

  constructor(options: ImageImporterOptions) {
    this.#options = options;
    this.#directory = options.directory;
    this.#limits = { ...DEFAULT_IMPORT_LIMITS, ...options.limits };
    this.#slots = new Slots(options.concurrency ?? DEFAULT_CONCURRENCY);
    this.#store = new ImportStore(join(options.directory, 'store'), options.storeBytes ?? DEFAULT_STORE_BYTES);
  }

  /** Makes the folder, and removes what an earlier life left half-done. To be called once, before the first import. */
  async open(): Promise<void> {
    await mkdir(this.#imports, { recursive: true, mode: 0o700 });
    this.#directory = await realpath(this.#options.directory);
    for (const name of await readdir(this.#imports)) await removeTree(join(this.#imports, name));
    await this.#store.trim();
  }

  /**
   * Resolves the reference with the request's own credentials, always; pulls and makes what is not there yet. Who asks for the same at the
   * same time gets the same import.
   *
   * @param onProgress at most a few times a second
   * @param signal ends this waiting; the import itself when nobody else waits
   * @throws CocoreError `invalid_request`, `image_unknown`, `image_digest`, `image_too_large`, `image_refused`, `image_timeout`,
   *   `importer_unavailable`; or the signal's reason
   */
  async import(
    request: ImportRequest,
    onProgress: (progress: ImportProgress) => void = () => undefined,
    signal: AbortSignal | null = null,
  ): Promise<ImportedImage> {
    this.#stop.signal.throwIfAborted();
    const reference = parseReference(request.reference);
    if (reference.loopback !== null && !request.allowLoopback) {
      throw new CocoreError(
        'image_refused',
        `the registry ${reference.registry} is on the control server's own loopback`,
      );
    }
    // Two requests may be given each other's layers when the same project pulled them from the same registry as the same user.
    const identity = [request.scope, reference.registry, authIdentity(request)];
    const { os, architecture } = request.platform;
    const imported = await this.#flights.join(
      JSON.stringify([...identity, reference.full, os, architecture]),
      (report, stop) => this.#run(request, reference, identity, report, stop),
      onProgress,
      signal,
    );
    const { image, indexDigest, manifestDigest, isNew } = imported;
    const release = this.#store.pin(image.path);
    return {
      reference: `${reference.repository}@${manifestDigest}`,
      indexDigest,
      manifestDigest,
      config: image.config,
      rootfs: { path: image.path, digest: image.digest, bytes: image.bytes, isNew },
      [Symbol.asyncDispose]: async () => release(),
    };
  }

  /** Ends all imports and waits until nothing of them is left. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort(new CocoreError('not_ready', 'the control server stops'));
    await Promise.allSettled(this.#running);
    await Promise.allSettled(this.#afterwards);
  }

  get #imports(): string {
    return join(this.#directory, 'imports');
  }

  async #run(
    request: ImportRequest,
    reference: ImageReference,
    identity: readonly string[],
    report: (progress: ImportProgress) => void,
    stop: AbortSignal,
  ): Promise<Imported> {
    const run = this.#inSlot(request, reference, identity, report, AbortSignal.any([stop, this.#stop.signal]));
    this.#running.push(run);
    try {
      return await run;
    } finally {
      this.#running = this.#running.filter((other) => other !== run);
    }
  }

  async #inSlot(
    request: ImportRequest,
    reference: ImageReference,
    identity: readonly string[],
    report: (progress: ImportProgress) => void,
    stop: AbortSignal,
  ): Promise<Imported> {
    report({ phase: 'waiting', bytes: 0, totalBytes: 0, layers: 0, totalLayers: 0 });
    using slot = await this.#slots.take(stop);
    const scope: StoreScope = await this.#store.scope(identity);
    const { timeoutMs } = this.#limits;
    const timeout = AbortSignal.timeout(timeoutMs);
    const options: OneImport = {
      request,
      reference,
      limits: this.#limits,
      directory: this.#imports,
      scope,
      ids: await jailIds(slot.index),
      authorities: this.#options.authorities ?? null,
      resolve: this.#options.resolve,
      connect: this.#options.connect,
      report,
      signal: AbortSignal.any([stop, timeout]),
      afterwards: (work) => this.#later(work),
    };
    try {
      const imported = await importOnce(options).catch(async (error: unknown) => {
        if (!(error instanceof SpoiledLayer)) throw error;
        await scope.dropLayer(error.digest);
        return importOnce(options);
      });
      // Who waits pins it for himself, in the same turn as he gets it.
      setImmediate(imported.release);
      this.#later(this.#store.trim());
      return imported;
    } catch (error) {
      if (timeout.aborted && !stop.aborted) {
        throw new CocoreError('image_timeout', `the image was not imported within ${timeoutMs / 1000} seconds`);
      }
      throw error;
    }
  }

  #later(work: Promise<void>): void {
    const settled = work.catch(() => undefined).finally(() => this.#afterwards.delete(settled));
    this.#afterwards.add(settled);
  }
}

function authIdentity({ auth }: ImportRequest): string {
  return auth === null ? '' : createHash('sha256').update(JSON.stringify(auth)).digest('hex');
}
