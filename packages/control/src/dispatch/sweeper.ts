import { setImmediate as turn } from 'node:timers/promises';
import { CONTROL_GRACE_MS, LEASE_MS } from '@cocore/protocol';
import type { Logger } from 'pino';
import type { Clock } from '../clock.ts';
import type { EventHub } from '../events.ts';
import type { ControlEnd, Store } from '../store/store.ts';
import type { Dispatcher } from './dispatcher.ts';
import type { LiveAttempt, WorkerLink } from './live-attempt.ts';

/** A worker that has not answered an assignment for this long is told to drop it. */
export const CLAIM_DEADLINE_MS = 10_000;
/** A cancellation that the worker has not carried out after this long is carried out without it. */
export const CANCEL_DEADLINE_MS = LEASE_MS;
/** How long an execution that fits no online worker waits for one that it fits. */
export const UNPLACEABLE_GRACE_MS = 60_000;
export const SWEEP_MS = 1_000;
const QUEUE_EXPIRY_BATCH = 100;

export interface SweeperParts {
  readonly store: Store;
  readonly dispatcher: Dispatcher;
  readonly hub: EventHub;
  readonly clock: Clock;
  readonly log: Logger;
}

/**
 * Ends what nobody else will: leases of silent workers, claims that nobody answered, deadlines, queue times. A sweep that comes late
 * moves all of them but the last by its lag, because then it was this server that did not listen; and each sweep first hears what has arrived.
 * While the store cannot be written to there is no sweep, and leases begin anew when it can: a worker that came back meanwhile was turned away.
 */
export class Sweeper {
  readonly #parts: SweeperParts;
  /** By the uptime clock; a worker never heard of in this life of the server counts from its start. */
  readonly #lastBeatMs = new Map<string, number>();
  /** Of what is unsent to a worker: how much had left in all, and since when, by the uptime clock, it is that much. */
  readonly #left = new Map<WorkerLink, { readonly bytes: number; sinceMs: number }>();
  readonly #misfitSinceMs = new Map<string, number>();
  #leaseFloorMs: number;
  #lastSweepMs: number;
  #wasWritable = true;

  constructor(parts: SweeperParts) {
    this.#parts = parts;
    this.#leaseFloorMs = parts.clock.uptimeMs();
    this.#lastSweepMs = this.#leaseFloorMs;
  }

  /** The worker has said something: it lives. */
  beat(workerId: string): void {
    this.#lastBeatMs.set(workerId, this.#parts.clock.uptimeMs());
  }

  /** How long the worker has said nothing. */
  silenceMs(workerId: string): number {
    return this.#parts.clock.uptimeMs() - (this.#lastBeatMs.get(workerId) ?? this.#leaseFloorMs);
  }

  /** Sweeps until the signal aborts, at most once a second. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await new Promise<void>((resolve) => {
        const done = () => {
          clearTimeout(timer);
          signal.removeEventListener('abort', done);
          resolve();
        };
        const timer = setTimeout(done, SWEEP_MS);
        signal.addEventListener('abort', done);
      });
      if (signal.aborted) return;
      await this.sweep().catch((error: unknown) => this.#parts.log.error({ err: error }, 'a sweep failed'));
    }
  }

  async sweep(): Promise<void> {
    const { clock, store, dispatcher, log } = this.#parts;
    const isWritable = await store.isWritable();
    if (!isWritable) {
      if (this.#wasWritable) log.error('the store cannot be written to: nothing is given up until it can');
      this.#wasWritable = false;
      return;
    }
    const uptimeMs = clock.uptimeMs();
    const lagMs = uptimeMs - this.#lastSweepMs - SWEEP_MS;
    this.#lastSweepMs = uptimeMs;
    if (lagMs > SWEEP_MS) this.#extend(lagMs);
    if (!this.#wasWritable) {
      this.#wasWritable = true;
      this.#leaseFloorMs = uptimeMs;
      log.info('the store can be written to again');
    }
    await turn();
    this.#cutStuck(uptimeMs);
    await this.#expireLeases(uptimeMs);
    await this.#each(dispatcher.live, (attempt) => this.#sweepAttempt(attempt, uptimeMs));
    await this.#apart(this.#expireQueue());
    await this.#endMisfits(uptimeMs);
    dispatcher.retry();
  }

  /** What fails for one of them, fails for no other. */
  async #each<T>(all: Iterable<T>, work: (one: T) => Promise<void>): Promise<void> {
    await Promise.all([...all].map((one) => this.#apart(work(one))));
  }

  async #apart(work: Promise<void>): Promise<void> {
    await work.catch((error: unknown) => this.#parts.log.error({ err: error }, 'a part of a sweep failed'));
  }

  /** As if the clock had stood still for the time. What began meanwhile begins now at the latest. */
  #extend(lagMs: number): void {
    const uptimeMs = this.#lastSweepMs;
    const moved = (sinceMs: number) => Math.min(sinceMs + lagMs, uptimeMs);
    this.#leaseFloorMs = moved(this.#leaseFloorMs);
    for (const [workerId, beatMs] of this.#lastBeatMs) this.#lastBeatMs.set(workerId, moved(beatMs));
    for (const left of this.#left.values()) left.sinceMs = moved(left.sinceMs);
    for (const attempt of this.#parts.dispatcher.live) {
      attempt.linkedUptimeMs = moved(attempt.linkedUptimeMs);
      if (attempt.revokedUptimeMs !== null) attempt.revokedUptimeMs = moved(attempt.revokedUptimeMs);
      if (attempt.deadlineUptimeMs !== null) attempt.deadlineUptimeMs += lagMs;
      const cancelMs = attempt.cancelRequestedUptimeMs;
      if (cancelMs !== null) attempt.cancelRequestedUptimeMs = moved(cancelMs);
    }
  }

  /** Ends the sessions of workers that have taken nothing of what they are sent for a lease. */
  #cutStuck(uptimeMs: number): void {
    const links = new Set(this.#parts.dispatcher.links.values());
    for (const link of this.#left.keys()) if (!links.has(link)) this.#left.delete(link);
    for (const link of links) {
      const left = this.#left.get(link);
      if (link.unsentBytes === 0) this.#left.delete(link);
      else if (left?.bytes !== link.leftBytes) this.#left.set(link, { bytes: link.leftBytes, sinceMs: uptimeMs });
      else if (uptimeMs - left.sinceMs > LEASE_MS) {
        this.#parts.log.warn({ workerId: link.workerId, unsentBytes: link.unsentBytes }, 'a worker takes nothing');
        link.cut();
      }
    }
  }

  async #expireLeases(uptimeMs: number): Promise<void> {
    const { dispatcher } = this.#parts;
    const workerIds = new Set([...dispatcher.live.workerIds(), ...dispatcher.links.keys()]);
    for (const workerId of this.#lastBeatMs.keys()) if (!workerIds.has(workerId)) this.#lastBeatMs.delete(workerId);
    for (const workerId of workerIds) {
      const link = dispatcher.link(workerId);
      if (link?.isBehind === true) this.beat(workerId);
      const beatMs = Math.max(this.#lastBeatMs.get(workerId) ?? 0, this.#leaseFloorMs);
      if (uptimeMs - beatMs <= LEASE_MS) continue;
      this.#parts.log.warn({ workerId }, 'the lease of a worker ran out');
      link?.close(4002, 'lease expired');
      await this.#each(dispatcher.live.ofWorker(workerId), (attempt) => this.lose(attempt, 'its lease ran out'));
    }
  }

  /** Gives up on an attempt that its worker has no more; `why` is for the worker. */
  async lose(attempt: LiveAttempt, why: string): Promise<void> {
    const { store, dispatcher } = this.#parts;
    const { sessionId } = attempt;
    const result = await store.recordLost(attempt, attempt.workerId, attempt.beat, sessionId);
    if (result === 'stale') this.#letGo(attempt, sessionId);
    if (attempt.over || result === 'stale') return;
    // Its worker may have come back, and resumed it, in the same moment.
    attempt.link?.send({ type: 'AttemptRevoke', attemptId: attempt.attemptId, why, report: true });
    if (result === 'ended') await dispatcher.ended(attempt, 'control');
    else dispatcher.lost(attempt);
  }

  /** It is not in the session any more that this server knew: it goes on elsewhere, or has ended there. What is under way about it here comes first. */
  #letGo(attempt: LiveAttempt, sessionId: string): void {
    if (attempt.over || attempt.sessionId !== sessionId || attempt.underWay > 0) return;
    this.#parts.dispatcher.letGo(attempt);
  }

  async #sweepAttempt(attempt: LiveAttempt, uptimeMs: number): Promise<void> {
    if (attempt.over) return;
    if (attempt.state === 'assigned') {
      await this.#sweepClaim(attempt, uptimeMs);
      return;
    }
    const isLate = isOverDue(attempt, uptimeMs);
    const cancelMs = attempt.cancelRequestedUptimeMs;
    const cancelIsLate = cancelMs !== null && uptimeMs - cancelMs > CANCEL_DEADLINE_MS;
    if (!isLate && !cancelIsLate) return;
    const why = whyEnded(attempt, cancelIsLate);
    const { sessionId } = attempt;
    const ended = await this.#parts.store.endByControl(attempt, why, attempt.beat, sessionId);
    if (!ended) this.#letGo(attempt, sessionId);
    if (!ended || attempt.over) return;
    attempt.link?.send({
      type: 'AttemptRevoke',
      attemptId: attempt.attemptId,
      why: 'its deadline passed',
      report: true,
    });
    await this.#parts.dispatcher.ended(attempt, 'control');
  }

  /**
   * A claim that a worker had time to answer, and spoke of something else, is revoked; only when that was a lease ago is the attempt free for another
   * worker. One that is not heard may have answered: its lease decides.
   */
  async #sweepClaim(attempt: LiveAttempt, uptimeMs: number): Promise<void> {
    // Its answer may be among what is not worked off.
    if (attempt.link === null || attempt.link.isBehind || attempt.underWay > 0 || !attempt.isSent) return;
    if (attempt.revokedUptimeMs === null) {
      const heardMs = this.#lastBeatMs.get(attempt.workerId) ?? 0;
      if (heardMs - attempt.linkedUptimeMs <= CLAIM_DEADLINE_MS) return;
      attempt.revokedUptimeMs = uptimeMs;
      attempt.link.send({ type: 'AttemptRevoke', attemptId: attempt.attemptId, why: 'it was not answered in time' });
    } else if (uptimeMs - attempt.revokedUptimeMs > LEASE_MS) {
      await this.lose(attempt, 'its lease ran out');
    }
  }

  async #expireQueue(): Promise<void> {
    const { store, dispatcher } = this.#parts;
    for (const expired of await store.expireQueue(QUEUE_EXPIRY_BATCH)) {
      dispatcher.withdrawn(expired.executionId, expired.attemptId);
    }
  }

  async #endMisfits(uptimeMs: number): Promise<void> {
    const { dispatcher } = this.#parts;
    const misfits = new Map(dispatcher.scheduler.misfits().map(({ attemptId, why }) => [attemptId, why]));
    for (const attemptId of this.#misfitSinceMs.keys()) {
      if (!misfits.has(attemptId)) this.#misfitSinceMs.delete(attemptId);
    }
    for (const attemptId of misfits.keys()) {
      const sinceMs = this.#misfitSinceMs.get(attemptId);
      if (sinceMs === undefined) this.#misfitSinceMs.set(attemptId, uptimeMs);
      if (sinceMs === undefined || uptimeMs - sinceMs <= UNPLACEABLE_GRACE_MS) continue;
      await this.#apart(this.#endMisfit(attemptId));
    }
  }

  /** Asks once more: a worker that fits may have come since the sweep looked. */
  async #endMisfit(attemptId: string): Promise<void> {
    const { store, dispatcher } = this.#parts;
    const misfit = await dispatcher.elsewhere.misfit(attemptId);
    const queued = dispatcher.queuedAttempt(attemptId);
    if (misfit === null || queued === undefined) return;
    if (await store.endUnplaceable(queued, misfit.message)) dispatcher.withdrawn(queued.executionId, attemptId);
  }
}

function whyEnded({ state, incompleteEnds, writer }: LiveAttempt, cancelIsLate: boolean): ControlEnd {
  if (incompleteEnds > 0 || writer.hasFailed) return 'output_lost';
  return state === 'accepted' && !cancelIsLate ? 'prepare_deadline' : 'run_deadline';
}

/**
 * Whether its worker should have said how it ended. A worker that is away, or was a moment ago, or whose word is not worked off yet, is waited for, and
 * its lease decides; but none gains more than a lease by that.
 */
function isOverDue({ deadlineUptimeMs, link, linkedUptimeMs, underWay }: LiveAttempt, uptimeMs: number): boolean {
  if (deadlineUptimeMs === null) return false;
  if (uptimeMs > deadlineUptimeMs + LEASE_MS + CONTROL_GRACE_MS) return true;
  if (link === null || link.isBehind || underWay > 0) return false;
  return uptimeMs > Math.max(deadlineUptimeMs, linkedUptimeMs) + CONTROL_GRACE_MS;
}
