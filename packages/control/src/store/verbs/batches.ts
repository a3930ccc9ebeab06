import { createHash } from 'node:crypto';
import { CocoreError, type ExecutionState } from '@cocore/protocol';
import type { Limits } from '../../admission.ts';
import type { CreatedBatch, NewBatch, QueuedAttempt, StoredBatch } from '../store.ts';
import { type Context, newId } from './context.ts';
import type { Verb } from './statements.ts';
import { createExecution, inputDigest } from './creation.ts';
import { madeBefore, rememberKey } from './idempotency.ts';

export function* createBatch(context: Context, batch: NewBatch, limits: Limits): Verb<CreatedBatch> {
  const { projectId, executions, idempotencyKey } = batch;
  const keyed =
    idempotencyKey === null ? null : { projectId, scope: '', key: idempotencyKey, digest: digestOf(executions) };
  const earlier = keyed === null ? null : yield* madeBefore(context, keyed);
  if (earlier !== null) return { batchId: earlier, queued: [] };
  const batchId = newId(context, 'batch');
  yield* context.db.send(
    'INSERT INTO batches (project_id, batch_id, created_at) VALUES (?, ?, ?)',
    projectId,
    batchId,
    context.now(),
  );
  const queued: QueuedAttempt[] = [];
  for (const [index, execution] of executions.entries()) {
    try {
      const { created } = yield* createExecution(context, execution, limits, { place: { batchId, index } });
      queued.push(created.queued!);
    } catch (error) {
      throw error instanceof CocoreError ? atIndex(error, index) : error;
    }
  }
  if (keyed !== null) yield* rememberKey(context, keyed, batchId, limits.idempotencyTtlMs);
  return { batchId, queued };
}

const atIndex = ({ code, message, details }: CocoreError, index: number): CocoreError =>
  new CocoreError(code, `executions.${index}: ${message}`, { details: { ...details, index } });

function digestOf(executions: NewBatch['executions']): string {
  const hash = createHash('sha256');
  for (const execution of executions) hash.update(JSON.stringify([execution.function, inputDigest(execution)]));
  return `sha256:${hash.digest('hex')}`;
}

export function* readBatch({ db }: Context, projectId: string, batchId: string): Verb<StoredBatch | null> {
  const batch = yield* db.get<{ created_at: number }>(
    'SELECT created_at FROM batches WHERE project_id = ? AND batch_id = ?',
    projectId,
    batchId,
  );
  if (batch === undefined) return null;
  const rows = yield* db.all<{ execution_id: string; state: ExecutionState; ended_at: number | null }>(
    `SELECT execution_id, state, ended_at FROM executions WHERE project_id = ? AND batch_id = ? ORDER BY batch_index`,
    projectId,
    batchId,
  );
  return {
    batchId,
    createdAtMs: batch.created_at,
    executions: rows.map((row) => ({ executionId: row.execution_id, state: row.state, endedAtMs: row.ended_at })),
  };
}
