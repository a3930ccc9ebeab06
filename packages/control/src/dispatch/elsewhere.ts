import type { SandboxKind, Waiting } from '@cocore/protocol';
import type { Scheduler } from '../scheduler/scheduler.ts';
import type { Why } from '../scheduler/waiting.ts';
import type { Others } from '../servers/others.ts';
import type { QueuedAttempt, StoredWorker } from '../store/store.ts';
import { itemOf } from './placeable.ts';

/** Why an attempt waits that a worker of another server could run all the same. */
const LACKS: ReadonlySet<Waiting['code']> = new Set(['no_worker', 'isolation', 'network', 'too_large']);

export interface ElsewhereParts {
  readonly scheduler: Scheduler;
  /** What waits here. */
  readonly queued: ReadonlyMap<string, QueuedAttempt>;
  /** Null where no other server may use the store. */
  readonly others: Others | null;
}

/** What the scheduler says of this server's workers, put right by what workers of other servers could do. */
export class Elsewhere {
  readonly #parts: ElsewhereParts;

  constructor(parts: ElsewhereParts) {
    this.#parts = parts;
  }

  /** Why no worker that is online anywhere could run the attempt; null as the scheduler says it. */
  async misfit(attemptId: string): Promise<Why | null> {
    const why = this.#parts.scheduler.misfit(attemptId);
    if (why === null || this.#parts.others?.areThere !== true) return why;
    await this.#parts.others.lookAtWorkers();
    return this.#fitsElsewhere(attemptId) ? null : this.#parts.scheduler.misfit(attemptId);
  }

  /** Why nothing takes the attempt now, as far as this server knows; null when it is not queued, or about to be placed. */
  why(attemptId: string): Waiting | null {
    const waiting = this.#parts.scheduler.why(attemptId);
    if (waiting === null || !LACKS.has(waiting.code) || !this.#fitsElsewhere(attemptId)) return waiting;
    return { ...waiting, code: 'busy', message: 'workers of other servers could run it; none has taken it yet' };
  }

  /** Whether a worker that is online has sandboxes such as these. */
  isGiven(required: SandboxKind): boolean {
    return this.#parts.scheduler.isGiven(required) || this.#parts.others?.isGiven(required) === true;
  }

  /** The worker has a session at another server. */
  has(worker: StoredWorker): boolean {
    return this.#parts.others?.has(worker) === true;
  }

  #fitsElsewhere(attemptId: string): boolean {
    const queued = this.#parts.queued.get(attemptId);
    return queued !== undefined && this.#parts.others?.couldRun(itemOf(queued)) === true;
  }
}
