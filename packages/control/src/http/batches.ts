import { setTimeout as sleep } from 'node:timers/promises';
import {
  BatchCreate,
  type BatchEntry,
  BatchRecord,
  CocoreError,
  isTerminal,
  MAX_BATCH_BYTES,
  WaitQuery,
} from '@cocore/protocol';
import type { NewExecution, StoredBatch } from '../store/store.ts';
import { newExecution } from './execution-input.ts';
import type { HttpParts } from './parts.ts';
import { type Route, route } from './route.ts';

export function batchRoutes(parts: HttpParts): Route[] {
  return [
    route({
      method: 'POST',
      path: '/v1/batches',
      summary: 'Runs many executions, also of different functions: all of them are accepted, or none',
      access: 'key',
      body: BatchCreate,
      bodyLimitBytes: MAX_BATCH_BYTES,
      answers: { 202: BatchRecord },
      handle: async ({ caller, body }) => {
        const { projectId } = caller;
        const executions = body.executions.map((entry, index) => newEntry(projectId, entry, index));
        const idempotencyKey = body.idempotencyKey ?? null;
        const batch = { projectId, executions, idempotencyKey };
        const { batchId, queued } = await parts.store.createBatch(batch, parts.limits);
        parts.metrics.executionsCreated.inc(queued.length);
        for (const attempt of queued) parts.dispatcher.enqueue(attempt);
        return { status: 202, body: batchRecord(await readBatch(parts, projectId, batchId)) };
      },
    }),
    route({
      method: 'GET',
      path: '/v1/batches/{batch}',
      summary: 'How far a batch is; with wait, answers when all of it has ended or the time is over',
      access: 'key',
      query: WaitQuery,
      answers: { 200: BatchRecord },
      handle: async ({ caller, parameters, query, signal }) => {
        const batchId = parameters['batch']!;
        await allEnded(parts, caller.projectId, batchId, query.wait ?? 0, signal);
        return { status: 200, body: batchRecord(await readBatch(parts, caller.projectId, batchId)) };
      },
    }),
  ];
}

/** What is thrown names the place of the entry. */
function newEntry(projectId: string, entry: BatchEntry, index: number): NewExecution {
  try {
    return newExecution(projectId, entry.function, entry, null);
  } catch (error) {
    if (!(error instanceof CocoreError)) throw error;
    const details = { ...error.details, index };
    throw new CocoreError(error.code, `executions.${index}: ${error.message}`, { details });
  }
}

/** @throws CocoreError `batch_not_found` */
async function readBatch({ store }: HttpParts, projectId: string, batchId: string): Promise<StoredBatch> {
  const batch = await store.readBatch(projectId, batchId);
  if (batch === null) throw new CocoreError('batch_not_found', `there is no batch ${batchId} in this project`);
  return batch;
}

function batchRecord({ batchId, createdAtMs, executions }: StoredBatch): BatchRecord {
  const counts = { open: 0, running: 0, success: 0, failure: 0, timeout: 0, cancelled: 0 };
  for (const { state } of executions) counts[state] += 1;
  const hasEnded = counts.open + counts.running === 0;
  const endedAtMs = executions.reduce((latest, one) => Math.max(latest, one.endedAtMs ?? 0), 0);
  return {
    id: batchId,
    createdAt: new Date(createdAtMs).toISOString(),
    endedAt: hasEnded ? new Date(endedAtMs).toISOString() : null,
    counts,
    executionIds: executions.map(({ executionId }) => executionId),
  };
}

/** Resolves when every execution has ended, the time is over, or nobody waits any more. */
async function allEnded(
  parts: HttpParts,
  projectId: string,
  batchId: string,
  waitMs: number,
  signal: AbortSignal,
): Promise<void> {
  if (waitMs === 0) return;
  using scope = new DisposableStack();
  const live = new Set<string>();
  const over = new AbortController();
  const gone = (executionId: string) => {
    live.delete(executionId);
    if (live.size === 0) over.abort();
  };
  const look = async () => {
    for (const { executionId, state } of (await readBatch(parts, projectId, batchId)).executions) {
      if (isTerminal(state)) gone(executionId);
    }
  };
  // Once for all that are to be looked at, and again when what cannot be read now is asked for again.
  let looking: Promise<void> | null = null;
  const lookAgain = () => {
    looking ??= look()
      .catch(() => undefined)
      .finally(() => (looking = null));
  };
  for (const { executionId, state } of (await readBatch(parts, projectId, batchId)).executions) {
    if (isTerminal(state)) continue;
    live.add(executionId);
    scope.use(
      parts.hub.subscribe(executionId, (news) => {
        if (news === 'ended') gone(executionId);
        if (news === 'maybe') lookAgain();
      }),
    );
  }
  // What has ended since it was read is not told of.
  await look();
  await sleep(waitMs, undefined, { signal: AbortSignal.any([signal, over.signal]) }).catch(() => undefined);
}
