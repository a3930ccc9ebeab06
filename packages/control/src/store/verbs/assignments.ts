import { canRun, type IsolationClass, type TaskFile } from '@cocore/protocol';
import type { AssignedTask, AttemptKey, Capped, FunctionProcess, SharedAssign } from '../store.ts';
import { type CapColumns, isCapped } from './caps.ts';
import type { Context } from './context.ts';
import type { Verb } from './statements.ts';
import { isQueued, type StatusRow } from './lifecycle.ts';
import { networkOf } from './network.ts';

/** What a task is made from. */
export interface TaskRow extends CapColumns {
  readonly execution_id: string;
  readonly function_name: string;
  readonly version: number;
  readonly process: string;
  readonly args: string;
  readonly env: string;
  readonly function_env: string;
  readonly image_digest: string;
  readonly image_bytes: number;
  readonly code_digest: string;
  readonly code_bytes: number;
  readonly stdin_inline: Uint8Array | null;
  readonly stdin_digest: string | null;
  readonly stdin_bytes: number | null;
  readonly files: string | null;
  readonly memory_mib: number;
  readonly cpus: number;
  readonly timeout_ms: number;
  readonly output_limit_bytes: number;
  readonly artifacts_limit_bytes: number;
  readonly isolation: IsolationClass;
  readonly network: string | null;
}

/** As `createExecution` wrote them. */
const filesOf = (text: string | null): TaskFile[] => (text === null ? [] : (JSON.parse(text) as TaskFile[]));

/** The digests that a column of files names. */
export const fileBlobs = (text: string | null): string[] =>
  filesOf(text).flatMap((file) => ('digest' in file ? [file.digest] : []));

/**
 * For an attempt that is found by its id. Written so that no index of the project is looked at: with what PostgreSQL knows of an empty database it would walk
 * along all of the project instead.
 */
export const OF_PROJECT = "a.project_id || '' = ?";

export const READ_TASK = `
  SELECT e.execution_id, e.function_id, f.newest_version, f.max_concurrent, e.concurrency_key, e.concurrency_limit,
    f.name AS function_name, e.version, v.process, e.args, e.env, v.env AS function_env, v.image_digest, v.image_bytes,
    v.code_digest, v.code_bytes, e.stdin_inline, e.stdin_digest, e.stdin_bytes, e.files, e.memory_mib, e.cpus, e.timeout_ms,
    e.output_limit_bytes, e.artifacts_limit_bytes, e.state, e.phase, v.isolation, v.network
  FROM attempts a
  JOIN executions e ON e.project_id = a.project_id AND e.execution_id = a.execution_id
  JOIN functions f ON f.project_id = e.project_id AND f.function_id = e.function_id
  JOIN function_versions v ON v.project_id = e.project_id AND v.function_id = e.function_id AND v.version = e.version
  WHERE a.attempt_id = ? AND ${OF_PROJECT} AND a.state = 'queued'`;
/** Who holds it is about to have it, and is not waited for. Only PostgreSQL has several that ask. */
const READ_TASK_ALONE = `${READ_TASK} FOR UPDATE OF a SKIP LOCKED`;

export function* assign(
  context: Context,
  attempt: AttemptKey,
  worker: { workerId: string; sessionId: string },
  shared: SharedAssign | null = null,
): Verb<AssignedTask | Capped | 'stale' | null> {
  const { db } = context;
  const host = yield* hostOf(context, worker);
  if (host === undefined) return 'stale';
  const row = yield* db.get<TaskRow & Pick<StatusRow, 'state' | 'phase'>>(
    shared?.isContended === true ? READ_TASK_ALONE : READ_TASK,
    attempt.attemptId,
    attempt.projectId,
  );
  if (row === undefined || !isQueued(row)) return null;
  if (!isEnough(host, row)) {
    throw new Error(
      `${worker.workerId} gives isolation ${host.isolation}, network ${host.egress}, and ${row.execution_id} requires ${row.isolation}, ${row.network !== null}`,
    );
  }
  if (shared !== null && (yield* isCapped(context, attempt, shared.caps, row))) {
    return { capped: { id: row.function_id, version: row.newest_version, limit: row.max_concurrent } };
  }
  yield* db.change(
    `UPDATE attempts SET state = 'assigned', worker_id = ?, session_id = ?, owner_id = ?, trust_class = ?, assigned_at = ?,
       capped_function = ?, capped_key = ?
     WHERE project_id = ? AND execution_id = ? AND attempt_id = ? AND state = 'queued'`,
    worker.workerId,
    worker.sessionId,
    host.owner_id,
    host.trust_class,
    context.now(),
    ...cappedBy(row),
    attempt.projectId,
    row.execution_id,
    attempt.attemptId,
  );
  return taskOf(row);
}

/** The worker, as what it is assigned needs it. */
export interface HostRow {
  readonly owner_id: string;
  readonly trust_class: string;
  readonly isolation: IsolationClass;
  readonly egress: 0 | 1;
}

/** Undefined when the session is not the worker's any more, or the worker is drained. */
export function* hostOf({ db }: Context, worker: { workerId: string; sessionId: string }): Verb<HostRow | undefined> {
  return yield* db.get<HostRow>(
    'SELECT owner_id, trust_class, isolation, egress FROM workers WHERE worker_id = ? AND session_id = ? AND drained_at IS NULL',
    worker.workerId,
    worker.sessionId,
  );
}

/** Whether what it gives is at least what the function requires. */
export function isEnough(host: HostRow, { isolation, network }: Pick<TaskRow, 'isolation' | 'network'>): boolean {
  return canRun({ isolation: host.isolation, egress: host.egress === 1 }, { isolation, egress: network !== null });
}

/** The function and the key by whose limits it counts. */
export const cappedBy = (row: CapColumns): [functionId: string | null, key: string | null] => [
  row.max_concurrent === null ? null : row.function_id,
  row.concurrency_key,
];

export function taskOf(row: TaskRow): AssignedTask {
  return {
    executionId: row.execution_id,
    functionName: row.function_name,
    functionVersion: row.version,
    process: JSON.parse(row.process) as FunctionProcess,
    args: JSON.parse(row.args) as string[],
    functionEnv: JSON.parse(row.function_env) as Record<string, string>,
    env: JSON.parse(row.env) as Record<string, string>,
    image: { digest: row.image_digest, bytes: row.image_bytes },
    code: { digest: row.code_digest, bytes: row.code_bytes },
    files: filesOf(row.files),
    stdin:
      row.stdin_inline !== null
        ? { inline: row.stdin_inline }
        : row.stdin_digest === null
          ? null
          : { digest: row.stdin_digest, bytes: row.stdin_bytes! },
    memoryMiB: row.memory_mib,
    cpus: row.cpus,
    timeoutMs: row.timeout_ms,
    outputLimitBytes: row.output_limit_bytes,
    artifactsLimitBytes: row.artifacts_limit_bytes,
    network: networkOf(row.network),
  };
}

/** An attempt that was never accepted waits again. */
export function* requeue(
  context: Context,
  row: { project_id: string; execution_id: string; attempt_id: string },
): Verb<void> {
  yield* context.db.change(
    `UPDATE attempts SET state = 'queued', worker_id = NULL, session_id = NULL, owner_id = NULL, trust_class = NULL, assigned_at = NULL,
       capped_function = NULL, capped_key = NULL
     WHERE project_id = ? AND execution_id = ? AND attempt_id = ? AND state = 'assigned'`,
    row.project_id,
    row.execution_id,
    row.attempt_id,
  );
}
