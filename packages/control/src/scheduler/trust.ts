import type { Outcome } from '@cocore/protocol';

/** An attempt that its worker could not make ready sooner than this after it was given it is held against the worker. */
export const FAST_FAILURE_MS = 10_000;
export const MIN_BACKOFF_MS = 1_000;
export const MAX_BACKOFF_MS = 10 * 60_000;
/** A function that ran on another worker so lately is not why it fails here. */
export const EVIDENCE_MS = 10 * 60_000;
/** How many attempts a new worker may have at once, where trust is earned. */
export const FIRST_ALLOWANCE = 2;
/** A worker that may have so many may have as many as it has room for. */
export const FULL_ALLOWANCE = 1_024;
/** Of the functions that ran, the one that ran longest ago is forgotten first. */
const MAX_FUNCTIONS = 10_000;

/** What is known of an attempt that its worker has, or had. Times are of the uptime clock. */
export interface TrustFacts {
  readonly workerId: string;
  readonly functionId: string;
  /** When the worker was given it. */
  readonly givenMs: number;
  /** Its process has started. */
  readonly hasStarted: boolean;
}

export interface Standing {
  /** How many attempts it may have at once; `Infinity` for as many as it has room for. On trial, beside those that it was given before. */
  readonly allowance: number;
  /** Its last failure, while failures are held against it. */
  readonly onTrialSinceMs: number | null;
  /** It gets nothing before; null where it gets what it has room for. */
  readonly notBeforeMs: number | null;
  /** How many failures are held against it since something last ran there. */
  readonly failures: number;
}

interface WorkerHistory {
  /** How many attempts it may have at once, by what succeeded there. */
  earned: number;
  /** Since it earned that. */
  successes: number;
  failures: number;
  failedMs: number;
  notBeforeMs: number | null;
}

interface Run {
  readonly workerId: string;
  readonly atMs: number;
}

/** The last run of a function, and the last on another worker than that. */
interface Runs {
  readonly last: Run;
  readonly elsewhere: Run | null;
}

/**
 * What workers have shown, and what follows for them. Pure.
 *
 * - A worker that fails fast of its own (no sandbox, no blob) gets nothing for a while, which doubles with each further failure from one second to
 *   ten minutes; after it one attempt at a time, until one runs. So one broken host, always the emptiest, does not eat the queue.
 * - Is it the worker or the function? Only when the function ran on another worker lately does a failure count. Otherwise the worker pauses for the
 *   least time and keeps its standing: a function that fails everywhere must not back off every worker.
 * - Attempts that the worker was given before its last failure say nothing new: a burst is one failure, and what ran before does not excuse it.
 * - Where trust is earned, a new worker may have two attempts at once, and twice as many each time that as many as it may have succeeded.
 */
export class Trust {
  readonly #isEarned: boolean;
  readonly #workers = new Map<string, WorkerHistory>();
  readonly #functions = new Map<string, Runs>();

  /** @param isEarned false: a worker may have as many as it has room for from the first */
  constructor(isEarned: boolean) {
    this.#isEarned = isEarned;
  }

  /** A worker earned this in an earlier life of the server. */
  know(workerId: string, earned: number): void {
    this.#worker(workerId).earned = earned;
  }

  standing(workerId: string): Standing {
    const worker = this.#workers.get(workerId);
    const failures = worker?.failures ?? 0;
    const earned = worker?.earned ?? FIRST_ALLOWANCE;
    const usual = this.#isEarned && earned < FULL_ALLOWANCE ? earned : Infinity;
    return {
      allowance: failures > 0 ? 1 : usual,
      onTrialSinceMs: failures > 0 ? worker!.failedMs : null,
      notBeforeMs: worker?.notBeforeMs ?? null,
      failures,
    };
  }

  earned(workerId: string): number {
    return this.#workers.get(workerId)?.earned ?? FIRST_ALLOWANCE;
  }

  /** Workers against which failures are held, or that pause. */
  *suspects(): Generator<string> {
    for (const [workerId, { failures, notBeforeMs }] of this.#workers) {
      if (failures > 0 || notBeforeMs !== null) yield workerId;
    }
  }

  /** @returns whether the worker's standing is another now */
  ended(attempt: TrustFacts, outcome: Outcome, nowMs: number): boolean {
    if (isFastFailure(attempt, outcome, nowMs)) return this.#failed(attempt, nowMs);
    if (!isRun(outcome)) return false;
    const isCleared = this.ran(attempt, nowMs);
    const isSuccess = outcome.kind === 'exited' && outcome.code === 0;
    return (isSuccess && this.#succeeded(attempt.workerId)) || isCleared;
  }

  /** Its process ran: the worker can make one ready. @returns whether the worker's standing is another now */
  ran({ workerId, functionId, givenMs }: TrustFacts, nowMs: number): boolean {
    this.#remember(functionId, { workerId, atMs: nowMs });
    const worker = this.#workers.get(workerId);
    if (worker === undefined || givenMs <= worker.failedMs) return false;
    if (worker.failures === 0 && worker.notBeforeMs === null) return false;
    worker.failures = 0;
    worker.notBeforeMs = null;
    return true;
  }

  /** Ends pauses whose time has come. @returns the workers whose standing is another now */
  passTime(nowMs: number): string[] {
    const changed: string[] = [];
    for (const [workerId, worker] of this.#workers) {
      if (worker.notBeforeMs === null || worker.notBeforeMs > nowMs) continue;
      worker.notBeforeMs = null;
      changed.push(workerId);
    }
    return changed;
  }

  #failed({ workerId, functionId, givenMs }: TrustFacts, nowMs: number): boolean {
    const worker = this.#worker(workerId);
    if (givenMs <= worker.failedMs) return false;
    worker.failedMs = nowMs;
    if (this.#ranElsewhere(functionId, workerId, nowMs)) worker.failures += 1;
    const backoffMs = MIN_BACKOFF_MS * 2 ** Math.max(0, worker.failures - 1);
    worker.notBeforeMs = nowMs + Math.min(MAX_BACKOFF_MS, backoffMs);
    return true;
  }

  #succeeded(workerId: string): boolean {
    const worker = this.#worker(workerId);
    if (worker.earned >= FULL_ALLOWANCE) return false;
    worker.successes += 1;
    if (worker.successes < worker.earned) return false;
    worker.earned *= 2;
    worker.successes = 0;
    return true;
  }

  #ranElsewhere(functionId: string, workerId: string, nowMs: number): boolean {
    const runs = this.#functions.get(functionId);
    const run = runs?.last.workerId === workerId ? runs.elsewhere : runs?.last;
    return run !== null && run !== undefined && nowMs - run.atMs <= EVIDENCE_MS;
  }

  #remember(functionId: string, run: Run): void {
    const runs = this.#functions.get(functionId);
    const elsewhere = runs === undefined || runs.last.workerId === run.workerId ? runs?.elsewhere : runs.last;
    this.#functions.delete(functionId);
    this.#functions.set(functionId, { last: run, elsewhere: elsewhere ?? null });
    if (this.#functions.size > MAX_FUNCTIONS) this.#functions.delete(this.#functions.keys().next().value!);
  }

  #worker(workerId: string): WorkerHistory {
    let worker = this.#workers.get(workerId);
    if (worker === undefined) {
      worker = { earned: FIRST_ALLOWANCE, successes: 0, failures: 0, failedMs: -Infinity, notBeforeMs: null };
      this.#workers.set(workerId, worker);
    }
    return worker;
  }
}

function isFastFailure({ givenMs, hasStarted }: TrustFacts, outcome: Outcome, nowMs: number): boolean {
  if (outcome.kind !== 'lost' || hasStarted || nowMs - givenMs > FAST_FAILURE_MS) return false;
  return outcome.cause === 'sandbox' || outcome.cause === 'blob';
}

/** Its process was made and ended, whatever the function made of it. */
function isRun(outcome: Outcome): boolean {
  if (outcome.kind === 'timed_out') return outcome.clock === 'run';
  return ['exited', 'raised', 'rejected', 'signaled', 'oom'].includes(outcome.kind);
}
