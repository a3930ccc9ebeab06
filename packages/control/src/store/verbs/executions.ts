import { createHash } from 'node:crypto';
import {
  ARTIFACTS_LIMIT_BYTES,
  type BlobRef,
  CocoreError,
  isTerminal,
  type ExecutionList,
  type ExecutionListQuery,
  type ExecutionRecord,
  MAX_FILES_BYTES,
  MAX_INPUT_BYTES,
  QUEUE_TTL_MS,
  type TaskFile,
  utf8Length,
} from '@cocore/protocol';
import { admit, type Limits } from '../../admission.ts';
import type { CancelRequested, CreatedExecution, NewExecution } from '../store.ts';
import { fileBlobs } from './assignments.ts';
import { type Context, newId } from './context.ts';
import { count } from './counters.ts';
import type { Held, Verb } from './statements.ts';
import { findFunction } from './functions.ts';
import { madeBefore, rememberKey } from './idempotency.ts';
import { applyEvent, type StatusRow } from './lifecycle.ts';
import {
  type AttemptRow,
  executionRecord,
  type ExecutionRow,
  type FunctionRow,
  optionalText,
  SELECT_EXECUTION,
} from './records.ts';

/** A page stops growing past this many bytes of arguments and results, so that an answer stays bounded. */
const MAX_PAGE_BYTES = 4 * 1024 * 1024;

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
  for (const execution of executions) created.push(yield* createExecution(context, execution, limits));
  return created;
}

/** The batch that an execution is of, and its place in it. */
export interface BatchPlace {
  readonly batchId: string;
  readonly index: number;
}

export function* createExecution(
  context: Context,
  execution: NewExecution,
  limits: Limits,
  place: BatchPlace | null = null,
): Verb<CreatedExecution> {
  const version = yield* findFunction(context, execution.projectId, execution.function);
  if (version === undefined) {
    throw new CocoreError('function_not_found', `there is no function ${execution.function} in this project`);
  }
  return yield* createExecutionOf(context, execution, version, limits, ARTIFACTS_LIMIT_BYTES, place);
}

/** @throws CocoreError as `createExecutions`, when its function is found */
export function* createExecutionOf(
  context: Context,
  execution: NewExecution,
  version: FunctionRow,
  limits: Limits,
  artifactsLimitBytes: number,
  place: BatchPlace | null = null,
): Verb<CreatedExecution> {
  const { projectId, idempotencyKey } = execution;
  const digest = inputDigest(execution);
  const keyed = idempotencyKey === null ? null : { projectId, scope: version.function_id, key: idempotencyKey, digest };
  const earlier = keyed === null ? null : yield* madeBefore(context, keyed);
  if (earlier !== null) return { executionId: earlier, queued: null };
  checkInputSize(execution, JSON.parse(version.env) as Record<string, string>);
  const stdin = yield* stdinColumns(context, execution);
  const files = yield* filesColumn(context, execution);
  const check = (after: Held) =>
    admit(
      { liveExecutions: after.live, queuedExecutions: after.queued, queuedOfFunction: after.queuedOfFunction },
      limits,
    );
  check({
    live: version.live_executions + 1,
    queued: version.queued_executions + 1,
    queuedOfFunction: version.queued_of_function + 1,
  });
  const created = yield* insertExecution(context, execution, version, {
    digest,
    stdin,
    files,
    artifactsLimitBytes,
    place,
  });
  yield* count(context, version, { live: 1, queued: 1, check });
  if (keyed !== null) yield* rememberKey(context, keyed, created.executionId, limits.idempotencyTtlMs);
  return created;
}

interface InsertedColumns {
  /** Of the input. */
  readonly digest: string;
  readonly stdin: StdinColumns;
  readonly files: string | null;
  readonly artifactsLimitBytes: number;
  readonly place: BatchPlace | null;
}

const INSERT_INPUT = 'INSERT INTO execution_blobs (project_id, digest, execution_id) VALUES (?, ?, ?)';

function* insertExecution(
  context: Context,
  execution: NewExecution,
  version: FunctionRow,
  { digest, stdin, files, artifactsLimitBytes, place }: InsertedColumns,
): Verb<CreatedExecution> {
  const { db } = context;
  const { projectId } = execution;
  const executionId = newId(context, 'execution');
  const attemptId = newId(context, 'attempt');
  const nowMs = context.now();
  const { priority = 0, concurrency = null, queueTtlMs = QUEUE_TTL_MS } = execution;
  const [args, env] = [JSON.stringify(execution.args), JSON.stringify(execution.env)];
  const inlineBytes = Math.floor(((stdin.inline?.length ?? 0) * 4) / 3);
  const texts = [args, env, files ?? ''];
  yield* db.send(
    `INSERT INTO executions (project_id, execution_id, function_id, version, state, args, env, stdin_inline, stdin_digest,
       stdin_bytes, files, memory_mib, cpus, timeout_ms, output_limit_bytes, artifacts_limit_bytes, retries, priority, concurrency_key,
       concurrency_limit, queue_ttl_ms, input_digest, batch_id, batch_index, created_at, queue_expires_at)
     VALUES (?, ?, ?, ?, 'open', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    projectId,
    executionId,
    version.function_id,
    version.version,
    args,
    env,
    stdin.inline,
    stdin.digest,
    stdin.bytes,
    files,
    version.memory_mib,
    version.cpus,
    execution.timeoutMs ?? version.timeout_ms,
    execution.outputLimitBytes ?? version.output_limit_bytes,
    artifactsLimitBytes,
    execution.retries === undefined ? version.retries : optionalText(execution.retries),
    priority,
    concurrency?.key ?? null,
    concurrency?.limit ?? null,
    queueTtlMs,
    digest,
    place?.batchId ?? null,
    place?.index ?? null,
    nowMs,
    nowMs + queueTtlMs,
  );
  const inputs = [...(stdin.digest === null ? [] : [stdin.digest]), ...fileBlobs(files)];
  for (const digest of new Set(inputs)) yield* db.send(INSERT_INPUT, projectId, digest, executionId);
  yield* db.send(
    `INSERT INTO attempts (project_id, execution_id, number, attempt_id, kind, state, created_at)
     VALUES (?, ?, 1, ?, 'primary', 'queued', ?)`,
    projectId,
    executionId,
    attemptId,
    nowMs,
  );
  return {
    executionId,
    queued: {
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
      taskBytes: texts.reduce((sum, text) => sum + Buffer.byteLength(text), version.process_bytes + inlineBytes),
      queuedAtMs: nowMs,
      notBeforeMs: null,
    },
  };
}

function* withAttempts({ db }: Context, row: ExecutionRow): Verb<ExecutionRecord> {
  const attempts = yield* db.all<AttemptRow>(
    'SELECT * FROM attempts WHERE project_id = ? AND execution_id = ? ORDER BY number',
    row.project_id,
    row.execution_id,
  );
  return executionRecord(row, attempts);
}

// Made once: the statement cache looks a text up faster when it is the same string.
const READ = `${SELECT_EXECUTION} WHERE e.project_id = ? AND e.execution_id = ?`;

export function* readExecution(context: Context, projectId: string, executionId: string): Verb<ExecutionRecord | null> {
  const row = yield* context.db.get<ExecutionRow>(READ, projectId, executionId);
  return row === undefined ? null : yield* withAttempts(context, row);
}

export function* listExecutions(context: Context, projectId: string, query: ExecutionListQuery): Verb<ExecutionList> {
  const where = ['e.project_id = ?'];
  const parameters: (string | number)[] = [projectId];
  if (query.function !== undefined) {
    const named = yield* findFunction(context, projectId, query.function);
    if (named === undefined) {
      throw new CocoreError('function_not_found', `there is no function ${query.function} in this project`);
    }
    where.push('e.function_id = ?');
    parameters.push(named.function_id);
  }
  if (query.state !== undefined) {
    where.push('e.state = ?');
    parameters.push(query.state);
    // Says which index serves; the executions of a batch are few, and have their own.
    if (query.batch === undefined) where.push(`e.ended_at IS ${isTerminal(query.state) ? 'NOT NULL' : 'NULL'}`);
  }
  if (query.batch !== undefined) {
    if (!(yield* hasBatch(context, projectId, query.batch))) {
      throw new CocoreError('batch_not_found', `there is no batch ${query.batch} in this project`);
    }
    where.push('e.batch_id = ?');
    parameters.push(query.batch);
  }
  if (query.cursor !== undefined) {
    where.push('e.execution_id < ?');
    parameters.push(query.cursor);
  }
  const found = yield* context.db.all<{ execution_id: string; bytes: number }>(
    `SELECT e.execution_id, octet_length(e.args) + coalesce(octet_length(e.result), 0) + coalesce(octet_length(e.error), 0) AS bytes
     FROM executions e WHERE ${where.join(' AND ')} ORDER BY e.execution_id DESC LIMIT ?`,
    ...parameters,
    query.limit + 1,
  );
  let size = 0;
  let count = 0;
  for (const { bytes } of found) {
    size += bytes;
    if (count === query.limit || (count > 0 && size > MAX_PAGE_BYTES)) break;
    count += 1;
  }
  if (count === 0) return { executions: [], next: null };
  const last = found[count - 1]!.execution_id;
  const rows = yield* context.db.all<ExecutionRow>(
    `${SELECT_EXECUTION} WHERE ${where.join(' AND ')} AND e.execution_id >= ? ORDER BY e.execution_id DESC LIMIT ?`,
    ...parameters,
    last,
    count,
  );
  const executions: ExecutionRecord[] = [];
  for (const row of rows) executions.push(yield* withAttempts(context, row));
  return { executions, next: count < found.length ? last : null };
}

export function* hasBatch({ db }: Context, projectId: string, batchId: string): Verb<boolean> {
  const found = yield* db.get('SELECT 1 FROM batches WHERE project_id = ? AND batch_id = ?', projectId, batchId);
  return found !== undefined;
}

const STATUS =
  'SELECT project_id, execution_id, function_id, state, phase, reason, cancel_requested_at FROM executions WHERE project_id = ? AND execution_id = ?';

export function* statusOf({ db }: Context, projectId: string, executionId: string): Verb<StatusRow | undefined> {
  return yield* db.get<StatusRow>(STATUS, projectId, executionId);
}

export function* requestCancel(context: Context, projectId: string, executionId: string): Verb<CancelRequested | null> {
  const { db } = context;
  const status = yield* statusOf(context, projectId, executionId);
  if (status === undefined) return null;
  const live = yield* db.get<{ attempt_id: string; worker_id: string | null }>(
    'SELECT attempt_id, worker_id FROM attempts WHERE project_id = ? AND execution_id = ? AND ended_at IS NULL',
    projectId,
    executionId,
  );
  const attempt = live === undefined ? null : { attemptId: live.attempt_id, workerId: live.worker_id };
  const result = yield* applyEvent(context, status, { type: 'cancel_requested' }, {});
  switch (result.kind) {
    case 'changed':
      if (result.next.state === 'running') return { result: 'requested', attempt };
      yield* endAttempts(context, projectId, executionId);
      return { result: 'cancelled', attempt };
    case 'unchanged':
      return { result: result.why === 'already_so' ? 'already_requested' : 'already_ended', attempt };
    case 'impossible':
      throw new Error('the table has no cancellation that is impossible');
  }
}

/** Ends the live attempt of an execution that never ran. */
export function* endAttempts(context: Context, projectId: string, executionId: string): Verb<void> {
  yield* context.db.send(
    "UPDATE attempts SET state = 'ended', ended_at = ? WHERE project_id = ? AND execution_id = ? AND ended_at IS NULL",
    context.now(),
    projectId,
    executionId,
  );
}

export function* expireQueue(context: Context, limit: number): Verb<{ executionId: string; attemptId: string }[]> {
  const rows = yield* context.db.all<StatusRow & { attempt_id: string }>(
    `SELECT e.project_id, e.execution_id, e.function_id, e.state, e.phase, e.reason, e.cancel_requested_at, a.attempt_id
     FROM executions e JOIN attempts a
       ON a.project_id = e.project_id AND a.execution_id = e.execution_id AND a.ended_at IS NULL
     WHERE (e.state = 'open' OR e.phase = 'requeued') AND e.queue_expires_at <= ? ORDER BY e.queue_expires_at LIMIT ?`,
    context.now(),
    limit,
  );
  for (const row of rows) {
    yield* applyEvent(context, row, { type: 'queue_expired' }, {});
    yield* endAttempts(context, row.project_id, row.execution_id);
  }
  return rows.map((row) => ({ executionId: row.execution_id, attemptId: row.attempt_id }));
}
