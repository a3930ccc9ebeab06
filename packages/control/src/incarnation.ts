import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { DataDir } from './data-dir.ts';
import type { ServerFacts, Store } from './store/store.ts';

const MARKER_FILE = 'incarnation';
/** A database out of a backup that is older than this is noticed. */
const ADVANCE_MS = 60_000;

export interface IncarnationParts {
  readonly dataDir: DataDir;
  readonly store: Store;
  /** Null where no other may use the store. */
  readonly server: ServerFacts | null;
  readonly log: Logger;
}

const newMarker = () => randomBytes(16).toString('hex');

/**
 * Which history the store is of. A store that comes out of a backup is another incarnation: what workers have of the time since, it does not know. The
 * operator says so; where only the database was put back, the marker beside it tells, because it goes on with the database from minute to minute.
 */
export class Incarnation {
  readonly id: string;
  /** What workers know the server by, and all others that use the store. */
  readonly serverId: string;
  readonly #server: ServerFacts | null;
  readonly #dataDir: DataDir;
  readonly #store: Store;
  readonly #log: Logger;
  /** What the file has. */
  #marker: string;

  private constructor(
    { id, serverId }: Pick<Incarnation, 'id' | 'serverId'>,
    marker: string,
    { dataDir, store, server, log }: IncarnationParts,
  ) {
    this.id = id;
    this.serverId = serverId;
    this.#server = server;
    this.#marker = marker;
    this.#dataDir = dataDir;
    this.#store = store;
    this.#log = log;
  }

  static async open(parts: IncarnationParts, restored: boolean): Promise<Incarnation> {
    const { dataDir, store, server, log } = parts;
    const found = readMarker(dataDir.file(MARKER_FILE));
    const next = newMarker();
    const claim = { server, found, restored, next };
    const { incarnation, isNew, serverId } = await store.claimIncarnation(claim);
    dataDir.writePrivate(MARKER_FILE, `${next}\n`);
    if (isNew) log.warn({ incarnation }, 'the store is a new incarnation: workers give up what it does not know');
    return new Incarnation({ id: incarnation, serverId: serverId ?? dataDir.serverId() }, next, parts);
  }

  /** Advances the marker until the signal aborts. */
  async run(signal: AbortSignal): Promise<void> {
    for (;;) {
      await sleep(ADVANCE_MS, undefined, { signal, ref: false }).catch(() => undefined);
      if (signal.aborted) return;
      await this.advance().catch((error: unknown) =>
        this.#log.error({ err: error }, 'the marker could not be written'),
      );
    }
  }

  async advance(): Promise<void> {
    const next = newMarker();
    await this.#store.advanceMarker(this.#marker, next, this.#server?.directoryId ?? null);
    this.#dataDir.writePrivate(MARKER_FILE, `${next}\n`);
    this.#marker = next;
  }
}

function readMarker(path: string): string | null {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}
