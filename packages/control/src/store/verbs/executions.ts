import {
  CocoreError,
  isTerminal,
  type ExecutionList,
  type ExecutionListQuery,
  type ExecutionRecord,
} from '@cocore/protocol';
import type { CancelRequested } from '../store.ts';
import { allByIds, ID_PLACES } from './by-ids.ts';
import type { Context } from './context.ts';
import type { Verb } from './statements.ts';
import { findFunction } from './functions.ts';
import { applyEvent, type StatusRow } from './lifecycle.ts';
import { executionRecord, type RecordRow, SELECT_EXECUTION } from './records.ts';

/** A page stops growing past this many bytes of arguments and results, so that an answer stays bounded. */
const MAX_PAGE_BYTES = 4 * 1024 * 1024;

// Made once: the statement cache looks a text up faster when it is the same string.
export const READ_EXECUTION = `${SELECT_EXECUTION} WHERE e.project_id = ? AND e.execution_id = ? ORDER BY a.number`;
const BY_IDS = `${SELECT_EXECUTION} WHERE e.project_id = ? AND e.execution_id IN (${ID_PLACES}) ORDER BY e.execution_id DESC, a.number`;

export function* readExecution({ db }: Context, projectId: string, executionId: string): Verb<ExecutionRecord | null> {
  const rows = yield* db.all<RecordRow>(READ_EXECUTION, projectId, executionId);
  return rows.length === 0 ? null : executionRecord(rows);
}

export function* listExecutions(context: Context, projectId: string, query: ExecutionListQuery): Verb<ExecutionList> {
  const { state, batch } = query;
  // One index serves; what has another is written so that it is only compared.
  const isByFunction = query.function !== undefined && state === undefined && batch === undefined;
  const where = [isByFunction ? "e.project_id || '' = ?" : 'e.project_id = ?'];
  const parameters: (string | number)[] = [projectId];
  if (query.function !== undefined) {
    const named = yield* findFunction(context, projectId, query.function);
    if (named === undefined) {
      throw new CocoreError('function_not_found', `there is no function ${query.function} in this project`);
    }
    const isSought = batch === undefined && (state === undefined || isTerminal(state));
    where.push(isSought ? 'e.function_id = ?' : "e.function_id || '' = ?");
    parameters.push(named.function_id);
  }
  if (state !== undefined) {
    where.push('e.state = ?');
    parameters.push(state);
    // The executions of a batch are few.
    if (batch === undefined) where.push(`e.ended_at IS ${isTerminal(state) ? 'NOT NULL' : 'NULL'}`);
  }
  if (batch !== undefined) {
    if (!(yield* hasBatch(context, projectId, batch))) {
      throw new CocoreError('batch_not_found', `there is no batch ${batch} in this project`);
    }
    where.push('e.batch_id = ?');
    parameters.push(batch);
  }
  if (query.cursor !== undefined) {
    where.push('e.execution_id < ?');
    parameters.push(query.cursor);
  }
  const found = yield* context.db.all<{ execution_id: string; bytes: number }>(
    `SELECT e.execution_id, octet_length(e.args) + coalesce(octet_length(e.result), 0) + coalesce(octet_length(e.error), 0) AS bytes
     FROM executions e WHERE ${where.join(' AND ')} ORDER BY e.execution_id DESC LIMIT ?`,
    ...parameters,
    query.limit + 1,
  );
  let size = 0;
  let count = 0;
  for (const { bytes } of found) {
    size += bytes;
    if (count === query.limit || (count > 0 && size > MAX_PAGE_BYTES)) break;
    count += 1;
  }
  const page = found.slice(0, count).map(({ execution_id }) => execution_id);
  const rows = yield* allByIds<RecordRow>(context, BY_IDS, page, projectId);
  const executions = [...Map.groupBy(rows, ({ execution_id }) => execution_id).values()].map((of) =>
    executionRecord(of),
  );
  return { executions, next: count < found.length ? page.at(-1)! : null };
}

export function* hasBatch({ db }: Context, projectId: string, batchId: string): Verb<boolean> {
  const found = yield* db.get('SELECT 1 FROM batches WHERE project_id = ? AND batch_id = ?', projectId, batchId);
  return found !== undefined;
}

const STATUS =
  'SELECT project_id, execution_id, function_id, state, phase, reason, cancel_requested_at FROM executions WHERE project_id = ? AND execution_id = ?';

export function* statusOf({ db }: Context, projectId: string, executionId: string): Verb<StatusRow | undefined> {
  return yield* db.get<StatusRow>(STATUS, projectId, executionId);
}

export function* requestCancel(context: Context, projectId: string, executionId: string): Verb<CancelRequested | null> {
  const { db } = context;
  const status = yield* statusOf(context, projectId, executionId);
  if (status === undefined) return null;
  const live = yield* db.get<{ attempt_id: string; worker_id: string | null }>(
    'SELECT attempt_id, worker_id FROM attempts WHERE project_id = ? AND execution_id = ? AND ended_at IS NULL',
    projectId,
    executionId,
  );
  const attempt = live === undefined ? null : { attemptId: live.attempt_id, workerId: live.worker_id };
  const result = yield* applyEvent(context, status, { type: 'cancel_requested' }, {});
  switch (result.kind) {
    case 'changed':
      if (result.next.state === 'running') return { result: 'requested', attempt };
      yield* endAttempts(context, projectId, executionId);
      return { result: 'cancelled', attempt };
    case 'unchanged':
      return { result: result.why === 'already_so' ? 'already_requested' : 'already_ended', attempt };
    case 'impossible':
      throw new Error('the table has no cancellation that is impossible');
  }
}

/** Ends the live attempt of an execution that never ran. */
export function* endAttempts(context: Context, projectId: string, executionId: string): Verb<void> {
  yield* context.db.send(
    "UPDATE attempts SET state = 'ended', ended_at = ? WHERE project_id = ? AND execution_id = ? AND ended_at IS NULL",
    context.now(),
    projectId,
    executionId,
  );
}

export function* expireQueue(context: Context, limit: number): Verb<{ executionId: string; attemptId: string }[]> {
  const rows = yield* context.db.all<StatusRow & { attempt_id: string }>(
    `SELECT e.project_id, e.execution_id, e.function_id, e.state, e.phase, e.reason, e.cancel_requested_at, a.attempt_id
     FROM executions e JOIN attempts a
       ON a.project_id = e.project_id AND a.execution_id = e.execution_id AND a.ended_at IS NULL
     WHERE (e.state = 'open' OR e.phase = 'requeued') AND e.queue_expires_at <= ? ORDER BY e.queue_expires_at LIMIT ?`,
    context.now(),
    limit,
  );
  for (const row of rows) {
    yield* applyEvent(context, row, { type: 'queue_expired' }, {});
    yield* endAttempts(context, row.project_id, row.execution_id);
  }
  return rows.map((row) => ({ executionId: row.execution_id, attemptId: row.attempt_id }));
}
