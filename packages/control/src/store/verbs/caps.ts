import type { AttemptKey, QueuedAttempt } from '../store.ts';
import type { Context } from './context.ts';
import type { Verb } from './statements.ts';

/** Where several servers assign, none of them sees all that counts against a limit: it is counted in the database, while nobody else counts the same. */

/** What who asks knew of the attempt's limits, and holds alone. */
export type KnownCaps = Pick<QueuedAttempt, 'function' | 'concurrency'>;

export interface CapColumns {
  readonly function_id: string;
  readonly newest_version: number;
  readonly max_concurrent: number | null;
  readonly concurrency_key: string | null;
  readonly concurrency_limit: number | null;
}

/** What must be held alone to count an attempt in. */
export function capLocks(
  { projectId }: Pick<AttemptKey, 'projectId'>,
  { function: of, concurrency }: KnownCaps,
): string[] {
  return [
    ...(of.limit === null ? [] : [`function ${projectId} ${of.id}`]),
    ...(concurrency === null ? [] : [`key ${projectId} ${concurrency.key}`]),
  ];
}

/** Whether nothing more may have a worker of what counts with the attempt; also when its function has a limit of which who asks did not know. */
export function* isCapped(
  { db }: Context,
  { projectId }: AttemptKey,
  known: KnownCaps,
  row: CapColumns,
): Verb<boolean> {
  if (row.max_concurrent !== null) {
    if (known.function.limit === null) return true;
    const held = yield* db.get<{ count: number }>(
      'SELECT count(*) AS count FROM attempts WHERE project_id = ? AND capped_function = ? AND ended_at IS NULL',
      projectId,
      row.function_id,
    );
    if (held!.count >= row.max_concurrent) return true;
  }
  if (row.concurrency_key === null) return false;
  const held = yield* db.get<{ count: number }>(
    'SELECT count(*) AS count FROM attempts WHERE project_id = ? AND capped_key = ? AND ended_at IS NULL',
    projectId,
    row.concurrency_key,
  );
  return held!.count >= row.concurrency_limit!;
}

/** A function's limit is new: what has a worker counts from now on. */
export function* countHeld({ db }: Context, projectId: string, functionId: string): Verb<void> {
  yield* db.send(
    `UPDATE attempts SET capped_function = ?
     WHERE project_id = ? AND ended_at IS NULL AND kind = 'primary' AND worker_id IS NOT NULL AND execution_id IN (
       SELECT execution_id FROM executions WHERE project_id = ? AND function_id = ? AND ended_at IS NULL)`,
    functionId,
    projectId,
    projectId,
    functionId,
  );
}
