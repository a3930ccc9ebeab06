import type { Clock } from '../clock.ts';
import type { LiveAttemptRow, QueuedAttempt, Store, StoredWorker } from '../store/store.ts';
import type { Drains } from './drains.ts';
import type { LiveAttempt, LiveAttempts, WorkerLink } from './live-attempt.ts';
import type { WorkerTrust } from './worker-trust.ts';

/** What is held of workers at one time. */
export interface SessionsNow {
  readonly links: ReadonlyMap<string, WorkerLink>;
  /** By worker. */
  readonly unlinked: ReadonlyMap<string, readonly { readonly attempt: LiveAttempt; readonly sessionId: string }[]>;
  readonly drains: number;
}

export interface ReconciliationParts {
  readonly store: Pick<Store, 'loadAttempts'>;
  readonly clock: Clock;
  readonly live: LiveAttempts;
  /** What waits here. */
  readonly queued: ReadonlyMap<string, QueuedAttempt>;
  /** By worker. */
  readonly links: ReadonlyMap<string, WorkerLink>;
  readonly drains: Drains;
  readonly trust: WorkerTrust;
  /** Is called with an attempt that waits, as other servers know. */
  readonly onWaits: (row: LiveAttemptRow) => void;
  readonly onWaitsNoMore: (attemptId: string) => void;
  /** Is called with an attempt that is another server's, or nobody's. */
  readonly onElsewhere: (attempt: LiveAttempt) => void;
  /** Is called when something may be placed that could not before. */
  readonly onChanged: () => void;
}

/** Brings what a server holds of attempts and workers in line with the store, where another server may have changed something. */
export class Reconciliation {
  readonly #parts: ReconciliationParts;
  #left: ReadonlySet<LiveAttempt> = new Set();

  constructor(parts: ReconciliationParts) {
    this.#parts = parts;
  }

  isWaiting(attemptId: string): boolean {
    return this.#parts.queued.has(attemptId);
  }

  isKnown(attemptId: string): boolean {
    return this.isWaiting(attemptId) || this.#parts.live.get(attemptId) !== undefined;
  }

  waitingIds(): ReadonlySet<string> {
    return new Set(this.#parts.queued.keys());
  }

  /** Another server says that it does not wait any more. */
  taken(attemptId: string): void {
    if (this.isWaiting(attemptId)) this.#parts.onWaitsNoMore(attemptId);
  }

  /** Brings what is held of attempts in line with the store, where another server may have changed something. */
  async lookAt(attemptIds: readonly string[]): Promise<void> {
    const before = new Map(
      attemptIds.map((id) => {
        const attempt = this.#parts.live.get(id);
        return [id, { attempt, sessionId: attempt?.sessionId, isWaiting: this.isWaiting(id) }];
      }),
    );
    const rows = new Map((await this.#parts.store.loadAttempts(attemptIds)).map((row) => [row.attemptId, row]));
    for (const [attemptId, { attempt, sessionId, isWaiting }] of before) {
      const row = rows.get(attemptId);
      const live = this.#parts.live.get(attemptId);
      if (live !== undefined) {
        // What has come since is newer than what was read.
        if (live === attempt && live.sessionId === sessionId) this.#compare(live, row);
      } else if (isWaiting && row?.state !== 'queued') this.#parts.onWaitsNoMore(attemptId);
      else if (!this.isWaiting(attemptId) && row?.state === 'queued') this.#parts.onWaits(row);
    }
    this.#parts.onChanged();
  }

  /** What is held now, to be judged by what is read from now on. */
  sessionsNow(): SessionsNow {
    const unlinked = new Map<string, { attempt: LiveAttempt; sessionId: string }[]>();
    for (const attempt of this.#parts.live) {
      if (attempt.link !== null) continue;
      const { workerId, sessionId } = attempt;
      const ofWorker = unlinked.get(workerId) ?? [];
      unlinked.set(workerId, ofWorker);
      ofWorker.push({ attempt, sessionId });
    }
    return { links: new Map(this.#parts.links), unlinked, drains: this.#parts.drains.changes };
  }

  /** What the store says of workers, some of which are another server's now. @returns whether a session was closed for it */
  learn(workers: readonly StoredWorker[], before: SessionsNow, serverId: string): boolean {
    let hasClosed = false;
    for (const { workerId, sessionId, serverId: owner, drainedAtMs, allowance } of workers) {
      if (before.drains === this.#parts.drains.changes) this.#parts.drains.learn(workerId, drainedAtMs);
      const link = this.#parts.links.get(workerId);
      if (link !== undefined) {
        if (before.links.get(workerId) !== link || link.sessionId === sessionId) continue;
        link.close(4001, 'session_replaced');
        hasClosed = true;
        continue;
      }
      this.#parts.trust.know(workerId, allowance);
      if (owner === serverId) continue;
      for (const { attempt, sessionId: known } of before.unlinked.get(workerId) ?? []) {
        if (!attempt.over && attempt.link === null && attempt.sessionId === known) this.#parts.onElsewhere(attempt);
      }
    }
    return hasClosed;
  }

  /**
   * Lets go of what workers that have a session here did not bring into it, and that was so the last time too: a session's attempts are all that the store
   * has of its worker. It ended at another server, whose word was lost, or came while this worker said something of it.
   */
  letGoOfLeft(): void {
    const left = [...this.#parts.live].filter(
      ({ link, workerId, underWay }) => link === null && underWay === 0 && this.#parts.links.has(workerId),
    );
    for (const attempt of left) if (this.#left.has(attempt)) this.#parts.onElsewhere(attempt);
    this.#left = new Set(left);
  }

  /** @param row as the store has it; undefined when it has ended */
  #compare(attempt: LiveAttempt, row: LiveAttemptRow | undefined): void {
    const { attemptId, link, state } = attempt;
    if (row === undefined) {
      // One that was accepted ends by its server alone, which may be about to hear of it.
      if (state === 'assigned' && attempt.underWay === 0) this.#parts.onElsewhere(attempt);
    } else if (row.sessionId !== attempt.sessionId) this.#parts.onElsewhere(attempt);
    else if (row.cancelRequestedAtMs !== null && attempt.cancelRequestedUptimeMs === null) {
      attempt.cancelRequestedUptimeMs = this.#parts.clock.uptimeMs();
      link?.send({ type: 'AttemptCancel', attemptId });
    }
  }
}
