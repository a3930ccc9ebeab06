import {
  type AttemptRecord,
  CONTROL_GRACE_MS,
  type ExecutionRecord,
  isTerminal,
  LEASE_MS,
  type LostCause,
} from '@cocore/protocol';
import type { Sighting } from './fleet.ts';
import { AFTERMATH_MS, History, type Span } from './history.ts';
import type { FaultRun } from './inject.ts';
import { DONE, textOf } from './jobs.ts';
import type { Ledger } from './ledger.ts';
import { WORKERS } from './plan.ts';
import { wasRunAgain } from './redeliveries.ts';
import type { JobRun } from './workload.ts';

/** Everything that is known of a round when all of it is over. Times by the monotonic clock, but those of records. */
export interface Observation {
  readonly faults: readonly FaultRun[];
  readonly runs: readonly JobRun[];
  /** By id: what the control server answers at the end for each id that was answered; absent where it does not. */
  readonly records: ReadonlyMap<string, ExecutionRecord>;
  /** Standard output by id. */
  readonly outputs: ReadonlyMap<string, Buffer>;
  /** Ids of all executions that the control server lists and that are of jobs. */
  readonly listed: readonly string[];
  /** Null where functions could have no effect on the world. */
  readonly ledger: Ledger | null;
  readonly sightings: readonly Sighting[];
  /** Ids of workers by number. */
  readonly workerIds: readonly string[];
  /** What the wall clock was ahead of the monotonic one. */
  readonly wallAheadMs: number;
  readonly memoryPeakKiB: { readonly control: number; readonly worker: number };
  /** Daemons that ended by themselves, or did not stop. */
  readonly surprises: readonly string[];
  /** Processes, mounts and files that should be gone. */
  readonly leaks: readonly string[];
}

export interface Verdict {
  /** What is held, and what was measured. */
  readonly rows: readonly (readonly [what: string, value: string])[];
  /** The samples behind the rows that are measured, so that those of several rounds can be put together. */
  readonly measuresMs: Readonly<Record<string, readonly number[]>>;
  /** For each fault, how long after it was healed service was normal; null where another fault was in between, or nobody asked. */
  readonly recoveriesMs: readonly (number | null)[];
  /** One sentence each. */
  readonly violations: readonly string[];
}

/** What no daemon may need, whatever happens to it in a round. */
export const MAX_CONTROL_MIB = 384;
export const MAX_WORKER_MIB = 256;

/** Beyond its deadline, the grace after it and a lease: what a loaded host needs. */
const LATE_MS = 15_000;

/** Ends that are the same on both sides of all faults: the state, and why. */
const endOf = ({ state, reason }: Pick<ExecutionRecord, 'state' | 'reason'>): string =>
  reason === null ? state : `${state} (${reason})`;

/** Judges a round. Nothing is asked of anybody here: the same observation gives the same verdict. */
export function judge(observation: Observation): Verdict {
  return new Judgement(observation).verdict();
}

class Judgement {
  readonly #seen: Observation;
  readonly #history: History;
  readonly #violations: string[] = [];
  readonly #ends = new Map<string, number>();
  readonly #cancelToGoneMs: number[] = [];
  readonly #killedToKnownMs: number[] = [];
  readonly #silentToKnownMs: number[] = [];
  #accepted = 0;
  #ended = 0;
  #lost = 0;
  #doubleSuccess = 0;
  #bytes = 0;
  #bytesLost = 0;
  #bytesDoubled = 0;
  #stuck = 0;
  #ranTwice = 0;
  #deliveredAgain = 0;
  #untouched = 0;

  constructor(observation: Observation) {
    this.#seen = observation;
    this.#history = new History(observation.faults);
  }

  verdict(): Verdict {
    const { runs, listed, surprises, leaks, memoryPeakKiB } = this.#seen;
    for (const run of runs) this.#judge(run);
    const known = new Set(runs.flatMap(({ ids }) => [...ids]));
    const unknown = listed.filter((id) => !known.has(id));
    // Who gave up before the answer may have been given one.
    const unanswered = runs.filter(({ ids }) => ids.size === 0).length;
    if (unknown.length > unanswered) this.#violations.push(`nobody asked for ${unknown.slice(0, 5).join(', ')}`);
    const listedOnce = new Set(listed);
    for (const id of known) if (!listedOnce.has(id)) this.#violations.push(`${id} is not listed`);
    this.#violations.push(...surprises, ...leaks.map((leak) => `left behind: ${leak}`));
    const mib = (kib: number) => Math.ceil(kib / 1024);
    const [control, worker] = [mib(memoryPeakKiB.control), mib(memoryPeakKiB.worker)];
    if (control > MAX_CONTROL_MIB) this.#violations.push(`the control server had ${control} MiB`);
    if (worker > MAX_WORKER_MIB) this.#violations.push(`a worker had ${worker} MiB`);
    const recoveriesMs = this.#seen.faults.map((fault) => this.#recoveryMs(fault));
    const measuresMs = {
      'fault healed → normal service': recoveriesMs.filter((ms) => ms !== null),
      'cancel request → sandbox gone': this.#cancelToGoneMs,
      'worker killed → its attempts are known lost': this.#killedToKnownMs,
      'worker silent → its attempts are known lost': this.#silentToKnownMs,
    };
    return {
      rows: [
        ['executions accepted', String(this.#accepted)],
        ['executions ended', String(this.#ended)],
        ...[...this.#ends]
          .sort(([, one], [, other]) => other - one)
          .map(([end, n]) => [`  ${end}`, String(n)] as const),
        ['  of them touched by no fault', String(this.#untouched)],
        ['requests repeated; answered `internal`', this.#repeated()],
        ['lost', String(this.#lost)],
        ['double success', String(this.#doubleSuccess)],
        ['delivered again', String(this.#deliveredAgain)],
        ['run more than once, for a fault', String(this.#ranTwice)],
        ['stuck past deadline', String(this.#stuck)],
        ['bytes of output', String(this.#bytes)],
        ['bytes lost', String(this.#bytesLost)],
        ['bytes doubled or damaged', String(this.#bytesDoubled)],
        ['processes, mounts, files leaked', String(leaks.length)],
        ['memory peak: control server; a worker', `${control} MiB; ${worker} MiB`],
        ['last fault healed → everything has ended', `${Math.round(this.#lastEndMs())} ms`],
        ...Object.entries(measuresMs).map(([what, valuesMs]) => [what, quantiles(valuesMs)] as const),
      ],
      measuresMs,
      recoveriesMs,
      violations: this.#violations,
    };
  }

  #judge(run: JobRun): void {
    const { job, ids } = run;
    const fail = (what: string) => this.#violations.push(`job ${job.number} (${[...ids].join(', ')}): ${what}`);
    for (const fault of run.faults) fail(fault);
    if (run.failuresMs.some((ms) => !this.#history.diskFailed(ms)))
      fail('was answered `internal` while the disk was well');
    if (ids.size > 1) fail('one idempotency key gave several executions');
    const [id] = ids;
    if (id === undefined) {
      this.#stuck += 1;
      fail('was never answered');
      return;
    }
    this.#accepted += 1;
    const record = this.#seen.records.get(id);
    if (record === undefined) {
      this.#lost += 1;
      fail('its id answers no more');
      return;
    }
    if (!isTerminal(record.state)) {
      this.#stuck += 1;
      fail(`has not ended: ${JSON.stringify(record.waiting ?? record.attempts.at(-1))}`);
      return;
    }
    this.#ended += 1;
    this.#ends.set(endOf(record), (this.#ends.get(endOf(record)) ?? 0) + 1);
    if (run.end === null) fail('its user never heard of the end');
    else if (endOf(run.end) !== endOf(record)) fail(`ended as ${endOf(run.end)}, then as ${endOf(record)}`);
    this.#judgeEnd(run, record, fail);
    this.#judgeLosses(run, record, fail);
    this.#judgeRuns(run, record, fail);
    this.#judgeBytes(run, record, fail);
    this.#measureCancel(run, record);
  }

  /** Whether it ended as it should, or a fault of the plan explains why not; and in time. */
  #judgeEnd(run: JobRun, record: ExecutionRecord, fail: (what: string) => void): void {
    const { job, cancel, askedMs } = run;
    const attempt = lastOf(record);
    const worker = this.#workerOf(attempt);
    const life = this.#lifeOf(attempt, run);
    if (!this.#history.touched(worker, { fromMs: askedMs, toMs: life.toMs })) this.#untouched += 1;
    const isNatural = record.state === job.natural.state && record.reason === job.natural.reason;
    const isCancelled = record.state === 'cancelled' && cancel !== null;
    // The function's time ran out while it stood still with its worker.
    const isStopped = record.reason === 'run_timeout' && worker !== null && this.#history.wasStopped(worker, life);
    const isLost = attempt.outcome?.kind === 'lost' && record.reason === attempt.outcome.cause && wasRunAgain(record);
    if (!isNatural && !isCancelled && !isStopped && !isLost) {
      fail(`ended as ${endOf(record)} instead of ${endOf(job.natural)}, which no fault explains: ${story(record)}`);
    }
    const deadlineMs = record.deadlineAt === null || this.#history.recordsAreWrong ? null : this.#ms(record.deadlineAt);
    if (deadlineMs !== null && life.toMs > deadlineMs + CONTROL_GRACE_MS + LEASE_MS + this.#outageMs() + LATE_MS) {
      this.#stuck += 1;
      fail(`ended ${Math.round((life.toMs - deadlineMs) / 1000)} s after its deadline`);
    }
  }

  /** Every attempt that was lost needs its own reason, whatever became of its execution. */
  #judgeLosses(run: JobRun, { attempts }: ExecutionRecord, fail: (what: string) => void): void {
    if (attempts.length > 1) this.#deliveredAgain += 1;
    for (const attempt of attempts) {
      if (attempt.outcome?.kind !== 'lost') continue;
      const { cause } = attempt.outcome;
      const worker = this.#workerOf(attempt);
      const life = this.#lifeOf(attempt, run);
      if (worker === null || !this.#explains(worker, cause, life)) {
        fail(`lost an attempt (${cause}), which no fault explains: ${lineOf(attempt)}`);
      } else if (cause === 'host_lost' && !this.#history.recordsAreWrong) this.#measureLost(worker, life);
    }
  }

  #explains(worker: number, cause: LostCause, life: Span): boolean {
    const history = this.#history;
    const isGone = history.died(worker, life) || history.wasRestartedUnheard(worker, life);
    switch (cause) {
      case 'host_lost':
        return isGone || history.wasSilentForLease(worker, life) || history.hadTwin(worker, life);
      case 'output_lost':
        // What it had not handed on went with its memory.
        return isGone;
      case 'host_reclaimed':
        return history.wasRestarted(worker, life);
      default:
        return false;
    }
  }

  /** By the account of the world outside. */
  #judgeRuns(run: JobRun, { state, attempts }: ExecutionRecord, fail: (what: string) => void): void {
    const { ledger } = this.#seen;
    const successes = attempts.filter(({ outcome }) => outcome?.kind === 'exited' && outcome.code === 0).length;
    if (successes > 1) {
      this.#doubleSuccess += 1;
      fail('succeeded twice');
    }
    if (ledger === null) return;
    const total = attempts.reduce((sum, { id }) => sum + ledger.effects(id, DONE), 0);
    if (state === 'success' && total === 0) fail('is a success and never ran to its end');
    if (total <= 1) return;
    this.#ranTwice += 1;
    const isExplained = attempts.some((attempt) => {
      const life = this.#lifeOf(attempt, run);
      const worker = this.#workerOf(attempt);
      const isLost = attempt.outcome?.kind === 'lost' && worker !== null;
      if (isLost && this.#explains(worker, (attempt.outcome as { cause: LostCause }).cause, life)) return true;
      // One that was never heard to be accepted was given to another worker, and its record forgets the first.
      return [...Array(WORKERS).keys()].some((one) => this.#history.wasSilentForLease(one, life));
    });
    if (!isExplained) fail(`had its effect ${total} times, which no fault explains`);
  }

  /** From its assignment to its end; where times of records are not to be believed, all that its user saw. */
  #lifeOf({ createdAt, assignedAt, endedAt }: AttemptRecord, { askedMs, endKnownMs }: JobRun): Span {
    if (this.#history.recordsAreWrong) return { fromMs: askedMs, toMs: endKnownMs ?? Infinity };
    return { fromMs: this.#ms(assignedAt ?? createdAt), toMs: endedAt === null ? Infinity : this.#ms(endedAt) };
  }

  #judgeBytes({ job, followed }: JobRun, record: ExecutionRecord, fail: (what: string) => void): void {
    const output = this.#seen.outputs.get(record.id) ?? Buffer.alloc(0);
    const expected = Buffer.from(textOf(job.lines));
    this.#bytes += output.length;
    const isWhole = record.state === 'success' || record.reason === 'exit_code';
    const same = commonLength(output, expected);
    if (same < output.length) {
      this.#bytesDoubled += output.length - same;
      fail(`its output is not what it wrote from byte ${same} on`);
    } else if (isWhole && same < expected.length) {
      this.#bytesLost += expected.length - same;
      fail(`${expected.length - same} bytes of its output are missing`);
    }
    if (record.output.stdout.bytes !== output.length) {
      this.#bytesLost += Math.abs(record.output.stdout.bytes - output.length);
      fail(`its record counts ${record.output.stdout.bytes} bytes of output, and there are ${output.length}`);
    }
    if (followed === null || followed.equals(output)) return;
    this.#bytesLost += Math.abs(followed.length - output.length);
    fail(`its follower was sent ${followed.length} bytes, and there are ${output.length}`);
  }

  /** Only where no fault is in between. */
  #measureCancel({ cancel }: JobRun, record: ExecutionRecord): void {
    if (cancel?.result !== 'requested') return;
    const attempt = lastOf(record);
    const goneMs = this.#goneMs(attempt);
    if (goneMs === null || goneMs < cancel.askedMs) return;
    if (this.#history.touched(this.#workerOf(attempt), { fromMs: cancel.askedMs, toMs: goneMs }, 1_000)) {
      return;
    }
    this.#cancelToGoneMs.push(goneMs - cancel.askedMs);
  }

  /** Of a real sandbox by the record: a worker tells an end when the sandbox is gone. */
  #goneMs({ id, endedAt }: AttemptRecord): number | null {
    const { ledger } = this.#seen;
    if (ledger !== null) return ledger.goneMs(id);
    return endedAt === null || this.#history.recordsAreWrong ? null : this.#ms(endedAt);
  }

  #measureLost(worker: number, { toMs }: Span): void {
    const killed = this.#history.lastBefore(worker, ['kill'], toMs);
    const silent = this.#history.lastBefore(worker, ['stop', 'cut', 'silence', 'mute', 'deaf'], toMs);
    if (killed !== undefined && (silent === undefined || killed.beganMs > silent.beganMs)) {
      this.#killedToKnownMs.push(toMs - killed.beganMs);
    } else if (silent !== undefined) this.#silentToKnownMs.push(toMs - silent.beganMs);
  }

  /**
   * Until all workers are online, but those that another fault is on, and something that was asked for after the fault has succeeded. Null
   * where a fault of all was in between.
   */
  #recoveryMs(run: FaultRun): number | null {
    const { sightings, runs, faults } = this.#seen;
    const { healedMs } = run;
    const isNormal = ({ atMs, online }: Sighting) =>
      [...Array(WORKERS).keys()].every((worker) => online.has(worker) || this.#history.isUnder(worker, atMs, run));
    const online = sightings.find((sighting) => sighting.atMs >= healedMs && isNormal(sighting));
    const served = runs
      .filter(({ askedMs, end }) => askedMs >= healedMs && end?.state === 'success')
      .map(({ endKnownMs }) => endKnownMs!);
    if (online === undefined || served.length === 0) return null;
    const normalMs = Math.max(online.atMs, Math.min(...served));
    const isDisturbed = faults.some(
      (other) =>
        other !== run &&
        typeof other.fault.target !== 'number' &&
        other.beganMs < normalMs &&
        other.healedMs + AFTERMATH_MS > healedMs,
    );
    return isDisturbed ? null : normalMs - healedMs;
  }

  #repeated(): string {
    const sum = (count: (run: JobRun) => number) => this.#seen.runs.reduce((total, run) => total + count(run), 0);
    return `${sum(({ repeated }) => repeated)}; ${sum(({ failuresMs }) => failuresMs.length)}`;
  }

  #lastEndMs(): number {
    const healedMs = Math.max(0, ...this.#seen.faults.map((fault) => fault.healedMs));
    const known = this.#seen.runs.map(({ endKnownMs }) => endKnownMs ?? 0);
    return Math.max(0, Math.max(...known) - healedMs);
  }

  /** How long anything was wrong with the control server or the whole. */
  #outageMs(): number {
    return this.#seen.faults.reduce(
      (sum, { beganMs, healedMs, fault }) =>
        fault.target === 'control' || fault.target === 'all' ? sum + healedMs - beganMs + AFTERMATH_MS : sum,
      0,
    );
  }

  #workerOf({ workerId }: Pick<AttemptRecord, 'workerId'>): number | null {
    const number = workerId === null ? -1 : this.#seen.workerIds.indexOf(workerId);
    return number === -1 ? null : number;
  }

  /** A record's time by the monotonic clock. */
  #ms(at: string): number {
    return Date.parse(at) - this.#seen.wallAheadMs;
  }
}

/** The attempt that its end came of. */
const lastOf = ({ attempts }: ExecutionRecord): AttemptRecord =>
  attempts.findLast(({ outcome }) => outcome?.kind !== 'superseded')!;

function story({ message, attempts }: ExecutionRecord): string {
  return [...(message === null ? [] : [message]), ...attempts.map(lineOf)].join('; ');
}

const lineOf = ({ workerId, assignedAt, acceptedAt, startedAt, endedAt, outcome }: AttemptRecord): string =>
  `${workerId} assigned ${assignedAt} accepted ${acceptedAt} started ${startedAt} ended ${endedAt} as ${JSON.stringify(outcome)}`;

function commonLength(one: Buffer, other: Buffer): number {
  const most = Math.min(one.length, other.length);
  if (one.subarray(0, most).equals(other.subarray(0, most))) return most;
  let at = 0;
  while (one[at] === other[at]) at += 1;
  return at;
}

export function quantiles(valuesMs: readonly number[]): string {
  if (valuesMs.length === 0) return '–';
  const sorted = [...valuesMs].sort((one, other) => one - other);
  const at = (share: number) => Math.round(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!);
  return `p50 ${at(0.5)} ms, p99 ${at(0.99)} ms (${sorted.length})`;
}
