import { createHash } from 'node:crypto';
import {
  ARTIFACTS_LIMIT_BYTES,
  type BlobRef,
  CocoreError,
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
import { findFunction } from './functions.ts';
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
function inputDigest(execution: NewExecution): string {
  const { args, env, stdin, files, timeoutMs, outputLimitBytes, retries } = execution;
  const stdinDigest = stdin === null ? null : 'blob' in stdin ? stdin.blob : sha256(stdin.inline);
  const sorted = Object.entries(env).sort(([one], [other]) => (one < other ? -1 : 1));
  const named = files
    .map((file) => [file.name, 'blob' in file ? file.blob : sha256(Buffer.from(file.base64, 'base64'))] as const)
    .sort(([one], [other]) => (one < other ? -1 : 1));
  // Without files and retries it is what it was before there were any: a key outlives an upgrade.
  const more = retries === undefined ? (named.length === 0 ? [] : [named]) : [named, retries];
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

function blobOf({ db }: Context, projectId: string, digest: string): BlobRef {
  const blob = db.get<{ bytes: number }>(
    'SELECT bytes FROM blobs WHERE project_id = ? AND digest = ?',
    projectId,
    digest,
  );
  if (blob === undefined) throw new CocoreError('blob_not_found', `there is no blob ${digest} in this project`);
  return { digest, bytes: blob.bytes };
}

function stdinColumns(context: Context, { projectId, stdin }: NewExecution): StdinColumns {
  if (stdin === null) return { inline: null, digest: null, bytes: null };
  if ('inline' in stdin) return { inline: stdin.inline, digest: null, bytes: stdin.inline.length };
  return { inline: null, ...blobOf(context, projectId, stdin.blob) };
}

/** The files with the lengths of their blobs, as JSON; null for none. */
function filesColumn(context: Context, { projectId, files }: NewExecution): string | null {
  if (files.length === 0) return null;
  const found = files.map((file): TaskFile => {
    if ('base64' in file) return file;
    return { name: file.name, ...blobOf(context, projectId, file.blob) };
  });
  const bytes = found.reduce((sum, file) => sum + ('bytes' in file ? file.bytes : base64Bytes(file.base64)), 0);
  if (bytes <= MAX_FILES_BYTES) return JSON.stringify(found);
  throw new CocoreError(
    'input_too_large',
    `the files are ${bytes} bytes together; at most ${MAX_FILES_BYTES} are taken`,
  );
}

const base64Bytes = (text: string): number => Buffer.byteLength(text, 'base64');

export function createExecutions(
  context: Context,
  executions: readonly NewExecution[],
  limits: Limits,
): CreatedExecution[] {
  return executions.map((execution) => createExecution(context, execution, limits));
}

function createExecution(context: Context, execution: NewExecution, limits: Limits): CreatedExecution {
  const version = findFunction(context, execution.projectId, execution.function);
  if (version === undefined) {
    throw new CocoreError('function_not_found', `there is no function ${execution.function} in this project`);
  }
  return createExecutionOf(context, execution, version, limits, ARTIFACTS_LIMIT_BYTES);
}

/** @throws CocoreError as `createExecutions`, when its function is found */
export function createExecutionOf(
  context: Context,
  execution: NewExecution,
  version: FunctionRow,
  limits: Limits,
  artifactsLimitBytes: number,
): CreatedExecution {
  const { db } = context;
  const { projectId } = execution;
  const digest = inputDigest(execution);
  if (execution.idempotencyKey !== null) {
    const earlier = db.get<{ execution_id: string; input_digest: string }>(
      'SELECT execution_id, input_digest FROM executions WHERE project_id = ? AND function_id = ? AND idempotency_key = ?',
      projectId,
      version.function_id,
      execution.idempotencyKey,
    );
    if (earlier !== undefined && earlier.input_digest !== digest) {
      throw new CocoreError('idempotency_conflict', 'the idempotency key was used for another input', {
        details: { executionId: earlier.execution_id },
      });
    }
    if (earlier !== undefined) return { executionId: earlier.execution_id, queued: null };
  }
  checkInputSize(execution, JSON.parse(version.env) as Record<string, string>);
  const stdin = stdinColumns(context, execution);
  const files = filesColumn(context, execution);
  const project = db.get<{ live: number }>(
    'SELECT live_executions AS live FROM projects WHERE project_id = ?',
    projectId,
  );
  admit({ liveExecutions: project!.live + 1 }, limits);
  return insertExecution(context, execution, version, { digest, stdin, files, artifactsLimitBytes });
}

interface InsertedColumns {
  /** Of the input. */
  readonly digest: string;
  readonly stdin: StdinColumns;
  readonly files: string | null;
  readonly artifactsLimitBytes: number;
}

const INSERT_INPUT = 'INSERT INTO execution_blobs (project_id, digest, execution_id) VALUES (?, ?, ?)';

function insertExecution(
  context: Context,
  execution: NewExecution,
  version: FunctionRow,
  { digest, stdin, files, artifactsLimitBytes }: InsertedColumns,
): CreatedExecution {
  const { db } = context;
  const { projectId } = execution;
  const executionId = newId(context, 'execution');
  const attemptId = newId(context, 'attempt');
  const nowMs = context.now();
  db.run(
    `INSERT INTO executions (project_id, execution_id, function_id, version, state, args, env, stdin_inline, stdin_digest,
       stdin_bytes, files, memory_mib, cpus, timeout_ms, output_limit_bytes, artifacts_limit_bytes, retries, input_digest, idempotency_key, created_at,
       queue_expires_at)
     VALUES (?, ?, ?, ?, 'open', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    projectId,
    executionId,
    version.function_id,
    version.version,
    JSON.stringify(execution.args),
    JSON.stringify(execution.env),
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
    digest,
    execution.idempotencyKey,
    nowMs,
    nowMs + QUEUE_TTL_MS,
  );
  const inputs = [...(stdin.digest === null ? [] : [stdin.digest]), ...fileBlobs(files)];
  for (const digest of new Set(inputs)) db.run(INSERT_INPUT, projectId, digest, executionId);
  db.run(
    `INSERT INTO attempts (project_id, execution_id, number, attempt_id, kind, state, created_at)
     VALUES (?, ?, 1, ?, 'primary', 'queued', ?)`,
    projectId,
    executionId,
    attemptId,
    nowMs,
  );
  db.run('UPDATE projects SET live_executions = live_executions + 1 WHERE project_id = ?', projectId);
  return {
    executionId,
    queued: {
      projectId,
      attemptId,
      executionId,
      memoryMiB: version.memory_mib,
      cpus: version.cpus,
      isolation: version.isolation,
      blobs: [version.image_digest, version.code_digest, ...inputs],
      queuedAtMs: nowMs,
      notBeforeMs: null,
    },
  };
}

function withAttempts({ db }: Context, row: ExecutionRow): ExecutionRecord {
  const attempts = db.all<AttemptRow>(
    'SELECT * FROM attempts WHERE project_id = ? AND execution_id = ? ORDER BY number',
    row.project_id,
    row.execution_id,
  );
  return executionRecord(row, attempts);
}

// Made once: the statement cache looks a text up faster when it is the same string.
const READ = `${SELECT_EXECUTION} WHERE e.project_id = ? AND e.execution_id = ?`;

export function readExecution(context: Context, projectId: string, executionId: string): ExecutionRecord | null {
  const row = context.db.get<ExecutionRow>(READ, projectId, executionId);
  return row === undefined ? null : withAttempts(context, row);
}

export function listExecutions(context: Context, projectId: string, query: ExecutionListQuery): ExecutionList {
  const where = ['e.project_id = ?'];
  const parameters: (string | number)[] = [projectId];
  if (query.function !== undefined) {
    const named = findFunction(context, projectId, query.function);
    if (named === undefined) {
      throw new CocoreError('function_not_found', `there is no function ${query.function} in this project`);
    }
    where.push('e.function_id = ?');
    parameters.push(named.function_id);
  }
  if (query.state !== undefined) {
    where.push('e.state = ?');
    parameters.push(query.state);
  }
  if (query.cursor !== undefined) {
    where.push('e.execution_id < ?');
    parameters.push(query.cursor);
  }
  const rows = context.db.iterate<ExecutionRow>(
    `${SELECT_EXECUTION} WHERE ${where.join(' AND ')} ORDER BY e.execution_id DESC LIMIT ?`,
    ...parameters,
    query.limit + 1,
  );
  const page: ExecutionRow[] = [];
  let bytes = 0;
  let more = false;
  for (const row of rows) {
    bytes += row.args.length + (row.result?.length ?? 0) + (row.error?.length ?? 0);
    more = page.length === query.limit || (page.length > 0 && bytes > MAX_PAGE_BYTES);
    if (more) break;
    page.push(row);
  }
  return {
    executions: page.map((row) => withAttempts(context, row)),
    next: more ? page.at(-1)!.execution_id : null,
  };
}

const STATUS =
  'SELECT project_id, execution_id, state, phase, reason, cancel_requested_at FROM executions WHERE project_id = ? AND execution_id = ?';

export function statusOf({ db }: Context, projectId: string, executionId: string): StatusRow | undefined {
  return db.get<StatusRow>(STATUS, projectId, executionId);
}

export function requestCancel(context: Context, projectId: string, executionId: string): CancelRequested | null {
  const { db } = context;
  const status = statusOf(context, projectId, executionId);
  if (status === undefined) return null;
  const live = db.get<{ attempt_id: string; worker_id: string | null }>(
    'SELECT attempt_id, worker_id FROM attempts WHERE project_id = ? AND execution_id = ? AND ended_at IS NULL',
    projectId,
    executionId,
  );
  const attempt = live === undefined ? null : { attemptId: live.attempt_id, workerId: live.worker_id };
  const result = applyEvent(context, status, { type: 'cancel_requested' }, {});
  switch (result.kind) {
    case 'changed':
      if (result.next.state === 'running') return { result: 'requested', attempt };
      endAttempts(context, projectId, executionId);
      return { result: 'cancelled', attempt };
    case 'unchanged':
      return { result: result.why === 'already_so' ? 'already_requested' : 'already_ended', attempt };
    case 'impossible':
      throw new Error('the table has no cancellation that is impossible');
  }
}

/** Ends the live attempt of an execution that never ran. */
export function endAttempts(context: Context, projectId: string, executionId: string): void {
  context.db.run(
    "UPDATE attempts SET state = 'ended', ended_at = ? WHERE project_id = ? AND execution_id = ? AND ended_at IS NULL",
    context.now(),
    projectId,
    executionId,
  );
}

export function expireQueue(context: Context, limit: number): { executionId: string; attemptId: string }[] {
  const rows = context.db.all<StatusRow & { attempt_id: string }>(
    `SELECT e.project_id, e.execution_id, e.state, e.phase, e.reason, e.cancel_requested_at, a.attempt_id
     FROM executions e JOIN attempts a
       ON a.project_id = e.project_id AND a.execution_id = e.execution_id AND a.ended_at IS NULL
     WHERE (e.state = 'open' OR e.phase = 'requeued') AND e.queue_expires_at <= ? ORDER BY e.queue_expires_at LIMIT ?`,
    context.now(),
    limit,
  );
  for (const row of rows) {
    applyEvent(context, row, { type: 'queue_expired' }, {});
    endAttempts(context, row.project_id, row.execution_id);
  }
  return rows.map((row) => ({ executionId: row.execution_id, attemptId: row.attempt_id }));
}
