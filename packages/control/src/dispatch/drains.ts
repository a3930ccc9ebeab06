import type { Scheduler } from '../scheduler/scheduler.ts';
import type { Store } from '../store/store.ts';
import type { Stopping, WorkerLink } from './live-attempt.ts';

export interface DrainsParts {
  readonly store: Store;
  readonly scheduler: Scheduler;
  /** By worker. */
  readonly links: ReadonlyMap<string, WorkerLink>;
  /** Is called when a worker may take something again. */
  readonly onChanged: () => void;
  /** Is called when the operator has changed it. */
  readonly onSet: (workerId: string) => void;
}

/** Which workers are given nothing more, by their owner's will or by the operator's. */
export class Drains {
  readonly #parts: DrainsParts;
  /** Workers that the operator gives nothing more, and since when by the store's clock. */
  readonly #drainedAtMs = new Map<string, number>();
  /** Tells whether the operator has changed something here meanwhile. */
  changes = 0;

  constructor(parts: DrainsParts) {
    this.#parts = parts;
  }

  /** As the store has it. */
  know(workerId: string, drainedAtMs: number | null): void {
    if (drainedAtMs !== null) this.#drainedAtMs.set(workerId, drainedAtMs);
  }

  /** As the store has it now: another server may have changed it. */
  learn(workerId: string, drainedAtMs: number | null): void {
    const drained = drainedAtMs !== null;
    if (this.isDrained(workerId) === drained) return;
    if (drained) this.#drainedAtMs.set(workerId, drainedAtMs);
    else this.#drainedAtMs.delete(workerId);
    this.#tellScheduler(workerId, drained);
    this.#parts.links.get(workerId)?.send({ type: 'DrainNotice', draining: drained });
    this.#parts.onChanged();
  }

  /** It is online, and the scheduler knows nothing of it yet. */
  online(link: WorkerLink): void {
    if (link.stopping !== null) this.ownerStops(link);
    this.#tellScheduler(link.workerId, this.isDrained(link.workerId));
  }

  /** Its owner has it take nothing more. */
  ownerStops(link: WorkerLink): void {
    const { links, scheduler } = this.#parts;
    if (links.get(link.workerId) !== link) return;
    scheduler.apply({ type: 'worker_stopping', workerId: link.workerId });
  }

  /** By the operator. */
  isDrained(workerId: string): boolean {
    return this.#drainedAtMs.has(workerId);
  }

  /** By whom a worker is given nothing more, and since when; null where it takes work. What its owner wants comes first. */
  of(workerId: string): (Stopping & { readonly by: 'owner' | 'operator' }) | null {
    const stopping = this.#parts.links.get(workerId)?.stopping ?? null;
    if (stopping !== null) return { by: 'owner', ...stopping };
    const sinceMs = this.#drainedAtMs.get(workerId);
    return sinceMs === undefined ? null : { by: 'operator', how: 'drain', sinceMs };
  }

  /** Gives the worker nothing more, or work again, whether it is online or not. False when there is no such worker. */
  async set(workerId: string, drained: boolean): Promise<boolean> {
    const { store, links, onChanged, onSet } = this.#parts;
    this.changes += 1;
    // From now on nothing is placed there; what is being assigned, the store decides.
    if (drained) this.#tellScheduler(workerId, drained);
    const wasDrained = this.isDrained(workerId);
    try {
      const result = await store.setDrained(workerId, drained);
      if (result === null) return false;
      if (result.drainedAtMs === null) this.#drainedAtMs.delete(workerId);
      else this.#drainedAtMs.set(workerId, result.drainedAtMs);
    } finally {
      this.changes += 1;
      this.#tellScheduler(workerId, this.isDrained(workerId));
      onChanged();
    }
    onSet(workerId);
    if (wasDrained !== drained) links.get(workerId)?.send({ type: 'DrainNotice', draining: drained });
    return true;
  }

  #tellScheduler(workerId: string, drained: boolean): void {
    this.#parts.scheduler.apply({ type: 'worker_drained', workerId, drained });
  }
}
