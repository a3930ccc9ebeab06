import { createHash } from 'node:crypto';
import {
  ARTIFACTS_LIMIT_BYTES,
  type BlobRef,
  CocoreError,
  MAX_FILES_BYTES,
  MAX_INPUT_BYTES,
  QUEUE_TTL_MS,
  type TaskFile,
  utf8Length,
} from '@cocore/protocol';
import { admit, type Limits } from '../../admission.ts';
import type { CreatedExecution, NewExecution, QueuedAttempt } from '../store.ts';
import { cappedBy, fileBlobs, type HostRow, type TaskRow } from './assignments.ts';
import { type Context, newId } from './context.ts';
import { count } from './counters.ts';
import type { Held, Verb } from './statements.ts';
import { findFunction } from './functions.ts';
import { madeBefore, rememberKey } from './idempotency.ts';
import { type FunctionRow, optionalText } from './records.ts';

const sha256 = (data: string | Uint8Array) => `sha256:${createHash('sha256').update(data).digest('hex')}`;

/** What the request asks for, whatever its key and the time: two requests with one digest mean the same. */
export function inputDigest(execution: NewExecution): string {
  const { args, env, stdin, files, timeoutMs, outputLimitBytes, retries } = execution;
  const { priority = 0, concurrency = null, queueTtlMs = QUEUE_TTL_MS } = execution;
  const stdinDigest = stdin === null ? null : 'blob' in stdin ? stdin.blob : sha256(stdin.inline);
  const sorted = Object.entries(env).sort(([one], [other]) => (one < other ? -1 : 1));
  const named = files
    .map((file) => [file.name, 'blob' in file ? file.blob : sha256(Buffer.from(file.base64, 'base64'))] as const)
    .sort(([one], [other]) => (one < other ? -1 : 1));
  const hasQueueing = priority !== 0 || concurrency !== null || queueTtlMs !== QUEUE_TTL_MS;
  // Without what later releases brought it is what it was before: a key outlives an upgrade.
  const more = hasQueueing
    ? [named, { retries, priority, concurrency, queueTtlMs }]
    : retries !== undefined
      ? [named, retries]
      : named.length > 0
        ? [named]
        : [];
  return sha256(JSON.stringify([args, sorted, stdinDigest, timeoutMs, outputLimitBytes, ...more]));
}

function checkInputSize(execution: NewExecution, functionEnv: Readonly<Record<string, string>>): void {
  let bytes = 0;
  for (const argument of execution.args) bytes += utf8Length(argument);
  for (const [name, value] of Object.entries({ ...functionEnv, ...execution.env })) {
    bytes += name.length + 1 + utf8Length(value);
  }
  if (bytes <= MAX_INPUT_BYTES) return;
  throw new CocoreError(
    'input_too_large',
    `arguments and environment are ${bytes} bytes together; at most ${MAX_INPUT_BYTES} are taken`,
  );
}

interface StdinColumns {
  readonly inline: Uint8Array | null;
  readonly digest: string | null;
  readonly bytes: number | null;
}

function* blobOf({ db }: Context, projectId: string, digest: string): Verb<BlobRef> {
  const blob = yield* db.get<{ bytes: number }>(
    'SELECT bytes FROM blobs WHERE project_id = ? AND digest = ?',
    projectId,
    digest,
  );
  if (blob === undefined) throw new CocoreError('blob_not_found', `there is no blob ${digest} in this project`);
  return { digest, bytes: blob.bytes };
}

function* stdinColumns(context: Context, { projectId, stdin }: NewExecution): Verb<StdinColumns> {
  if (stdin === null) return { inline: null, digest: null, bytes: null };
  if ('inline' in stdin) return { inline: stdin.inline, digest: null, bytes: stdin.inline.length };
  return { inline: null, ...(yield* blobOf(context, projectId, stdin.blob)) };
}

/** The files with the lengths of their blobs, as JSON; null for none. */
function* filesColumn(context: Context, { projectId, files }: NewExecution): Verb<string | null> {
  if (files.length === 0) return null;
  const found: TaskFile[] = [];
  for (const file of files) {
    if ('base64' in file) found.push(file);
    else found.push({ name: file.name, ...(yield* blobOf(context, projectId, file.blob)) });
  }
  const bytes = found.reduce((sum, file) => sum + ('bytes' in file ? file.bytes : base64Bytes(file.base64)), 0);
  if (bytes <= MAX_FILES_BYTES) return JSON.stringify(found);
  throw new CocoreError(
    'input_too_large',
    `the files are ${bytes} bytes together; at most ${MAX_FILES_BYTES} are taken`,
  );
}

const base64Bytes = (text: string): number => Buffer.byteLength(text, 'base64');

export function* createExecutions(
  context: Context,
  executions: readonly NewExecution[],
  limits: Limits,
): Verb<CreatedExecution[]> {
  const created: CreatedExecution[] = [];
  for (const execution of executions) {
    const version = yield* functionOf(context, execution);
    created.push((yield* createExecutionOf(context, execution, version, limits)).created);
  }
  return created;
}

/** The batch that an execution is of, and its place in it. */
export interface BatchPlace {
  readonly batchId: string;
  readonly index: number;
}

/** What is not of the request. */
export interface Making {
  /** `ARTIFACTS_LIMIT_BYTES` if not given. */
  readonly artifactsLimitBytes?: number;
  readonly place?: BatchPlace;
  /** A new one, which is queued, if not given. */
  readonly attempt?: FirstAttempt;
}

export interface FirstAttempt {
  readonly attemptId: string;
  /** Null when it is queued. */
  readonly assigned: { readonly workerId: string; readonly sessionId: string; readonly host: HostRow } | null;
}

export interface Made {
  readonly created: CreatedExecution;
  /** Null when an earlier request had made it. */
  readonly row: TaskRow | null;
}

/** @throws CocoreError `function_not_found` */
export function* functionOf(context: Context, execution: NewExecution): Verb<FunctionRow> {
  const version = yield* findFunction(context, execution.projectId, execution.function);
  if (version !== undefined) return version;
  throw new CocoreError('function_not_found', `there is no function ${execution.function} in this project`);
}

/** @throws CocoreError as `createExecutions`, when its function is found */
export function* createExecutionOf(
  context: Context,
  execution: NewExecution,
  version: FunctionRow,
  limits: Limits,
  making: Making = {},
): Verb<Made> {
  const made = yield* insertWhole(context, execution, version, limits, making);
  if (made.row !== null) yield* count(context, version, { live: 1, queued: 1, check: (held) => admitOf(held, limits) });
  return made;
}

const admitOf = ({ live, queued, queuedOfFunction }: Held, limits: Limits): void =>
  admit({ liveExecutions: live, queuedExecutions: queued, queuedOfFunction }, limits);

/**
 * As `createExecutionOf`, but for the counters: the row of the function has them as they are before it.
 *
 * @throws CocoreError as `createExecutions`, when its function is found
 */
export function* insertWhole(
  context: Context,
  execution: NewExecution,
  version: FunctionRow,
  limits: Limits,
  { artifactsLimitBytes = ARTIFACTS_LIMIT_BYTES, place, attempt }: Making = {},
): Verb<Made> {
  const { projectId, idempotencyKey } = execution;
  const digest = inputDigest(execution);
  const keyed = idempotencyKey === null ? null : { projectId, scope: version.function_id, key: idempotencyKey, digest };
  const earlier = keyed === null ? null : yield* madeBefore(context, keyed);
  if (earlier !== null) return { created: { executionId: earlier, queued: null }, row: null };
  checkInputSize(execution, JSON.parse(version.env) as Record<string, string>);
  const stdin = yield* stdinColumns(context, execution);
  const files = yield* filesColumn(context, execution);
  const { live_executions: live, queued_executions: queued, queued_of_function: queuedOfFunction } = version;
  admitOf({ live: live + 1, queued: queued + 1, queuedOfFunction: queuedOfFunction + 1 }, limits);
  const made = yield* insertExecution(context, execution, version, {
    ...{ digest, stdin, files, artifactsLimitBytes },
    place: place ?? null,
    attempt: attempt ?? { attemptId: newId(context, 'attempt'), assigned: null },
  });
  if (keyed !== null) yield* rememberKey(context, keyed, made.created.executionId, limits.idempotencyTtlMs);
  return made;
}

interface InsertedColumns {
  /** Of the input. */
  readonly digest: string;
  readonly stdin: StdinColumns;
  readonly files: string | null;
  readonly artifactsLimitBytes: number;
  readonly place: BatchPlace | null;
  readonly attempt: FirstAttempt;
}

/** What input adds to an assignment: texts, and bytes in base64. */
export const inputBytes = (texts: readonly string[], inline: Uint8Array | null): number =>
  texts.reduce((sum, text) => sum + Buffer.byteLength(text), Math.floor(((inline?.length ?? 0) * 4) / 3));

const INSERT_EXECUTION = `
  INSERT INTO executions (project_id, execution_id, function_id, version, state, args, env, stdin_inline, stdin_digest,
    stdin_bytes, files, memory_mib, cpus, timeout_ms, output_limit_bytes, artifacts_limit_bytes, retries, priority, concurrency_key,
    concurrency_limit, queue_ttl_ms, input_digest, batch_id, batch_index, created_at, queue_expires_at)
  VALUES (?, ?, ?, ?, 'open', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`;
const INSERT_ATTEMPT = `
  INSERT INTO attempts (project_id, execution_id, number, attempt_id, kind, state, created_at, worker_id, session_id, owner_id,
    trust_class, assigned_at, capped_function, capped_key)
  VALUES (?, ?, 1, ?, 'primary', ?, ?, ?, ?, ?, ?, ?, ?, ?)`;
const INSERT_INPUT = 'INSERT INTO execution_blobs (project_id, digest, execution_id) VALUES (?, ?, ?)';

function* insertExecution(
  context: Context,
  execution: NewExecution,
  version: FunctionRow,
  { digest, stdin, files, artifactsLimitBytes, place, attempt }: InsertedColumns,
): Verb<Made> {
  const { db } = context;
  const { projectId } = execution;
  const executionId = newId(context, 'execution');
  const nowMs = context.now();
  const { priority = 0, concurrency = null, queueTtlMs = QUEUE_TTL_MS } = execution;
  const row: TaskRow = {
    execution_id: executionId,
    function_id: version.function_id,
    function_name: version.name,
    version: version.version,
    newest_version: version.version,
    max_concurrent: version.max_concurrent,
    concurrency_key: concurrency?.key ?? null,
    concurrency_limit: concurrency?.limit ?? null,
    process: version.process,
    args: JSON.stringify(execution.args),
    env: JSON.stringify(execution.env),
    function_env: version.env,
    image_digest: version.image_digest,
    image_bytes: version.image_bytes,
    code_digest: version.code_digest,
    code_bytes: version.code_bytes,
    stdin_inline: stdin.inline,
    stdin_digest: stdin.digest,
    stdin_bytes: stdin.bytes,
    files,
    memory_mib: version.memory_mib,
    cpus: version.cpus,
    timeout_ms: execution.timeoutMs ?? version.timeout_ms,
    output_limit_bytes: execution.outputLimitBytes ?? version.output_limit_bytes,
    artifacts_limit_bytes: artifactsLimitBytes,
    isolation: version.isolation,
    network: version.network,
  };
  yield* db.send(
    INSERT_EXECUTION,
    ...[projectId, executionId, row.function_id, row.version, row.args, row.env],
    ...[row.stdin_inline, row.stdin_digest, row.stdin_bytes, row.files],
    ...[row.memory_mib, row.cpus, row.timeout_ms, row.output_limit_bytes, row.artifacts_limit_bytes],
    execution.retries === undefined ? version.retries : optionalText(execution.retries),
    ...[priority, row.concurrency_key, row.concurrency_limit, queueTtlMs, digest],
    ...[place?.batchId ?? null, place?.index ?? null, nowMs, nowMs + queueTtlMs],
  );
  const inputs = [...(stdin.digest === null ? [] : [stdin.digest]), ...fileBlobs(files)];
  for (const digest of new Set(inputs)) yield* db.send(INSERT_INPUT, projectId, digest, executionId);
  const { attemptId, assigned } = attempt;
  yield* db.send(
    INSERT_ATTEMPT,
    ...[projectId, executionId, attemptId, assigned === null ? 'queued' : 'assigned', nowMs],
    ...(assigned === null
      ? [null, null, null, null, null, null, null]
      : [
          ...[assigned.workerId, assigned.sessionId, assigned.host.owner_id, assigned.host.trust_class, nowMs],
          ...cappedBy(row),
        ]),
  );
  const queued: QueuedAttempt = {
    projectId,
    attemptId,
    executionId,
    function: { id: version.function_id, version: version.version, limit: version.max_concurrent },
    priority,
    concurrency,
    memoryMiB: version.memory_mib,
    cpus: version.cpus,
    isolation: version.isolation,
    egress: version.network !== null,
    blobs: [version.image_digest, version.code_digest, ...inputs],
    taskBytes: version.process_bytes + inputBytes([row.args, row.env, files ?? ''], stdin.inline),
    queuedAtMs: nowMs,
    notBeforeMs: null,
  };
  return { created: { executionId, queued }, row };
}
