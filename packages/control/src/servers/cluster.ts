import { setTimeout as sleep } from 'node:timers/promises';
import { canRun, type SandboxKind } from '@cocore/protocol';
import type { Logger } from 'pino';
import type { Clock } from '../clock.ts';
import type { Dispatcher } from '../dispatch/dispatcher.ts';
import type { Sweeper } from '../dispatch/sweeper.ts';
import type { EventHub } from '../events.ts';
import type { Need } from '../scheduler/types.ts';
import { Bulletin } from '../store/postgres/bulletin.ts';
import type { ServerFacts, Store, StoredWorker } from '../store/store.ts';
import { BEAT_MS, Membership } from './membership.ts';
import { heardOf, News, type NewsItem } from './news.ts';
import type { Others } from './others.ts';

/** So many of those that wait are looked through at once. */
const QUEUE_PAGE = 1_000;
/** Workers, cancellations and followers are looked after at each so-manieth look. */
const THOROUGH_LOOKS = 2;

export interface ClusterParts {
  readonly store: Store;
  readonly hub: EventHub;
  readonly facts: ServerFacts;
  readonly clock: Clock;
  readonly log: Logger;
  /** Of the database. */
  readonly url: string;
}

/**
 * Keeps a server in step with the others on its database. They tell each other what has changed, as hints: whoever hears one reads what is so. What was
 * not heard is found by a slow look, which a server that is alone does not take.
 */
export class Cluster implements Others, AsyncDisposable {
  readonly #parts: ClusterParts;
  readonly #membership: Membership;
  readonly #bulletin: Bulletin;
  readonly #news: News;
  readonly #stopping = new AbortController();
  readonly #running: Promise<void>;
  #dispatcher: Dispatcher | null = null;
  #sweeper: Pick<Sweeper, 'beat'> | null = null;
  /** Workers that are online elsewhere, as of the last look. */
  #elsewhere: readonly StoredWorker[] = [];
  /** Up to where the queue is looked through. */
  #lookedAt = '';
  #looks = 0;
  /** Somebody may have gone since workers were claimed, also before the first look. */
  #hasUnclaimed = true;
  /** What was heard and not worked off. */
  readonly #heardAttempts = new Map<string, 'queued' | 'look'>();
  #isHearing = false;
  #looking: Promise<void> | null = null;
  #lookingAtWorkers: Promise<void> | null = null;
  #looksAgain = false;

  private constructor(parts: ClusterParts, membership: Membership) {
    this.#parts = parts;
    this.#membership = membership;
    const { hub, log, url } = parts;
    this.#bulletin = new Bulletin({
      url,
      hear: (payload) => this.#hearAll(payload),
      connected: () => this.#quietly(this.lookAtAll()),
    });
    this.#news = new News({
      serverId: this.serverId,
      hasOthers: () => this.areThere,
      send: (payloads) => this.#bulletin.send(payloads),
      log,
    });
    hub.tellOthers = (executionId, signal) => this.tell([signal, executionId]);
    this.#running = this.#run(this.#stopping.signal);
  }

  /** @throws CocoreError `database_unfit` as `Membership.join` */
  static async join(parts: ClusterParts): Promise<Cluster> {
    return new Cluster(parts, await Membership.join(parts));
  }

  get serverId(): string {
    return this.#parts.facts.serverId;
  }

  get areThere(): boolean {
    return this.#membership.hasOthers;
  }

  tell(item: NewsItem): void {
    this.#news.tell(item);
  }

  has({ serverId, sessionId }: StoredWorker): boolean {
    return sessionId !== null && this.#membership.isOther(serverId);
  }

  couldRun(need: Need): boolean {
    return this.#elsewhere.some(
      ({ capabilities }) =>
        canRun(capabilities, need) &&
        need.memoryMiB + capabilities.sandboxOverheadMiB <= capabilities.memoryMiB &&
        need.cpus <= capabilities.cpus &&
        need.diskMiB <= capabilities.diskMiB,
    );
  }

  isGiven(required: SandboxKind): boolean {
    return this.#elsewhere.some(({ capabilities }) => canRun(capabilities, required));
  }

  get onlineCount(): number {
    return this.#elsewhere.length;
  }

  /** From now on it acts on what it hears. */
  begin(dispatcher: Dispatcher, sweeper: Pick<Sweeper, 'beat'>): void {
    this.#dispatcher = dispatcher;
    this.#sweeper = sweeper;
    this.#news.announce();
    this.#quietly(this.look());
  }

  /** What it has is for the others now, which it tells. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    await this.#running;
    await this.#looking?.catch(() => undefined);
    try {
      await this.#membership[Symbol.asyncDispose]();
      this.#news.announce();
      await this.#news.flush();
    } catch (error) {
      this.#parts.log.error({ err: error }, 'others find that this server has gone by themselves');
    }
    await this.#bulletin[Symbol.asyncDispose]();
  }

  async #run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await sleep(BEAT_MS, undefined, { signal, ref: false }).catch(() => undefined);
      if (signal.aborted) return;
      await this.look().catch((error: unknown) =>
        this.#parts.log.error({ err: error }, 'other servers could not be looked for'),
      );
    }
  }

  /** News may have been missed: all is looked through. */
  async lookAtAll(): Promise<void> {
    if (this.#dispatcher === null || !this.areThere) return;
    this.#lookedAt = '';
    do await this.#lookAtQueue();
    while (this.#lookedAt !== '');
    await this.#lookThoroughly();
  }

  look(): Promise<void> {
    this.#looking ??= this.#look().finally(() => (this.#looking = null));
    return this.#looking;
  }

  async #look(): Promise<void> {
    // A beat would bring it back.
    if (this.#stopping.signal.aborted) return;
    const { store, log } = this.#parts;
    const { gone, hasChanged } = await this.#membership.look();
    this.#hasUnclaimed ||= gone.length > 0 || hasChanged;
    if (this.#dispatcher === null) return;
    if (gone.length > 0) log.warn({ servers: gone.map(({ serverId }) => serverId) }, 'servers say nothing any more');
    if (this.#hasUnclaimed) {
      const claimed = await store.claimWorkers(this.serverId, gone);
      this.#dispatcher.claimed(claimed);
      this.#hasUnclaimed = false;
      // Their leases begin now.
      for (const { workerId } of claimed) this.#sweeper!.beat(workerId!);
      await this.lookAtAll();
      return;
    }
    if (!this.areThere) return;
    await this.#lookAtQueue();
    this.#looks += 1;
    if (this.#looks % THOROUGH_LOOKS === 0) await this.#lookThoroughly();
  }

  /** What one of the others has sent. */
  #hearAll(payload: string): void {
    for (const item of heardOf(payload, this.serverId)) this.#hear(item);
  }

  lookAtWorkers(): Promise<void> {
    this.#looksAgain = true;
    this.#lookingAtWorkers ??= this.#keepLookingAtWorkers().finally(() => (this.#lookingAtWorkers = null));
    return this.#lookingAtWorkers;
  }

  #hear(item: NewsItem): void {
    const dispatcher = this.#dispatcher;
    if (dispatcher === null) return;
    switch (item[0]) {
      case 'changed':
      case 'output':
      case 'ended':
        this.#parts.hub.hear(item[1], item[0]);
        return;
      case 'queued':
        if (!dispatcher.reconciliation.isWaiting(item[1])) this.#heardOfAttempt(item[1], 'queued');
        return;
      case 'taken':
        dispatcher.reconciliation.taken(item[1]);
        return;
      case 'look':
        if (dispatcher.reconciliation.isKnown(item[1])) this.#heardOfAttempt(item[1], 'look');
        return;
      case 'worker':
        this.#quietly(this.lookAtWorkers());
        return;
      case 'limit': {
        const [, projectId, id, version, limit] = item;
        dispatcher.limited(projectId, { id, version, limit });
        return;
      }
      case 'server':
        this.#quietly(this.look());
        return;
      default:
        // Of a later release.
        return;
    }
  }

  #heardOfAttempt(attemptId: string, what: 'queued' | 'look'): void {
    this.#heardAttempts.set(attemptId, what);
    if (this.#isHearing) return;
    this.#isHearing = true;
    this.#quietly(
      this.#workOff().finally(() => {
        this.#isHearing = false;
      }),
    );
  }

  async #workOff(): Promise<void> {
    // What comes in one turn is read together.
    await new Promise((resolve) => setImmediate(resolve));
    while (this.#heardAttempts.size > 0) {
      const attemptIds = [...this.#heardAttempts.keys()];
      this.#heardAttempts.clear();
      await this.#dispatcher!.reconciliation.lookAt(attemptIds);
    }
  }

  async #lookAtQueue(): Promise<void> {
    const dispatcher = this.#dispatcher!;
    const after = this.#lookedAt;
    const known = dispatcher.reconciliation.waitingIds();
    const page = await this.#parts.store.listQueuedIds(after, QUEUE_PAGE);
    const last = page.length === QUEUE_PAGE ? page.at(-1)! : null;
    const waiting = new Set(page);
    const over = [...known].filter((id) => id > after && (last === null || id <= last) && !waiting.has(id));
    const unknown = page.filter((id) => !dispatcher.reconciliation.isWaiting(id));
    this.#lookedAt = last ?? '';
    if (over.length + unknown.length > 0) await dispatcher.reconciliation.lookAt([...over, ...unknown]);
  }

  async #lookThoroughly(): Promise<void> {
    const { store, hub } = this.#parts;
    hub.look();
    await this.lookAtWorkers();
    const cancelled = await store.listCancelRequested(this.serverId);
    if (cancelled.length > 0) await this.#dispatcher!.reconciliation.lookAt(cancelled);
    this.#dispatcher!.reconciliation.letGoOfLeft();
    await this.#news.check();
  }

  async #keepLookingAtWorkers(): Promise<void> {
    const { store } = this.#parts;
    const dispatcher = this.#dispatcher!;
    while (this.#looksAgain) {
      this.#looksAgain = false;
      const before = dispatcher.reconciliation.sessionsNow();
      const workers = await store.listWorkers();
      this.#elsewhere = workers.filter((worker) => this.has(worker));
      // What a session that is closed by it had, is let go of at the next look.
      if (dispatcher.reconciliation.learn(workers, before, this.serverId)) this.#looksAgain = true;
    }
  }

  #quietly(work: Promise<void>): void {
    work.catch((error: unknown) =>
      this.#parts.log.error({ err: error }, 'news of another server could not be followed'),
    );
  }
}
