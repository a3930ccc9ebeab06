import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type ExecutionRecord, LostCause, MAX_REDELIVERIES, type Outcome, type Reason } from '@cocore/protocol';
import { DONE, type Job, textOf } from './jobs.ts';
import { Ledger, type Row } from './ledger.ts';
import { judge, type Observation } from './oracle.ts';
import type { Fault } from './plan.ts';
import type { JobRun } from './workload.ts';

const ID = 'ex_1';
const ATTEMPT = 'at_1';
const LINES = { tag: 'test', count: 5 };
const WHOLE = Buffer.from(textOf(LINES));

const job: Job = {
  number: 0,
  atMs: 0,
  idempotencyKey: 'key',
  args: [],
  timeoutMs: 120_000,
  lines: LINES,
  natural: { state: 'success', reason: null },
  user: { follows: false, cancelsAfterMs: null, asksTwice: false },
};

const at = (ms: number): string => new Date(ms).toISOString();
const EXITED: Outcome = { kind: 'exited', code: 0 };

function outcomeOf(state: ExecutionRecord['state'], reason: Reason | null): Outcome | null {
  if (state === 'success') return EXITED;
  return state === 'failure' ? { kind: 'lost', cause: LostCause.parse(reason) } : null;
}

/** What the oracle looks at of a record: an execution from second 1 to second 50 on worker 0, where what was lost was run again. */
function record(
  state: ExecutionRecord['state'],
  reason: Reason | null,
  stdoutBytes = WHOLE.length,
  redeliveries = state === 'failure' ? MAX_REDELIVERIES : 0,
): ExecutionRecord {
  const outcome = outcomeOf(state, reason);
  const attempt = { id: ATTEMPT, workerId: 'wk_0', createdAt: at(1_000), assignedAt: at(1_000), endedAt: at(50_000) };
  const again = Array.from({ length: redeliveries }, (_, index) => ({ id: `at_${index + 2}`, cause: 'redelivery' }));
  return {
    ...{ id: ID, state, reason, message: null, waiting: null, createdAt: at(1_000), endedAt: at(50_000) },
    ...{
      deadlineAt: at(121_000),
      output: { stdout: { bytes: stdoutBytes } },
      attempts: [{ ...attempt, outcome }, ...again.map((one) => ({ ...attempt, ...one, outcome }))],
    },
  } as unknown as ExecutionRecord;
}

interface Change extends Partial<Observation> {
  readonly record?: ExecutionRecord;
  readonly run?: Partial<JobRun>;
  readonly output?: Buffer;
  readonly rows?: readonly Row[];
}

const effect: Row = { what: 'effect', attemptId: ATTEMPT, atMs: 40_000, pid: 1, text: DONE };

/** One execution to which nothing happened, but what is said. */
function observed(change: Change = {}): Observation {
  const end = change.record ?? record('success', null);
  const run: JobRun = {
    ...{ job, ids: new Set([ID]), askedMs: 900, acceptedMs: 1_000, endKnownMs: 50_010, end },
    ...{ followed: null, cancel: null, failuresMs: [], repeated: 0, faults: [], ...change.run },
  };
  return {
    faults: [],
    runs: [run],
    records: new Map([[ID, end]]),
    outputs: new Map([[ID, change.output ?? WHOLE]]),
    listed: [ID],
    ledger: new Ledger(change.rows ?? [effect]),
    sightings: [],
    workerIds: ['wk_0', 'wk_1', 'wk_2'],
    wallAheadMs: 0,
    memoryPeakKiB: { control: 1, worker: 1 },
    surprises: [],
    leaks: [],
    ...change,
  };
}

const violations = (change: Change = {}): readonly string[] => judge(observed(change)).violations;

function fault(kind: Fault['kind'], target: Fault['target'], fromMs: number, toMs: number): Pick<Change, 'faults'> {
  const it: Fault = { kind, target, atMs: fromMs, forMs: toMs - fromMs };
  return { faults: [{ fault: it, beganMs: fromMs, healedMs: toMs }] };
}

describe('the oracle', () => {
  test('an execution to which nothing happened, is in order', () => assert.deepEqual(violations(), []));

  const lines = WHOLE.toString().split('\n');
  const wrong: Record<string, Change> = {
    'a line is missing': { output: Buffer.from(lines.toSpliced(2, 1).join('\n')) },
    'a line comes twice': { output: Buffer.from(lines.toSpliced(2, 0, lines[1]!).join('\n')) },
    'the end of the output is missing': { output: WHOLE.subarray(0, -3), record: record('success', null, 100) },
    'the record counts another length': { record: record('success', null, 7) },
    'a follower was sent less': { run: { followed: WHOLE.subarray(0, -1) } },
    'the user was told another end': { run: { end: record('failure', 'host_lost') } },
    'the id answers no more': { records: new Map() },
    'it is not listed': { listed: [] },
    'nobody asked for it': { listed: [ID, 'ex_2'] },
    'one key gave two executions': { run: { ids: new Set([ID, 'ex_2']) } },
    'it never ended': { record: record('running', null) },
    'the user never heard of the end': { run: { end: null } },
    'it was never answered': { run: { ids: new Set() }, listed: [] },
    'it is a success without an effect': { rows: [] },
    'it had its effect twice': { rows: [effect, effect] },
    'it ended for no reason': { record: record('failure', 'host_lost') },
    'it was cancelled by nobody': { record: record('cancelled', 'user_cancel') },
    'its worker was killed after it had ended': {
      record: record('failure', 'host_lost'),
      ...fault('kill', 0, 55_000, 56_000),
    },
    'another worker was killed': { record: record('failure', 'host_lost'), ...fault('kill', 1, 5_000, 6_000) },
    'its worker was cut off for less than its lease': {
      record: record('failure', 'host_lost'),
      ...fault('cut', 0, 5_000, 15_000),
    },
    'the control server was killed': {
      record: record('failure', 'host_lost'),
      ...fault('kill', 'control', 5_000, 8_000),
    },
    'the server could not, and its disk was well': { run: { failuresMs: [2_000] } },
    'its output was lost for no reason': { record: record('failure', 'output_lost') },
    'its worker was killed, and it was not run again': {
      record: record('failure', 'host_lost', WHOLE.length, 0),
      ...fault('kill', 0, 5_000, 6_000),
    },
    'its output was lost with its worker, and it was run again once only': {
      record: record('failure', 'output_lost', WHOLE.length, 1),
      ...fault('kill', 0, 5_000, 6_000),
    },
    'a daemon died by itself': { surprises: ['worker-0 ended by itself'] },
    'a process is left': { leaks: ['process 1'] },
    'a daemon grew': { memoryPeakKiB: { control: 2 ** 20, worker: 1 } },
  };
  for (const [what, change] of Object.entries(wrong)) {
    test(`${what}, is found`, () => assert.notDeepEqual(violations(change), []));
  }

  const explained: Record<string, Change> = {
    'its worker was killed': { record: record('failure', 'host_lost'), ...fault('kill', 0, 5_000, 6_000) },
    'its worker was killed with its output': {
      record: record('failure', 'output_lost'),
      ...fault('kill', 0, 5_000, 6_000),
    },
    'everything was killed': { record: record('failure', 'host_lost'), ...fault('kill', 'all', 5_000, 6_000) },
    'its worker was stopped for a lease': {
      record: record('failure', 'host_lost'),
      ...fault('stop', 0, 5_000, 39_000),
    },
    'its operator stopped the worker': {
      record: record('failure', 'host_reclaimed'),
      ...fault('restart', 0, 49_000, 51_000),
    },
    'the server could not, and its disk was full': {
      run: { failuresMs: [2_000] },
      ...fault('full', 'control', 1_000, 3_000),
    },
    'its user cancelled it': {
      record: record('cancelled', 'user_cancel'),
      run: { cancel: { askedMs: 3_000, result: 'requested' } },
    },
  };
  for (const [what, change] of Object.entries(explained)) {
    test(`${what}, is a reason`, () => assert.deepEqual(violations(change), []));
  }
});
