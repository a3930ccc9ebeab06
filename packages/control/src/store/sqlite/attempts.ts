import {
  type AttemptState,
  endOf,
  type ExecutionEvent,
  type ExecutionPhase,
  type ExecutionState,
  type IsolationClass,
  type Outcome,
  PREPARE_TIMEOUT_MS,
  type Reason,
  type Runtime,
  type StreamName,
} from '@cocore/protocol';
import type { AssignedTask, AttemptKey, Beat, LiveAttemptRow, OutputGrowth, Reported, ReportedEnd } from '../store.ts';
import type { Context } from './context.ts';
import { statusOf } from './executions.ts';
import { applyEvent, type StatusRow } from './lifecycle.ts';

/** An attempt joined with what its execution's next state depends on. */
interface JoinedRow extends StatusRow {
  readonly attempt_id: string;
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
  readonly memory_mib: number;
  readonly cpus: number;
  readonly timeout_ms: number;
  readonly output_limit_bytes: number;
  readonly deadline_at: number | null;
  readonly state: ExecutionState;
  readonly phase: ExecutionPhase | null;
  readonly reason: Reason | null;
  readonly worker_signature: string | null;
}

const SELECT_JOINED = `
  SELECT a.project_id, a.execution_id, a.attempt_id, a.state AS attempt_state, a.worker_id, a.session_id, a.driver, a.isolation,
    a.created_at AS queued_at, a.assigned_at, a.accepted_at AS attempt_accepted_at, a.started_at AS attempt_started_at,
    a.stdout_bytes, a.stderr_bytes, a.worker_signature, e.memory_mib, e.cpus, e.timeout_ms, e.output_limit_bytes, e.deadline_at,
    e.cancel_requested_at, e.state, e.phase, e.reason
  FROM attempts a JOIN executions e ON e.project_id = a.project_id AND e.execution_id = a.execution_id`;

const SELECT_LIVE = SELECT_JOINED.replace(
  'FROM attempts a',
  `, v.image_digest, v.code_digest, e.stdin_digest FROM attempts a`,
).concat(
  ' JOIN function_versions v ON v.project_id = e.project_id AND v.function_id = e.function_id AND v.version = e.version',
);

interface LiveRow extends JoinedRow {
  readonly image_digest: string;
  readonly code_digest: string;
  readonly stdin_digest: string | null;
}

function liveAttempt(row: LiveRow): LiveAttemptRow {
  return {
    projectId: row.project_id,
    attemptId: row.attempt_id,
    executionId: row.execution_id,
    memoryMiB: row.memory_mib,
    cpus: row.cpus,
    queuedAtMs: row.queued_at,
    state: row.attempt_state as Exclude<AttemptState, 'ended'>,
    workerId: row.worker_id,
    sessionId: row.session_id,
    assignedAtMs: row.assigned_at,
    startedAtMs: row.attempt_started_at,
    deadlineAtMs: row.deadline_at,
    cancelRequestedAtMs: row.cancel_requested_at,
    outputLimitBytes: row.output_limit_bytes,
    stdoutBytes: row.stdout_bytes,
    stderrBytes: row.stderr_bytes,
    blobs: [row.image_digest, row.code_digest, ...(row.stdin_digest === null ? [] : [row.stdin_digest])],
  };
}

export function loadLive({ db }: Context): LiveAttemptRow[] {
  return db.all<LiveRow>(`${SELECT_LIVE} WHERE a.ended_at IS NULL ORDER BY a.attempt_id`).map(liveAttempt);
}

export function liveOfWorker({ db }: Context, workerId: string): LiveAttemptRow[] {
  return db.all<LiveRow>(`${SELECT_LIVE} WHERE a.worker_id = ? AND a.ended_at IS NULL`, workerId).map(liveAttempt);
}

const FIND = `${SELECT_JOINED} WHERE a.attempt_id = ? AND a.project_id = ?`;

function find({ db }: Context, attempt: AttemptKey): JoinedRow | undefined {
  return db.get<JoinedRow>(FIND, attempt.attemptId, attempt.projectId);
}

/** The attempt, when it is live and this session's. */
function ofSession(context: Context, attempt: AttemptKey, sessionId: string): JoinedRow | null {
  const row = find(context, attempt);
  if (row === undefined || row.session_id !== sessionId) return null;
  return row.attempt_state === 'ended' || row.attempt_state === 'queued' ? null : row;
}

interface TaskRow {
  readonly execution_id: string;
  readonly function_name: string;
  readonly runtime: Runtime;
  readonly file_name: string;
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
  readonly memory_mib: number;
  readonly cpus: number;
  readonly timeout_ms: number;
  readonly output_limit_bytes: number;
}

export function assign(
  context: Context,
  attempt: AttemptKey,
  worker: { workerId: string; sessionId: string },
): AssignedTask | null {
  const { db } = context;
  const owner = db.get<{ owner_id: string; trust_class: string }>(
    'SELECT owner_id, trust_class FROM workers WHERE worker_id = ? AND session_id = ?',
    worker.workerId,
    worker.sessionId,
  );
  if (owner === undefined) return null;
  const row = db.get<TaskRow>(
    `SELECT e.execution_id, f.name AS function_name, v.runtime, v.file_name, e.args, e.env, v.env AS function_env, v.image_digest,
       v.image_bytes, v.code_digest, v.code_bytes, e.stdin_inline, e.stdin_digest, e.stdin_bytes, e.memory_mib, e.cpus,
       e.timeout_ms, e.output_limit_bytes
     FROM attempts a
     JOIN executions e ON e.project_id = a.project_id AND e.execution_id = a.execution_id
     JOIN functions f ON f.project_id = e.project_id AND f.function_id = e.function_id
     JOIN function_versions v ON v.project_id = e.project_id AND v.function_id = e.function_id AND v.version = e.version
     WHERE a.attempt_id = ? AND a.project_id = ? AND a.state = 'queued' AND e.state = 'open'`,
    attempt.attemptId,
    attempt.projectId,
  );
  if (row === undefined) return null;
  db.run(
    `UPDATE attempts SET state = 'assigned', worker_id = ?, session_id = ?, owner_id = ?, trust_class = ?, assigned_at = ?
     WHERE project_id = ? AND execution_id = ? AND attempt_id = ? AND state = 'queued'`,
    worker.workerId,
    worker.sessionId,
    owner.owner_id,
    owner.trust_class,
    context.now(),
    attempt.projectId,
    row.execution_id,
    attempt.attemptId,
  );
  return {
    executionId: row.execution_id,
    functionName: row.function_name,
    runtime: row.runtime,
    fileName: row.file_name,
    args: JSON.parse(row.args) as string[],
    functionEnv: JSON.parse(row.function_env) as Record<string, string>,
    env: JSON.parse(row.env) as Record<string, string>,
    image: { digest: row.image_digest, bytes: row.image_bytes },
    code: { digest: row.code_digest, bytes: row.code_bytes },
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
  };
}

export function recordAccepted(
  context: Context,
  attempt: AttemptKey,
  sessionId: string,
  sandbox: { driver: string; isolation: IsolationClass },
): { reported: Reported; deadlineAtMs: number | null } {
  const row = ofSession(context, attempt, sessionId);
  if (row === null) return { reported: 'stale', deadlineAtMs: null };
  if (row.attempt_state !== 'assigned') {
    const same = row.driver === sandbox.driver && row.isolation === sandbox.isolation;
    return { reported: same ? 'repeated' : 'conflict', deadlineAtMs: row.deadline_at };
  }
  const nowMs = context.now();
  const deadlineAtMs = nowMs + PREPARE_TIMEOUT_MS;
  context.db.run(
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
  const result = applyEvent(context, row, { type: 'attempt_accepted' }, { acceptedAtMs: nowMs, deadlineAtMs });
  if (result.kind !== 'changed') throw new Error('an assigned attempt belongs to an execution that is not open');
  return { reported: 'recorded', deadlineAtMs };
}

export function recordRefused(context: Context, attempt: AttemptKey, sessionId: string): Reported {
  const row = ofSession(context, attempt, sessionId);
  if (row === null) return 'stale';
  if (row.attempt_state !== 'assigned') return 'conflict';
  applyEvent(context, row, { type: 'attempt_refused' }, {});
  requeue(context, row);
  return 'recorded';
}

function requeue(context: Context, row: { project_id: string; execution_id: string; attempt_id: string }): void {
  context.db.run(
    `UPDATE attempts SET state = 'queued', worker_id = NULL, session_id = NULL, owner_id = NULL, trust_class = NULL, assigned_at = NULL
     WHERE project_id = ? AND execution_id = ? AND attempt_id = ? AND state = 'assigned'`,
    row.project_id,
    row.execution_id,
    row.attempt_id,
  );
}

export function recordStarted(
  context: Context,
  attempt: AttemptKey,
  sessionId: string,
  agoMs: number,
): { reported: Reported; startedAtMs: number | null; deadlineAtMs: number | null } {
  const row = ofSession(context, attempt, sessionId);
  if (row === null) return { reported: 'stale', startedAtMs: null, deadlineAtMs: null };
  if (row.attempt_state === 'started') {
    return { reported: 'repeated', startedAtMs: row.attempt_started_at, deadlineAtMs: row.deadline_at };
  }
  if (row.attempt_state !== 'accepted') return { reported: 'conflict', startedAtMs: null, deadlineAtMs: null };
  const startedAtMs = Math.max(row.attempt_accepted_at!, Math.round(context.now() - agoMs));
  const deadlineAtMs = startedAtMs + row.timeout_ms;
  context.db.run(
    `UPDATE attempts SET state = 'started', started_at = ?
     WHERE project_id = ? AND execution_id = ? AND attempt_id = ? AND session_id = ? AND state = 'accepted'`,
    startedAtMs,
    row.project_id,
    row.execution_id,
    row.attempt_id,
    sessionId,
  );
  const result = applyEvent(context, row, { type: 'attempt_started' }, { startedAtMs, deadlineAtMs });
  if (result.kind === 'unchanged') {
    // It is being stopped: the phase stays, the facts count.
    context.db.run(
      'UPDATE executions SET started_at = ?, deadline_at = ? WHERE project_id = ? AND execution_id = ?',
      startedAtMs,
      deadlineAtMs,
      row.project_id,
      row.execution_id,
    );
  }
  return { reported: 'recorded', startedAtMs, deadlineAtMs };
}

export function recordOutput(
  context: Context,
  attempt: AttemptKey,
  sessionId: string,
  growth: readonly OutputGrowth[],
): Reported {
  const { db } = context;
  const row = ofSession(context, attempt, sessionId);
  if (row === null) return 'stale';
  if (row.attempt_state === 'assigned') return 'conflict';
  const lengths = { stdout: row.stdout_bytes, stderr: row.stderr_bytes };
  for (const { stream, from, to, inline } of growth) {
    if (lengths[stream] !== from) return 'conflict';
    lengths[stream] = to;
    if (inline !== null) {
      db.run(
        'INSERT INTO output_chunks (project_id, attempt_id, stream, offset, data) VALUES (?, ?, ?, ?, ?)',
        row.project_id,
        row.attempt_id,
        stream,
        from,
        inline,
      );
    }
  }
  db.run(
    'UPDATE attempts SET stdout_bytes = ?, stderr_bytes = ? WHERE project_id = ? AND execution_id = ? AND attempt_id = ?',
    lengths.stdout,
    lengths.stderr,
    row.project_id,
    row.execution_id,
    row.attempt_id,
  );
  return 'recorded';
}

const json = (value: object | null): string | null => (value === null ? null : JSON.stringify(value));

export function recordEnd(context: Context, attempt: AttemptKey, sessionId: string, end: ReportedEnd): Reported {
  const row = ofSession(context, attempt, sessionId);
  if (row === null) return 'stale';
  if (row.attempt_state === 'assigned') return 'conflict';
  const whole = end.intact && end.stdout.bytes === row.stdout_bytes && end.stderr.bytes === row.stderr_bytes;
  const outcome: Outcome = whole ? end.outcome : { kind: 'lost', cause: 'output_lost' };
  const message = whole ? end.message : 'the committed output is not what the worker reported';
  endAttempt(context, row, { type: 'attempt_ended', outcome }, outcome, message, end.beat, {
    stdout: whole ? end.stdout : { ...end.stdout, sha256: null },
    stderr: whole ? end.stderr : { ...end.stderr, sha256: null },
    usage: end.usage,
    signature: end.signature,
  });
  return 'recorded';
}

/** What is known of an end only when the worker reported it. */
interface ReportedFacts {
  readonly stdout: { readonly truncated: boolean; readonly sha256: string | null };
  readonly stderr: { readonly truncated: boolean; readonly sha256: string | null };
  readonly usage: ReportedEnd['usage'];
  readonly signature: string | null;
}

const NOTHING_REPORTED: ReportedFacts = {
  stdout: { truncated: false, sha256: null },
  stderr: { truncated: false, sha256: null },
  usage: { host: null, guest: null },
  signature: null,
};

/** Ends an accepted attempt and, by the event, its execution. */
function endAttempt(
  context: Context,
  row: JoinedRow,
  event: ExecutionEvent,
  outcome: Outcome,
  message: string | null,
  beat: Beat | null,
  facts: ReportedFacts = NOTHING_REPORTED,
): void {
  const nowMs = context.now();
  const wallMs = row.attempt_accepted_at === null ? null : Math.max(0, nowMs - row.attempt_accepted_at);
  context.db.run(
    `UPDATE attempts SET state = 'ended', ended_at = ?, outcome = ?, usage_control = ?, last_beat_at = ?, agent_age_ms = ?,
       stdout_truncated = ?, stderr_truncated = ?, stdout_digest = ?, stderr_digest = ?, usage_host = ?, usage_guest = ?,
       worker_signature = ?
     WHERE project_id = ? AND execution_id = ? AND attempt_id = ? AND ended_at IS NULL`,
    nowMs,
    JSON.stringify(outcome),
    json(wallMs === null ? null : { cpuMs: null, memoryPeakBytes: null, wallMs }),
    beat?.atMs ?? null,
    beat?.agentAgeMs ?? null,
    Number(facts.stdout.truncated),
    Number(facts.stderr.truncated),
    facts.stdout.sha256,
    facts.stderr.sha256,
    json(facts.usage.host),
    json(facts.usage.guest),
    facts.signature,
    row.project_id,
    row.execution_id,
    row.attempt_id,
  );
  applyEvent(context, row, event, { decidingAttempt: row.attempt_id, message, outcome });
}

export function compareEnd(context: Context, attemptId: string, workerId: string, signature: string): Reported {
  const row = context.db.get<{ worker_id: string | null; state: AttemptState; worker_signature: string | null }>(
    'SELECT worker_id, state, worker_signature FROM attempts WHERE attempt_id = ?',
    attemptId,
  );
  if (row === undefined || row.worker_id !== workerId || row.state !== 'ended') return 'stale';
  if (row.worker_signature === null) return 'repeated';
  return row.worker_signature === signature ? 'repeated' : 'conflict';
}

/** Takes an attempt from its worker: queued again when it was never accepted, else ended as lost. */
export function giveUp(context: Context, attempt: AttemptKey, beat: Beat | null): 'ended' | 'requeued' {
  const row = find(context, attempt)!;
  const outcome: Outcome = { kind: 'lost', cause: 'host_lost' };
  if (row.attempt_state === 'assigned') {
    applyEvent(context, row, { type: 'attempt_lost', cause: 'host_lost' }, {});
    requeue(context, row);
    return 'requeued';
  }
  endAttempt(context, row, { type: 'attempt_lost', cause: 'host_lost' }, outcome, null, beat);
  return 'ended';
}

export function recordLost(
  context: Context,
  attempt: AttemptKey,
  workerId: string,
  beat: Beat | null,
): 'ended' | 'requeued' | 'stale' {
  const row = find(context, attempt);
  if (row === undefined || row.worker_id !== workerId || row.attempt_state === 'ended') return 'stale';
  return giveUp(context, attempt, beat);
}

export function endByControl(
  context: Context,
  execution: { projectId: string; executionId: string },
  why: 'run_deadline' | 'prepare_deadline' | 'unplaceable',
  beat: Beat | null,
): boolean {
  const status = statusOf(context, execution.projectId, execution.executionId);
  const row = context.db.get<JoinedRow>(
    `${SELECT_JOINED} WHERE a.project_id = ? AND a.execution_id = ? AND a.ended_at IS NULL`,
    execution.projectId,
    execution.executionId,
  );
  if (status === undefined || row === undefined) return false;
  switch (why) {
    case 'unplaceable':
      if (status.state !== 'open') return false;
      applyEvent(context, status, { type: 'found_unplaceable' }, { message: 'no worker that is online could run it' });
      context.db.run(
        "UPDATE attempts SET state = 'ended', ended_at = ? WHERE project_id = ? AND execution_id = ? AND ended_at IS NULL",
        context.now(),
        execution.projectId,
        execution.executionId,
      );
      return true;
    case 'run_deadline':
    case 'prepare_deadline': {
      if (status.state !== 'running') return false;
      const outcome: Outcome = { kind: 'timed_out', clock: why === 'run_deadline' ? 'run' : 'prepare' };
      const isRunTimeout = endOf(outcome).state === 'timeout' || status.cancel_requested_at !== null;
      const event: ExecutionEvent = isRunTimeout ? { type: 'deadline_passed' } : { type: 'attempt_ended', outcome };
      endAttempt(context, row, event, outcome, 'ended by the control server: its worker did not', beat);
      return true;
    }
  }
}

export function readInline({ db }: Context, attempt: AttemptKey, stream: StreamName, offset: number): Uint8Array[] {
  return db
    .all<{ offset: number; data: Uint8Array }>(
      `SELECT offset, data FROM output_chunks WHERE project_id = ? AND attempt_id = ? AND stream = ? AND offset + length(data) > ?
       ORDER BY offset`,
      attempt.projectId,
      attempt.attemptId,
      stream,
      offset,
    )
    .map((chunk) => (chunk.offset < offset ? chunk.data.subarray(offset - chunk.offset) : chunk.data));
}
