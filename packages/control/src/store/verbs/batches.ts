import { createHash } from 'node:crypto';
import { CocoreError, type ExecutionState } from '@cocore/protocol';
import type { Limits } from '../../admission.ts';
import type { CreatedBatch, NewBatch, NewExecution, QueuedAttempt, StoredBatch } from '../store.ts';
import { type Context, newId } from './context.ts';
import type { Verb } from './statements.ts';
import { count } from './counters.ts';
import { functionOf, inputDigest, insertWhole } from './creation.ts';
import { madeBefore, rememberKey } from './idempotency.ts';
import type { FunctionRow } from './records.ts';

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
  const functions = new BatchFunctions();
  for (const [index, execution] of executions.entries()) {
    try {
      const version = yield* functions.find(context, execution);
      const { created } = yield* insertWhole(context, execution, version, limits, { place: { batchId, index } });
      functions.made(version);
      queued.push(created.queued!);
    } catch (error) {
      throw error instanceof CocoreError ? atIndex(error, index) : error;
    }
  }
  yield* functions.count(context);
  if (keyed !== null) yield* rememberKey(context, keyed, batchId, limits.idempotencyTtlMs);
  return { batchId, queued };
}

/** The functions of one batch, each read once and counted once, with their counters as they are after what the batch has made so far. */
class BatchFunctions {
  readonly #found = new Map<string, FunctionRow>();
  readonly #made = new Map<string, { readonly version: FunctionRow; count: number }>();
  #count = 0;

  /** @throws CocoreError `function_not_found` */
  *find(context: Context, execution: NewExecution): Verb<FunctionRow> {
    let row = this.#found.get(execution.function);
    if (row === undefined) {
      row = yield* functionOf(context, execution);
      this.#found.set(execution.function, row);
    }
    return {
      ...row,
      live_executions: row.live_executions + this.#count,
      queued_executions: row.queued_executions + this.#count,
      queued_of_function: row.queued_of_function + (this.#made.get(row.function_id)?.count ?? 0),
    };
  }

  made(version: FunctionRow): void {
    this.#count += 1;
    const made = this.#made.get(version.function_id);
    if (made === undefined) this.#made.set(version.function_id, { version, count: 1 });
    else made.count += 1;
  }

  *count(context: Context): Verb<void> {
    for (const { version, count: made } of this.#made.values()) {
      yield* count(context, version, { live: made, queued: made });
    }
  }
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
