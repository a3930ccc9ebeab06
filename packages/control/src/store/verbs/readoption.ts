import { ATTEMPT_STREAMS, type AttemptCause, PREPARE_TIMEOUT_MS } from '@cocore/protocol';
import type { InventoryItem, Readopted } from '../store.ts';
import { committedBytes, find } from './attempt-rows.ts';
import type { Context } from './context.ts';
import type { Verb } from './statements.ts';
import { count } from './counters.ts';
import { applyEvent } from './lifecycle.ts';
import { SUPERSEDED } from './records.ts';

interface NextRow {
  readonly attempt_id: string;
  readonly cause: AttemptCause;
  readonly project_id: string;
  /** Of the one that was given up, as JSON. */
  readonly outcome: string;
}

/** The attempt that waits in the place of one that was given up with its worker; no attempt between the two was anybody's. */
const NEXT = `
  SELECT next.attempt_id, next.cause, lost.project_id, lost.outcome
  FROM attempts lost
  JOIN executions e ON e.project_id = lost.project_id AND e.execution_id = lost.execution_id AND e.phase = 'requeued'
  JOIN attempts next ON next.project_id = lost.project_id AND next.execution_id = lost.execution_id AND next.state = 'queued'
  WHERE lost.attempt_id = ? AND lost.worker_id = ? AND lost.state = 'ended'
    AND lost.worker_signature IS NULL AND lost.late_end IS NULL
    AND NOT EXISTS (
      SELECT 1 FROM attempts other
      WHERE other.project_id = lost.project_id AND other.execution_id = lost.execution_id
        AND other.number > lost.number AND other.number < next.number AND other.outcome IS DISTINCT FROM ?
    )`;

function wasGivenUp(outcome: string): boolean {
  const { kind, cause } = JSON.parse(outcome) as { kind: string; cause?: string };
  return kind === 'lost' && cause === 'host_lost';
}

/**
 * An attempt that was given up, and that its worker has all the same, goes on if nobody has the next one yet: as if it had never been given up, with the
 * deadline that it had. Null when it stays ended.
 */
export function* readopt(
  context: Context,
  workerId: string,
  sessionId: string,
  { attemptId, heldFrom }: InventoryItem,
): Verb<Readopted | null> {
  const { db } = context;
  const next = yield* db.get<NextRow>(NEXT, attemptId, workerId, SUPERSEDED);
  if (next === undefined || !wasGivenUp(next.outcome)) return null;
  const found = yield* find(context, { projectId: next.project_id, attemptId });
  const row = found!;
  const committed = committedBytes(row);
  if (heldFrom !== null && ATTEMPT_STREAMS.some((stream) => heldFrom[stream] > committed[stream])) return null;
  yield* db.change(
    `UPDATE attempts SET state = 'ended', ended_at = ?, outcome = ? WHERE attempt_id = ? AND state = 'queued'`,
    context.now(),
    SUPERSEDED,
    next.attempt_id,
  );
  const outputBytes = ATTEMPT_STREAMS.reduce((sum, stream) => sum + committed[stream], 0);
  if (outputBytes > 0) yield* count(context, row, { outputBytes: -outputBytes });
  const hasStarted = row.attempt_started_at !== null;
  yield* db.change(
    `UPDATE attempts SET state = ?, session_id = ?, ended_at = NULL, outcome = NULL, usage_control = NULL
     WHERE attempt_id = ? AND state = 'ended'`,
    hasStarted ? 'started' : 'accepted',
    sessionId,
    attemptId,
  );
  const deadlineAtMs = hasStarted
    ? row.attempt_started_at + row.timeout_ms
    : row.attempt_accepted_at! + PREPARE_TIMEOUT_MS;
  const phase = hasStarted ? 'executing' : 'preparing';
  const result = yield* applyEvent(context, row, { type: 'attempt_readopted', phase }, { deadlineAtMs });
  if (result.kind !== 'changed') throw new Error('an attempt is queued of an execution that does not wait for one');
  yield* db.send(
    `UPDATE executions SET retries_used = retries_used - ?, redeliveries_used = redeliveries_used - ?
     WHERE project_id = ? AND execution_id = ?`,
    next.cause === 'retry' ? 1 : 0,
    next.cause === 'redelivery' ? 1 : 0,
    row.project_id,
    row.execution_id,
  );
  return { attemptId, executionId: row.execution_id, superseded: next.attempt_id };
}
