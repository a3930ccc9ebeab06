import { CocoreError } from '@cocore/protocol';
import type { Logger } from 'pino';
import type { Clock } from '../clock.ts';
import type { ServerFacts, Store, StoredServer } from '../store/store.ts';
import { setTimeout as sleep } from 'node:timers/promises';

/** How often a server says that it lives, and looks who else does. */
export const BEAT_MS = 2_000;
/** One that has said nothing for so long is gone: by this server's own clock, and only while it looked. */
export const GONE_MS = 15_000;

export interface MembershipParts {
  readonly store: Pick<Store, 'joinServers' | 'beatServer' | 'listServers' | 'leaveServers' | 'claimWorkers'>;
  readonly facts: ServerFacts;
  readonly clock: Clock;
  readonly log: Logger;
}

/** What a look has found. */
export interface Found {
  /** Have not beaten for too long. */
  readonly gone: readonly StoredServer[];
  /** One that was there is not any more, or has come. */
  readonly hasChanged: boolean;
}

interface Seen {
  readonly beat: number;
  readonly silentMs: number;
}

/** Which servers use the database. No clocks are compared: a server lives as long as its beat changes. */
export class Membership implements AsyncDisposable {
  readonly facts: ServerFacts;
  readonly #parts: MembershipParts;
  #seen = new Map<string, Seen>();
  /** Null when the last look failed: the time since counts against nobody. */
  #lookedMs: number | null = null;

  private constructor(parts: MembershipParts) {
    this.#parts = parts;
    this.facts = parts.facts;
  }

  /**
   * Waits where another that would not let this one in may be gone, until that is known.
   *
   * @throws CocoreError `database_unfit` where others keep blobs elsewhere
   */
  static async join(parts: MembershipParts): Promise<Membership> {
    const { store, facts, log } = parts;
    const membership = new Membership(parts);
    for (let beats: ReadonlyMap<string, number> | null = null; ;) {
      const strangers = await store.joinServers(facts);
      if (strangers.length === 0) break;
      if (strangers.some(({ serverId, beat }) => (beats?.get(serverId) ?? beat) !== beat)) throw isElsewhere(strangers);
      if (beats === null)
        log.warn('another server has used the database, which may be gone: it is waited for its beat');
      beats = new Map(strangers.map(({ serverId, beat }) => [serverId, beat]));
      const { gone } = membership.#judge(await store.listServers());
      if (gone.length > 0) await store.claimWorkers(facts.serverId, gone);
      else await sleep(BEAT_MS);
    }
    return membership;
  }

  get hasOthers(): boolean {
    return this.#seen.size > 0;
  }

  get size(): number {
    return this.#seen.size + 1;
  }

  isOther(serverId: string | null): boolean {
    return serverId !== null && this.#seen.has(serverId);
  }

  /** Says that this one lives, and looks who else does. */
  async look(): Promise<Found> {
    try {
      await this.#parts.store.beatServer(this.facts);
      return this.#judge(await this.#parts.store.listServers());
    } catch (error) {
      this.#lookedMs = null;
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#parts.store.leaveServers(this.facts.serverId);
  }

  #judge(servers: readonly StoredServer[]): Found {
    const nowMs = this.#parts.clock.uptimeMs();
    const passedMs = this.#lookedMs === null ? 0 : nowMs - this.#lookedMs;
    this.#lookedMs = nowMs;
    const before = this.#seen;
    const gone: StoredServer[] = [];
    this.#seen = new Map();
    for (const server of servers) {
      const { serverId, beat } = server;
      if (serverId === this.facts.serverId) continue;
      const seen = before.get(serverId);
      // One look that comes late says little: what it did not see in time may have been this server's own pause.
      const silentMs = seen?.beat === beat ? seen.silentMs + Math.min(passedMs, 2 * BEAT_MS) : 0;
      if (silentMs > GONE_MS) gone.push(server);
      else this.#seen.set(serverId, { beat, silentMs });
    }
    const isSame = before.size === this.#seen.size && [...before.keys()].every((serverId) => this.#seen.has(serverId));
    return { gone, hasChanged: !isSame };
  }
}

function isElsewhere(strangers: readonly StoredServer[]): CocoreError {
  const places = [...new Set(strangers.map(({ blobs }) => blobs))].join(', ');
  return new CocoreError(
    'database_unfit',
    `other servers use the database and keep blobs in ${places}: several servers need one blob store, the same S3 bucket and prefix for each (COCORE_BLOB_STORE)`,
  );
}
