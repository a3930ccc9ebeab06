import type { RemovedOutput, Retention } from '../store.ts';
import { fileBlobs } from './assignments.ts';
import type { Context } from './context.ts';
import { count } from './counters.ts';
import type { Verb } from './statements.ts';

const PROJECTS = 'SELECT project_id, output_bytes FROM projects';
const OLDEST = `SELECT execution_id FROM executions INDEXED BY executions_by_end
  WHERE project_id = ? AND ended_at IS NOT NULL AND expired_at IS NULL`;
const ATTEMPTS = `SELECT attempt_id, stdout_bytes + stderr_bytes + result_bytes + artifacts_bytes AS bytes
  FROM attempts WHERE project_id = ? AND execution_id = ?`;
const REMOVE_LATER = `INSERT INTO removed_outputs (attempt_id, in_archive)
  VALUES (?, coalesce((SELECT in_archive FROM large_outputs WHERE attempt_id = ?), 0)) ON CONFLICT DO NOTHING`;
/** What tells how it ended stays, and its place in lists. */
const TO_TOMBSTONE = `UPDATE executions SET expired_at = ?, args = '[]', env = '{}', stdin_inline = NULL, stdin_digest = NULL, stdin_bytes = NULL,
    files = NULL, result = NULL, error = NULL, message = NULL, retries = NULL, deciding_attempt = NULL
  WHERE project_id = ? AND execution_id = ?`;

export function* expireExecutions(context: Context, retention: Retention, limit: number): Verb<number> {
  let left = limit;
  for (const { project_id, output_bytes } of yield* context.db.all<{ project_id: string; output_bytes: number }>(
    PROJECTS,
  )) {
    if (left === 0) break;
    const removed = yield* expireOfProject(context, project_id, output_bytes, retention, left);
    left -= removed;
  }
  return limit - left;
}

function* expireOfProject(
  context: Context,
  projectId: string,
  outputBytes: number,
  { maxAgeMs, maxOutputBytes }: Retention,
  limit: number,
): Verb<number> {
  const { db, now } = context;
  const old = yield* db.all<{ execution_id: string }>(
    `${OLDEST} AND ended_at <= ? ORDER BY ended_at LIMIT ?`,
    projectId,
    now() - maxAgeMs,
    limit,
  );
  let bytes = outputBytes;
  for (const { execution_id } of old) bytes -= yield* expire(context, projectId, execution_id);
  let removed = old.length;
  if (bytes <= maxOutputBytes || removed === limit) return removed;
  const rest = yield* db.all<{ execution_id: string }>(
    `${OLDEST} ORDER BY ended_at LIMIT ?`,
    projectId,
    limit - removed,
  );
  for (const { execution_id } of rest) {
    if (bytes <= maxOutputBytes) break;
    bytes -= yield* expire(context, projectId, execution_id);
    removed += 1;
  }
  return removed;
}

/** @returns the bytes of output that it had */
function* expire(context: Context, projectId: string, executionId: string): Verb<number> {
  const { db, now } = context;
  let bytes = 0;
  for (const attempt of yield* db.all<{ attempt_id: string; bytes: number }>(ATTEMPTS, projectId, executionId)) {
    bytes += attempt.bytes;
    yield* db.send(REMOVE_LATER, attempt.attempt_id, attempt.attempt_id);
    yield* db.send('DELETE FROM large_outputs WHERE attempt_id = ?', attempt.attempt_id);
    yield* db.send('DELETE FROM output_chunks WHERE project_id = ? AND attempt_id = ?', projectId, attempt.attempt_id);
  }
  if (bytes > 0) yield* count(context, { project_id: projectId, function_id: null }, { outputBytes: -bytes });
  yield* db.send('DELETE FROM attempts WHERE project_id = ? AND execution_id = ?', projectId, executionId);
  const inputs = yield* db.all<{ stdin_digest: string | null; files: string | null }>(
    'SELECT stdin_digest, files FROM executions WHERE project_id = ? AND execution_id = ?',
    projectId,
    executionId,
  );
  for (const digest of inputs.flatMap(inputBlobs)) {
    yield* db.send(
      'DELETE FROM execution_blobs WHERE project_id = ? AND digest = ? AND execution_id = ?',
      projectId,
      digest,
      executionId,
    );
  }
  yield* db.send(TO_TOMBSTONE, now(), projectId, executionId);
  return bytes;
}

const inputBlobs = ({ stdin_digest, files }: { stdin_digest: string | null; files: string | null }): string[] => [
  ...(stdin_digest === null ? [] : [stdin_digest]),
  ...fileBlobs(files),
];

export function* listRemovedOutputs({ db }: Context, after: string, limit: number): Verb<RemovedOutput[]> {
  const rows = yield* db.all<{ attempt_id: string; in_archive: 0 | 1 }>(
    'SELECT attempt_id, in_archive FROM removed_outputs WHERE attempt_id > ? ORDER BY attempt_id LIMIT ?',
    after,
    limit,
  );
  return rows.map((row) => ({ attemptId: row.attempt_id, inArchive: row.in_archive === 1 }));
}

export function* forgetRemovedOutputs({ db }: Context, attemptIds: readonly string[]): Verb<void> {
  for (const attemptId of attemptIds) yield* db.run('DELETE FROM removed_outputs WHERE attempt_id = ?', attemptId);
}
