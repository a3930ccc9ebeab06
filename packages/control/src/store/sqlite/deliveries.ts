import { afterAttempt, type Outcome, QUEUE_TTL_MS, type RetryPolicy } from '@cocore/protocol';
import { type Context, newId } from './context.ts';
import { applyEvent, type StatusRow } from './lifecycle.ts';

interface DeliveryRow {
  readonly retries: string | null;
  readonly retries_used: number;
  readonly redeliveries_used: number;
}

/**
 * Whether the execution goes on after an attempt that ended so, which is ended already; then its next attempt is queued. The queue's time begins anew.
 */
export function goesOn(context: Context, row: StatusRow & { readonly number: number }, outcome: Outcome): boolean {
  const { db } = context;
  const { project_id, execution_id, cancel_requested_at } = row;
  const used = db.get<DeliveryRow>(
    'SELECT retries, retries_used, redeliveries_used FROM executions WHERE project_id = ? AND execution_id = ?',
    project_id,
    execution_id,
  )!;
  const delivery = afterAttempt(
    {
      outcome,
      cancelRequested: cancel_requested_at !== null,
      policy: used.retries === null ? null : (JSON.parse(used.retries) as RetryPolicy),
      retries: used.retries_used,
      redeliveries: used.redeliveries_used,
      hasNetwork: false,
    },
    context.random(1)[0]! / 256,
  );
  if (delivery.kind === 'end') return false;
  const nowMs = context.now();
  const notBeforeMs = nowMs + delivery.delayMs;
  applyEvent(context, row, { type: 'attempt_requeued' }, {});
  db.run(
    `UPDATE executions SET deadline_at = NULL, queue_expires_at = ?, retries_used = retries_used + ?,
       redeliveries_used = redeliveries_used + ? WHERE project_id = ? AND execution_id = ?`,
    notBeforeMs + QUEUE_TTL_MS,
    delivery.kind === 'retry' ? 1 : 0,
    delivery.kind === 'redelivery' ? 1 : 0,
    project_id,
    execution_id,
  );
  db.run(
    `INSERT INTO attempts (project_id, execution_id, number, attempt_id, kind, cause, state, created_at, not_before)
     VALUES (?, ?, ?, ?, 'primary', ?, 'queued', ?, ?)`,
    project_id,
    execution_id,
    row.number + 1,
    newId(context, 'attempt'),
    delivery.kind,
    nowMs,
    delivery.delayMs === 0 ? null : notBeforeMs,
  );
  return true;
}
