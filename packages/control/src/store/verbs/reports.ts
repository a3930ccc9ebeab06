import { type AttemptStream, type IsolationClass, type OfStreams, PREPARE_TIMEOUT_MS } from '@cocore/protocol';
import type { AttemptKey, OutputGrowth, Reported } from '../store.ts';
import { requeue } from './assignments.ts';
import { committedBytes, type FoundRow, ofSession } from './attempt-rows.ts';
import type { Context } from './context.ts';
import type { Verb } from './statements.ts';
import { applyEvent } from './lifecycle.ts';

export function* recordAccepted(
  context: Context,
  attempt: AttemptKey,
  sessionId: string,
  sandbox: { driver: string; isolation: IsolationClass },
): Verb<{ reported: Reported; deadlineAtMs: number | null }> {
  const row = yield* ofSession(context, attempt, sessionId);
  if (row === null) return { reported: 'stale', deadlineAtMs: null };
  if (row.attempt_state !== 'assigned') {
    const same = row.driver === sandbox.driver && row.isolation === sandbox.isolation;
    return { reported: same ? 'repeated' : 'conflict', deadlineAtMs: row.deadline_at };
  }
  const nowMs = context.now();
  const deadlineAtMs = nowMs + PREPARE_TIMEOUT_MS;
  yield* context.db.change(
    `UPDATE attempts SET state = 'accepted', driver = ?, isolation = ?, accepted_at = ?
     WHERE project_id = ? AND execution_id = ? AND attempt_id = ? AND session_id = ? AND state = 'assigned'`,
    sandbox.driver,
    sandbox.isolation,
    nowMs,
    row.project_id,
    row.execution_id,
    row.attempt_id,
    sessionId,
  );
  const result = yield* applyEvent(context, row, { type: 'attempt_accepted' }, { acceptedAtMs: nowMs, deadlineAtMs });
  if (result.kind !== 'changed') throw new Error('an assigned attempt belongs to an execution that is not open');
  return { reported: 'recorded', deadlineAtMs };
}

export function* recordRefused(context: Context, attempt: AttemptKey, sessionId: string): Verb<Reported> {
  const row = yield* ofSession(context, attempt, sessionId);
  if (row === null) return 'stale';
  if (row.attempt_state !== 'assigned') return 'conflict';
  yield* applyEvent(context, row, { type: 'attempt_refused' }, {});
  yield* requeue(context, row);
  return 'recorded';
}

export function* recordStarted(
  context: Context,
  attempt: AttemptKey,
  sessionId: string,
  agoMs: number,
): Verb<{ reported: Reported; startedAtMs: number | null; deadlineAtMs: number | null }> {
  const row = yield* ofSession(context, attempt, sessionId);
  if (row === null) return { reported: 'stale', startedAtMs: null, deadlineAtMs: null };
  if (row.attempt_state === 'started') {
    return { reported: 'repeated', startedAtMs: row.attempt_started_at, deadlineAtMs: row.deadline_at };
  }
  if (row.attempt_state !== 'accepted') return { reported: 'conflict', startedAtMs: null, deadlineAtMs: null };
  const startedAtMs = Math.max(row.attempt_accepted_at!, Math.round(context.now() - agoMs));
  const deadlineAtMs = startedAtMs + row.timeout_ms;
  yield* context.db.change(
    `UPDATE attempts SET state = 'started', started_at = ?
     WHERE project_id = ? AND execution_id = ? AND attempt_id = ? AND session_id = ? AND state = 'accepted'`,
    startedAtMs,
    row.project_id,
    row.execution_id,
    row.attempt_id,
    sessionId,
  );
  const result = yield* applyEvent(context, row, { type: 'attempt_started' }, { startedAtMs, deadlineAtMs });
  if (result.kind === 'unchanged') {
    // It is being stopped: the phase stays, the facts count.
    yield* context.db.change(
      'UPDATE executions SET started_at = ?, deadline_at = ? WHERE project_id = ? AND execution_id = ?',
      startedAtMs,
      deadlineAtMs,
      row.project_id,
      row.execution_id,
    );
  }
  return { reported: 'recorded', startedAtMs, deadlineAtMs };
}

/** Of one row of output. */
const MAX_CHUNK_BYTES = 64 * 1024;
const INSERT_CHUNK =
  'INSERT INTO output_chunks (project_id, attempt_id, stream, "offset", data) VALUES (?, ?, ?, ?, ?)';

/** The lengths with what each stream grows by; null when that does not go on where they are. */
export function grown(lengths: OfStreams<number>, growth: readonly OutputGrowth[]): OfStreams<number> | null {
  const after = { ...lengths };
  for (const { stream, from, to } of growth) {
    if (after[stream] !== from) return null;
    after[stream] = to;
  }
  return after;
}

/** Keeps what belongs into the store itself. */
export function* keepInline(
  { db }: Context,
  { project_id, attempt_id }: FoundRow,
  growth: readonly OutputGrowth[],
): Verb<void> {
  for (const { stream, from, inline } of growth) {
    if (inline === null) continue;
    for (let at = 0; at < inline.length; at += MAX_CHUNK_BYTES) {
      const data = inline.subarray(at, at + MAX_CHUNK_BYTES);
      yield* db.send(INSERT_CHUNK, project_id, attempt_id, stream, from + at, data);
    }
  }
}

export function* recordOutput(
  context: Context,
  attempt: AttemptKey,
  sessionId: string,
  growth: readonly OutputGrowth[],
): Verb<Reported> {
  const row = yield* ofSession(context, attempt, sessionId);
  if (row === null) return 'stale';
  if (row.attempt_state === 'assigned') return 'conflict';
  const lengths = grown(committedBytes(row), growth);
  if (lengths === null) return 'conflict';
  yield* keepInline(context, row, growth);
  yield* context.db.change(
    `UPDATE attempts SET stdout_bytes = ?, stderr_bytes = ?, result_bytes = ?, artifacts_bytes = ?
     WHERE project_id = ? AND execution_id = ? AND attempt_id = ? AND session_id = ? AND ended_at IS NULL`,
    lengths.stdout,
    lengths.stderr,
    lengths.result,
    lengths.artifacts,
    row.project_id,
    row.execution_id,
    row.attempt_id,
    sessionId,
  );
  return 'recorded';
}

/** So many chunks are read at once. */
const INLINE_PAGE = 64;

/** Begins with the chunk that has the byte, which the key finds. */
const READ_INLINE = `
  SELECT "offset", data FROM output_chunks
  WHERE project_id = ? AND attempt_id = ? AND stream = ? AND "offset" >= coalesce((
    SELECT max("offset") FROM output_chunks WHERE project_id = ? AND attempt_id = ? AND stream = ? AND "offset" <= ?
  ), 0)
  ORDER BY "offset" LIMIT ?`;

export function* readInline(
  { db }: Context,
  attempt: AttemptKey,
  stream: AttemptStream,
  offset: number,
): Verb<Uint8Array[]> {
  const of = [attempt.projectId, attempt.attemptId, stream];
  const chunks = yield* db.all<{ offset: number; data: Uint8Array }>(READ_INLINE, ...of, ...of, offset, INLINE_PAGE);
  return chunks
    .filter((chunk) => chunk.offset + chunk.data.length > offset)
    .map((chunk) => (chunk.offset < offset ? chunk.data.subarray(offset - chunk.offset) : chunk.data));
}
