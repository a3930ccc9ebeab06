import type { AttemptState, ExecutionPhase, ExecutionState, IsolationClass, OfStreams, Reason } from '@cocore/protocol';
import type { AttemptKey, LiveAttemptRow, QueuedAttempt } from '../store.ts';
import { fileBlobs } from './assignments.ts';
import type { Context } from './context.ts';
import type { StatusRow } from './lifecycle.ts';

/** An attempt joined with what its execution's next state depends on. */
export interface JoinedRow extends StatusRow {
  readonly attempt_id: string;
  readonly number: number;
  readonly attempt_state: AttemptState;
  readonly worker_id: string | null;
  readonly session_id: string | null;
  readonly driver: string | null;
  readonly isolation: string | null;
  readonly queued_at: number;
  readonly assigned_at: number | null;
  readonly attempt_accepted_at: number | null;
  readonly attempt_started_at: number | null;
  readonly stdout_bytes: number;
  readonly stderr_bytes: number;
  readonly result_bytes: number;
  readonly artifacts_bytes: number;
  readonly memory_mib: number;
  readonly cpus: number;
  readonly timeout_ms: number;
  readonly output_limit_bytes: number;
  readonly artifacts_limit_bytes: number;
  readonly not_before: number | null;
  readonly deadline_at: number | null;
  readonly state: ExecutionState;
  readonly phase: ExecutionPhase | null;
  readonly reason: Reason | null;
  readonly worker_signature: string | null;
}

export const SELECT_JOINED = `
  SELECT a.project_id, a.execution_id, a.attempt_id, a.number, a.state AS attempt_state, a.worker_id, a.session_id, a.driver, a.isolation,
    a.created_at AS queued_at, a.assigned_at, a.accepted_at AS attempt_accepted_at, a.started_at AS attempt_started_at,
    a.stdout_bytes, a.stderr_bytes, a.result_bytes, a.artifacts_bytes, a.worker_signature, e.memory_mib, e.cpus, e.timeout_ms, e.output_limit_bytes, e.artifacts_limit_bytes, a.not_before, e.deadline_at,
    e.cancel_requested_at, e.state, e.phase, e.reason
  FROM attempts a JOIN executions e ON e.project_id = a.project_id AND e.execution_id = a.execution_id`;

const SELECT_LIVE = SELECT_JOINED.replace(
  'FROM attempts a',
  `, v.isolation AS required_isolation, v.image_digest, v.code_digest, e.stdin_digest, e.files FROM attempts a`,
).concat(
  ' JOIN function_versions v ON v.project_id = e.project_id AND v.function_id = e.function_id AND v.version = e.version',
);

interface LiveRow extends JoinedRow {
  readonly required_isolation: IsolationClass;
  readonly image_digest: string;
  readonly code_digest: string;
  readonly stdin_digest: string | null;
  readonly files: string | null;
}

export function committedBytes(row: JoinedRow): OfStreams<number> {
  return {
    stdout: row.stdout_bytes,
    stderr: row.stderr_bytes,
    result: row.result_bytes,
    artifacts: row.artifacts_bytes,
  };
}

function liveAttempt(row: LiveRow): LiveAttemptRow {
  return {
    projectId: row.project_id,
    attemptId: row.attempt_id,
    executionId: row.execution_id,
    memoryMiB: row.memory_mib,
    cpus: row.cpus,
    isolation: row.required_isolation,
    queuedAtMs: row.queued_at,
    notBeforeMs: row.not_before,
    state: row.attempt_state as Exclude<AttemptState, 'ended'>,
    workerId: row.worker_id,
    sessionId: row.session_id,
    assignedAtMs: row.assigned_at,
    startedAtMs: row.attempt_started_at,
    deadlineAtMs: row.deadline_at,
    cancelRequestedAtMs: row.cancel_requested_at,
    timeoutMs: row.timeout_ms,
    outputLimitBytes: row.output_limit_bytes,
    artifactsLimitBytes: row.artifacts_limit_bytes,
    bytes: committedBytes(row),
    blobs: [
      ...[row.image_digest, row.code_digest, ...(row.stdin_digest === null ? [] : [row.stdin_digest])],
      ...fileBlobs(row.files),
    ],
  };
}

export function loadLive({ db }: Context): LiveAttemptRow[] {
  return db.all<LiveRow>(`${SELECT_LIVE} WHERE a.ended_at IS NULL ORDER BY a.attempt_id`).map(liveAttempt);
}

const NEXT = `${SELECT_LIVE} WHERE a.project_id = ? AND a.execution_id = ? AND a.state = 'queued' AND a.ended_at IS NULL`;

export function readNext(
  { db }: Context,
  { projectId, executionId }: { readonly projectId: string; readonly executionId: string },
): QueuedAttempt | null {
  const row = db.get<LiveRow>(NEXT, projectId, executionId);
  return row === undefined ? null : liveAttempt(row);
}

export function liveOfWorker({ db }: Context, workerId: string): LiveAttemptRow[] {
  return db.all<LiveRow>(`${SELECT_LIVE} WHERE a.worker_id = ? AND a.ended_at IS NULL`, workerId).map(liveAttempt);
}

const FIND = `${SELECT_JOINED} WHERE a.attempt_id = ? AND a.project_id = ?`;

export function find({ db }: Context, attempt: AttemptKey): JoinedRow | undefined {
  return db.get<JoinedRow>(FIND, attempt.attemptId, attempt.projectId);
}

/** The attempt, when it is live and this session's. */
export function ofSession(context: Context, attempt: AttemptKey, sessionId: string): JoinedRow | null {
  const row = find(context, attempt);
  if (row === undefined || row.session_id !== sessionId) return null;
  return row.attempt_state === 'ended' || row.attempt_state === 'queued' ? null : row;
}
