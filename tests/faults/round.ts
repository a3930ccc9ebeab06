import { setTimeout as sleep } from 'node:timers/promises';
import { type CocoreClient } from '@cocore/client';
import { CocoreError, type ExecutionRecord } from '@cocore/protocol';
import { leaksOf } from './leaks.ts';
import { nowMs } from './clock.ts';
import { Fleet } from './fleet.ts';
import { inject } from './inject.ts';
import { jobsOf } from './jobs.ts';
import { Ledger } from './ledger.ts';
import { judge, type Observation, type Verdict } from './oracle.ts';
import { describeFault, describePlan, type Plan } from './plan.ts';
import type { Sandboxes } from './sandboxes.ts';
import { type JobRun, work } from './workload.ts';

/** How long after the last fault everything may take to end. */
const SETTLE_MS = 100_000;

const READS_AT_ONCE = 16;

export interface Round {
  readonly plan: Plan;
  readonly verdict: Verdict;
  /** The plan, what became of it, and the table. */
  readonly text: string;
}

/** Carries out one plan from beginning to end, and judges it. */
export async function runRound(plan: Plan, sandboxes: Sandboxes = 'fake'): Promise<Round> {
  const beganMs = nowMs();
  const fleet = await Fleet.start(sandboxes);
  let observation: Observation;
  try {
    observation = await observe(plan, fleet);
  } catch (error) {
    await fleet[Symbol.asyncDispose]();
    const kept = fleet.keepAs(`faults-of-seed-${plan.seed}`);
    throw new Error(`seed ${plan.seed} could not be judged; logs and data are in ${kept}`, { cause: error });
  }
  const verdict = judge(observation);
  const kept = verdict.violations.length === 0 ? null : fleet.keepAs(`faults-of-seed-${plan.seed}`);
  if (kept === null) fleet.remove();
  return { plan, verdict, text: describe(plan, verdict, nowMs() - beganMs, kept) };
}

async function observe(plan: Plan, fleet: Fleet): Promise<Observation> {
  const wallAheadMs = Date.now() - nowMs();
  const startMs = nowMs();
  const giveUp = new AbortController();
  const jobs = jobsOf(plan.seed, plan.executions, plan.workMs);
  const working = work(jobs, fleet.user, startMs, giveUp.signal);
  const faults = await inject(plan, fleet, startMs);
  const late = sleep(Math.max(startMs + plan.workMs, nowMs()) - nowMs() + SETTLE_MS, undefined, { ref: false });
  void late.then(() => giveUp.abort());
  const runs = await working;
  const records = await recordsOf(runs, fleet.operator);
  const outputs = await outputsOf([...records.keys()], fleet.operator);
  const listed = await listedJobs(fleet.operator);
  await fleet[Symbol.asyncDispose]();
  const ledger = fleet.sandboxes === 'fake' ? Ledger.read(fleet.ledgerPath) : null;
  return {
    faults,
    runs,
    records,
    outputs,
    listed,
    ledger,
    sightings: fleet.sightings,
    workerIds: fleet.workerIds,
    wallAheadMs,
    memoryPeakKiB: {
      control: fleet.control.memoryPeakKiB,
      worker: Math.max(...fleet.workers.map(({ memoryPeakKiB }) => memoryPeakKiB)),
    },
    surprises: [...fleet.daemons.flatMap(({ surprises }) => surprises), ...fleet.twinSurprises],
    leaks: leaksOf(fleet, ledger),
  };
}

export async function recordsOf(runs: readonly JobRun[], client: CocoreClient): Promise<Map<string, ExecutionRecord>> {
  const records = new Map<string, ExecutionRecord>();
  await atOnce(
    runs.flatMap(({ ids }) => [...ids]),
    async (id) => {
      try {
        records.set(id, await client.executions.get(id));
      } catch (error) {
        if (!(error instanceof CocoreError && error.code === 'execution_not_found')) throw error;
      }
    },
  );
  return records;
}

export async function outputsOf(ids: readonly string[], client: CocoreClient): Promise<Map<string, Buffer>> {
  const outputs = new Map<string, Buffer>();
  await atOnce(ids, async (id) => {
    outputs.set(id, Buffer.from(await client.executions.outputBytes(id, 'stdout')));
  });
  return outputs;
}

export async function listedJobs(client: CocoreClient): Promise<string[]> {
  const ids: string[] = [];
  for (let cursor: string | null | undefined; cursor !== null;) {
    const page = await client.executions.list({ limit: 200, ...(cursor === undefined ? {} : { cursor }) });
    // The executions that warmed the workers up are not jobs.
    ids.push(...page.executions.filter(({ args }) => args[0]!.startsWith('lines:')).map(({ id }) => id));
    cursor = page.next;
  }
  return ids;
}

async function atOnce<T>(values: readonly T[], act: (value: T) => Promise<void>): Promise<void> {
  const left = [...values];
  const lane = async () => {
    for (let value = left.pop(); value !== undefined; value = left.pop()) await act(value);
  };
  await Promise.all(Array.from({ length: READS_AT_ONCE }, lane));
}

function describe(
  plan: Plan,
  { rows, recoveriesMs, violations }: Verdict,
  tookMs: number,
  kept: string | null,
): string {
  const [head] = describePlan(plan).split('\n');
  const faults = plan.faults.map((fault, at) => {
    const ms = recoveriesMs[at] ?? null;
    return `${describeFault(fault).padEnd(64)}${ms === null ? '' : `normal ${(ms / 1000).toFixed(1)} s after it`}`.trimEnd();
  });
  const table = rows.map(([what, value]) => `${what.padEnd(46)}${value}`);
  const wrong = violations.slice(0, 20).map((violation) => `✖ ${violation}`);
  if (violations.length > wrong.length) wrong.push(`✖ and ${violations.length - wrong.length} more`);
  if (kept !== null) wrong.push(`logs and data are in ${kept}`);
  return [head!, ...faults, '', ...table, ...wrong, `(${(tookMs / 1000).toFixed(1)} s)`].join('\n');
}
