import type { AttemptState, ExecutionPhase, ExecutionState, IsolationClass, OfStreams, Reason } from '@cocore/protocol';
import type { AttemptKey, LiveAttemptRow, QueuedAttempt, WorkerLoad } from '../store.ts';
import { fileBlobs, OF_PROJECT } from './assignments.ts';
import { allByIds, ID_PLACES } from './by-ids.ts';
import type { Context } from './context.ts';
import type { Verb } from './statements.ts';
import type { DeliveryColumns } from './deliveries.ts';
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

export interface FoundRow extends JoinedRow, DeliveryColumns {}

export const SELECT_JOINED = `
  SELECT a.project_id, a.execution_id, e.function_id, a.attempt_id, a.number, a.state AS attempt_state, a.worker_id, a.session_id, a.driver, a.isolation,
    a.created_at AS queued_at, a.assigned_at, a.accepted_at AS attempt_accepted_at, a.started_at AS attempt_started_at,
    a.stdout_bytes, a.stderr_bytes, a.result_bytes, a.artifacts_bytes, a.worker_signature, e.memory_mib, e.cpus, e.timeout_ms, e.output_limit_bytes, e.artifacts_limit_bytes, a.not_before, e.deadline_at,
    e.cancel_requested_at, e.state, e.phase, e.reason
  FROM attempts a JOIN executions e ON e.project_id = a.project_id AND e.execution_id = a.execution_id`;

const SELECT_LIVE = SELECT_JOINED.replace(
  'FROM attempts a',
  `, v.isolation AS required_isolation, v.network, v.image_digest, v.code_digest, e.stdin_digest, e.files, f.newest_version, f.max_concurrent,
    e.priority, e.concurrency_key, e.concurrency_limit, octet_length(e.args) + octet_length(e.env) + octet_length(v.env) + octet_length(v.process)
      + coalesce(octet_length(v.network), 0) + coalesce(octet_length(e.stdin_inline) * 4 / 3, 0) + coalesce(octet_length(e.files), 0) AS task_bytes FROM attempts a`,
).concat(
  ' JOIN functions f ON f.project_id = e.project_id AND f.function_id = e.function_id',
  ' JOIN function_versions v ON v.project_id = e.project_id AND v.function_id = e.function_id AND v.version = e.version',
);

interface LiveRow extends JoinedRow {
  readonly required_isolation: IsolationClass;
  readonly network: string | null;
  readonly image_digest: string;
  readonly code_digest: string;
  readonly stdin_digest: string | null;
  readonly files: string | null;
  readonly newest_version: number;
  readonly max_concurrent: number | null;
  readonly priority: number;
  readonly concurrency_key: string | null;
  /** Null where there is no key. */
  readonly concurrency_limit: number | null;
  readonly task_bytes: number;
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
    function: { id: row.function_id, version: row.newest_version, limit: row.max_concurrent },
    priority: row.priority,
    concurrency: row.concurrency_key === null ? null : { key: row.concurrency_key, limit: row.concurrency_limit! },
    memoryMiB: row.memory_mib,
    cpus: row.cpus,
    isolation: row.required_isolation,
    egress: row.network !== null,
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
    taskBytes: row.task_bytes,
    blobs: [
      ...[row.image_digest, row.code_digest, ...(row.stdin_digest === null ? [] : [row.stdin_digest])],
      ...fileBlobs(row.files),
    ],
  };
}

export function* loadLive({ db }: Context): Verb<LiveAttemptRow[]> {
  return (yield* db.all<LiveRow>(`${SELECT_LIVE} WHERE a.ended_at IS NULL ORDER BY a.attempt_id`)).map(liveAttempt);
}

/** In the order of the index, which has those that wait together. */
const QUEUED_IDS = `SELECT a.attempt_id FROM attempts a
  WHERE a.worker_id IS NULL AND a.ended_at IS NULL AND a.attempt_id > ? ORDER BY a.worker_id, a.attempt_id LIMIT ?`;

export function* listQueuedIds({ db }: Context, after: string, limit: number): Verb<string[]> {
  return (yield* db.all<{ attempt_id: string }>(QUEUED_IDS, after, limit)).map(({ attempt_id }) => attempt_id);
}

const BY_IDS = `${SELECT_LIVE} WHERE a.ended_at IS NULL AND a.attempt_id IN (${ID_PLACES})`;

export function* loadAttempts(context: Context, attemptIds: readonly string[]): Verb<LiveAttemptRow[]> {
  return (yield* allByIds<LiveRow>(context, BY_IDS, attemptIds)).map(liveAttempt);
}

const CANCEL_REQUESTED = `SELECT a.attempt_id FROM workers w
  JOIN attempts a ON a.worker_id = w.worker_id AND a.ended_at IS NULL
  JOIN executions e ON e.project_id = a.project_id AND e.execution_id = a.execution_id AND e.cancel_requested_at IS NOT NULL
  WHERE w.server_id = ?`;

export function* listCancelRequested({ db }: Context, serverId: string): Verb<string[]> {
  return (yield* db.all<{ attempt_id: string }>(CANCEL_REQUESTED, serverId)).map(({ attempt_id }) => attempt_id);
}

const LOADS = `SELECT a.worker_id, count(*) AS attempts, CAST(sum(e.cpus) AS BIGINT) AS cpus, CAST(sum(e.memory_mib) AS BIGINT) AS memory_mib
  FROM attempts a JOIN executions e ON e.project_id = a.project_id AND e.execution_id = a.execution_id
  WHERE a.worker_id IS NOT NULL AND a.ended_at IS NULL GROUP BY a.worker_id`;

export function* listWorkerLoads({ db }: Context): Verb<WorkerLoad[]> {
  const rows = yield* db.all<{ worker_id: string; attempts: number; cpus: number; memory_mib: number }>(LOADS);
  return rows.map(({ worker_id, attempts, cpus, memory_mib }) => ({
    ...{ workerId: worker_id, attempts, cpus, memoryMiB: memory_mib },
  }));
}

const NEXT = `${SELECT_LIVE} WHERE a.project_id = ? AND a.execution_id = ? AND a.state = 'queued' AND a.ended_at IS NULL`;

export function* readNext(
  { db }: Context,
  { projectId, executionId }: { readonly projectId: string; readonly executionId: string },
): Verb<QueuedAttempt | null> {
  const row = yield* db.get<LiveRow>(NEXT, projectId, executionId);
  return row === undefined ? null : liveAttempt(row);
}

const OF_WORKER = `${SELECT_LIVE} WHERE a.worker_id = ? AND a.ended_at IS NULL`;

export function* liveOfWorker({ db }: Context, workerId: string): Verb<LiveAttemptRow[]> {
  return (yield* db.all<LiveRow>(OF_WORKER, workerId)).map(liveAttempt);
}

/** With what decides whether its execution goes on after it. */
export const FIND = `${SELECT_JOINED.replace(
  'FROM attempts a',
  ', e.retries, e.retries_used, e.redeliveries_used, v.network, v.idempotent FROM attempts a',
)} JOIN function_versions v ON v.project_id = e.project_id AND v.function_id = e.function_id AND v.version = e.version
  WHERE a.attempt_id = ? AND ${OF_PROJECT}`;

export function* find({ db }: Context, attempt: AttemptKey): Verb<FoundRow | undefined> {
  return yield* db.get<FoundRow>(FIND, attempt.attemptId, attempt.projectId);
}

/** The attempt, when it is live and this session's. */
export function* ofSession(context: Context, attempt: AttemptKey, sessionId: string): Verb<FoundRow | null> {
  const row = yield* find(context, attempt);
  if (row === undefined || row.session_id !== sessionId) return null;
  return row.attempt_state === 'ended' || row.attempt_state === 'queued' ? null : row;
}
