import { ATTEMPT_STREAMS, type OfStreams } from '@cocore/protocol';
import { INLINE_OUTPUT_BYTES, type AttemptKey, type LargeOutput } from '../store.ts';
import type { JoinedRow } from './attempt-rows.ts';
import type { Context } from './context.ts';
import type { Verb } from './statements.ts';

/** Of an attempt whose output is more than the store keeps by itself. */
export function* noteLargeOutput({ db }: Context, row: JoinedRow, bytes: OfStreams<number>): Verb<void> {
  if (ATTEMPT_STREAMS.every((stream) => bytes[stream] <= INLINE_OUTPUT_BYTES)) return;
  yield* db.send(
    'INSERT INTO large_outputs (attempt_id, project_id, execution_id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING',
    row.attempt_id,
    row.project_id,
    row.execution_id,
  );
}

// An attempt of an execution that goes on may go on too.
const NEXT = `
  SELECT l.project_id, l.attempt_id, a.stdout_bytes, a.stderr_bytes, a.result_bytes, a.artifacts_bytes
  FROM large_outputs l
  JOIN executions e ON e.project_id = l.project_id AND e.execution_id = l.execution_id
  JOIN attempts a ON a.project_id = l.project_id AND a.execution_id = l.execution_id AND a.attempt_id = l.attempt_id
  WHERE l.archived_at IS NULL AND l.attempt_id > ? AND e.ended_at IS NOT NULL
  ORDER BY l.attempt_id LIMIT ?`;

interface LargeRow {
  readonly project_id: string;
  readonly attempt_id: string;
  readonly stdout_bytes: number;
  readonly stderr_bytes: number;
  readonly result_bytes: number;
  readonly artifacts_bytes: number;
}

export function* beginArchiving({ db }: Context, after: string, limit: number): Verb<LargeOutput[]> {
  const rows = yield* db.all<LargeRow>(NEXT, after, limit);
  for (const { attempt_id } of rows) {
    yield* db.send('UPDATE large_outputs SET in_archive = 1 WHERE attempt_id = ?', attempt_id);
  }
  return rows.map((row) => ({
    projectId: row.project_id,
    attemptId: row.attempt_id,
    bytes: {
      stdout: row.stdout_bytes,
      stderr: row.stderr_bytes,
      result: row.result_bytes,
      artifacts: row.artifacts_bytes,
    },
  }));
}

export function* recordArchived({ db, now }: Context, { projectId, attemptId }: AttemptKey): Verb<boolean> {
  const archived = 'UPDATE large_outputs SET archived_at = coalesce(archived_at, ?) WHERE attempt_id = ?';
  if ((yield* db.run(archived, now(), attemptId)) === 0) return false;
  yield* db.send(
    'DELETE FROM output_chunks WHERE project_id = ? AND attempt_id = ? AND "offset" + octet_length(data) > ?',
    projectId,
    attemptId,
    INLINE_OUTPUT_BYTES,
  );
  return true;
}
