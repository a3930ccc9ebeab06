import {
  type ArtifactsSummary,
  type AttemptCause,
  type AttemptRecord,
  type AttemptState,
  type EgressUsage,
  type ExecutionPhase,
  type ExecutionRecord,
  type ExecutionState,
  faultOf,
  type FunctionError,
  type FunctionRecord,
  type FunctionSource,
  type IsolationClass,
  type MeterReading,
  type AttemptOutcome,
  type LateEnd,
  type Reason,
  type RetryPolicy,
  type StreamSummary,
} from '@cocore/protocol';
import { shownOf } from '../../shown-attempt.ts';
import { networkOf } from './network.ts';

/** Rows as SQLite gives them, and the records made from them. */

export interface FunctionRow {
  readonly project_id: string;
  readonly function_id: string;
  readonly name: string;
  readonly version: number;
  /** Empty for an image. */
  readonly runtime: string;
  readonly source: string;
  readonly handler: string | null;
  readonly code_digest: string;
  readonly code_bytes: number;
  readonly image_digest: string;
  readonly image_bytes: number;
  readonly memory_mib: number;
  readonly cpus: number;
  readonly timeout_ms: number;
  readonly output_limit_bytes: number;
  readonly isolation: IsolationClass;
  readonly env: string;
  readonly process: string;
  /** Of its environment, process and network, as JSON. */
  readonly process_bytes: number;
  /** JSON, as in an execution's row. */
  readonly retries: string | null;
  readonly max_concurrent: number | null;
  readonly network: string | null;
  readonly idempotent: 0 | 1;
  readonly is_build: 0 | 1;
  readonly created_at: number;
  readonly deployed_at: number;
  /** Of its project, as they were when it was read. */
  readonly live_executions: number;
  readonly queued_executions: number;
  readonly queued_of_function: number;
}

/** A function joined with its newest version, and what admission looks at. */
export const SELECT_FUNCTION = `
  SELECT f.project_id, f.function_id, f.name, f.created_at, f.is_build, f.max_concurrent, v.version, v.runtime, v.source, v.handler, v.code_digest, v.code_bytes,
    v.image_digest, v.image_bytes, v.memory_mib, v.cpus, v.timeout_ms, v.output_limit_bytes, v.isolation, v.env, v.process, v.retries, v.network, v.idempotent, v.deployed_at,
    p.live_executions, p.queued_executions, f.queued_executions AS queued_of_function,
    octet_length(v.env) + octet_length(v.process) + coalesce(octet_length(v.network), 0) AS process_bytes
  FROM functions f
  JOIN projects p ON p.project_id = f.project_id
  JOIN function_versions v
    ON v.project_id = f.project_id AND v.function_id = f.function_id AND v.version = f.newest_version`;

interface ExecutionRow {
  readonly project_id: string;
  readonly execution_id: string;
  readonly function_id: string;
  readonly function_name: string;
  readonly version: number;
  readonly state: ExecutionState;
  readonly phase: ExecutionPhase | null;
  readonly reason: Reason | null;
  readonly message: string | null;
  readonly exit_code: number | null;
  readonly signal: number | null;
  readonly result: string | null;
  readonly error: string | null;
  readonly args: string;
  readonly memory_mib: number;
  readonly cpus: number;
  readonly timeout_ms: number;
  readonly output_limit_bytes: number;
  readonly isolation: IsolationClass;
  readonly retries: string | null;
  readonly priority: number;
  readonly concurrency_key: string | null;
  readonly concurrency_limit: number | null;
  readonly queue_ttl_ms: number;
  readonly input_digest: string;
  readonly batch_id: string | null;
  readonly batch_index: number | null;
  readonly created_at: number;
  readonly accepted_at: number | null;
  readonly started_at: number | null;
  readonly ended_at: number | null;
  readonly deadline_at: number | null;
  readonly cancel_requested_at: number | null;
  readonly deciding_attempt: string | null;
  readonly expired_at: number | null;
}

/** An execution with its attempts, of which each is a row. */
export const SELECT_EXECUTION = `
  SELECT e.project_id, e.execution_id, e.function_id, f.name AS function_name, e.version, e.state, e.phase, e.reason, e.message,
    e.exit_code, e.signal, e.result, e.error, e.args, e.memory_mib, e.cpus, e.timeout_ms, e.output_limit_bytes, e.retries, e.priority, e.concurrency_key, e.concurrency_limit, e.queue_ttl_ms, e.input_digest, e.batch_id, e.batch_index, e.created_at,
    e.accepted_at, e.started_at, e.ended_at, e.deadline_at, e.cancel_requested_at, e.deciding_attempt, e.expired_at, v.isolation,
    a.attempt_id, a.number, a.kind, a.cause, a.state AS attempt_state, a.worker_id, a.driver, a.isolation AS given_isolation, a.created_at AS queued_at, a.not_before,
    a.assigned_at, a.accepted_at AS attempt_accepted_at, a.started_at AS attempt_started_at, a.ended_at AS attempt_ended_at, a.last_beat_at, a.agent_age_ms, a.outcome,
    a.stdout_bytes, a.stderr_bytes, a.stdout_truncated, a.stderr_truncated, a.stdout_digest, a.stderr_digest, a.artifacts_bytes, a.artifacts_digest, a.artifact_files,
    a.usage_host, a.usage_guest, a.usage_control, a.usage_egress, a.late_end
  FROM executions e
  JOIN functions f ON f.project_id = e.project_id AND f.function_id = e.function_id
  JOIN function_versions v ON v.project_id = e.project_id AND v.function_id = e.function_id AND v.version = e.version
  LEFT JOIN attempts a ON a.project_id = e.project_id AND a.execution_id = e.execution_id`;

interface AttemptRow {
  readonly attempt_id: string;
  readonly number: number;
  readonly kind: 'primary';
  readonly cause: AttemptCause;
  readonly attempt_state: AttemptState;
  readonly worker_id: string | null;
  readonly driver: string | null;
  readonly given_isolation: IsolationClass | null;
  readonly queued_at: number;
  readonly not_before: number | null;
  readonly assigned_at: number | null;
  readonly attempt_accepted_at: number | null;
  readonly attempt_started_at: number | null;
  readonly attempt_ended_at: number | null;
  readonly last_beat_at: number | null;
  readonly agent_age_ms: number | null;
  readonly outcome: string | null;
  readonly stdout_bytes: number;
  readonly stderr_bytes: number;
  readonly stdout_truncated: number;
  readonly stderr_truncated: number;
  readonly stdout_digest: string | null;
  readonly stderr_digest: string | null;
  readonly artifacts_bytes: number;
  readonly artifacts_digest: string | null;
  readonly artifact_files: number;
  readonly usage_host: string | null;
  readonly usage_guest: string | null;
  readonly usage_control: string | null;
  readonly usage_egress: string | null;
  readonly late_end: string | null;
}

/** One for each attempt; one without an attempt when the execution is expired. */
export type RecordRow = ExecutionRow & (AttemptRow | { readonly attempt_id: null });

/** The outcome of an attempt that nobody had, as its column holds it. */
export const SUPERSEDED = JSON.stringify({ kind: 'superseded' } satisfies AttemptOutcome);

export const timestamp = (ms: number): string => new Date(ms).toISOString();
const optionalTimestamp = (ms: number | null): string | null => (ms === null ? null : timestamp(ms));
/** As a column holds it. */
export const optionalText = (value: object | null): string | null => (value === null ? null : JSON.stringify(value));
const optionalJson = <T>(text: string | null): T | null => (text === null ? null : (JSON.parse(text) as T));

export function functionRecord(row: FunctionRow): FunctionRecord {
  return {
    id: row.function_id,
    name: row.name,
    version: row.version,
    runtime: row.runtime === '' ? null : row.runtime,
    source: JSON.parse(row.source) as FunctionSource,
    handler: row.handler,
    codeDigest: row.code_digest,
    imageDigest: row.image_digest,
    memoryMiB: row.memory_mib,
    cpus: row.cpus,
    timeoutMs: row.timeout_ms,
    outputLimitBytes: row.output_limit_bytes,
    isolation: row.isolation,
    retries: optionalJson<RetryPolicy>(row.retries),
    maxConcurrent: row.max_concurrent,
    network: networkOf(row.network),
    idempotent: row.idempotent === 1,
    createdAt: timestamp(row.created_at),
    deployedAt: timestamp(row.deployed_at),
  };
}

function attemptRecord(row: AttemptRow): AttemptRecord {
  return {
    id: row.attempt_id,
    number: row.number,
    kind: row.kind,
    cause: row.cause,
    state: row.attempt_state,
    workerId: row.worker_id,
    driver: row.driver,
    isolation: row.given_isolation,
    createdAt: timestamp(row.queued_at),
    notBefore: optionalTimestamp(row.not_before),
    assignedAt: optionalTimestamp(row.assigned_at),
    acceptedAt: optionalTimestamp(row.attempt_accepted_at),
    startedAt: optionalTimestamp(row.attempt_started_at),
    endedAt: optionalTimestamp(row.attempt_ended_at),
    outcome: optionalJson<AttemptOutcome>(row.outcome),
    lateEnd: optionalJson<LateEnd>(row.late_end),
    lastBeatAt: optionalTimestamp(row.last_beat_at),
    agentAgeMs: row.agent_age_ms,
    usage: {
      host: optionalJson<MeterReading>(row.usage_host),
      guest: optionalJson<MeterReading>(row.usage_guest),
      control: optionalJson<MeterReading>(row.usage_control),
      egress: optionalJson<EgressUsage>(row.usage_egress),
    },
  };
}

const EMPTY_STREAM: StreamSummary = { bytes: 0, truncated: false, sha256: null };

function artifactsSummary(shown: AttemptRow | undefined): ArtifactsSummary | null {
  if (shown === undefined || shown.artifacts_bytes === 0 || shown.artifacts_digest === null) return null;
  return { bytes: shown.artifacts_bytes, sha256: shown.artifacts_digest, files: shown.artifact_files };
}

/** @param rows all of one execution, in order of its attempts' numbers */
export function executionRecord(rows: readonly RecordRow[]): ExecutionRecord {
  const row = rows[0]!;
  const told = rows.filter((one) => one.attempt_id !== null);
  const attempts = told.map(attemptRecord);
  const shownId = shownOf(row.deciding_attempt, attempts)?.id;
  const shown = told.find(({ attempt_id }) => attempt_id === shownId);
  const stream = (name: 'stdout' | 'stderr'): StreamSummary =>
    shown === undefined
      ? EMPTY_STREAM
      : {
          bytes: shown[`${name}_bytes`],
          truncated: shown[`${name}_truncated`] === 1,
          sha256: shown[`${name}_digest`],
        };
  return {
    id: row.execution_id,
    functionId: row.function_id,
    functionName: row.function_name,
    version: row.version,
    state: row.state,
    phase: row.phase,
    reason: row.reason,
    fault: faultOf(row.reason),
    message: row.message,
    exitCode: row.exit_code,
    signal: row.signal,
    args: JSON.parse(row.args) as string[],
    memoryMiB: row.memory_mib,
    cpus: row.cpus,
    timeoutMs: row.timeout_ms,
    outputLimitBytes: row.output_limit_bytes,
    isolation: row.isolation,
    retries: optionalJson<RetryPolicy>(row.retries),
    priority: row.priority,
    concurrencyKey: row.concurrency_key,
    concurrencyLimit: row.concurrency_limit,
    queueTtlMs: row.queue_ttl_ms,
    // Who holds the queue knows.
    waiting: null,
    inputDigest: row.input_digest,
    batchId: row.batch_id,
    batchIndex: row.batch_index,
    createdAt: timestamp(row.created_at),
    acceptedAt: optionalTimestamp(row.accepted_at),
    startedAt: optionalTimestamp(row.started_at),
    endedAt: optionalTimestamp(row.ended_at),
    deadlineAt: optionalTimestamp(row.deadline_at),
    cancelRequestedAt: optionalTimestamp(row.cancel_requested_at),
    output: { stdout: stream('stdout'), stderr: stream('stderr') },
    result: row.result === null ? null : { value: JSON.parse(row.result) as unknown },
    error: optionalJson<FunctionError>(row.error),
    artifacts: artifactsSummary(shown),
    expired: row.expired_at !== null,
    decidingAttempt: row.deciding_attempt,
    attempts,
  };
}
