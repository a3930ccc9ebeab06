import { afterAttempt, type Outcome, type RetryPolicy } from '@cocore/protocol';
import { type Context, newId } from './context.ts';
import type { Verb } from './statements.ts';
import { applySteps, type StatusRow, type Step } from './lifecycle.ts';

/** What decides how an execution goes on. */
export interface DeliveryColumns {
  readonly network: string | null;
  readonly idempotent: 0 | 1;
  readonly retries: string | null;
  readonly retries_used: number;
  readonly redeliveries_used: number;
}

/**
 * Whether the execution goes on after an attempt that ended so, which is ended already; then its next attempt is queued. The queue's time begins anew.
 *
 * @param before what happened to it first, and is not written yet
 */
export function* goesOn(
  context: Context,
  row: StatusRow & DeliveryColumns,
  outcome: Outcome,
  before: readonly Step[],
): Verb<boolean> {
  const { db } = context;
  const { project_id, execution_id, cancel_requested_at } = row;
  const delivery = afterAttempt(
    {
      outcome,
      cancelRequested: cancel_requested_at !== null,
      policy: row.retries === null ? null : (JSON.parse(row.retries) as RetryPolicy),
      retries: row.retries_used,
      redeliveries: row.redeliveries_used,
      hasNetwork: row.network !== null,
      isIdempotent: row.idempotent === 1,
    },
    context.random(1)[0]! / 256,
  );
  if (delivery.kind === 'end') return false;
  const nowMs = context.now();
  const notBeforeMs = nowMs + delivery.delayMs;
  // Not always the one that has ended: there may have been a next one already.
  const last = yield* db.get<{ number: number }>(
    'SELECT max(number) AS number FROM attempts WHERE project_id = ? AND execution_id = ?',
    project_id,
    execution_id,
  );
  yield* applySteps(context, row, [...before, { event: { type: 'attempt_requeued' }, facts: {} }]);
  yield* db.send(
    `UPDATE executions SET deadline_at = NULL, queue_expires_at = ? + queue_ttl_ms, retries_used = retries_used + ?,
       redeliveries_used = redeliveries_used + ? WHERE project_id = ? AND execution_id = ?`,
    notBeforeMs,
    delivery.kind === 'retry' ? 1 : 0,
    delivery.kind === 'redelivery' ? 1 : 0,
    project_id,
    execution_id,
  );
  yield* db.send(
    `INSERT INTO attempts (project_id, execution_id, number, attempt_id, kind, cause, state, created_at, not_before)
     VALUES (?, ?, ?, ?, 'primary', ?, 'queued', ?, ?)`,
    project_id,
    execution_id,
    last!.number + 1,
    newId(context, 'attempt'),
    delivery.kind,
    nowMs,
    delivery.delayMs === 0 ? null : notBeforeMs,
  );
  return true;
}
