import { type ExecutionRecord, isTerminal, type Reason } from '@cocore/protocol';
import { textOf } from '../faults/jobs.ts';
import { wasRunAgain } from '../faults/redeliveries.ts';
import type { Job, Scenario } from './scenario.ts';
import { CLAIM_DEADLINE_MS } from '../../packages/control/src/dispatch/sweeper.ts';
import type { Held } from './sim-control.ts';
import type { Effect } from './sim-worker.ts';
import type { Life } from './world.ts';

/** What a user asked for, and was told. */
export interface JobRun {
  readonly job: Job;
  readonly ids: Set<string>;
  readonly cancelAnswers: (string | null)[];
  /** When it was told that its cancellation is asked for. */
  cancelledAtMs: number | null;
}

/** All that is known when a simulation is over. */
export interface Observation {
  readonly scenario: Scenario;
  readonly runs: readonly JobRun[];
  readonly records: ReadonlyMap<string, ExecutionRecord | null>;
  /** What is committed of standard output, by attempt. */
  readonly outputs: ReadonlyMap<string, string>;
  readonly effects: readonly Effect[];
  /** Lives of workers that go on. */
  readonly alive: ReadonlySet<Life | null>;
  readonly isQuiet: boolean;
  readonly held: {
    readonly control: Held | null;
    readonly workers: readonly { readonly attempts: number; readonly ends: number }[];
  };
  readonly surprises: readonly string[];
}

/** Ends that harsh faults explain. */
const EXCUSED: ReadonlySet<Reason> = new Set(['host_lost', 'host_reclaimed', 'output_lost', 'run_timeout']);

/** Judges a simulation; one sentence for each thing that must not be. */
export function judge(seen: Observation): string[] {
  const violations = [...seen.surprises];
  if (!seen.isQuiet) violations.push(`it never came to rest: ${JSON.stringify(seen.held)}`);
  for (const run of seen.runs) violations.push(...judgeRun(seen, run).map((what) => `job ${run.job.number}: ${what}`));
  const begun = new Map<string, number>();
  const open = new Map<string, Effect>();
  for (const effect of seen.effects) {
    if (effect.what === 'begun') {
      begun.set(effect.attemptId, (begun.get(effect.attemptId) ?? 0) + 1);
      open.set(effect.attemptId, effect);
    } else if (effect.what === 'gone') open.delete(effect.attemptId);
  }
  for (const [attemptId, times] of begun) {
    if (times > 1 && !mayBeginAgain(seen.scenario)) violations.push(`${attemptId} was begun ${times} times`);
  }
  for (const { attemptId, life } of open.values()) {
    if (seen.alive.has(life)) violations.push(`a sandbox of ${attemptId} is left in ${life.name}`);
  }
  return violations;
}

/**
 * Whether an assignment may have been taken back before its worker heard of it, or said so: then it goes to another, and whether the first had begun
 * it, nobody knows.
 */
function mayBeginAgain({ isMild, faults }: Scenario): boolean {
  return !isMild || faults.some(({ kind, forMs }) => UNHEARD.has(kind) && forMs > CLAIM_DEADLINE_MS - 1_000);
}

const UNHEARD: ReadonlySet<string> = new Set(['deaf', 'silence', 'slow', 'freeze']);

/** What ran out of its time may have been writing; of what failed with its host, or its sandbox, the output may be lost with it. */
function isWholeDemanded({ isMild }: Scenario, { natural }: Job): boolean {
  return natural.state !== 'timeout' && (isMild || natural.reason !== 'agent_lost');
}

/** From the request to the end of the sandbox, when nothing is in the way: its grace, and what beats and reconnections take. */
const CANCEL_MS = 10_000 + 8_000;

function judgeRun(seen: Observation, run: JobRun): string[] {
  const { job, ids, cancelAnswers } = run;
  const found: string[] = [];
  if (ids.size !== 1) return [`its user was given ${ids.size} ids`];
  const [id] = ids;
  const record = seen.records.get(id!) ?? null;
  if (record === null) return [`${id} does not answer`];
  const { state, reason, attempts } = record;
  if (!isTerminal(state)) return [`${id} is ${state} for ever`];
  const end = `${state}/${reason ?? '-'}`;
  if (state !== 'success' && reason === null) found.push(`it ended ${end}: without a reason`);
  const isNatural = state === job.natural.state && reason === job.natural.reason;
  const isCancelled = state === 'cancelled' && job.cancelsAfterMs !== null;
  const isExcused = !seen.scenario.isMild && reason !== null && EXCUSED.has(reason) && wasRunAgain(record);
  if (!isNatural && !isCancelled && !isExcused) {
    found.push(
      `it ended ${end} (${record.message ?? ''}), and ${job.natural.state}/${job.natural.reason ?? '-'} was its own`,
    );
  }
  if (cancelAnswers.some((answer) => answer === 'cancelled') && state !== 'cancelled') {
    found.push(`its user was told that it is cancelled, and it ended ${end}`);
  }
  const isOnce = !mayBeginAgain(seen.scenario) && cancelAnswers.length === 0;
  if (isOnce && isNatural && attempts.length !== job.natural.attempts) {
    found.push(
      `it took ${attempts.length} attempts: ${attempts.map((one) => `${one.cause}/${one.outcome?.kind ?? '-'}`).join(', ')}`,
    );
  }
  const successes = attempts.filter((attempt) => attempt.outcome?.kind === 'exited' && attempt.outcome.code === 0);
  if (successes.length > 1) found.push(`${successes.length} of its attempts succeeded`);
  for (const attempt of attempts) {
    if (attempt.state !== 'ended') found.push(`its attempt ${attempt.number} is ${attempt.state}`);
  }
  found.push(...lateCancel(seen, run, attempts));
  const whole = textOf(job.lines);
  for (const attempt of attempts) {
    const output = seen.outputs.get(attempt.id) ?? '';
    const told = output.replace(/caught \d+\n$/, '');
    if (!whole.startsWith(told)) found.push(`attempt ${attempt.number} has other output than was written`);
    else if (
      isNatural &&
      attempt.id === record.decidingAttempt &&
      isWholeDemanded(seen.scenario, job) &&
      told !== whole
    ) {
      found.push(`${told.length} of its ${whole.length} bytes are there`);
    }
  }
  const effects = seen.effects.filter(
    ({ what, attemptId }) => what === 'effect' && attempts.some((one) => one.id === attemptId),
  );
  if (!mayBeginAgain(seen.scenario) && effects.length > job.natural.attempts)
    found.push(`it had its effect ${effects.length} times`);
  if (state === 'success' && effects.length === 0) found.push('it succeeded without its effect');
  return found;
}

/** Whether a sandbox went on for longer after its cancellation than faults explain. */
function lateCancel(
  { scenario, effects }: Observation,
  { cancelledAtMs }: JobRun,
  attempts: ExecutionRecord['attempts'],
): string[] {
  if (cancelledAtMs === null || !scenario.isMild) return [];
  const gone = effects.findLast(
    ({ what, attemptId }) => what === 'gone' && attempts.some(({ id }) => id === attemptId),
  );
  if (gone === undefined) return [];
  const faults = scenario.faults.filter(({ atMs }) => atMs <= gone.atMs);
  const sinceMs = Math.max(cancelledAtMs, ...faults.map(({ atMs, forMs }) => atMs + forMs));
  const lateMs = gone.atMs - sinceMs;
  return lateMs > CANCEL_MS ? [`its sandbox was gone ${Math.round(lateMs)} ms after nothing was in the way`] : [];
}
