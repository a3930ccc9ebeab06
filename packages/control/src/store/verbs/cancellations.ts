import { CocoreError } from '@cocore/protocol';
import type { CancelledPage, CancelRequested, LiveFilter } from '../store.ts';
import type { Context } from './context.ts';
import type { Verb } from './statements.ts';
import { hasBatch, requestCancel } from './executions.ts';
import { findFunction } from './functions.ts';
import type { SqlValue } from './statements.ts';

/** By the index of live attempts: every execution that has not ended has one, and those that have ended are many. */
const FROM_LIVE = `FROM attempts a INDEXED BY attempts_one_live_primary
  JOIN executions e ON e.project_id = a.project_id AND e.execution_id = a.execution_id
  WHERE a.project_id = ? AND a.kind = 'primary' AND a.ended_at IS NULL`;

export function* requestCancelOf(
  context: Context,
  projectId: string,
  filter: LiveFilter,
  after: string,
  limit: number,
): Verb<CancelledPage> {
  const { where, parameters } = yield* conditions(context, projectId, filter);
  const rows = yield* context.db.all<{ execution_id: string }>(
    `SELECT a.execution_id ${FROM_LIVE} ${where} AND a.execution_id > ? ORDER BY a.execution_id LIMIT ?`,
    projectId,
    ...parameters,
    after,
    limit,
  );
  const executions: (CancelRequested & { executionId: string })[] = [];
  for (const { execution_id: executionId } of rows) {
    const requested = yield* requestCancel(context, projectId, executionId);
    executions.push({ executionId, ...requested! });
  }
  return { executions, next: rows.length < limit ? null : executions.at(-1)!.executionId };
}

export function* countLive(context: Context, projectId: string, filter: LiveFilter): Verb<number> {
  const { where, parameters } = yield* conditions(context, projectId, filter);
  const counted = yield* context.db.get<{ count: number }>(
    `SELECT count(*) AS count ${FROM_LIVE} ${where}`,
    projectId,
    ...parameters,
  );
  return counted!.count;
}

function* conditions(
  context: Context,
  projectId: string,
  filter: LiveFilter,
): Verb<{ where: string; parameters: SqlValue[] }> {
  const where = ['', 'e.created_at < ?'];
  const parameters: SqlValue[] = [filter.createdBeforeMs];
  const add = (condition: string, value: string) => {
    where.push(condition);
    parameters.push(value);
  };
  if (filter.function !== undefined) {
    const named = yield* findFunction(context, projectId, filter.function);
    if (named === undefined) {
      throw new CocoreError('function_not_found', `there is no function ${filter.function} in this project`);
    }
    add('e.function_id = ?', named.function_id);
  }
  if (filter.batch !== undefined) {
    if (!(yield* hasBatch(context, projectId, filter.batch))) {
      throw new CocoreError('batch_not_found', `there is no batch ${filter.batch} in this project`);
    }
    add('e.batch_id = ?', filter.batch);
  }
  if (filter.state !== undefined) add('e.state = ?', filter.state);
  return { where: where.join(' AND '), parameters };
}
