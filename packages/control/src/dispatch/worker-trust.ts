import type { Outcome, WorkerBackoff } from '@cocore/protocol';
import type { Logger } from 'pino';
import type { Clock } from '../clock.ts';
import type { Scheduler } from '../scheduler/scheduler.ts';
import { FAST_FAILURE_MS, FULL_ALLOWANCE, type Standing, Trust, type TrustFacts } from '../scheduler/trust.ts';
import type { Store } from '../store/store.ts';
import type { LiveAttempt, LiveAttempts } from './live-attempt.ts';

export interface WorkerTrustParts {
  readonly store: Pick<Store, 'recordAllowance'>;
  readonly scheduler: Scheduler;
  readonly live: LiveAttempts;
  readonly clock: Clock;
  readonly log: Logger;
  /** New workers begin with little. */
  readonly isEarned: boolean;
}

/** Keeps the scheduler told of what workers have shown. What they earned is in the store; what is held against them is forgotten with this server's life. */
export class WorkerTrust {
  readonly #parts: WorkerTrustParts;
  readonly #trust: Trust;

  constructor(parts: WorkerTrustParts) {
    this.#parts = parts;
    this.#trust = new Trust(parts.isEarned);
  }

  /** A worker earned this in an earlier life of the server. */
  know(workerId: string, allowance: number): void {
    this.#trust.know(workerId, allowance);
  }

  /** Its session has begun: the scheduler knows nothing of it. */
  online(workerId: string): void {
    this.#tell(workerId);
  }

  /** It is live no more. @param outcome as its worker says, null where it said nothing */
  ended(attempt: LiveAttempt, outcome: Outcome | null): void {
    const { workerId, attemptId } = attempt;
    const before = this.#trust.standing(workerId);
    const earned = this.#trust.earned(workerId);
    if (outcome !== null) this.#trust.ended(factsOf(attempt), outcome, this.#parts.clock.uptimeMs());
    const now = this.#trust.standing(workerId);
    if (now.failures > before.failures) {
      this.#parts.log.warn({ workerId, attemptId, failures: now.failures, outcome }, 'a worker is backed off');
    }
    if (this.#trust.earned(workerId) > earned) this.#keep(workerId);
    if (now.onTrialSinceMs !== null || !isSame(now, before)) this.#tell(workerId);
  }

  /** Ends pauses, and finds attempts that run on workers that had failed. */
  sweep(): void {
    const nowMs = this.#parts.clock.uptimeMs();
    for (const workerId of this.#trust.passTime(nowMs)) this.#tell(workerId);
    for (const workerId of [...this.#trust.suspects()]) {
      for (const attempt of this.#parts.live.ofWorker(workerId)) {
        const facts = factsOf(attempt);
        const hasRun = facts.hasStarted && nowMs - facts.givenMs > FAST_FAILURE_MS;
        if (hasRun) this.#trust.ran(facts, nowMs);
      }
      // Also when nothing has changed: attempts of before its failure may have gone.
      this.#tell(workerId);
    }
  }

  /** How many of the workers that are online get nothing, or one attempt at a time. */
  backedOffCount(isOnline: (workerId: string) => boolean): number {
    let count = 0;
    for (const workerId of this.#trust.suspects()) if (isOnline(workerId)) count += 1;
    return count;
  }

  /** As the API shows it. */
  of(workerId: string): { readonly allowance: number | null; readonly backoff: WorkerBackoff | null } {
    const { clock } = this.#parts;
    const { notBeforeMs, failures } = this.#trust.standing(workerId);
    const allowance = this.#allowance(workerId);
    const until =
      notBeforeMs === null ? null : new Date(clock.nowMs() + Math.max(0, notBeforeMs - clock.uptimeMs())).toISOString();
    return {
      allowance: Number.isFinite(allowance) ? allowance : null,
      backoff: failures === 0 && until === null ? null : { until, failures },
    };
  }

  #tell(workerId: string): void {
    const { notBeforeMs } = this.#trust.standing(workerId);
    const allowance = this.#allowance(workerId);
    this.#parts.scheduler.apply({ type: 'worker_trust', workerId, allowance, notBeforeMs });
  }

  #allowance(workerId: string): number {
    const { allowance, onTrialSinceMs } = this.#trust.standing(workerId);
    if (onTrialSinceMs === null) return allowance;
    let older = 0;
    for (const { linkedUptimeMs } of this.#parts.live.ofWorker(workerId)) {
      if (linkedUptimeMs <= onTrialSinceMs) older += 1;
    }
    return allowance + older;
  }

  /** Where the store does not take it, the worker earns it again after a restart. */
  #keep(workerId: string): void {
    const allowance = Math.min(FULL_ALLOWANCE, this.#trust.earned(workerId));
    this.#parts.store.recordAllowance(workerId, allowance).catch((error: unknown) => {
      this.#parts.log.error({ err: error, workerId }, 'what a worker has earned could not be kept');
    });
  }
}

const isSame = (one: Standing, other: Standing): boolean =>
  one.allowance === other.allowance && one.notBeforeMs === other.notBeforeMs;

const factsOf = ({ workerId, function: of, linkedUptimeMs, state }: LiveAttempt): TrustFacts => ({
  workerId,
  functionId: of.id,
  givenMs: linkedUptimeMs,
  hasStarted: state === 'started',
});
