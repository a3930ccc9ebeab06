import { LEASE_MS } from '@cocore/protocol';
import type { FaultRun } from './inject.ts';
import type { Fault } from './plan.ts';

/** A stretch of time by the monotonic clock. */
export interface Span {
  readonly fromMs: number;
  readonly toMs: number;
}

/**
 * Beats come every 5 s, a worker finds out within 15 s that nobody answers it, and dials again within 5 s: a fault of this much less than the
 * lease may already cost it.
 */
const LEASE_SLACK_MS = 12_000;
/** For so long a worker may believe in a connection that is dead. */
const UNNOTICED_MS = 20_000;
/** How long after a fault is healed its consequences are still the fault's. */
export const AFTERMATH_MS = 8_000;

const overlap = (one: Span, other: Span): boolean => one.fromMs <= other.toMs && other.fromMs <= one.toMs;

/** What happened to whom, as far as it explains how executions end. */
export class History {
  readonly #faults: readonly FaultRun[];

  constructor(faults: readonly FaultRun[]) {
    this.#faults = faults;
  }

  /** The worker's process was killed, and all that it had with it. */
  died(worker: number, within: Span): boolean {
    return this.#of(worker, ['kill'], within).some(({ beganMs }) => beganMs <= within.toMs);
  }

  /** An operator stopped the worker. */
  wasRestarted(worker: number, within: Span): boolean {
    return this.#of(worker, ['restart'], within).length > 0;
  }

  /** An operator stopped the worker while nobody could hear its last words. */
  wasRestartedUnheard(worker: number, within: Span): boolean {
    return this.#of(worker, ['restart'], within).some(({ beganMs, healedMs }) => {
      const last = { fromMs: beganMs - UNNOTICED_MS, toMs: healedMs };
      return this.#faults.some(
        ({ fault, ...run }) =>
          (fault.target === 'control' || (strikes(fault, worker) && fault.kind !== 'restart')) &&
          overlap({ fromMs: run.beganMs, toMs: run.healedMs }, last),
      );
    });
  }

  /** The worker stood still: its functions' clocks went on, its functions did not. */
  wasStopped(worker: number, within: Span): boolean {
    return this.#of(worker, ['stop'], within).length > 0;
  }

  /** The disk of the control server took nothing. */
  diskFailed(atMs: number): boolean {
    return this.#faults.some(
      ({ fault: { kind, target }, beganMs, healedMs }) =>
        (kind === 'sync' || kind === 'full') &&
        target === 'control' &&
        beganMs <= atMs &&
        atMs <= healedMs + AFTERMATH_MS,
    );
  }

  /** The times in records are not to be believed. */
  get recordsAreWrong(): boolean {
    return this.#faults.some(({ fault: { kind, target } }) => kind === 'clock' && target === 'control');
  }

  hadTwin(worker: number, within: Span): boolean {
    return this.#of(worker, ['twin'], within).length > 0;
  }

  /** The control server did not hear the worker for what may be a lease, and that was so within the span for as long. */
  wasSilentForLease(worker: number, within: Span): boolean {
    const silent = this.#of(worker, ['stop', 'cut', 'silence', 'mute', 'deaf', 'kill'], within)
      .map(({ beganMs, healedMs }) => ({ fromMs: beganMs, toMs: healedMs + AFTERMATH_MS }))
      .sort((one, other) => one.fromMs - other.fromMs);
    const least = LEASE_MS - LEASE_SLACK_MS;
    const joined: { fromMs: number; toMs: number }[] = [];
    for (const span of silent) {
      const last = joined.at(-1);
      if (last !== undefined && span.fromMs <= last.toMs) last.toMs = Math.max(last.toMs, span.toMs);
      else joined.push({ ...span });
    }
    return joined.some(({ fromMs, toMs }) => toMs - fromMs - AFTERMATH_MS >= least && within.toMs >= fromMs + least);
  }

  /** Anything that touched this worker, the control server or the users' wire; each fault counts for so long after it is healed. */
  touched(worker: number | null, within: Span, aftermathMs = AFTERMATH_MS): boolean {
    return this.#faults.some(
      ({ fault: { target }, beganMs, healedMs }) =>
        (worker === null || typeof target !== 'number' || target === worker) &&
        overlap({ fromMs: beganMs, toMs: healedMs + aftermathMs }, within),
    );
  }

  /** Whether a fault that is not this one is on, at that moment, on the worker or on everything. */
  isUnder(worker: number, atMs: number, but: FaultRun): boolean {
    return this.#faults.some(
      (run) => run !== but && strikes(run.fault, worker) && run.beganMs <= atMs && atMs < run.healedMs + AFTERMATH_MS,
    );
  }

  /** The last fault of these kinds that struck the worker before. */
  lastBefore(worker: number, kinds: readonly Fault['kind'][], beforeMs: number): FaultRun | undefined {
    return this.#faults
      .filter(({ fault, beganMs }) => kinds.includes(fault.kind) && strikes(fault, worker) && beganMs <= beforeMs)
      .sort((one, other) => one.beganMs - other.beganMs)
      .at(-1);
  }

  #of(worker: number, kinds: readonly Fault['kind'][], within: Span): readonly FaultRun[] {
    return this.#faults.filter(
      ({ fault, beganMs, healedMs }) =>
        kinds.includes(fault.kind) &&
        strikes(fault, worker) &&
        overlap({ fromMs: beganMs, toMs: healedMs + AFTERMATH_MS }, within),
    );
  }
}

const strikes = ({ target }: Fault, worker: number): boolean => target === worker || target === 'all';
