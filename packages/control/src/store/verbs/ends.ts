import {
  ATTEMPT_STREAMS,
  type AttemptState,
  endOf,
  type ExecutionEvent,
  type FunctionError,
  type LateEnd,
  type OfStreams,
  ofStreams,
  type Outcome,
  PREPARE_TIMEOUT_MS,
} from '@cocore/protocol';
import type {
  AttemptKey,
  Beat,
  ControlEnd,
  EndRecorded,
  Reported,
  ReportedAtEnd,
  ReportedEnd,
  ReportedLife,
  ReportedLifeAs,
} from '../store.ts';
import { requeue } from './assignments.ts';
import { committedBytes, find, type FoundRow, ofSession } from './attempt-rows.ts';
import type { Context } from './context.ts';
import type { Verb } from './statements.ts';
import { goesOn } from './deliveries.ts';
import { endAttempts, readExecution } from './executions.ts';
import { count } from './counters.ts';
import { noteLargeOutput } from './large-outputs.ts';
import { applyEvent, applySteps, type Step } from './lifecycle.ts';
import { optionalText, timestamp } from './records.ts';
import { grown, keepInline } from './reports.ts';

const OUTPUT_LOST: Outcome = { kind: 'lost', cause: 'output_lost' };

export function* recordEnd(
  context: Context,
  attempt: AttemptKey,
  sessionId: string,
  end: ReportedEnd,
): Verb<ReportedAtEnd> {
  const row = yield* ofSession(context, attempt, sessionId);
  if (row === null) return 'stale';
  if (row.attempt_state === 'assigned') return 'conflict';
  if (isIncomplete(committedBytes(row), end)) return 'incomplete';
  return yield* endAsReported(context, row, end, asRecorded(row));
}

export function* recordLife(
  context: Context,
  attempt: AttemptKey,
  sessionId: string,
  { sandbox, isStarted, growth, end }: ReportedLife,
): Verb<ReportedLifeAs> {
  const row = yield* ofSession(context, attempt, sessionId);
  if (row === null) return 'stale';
  if (row.attempt_state !== 'assigned') return 'untold';
  const bytes = grown(committedBytes(row), growth);
  if (bytes === null || isIncomplete(bytes, end)) return 'untold';
  yield* keepInline(context, row, growth);
  const nowMs = context.now();
  const prepared = { acceptedAtMs: nowMs, deadlineAtMs: nowMs + PREPARE_TIMEOUT_MS };
  const steps: Step[] = [{ event: { type: 'attempt_accepted' }, facts: prepared }];
  // No time has passed here since it was accepted.
  const startedAtMs = isStarted ? nowMs : null;
  if (isStarted) {
    const started = { startedAtMs: nowMs, deadlineAtMs: nowMs + row.timeout_ms };
    steps.push({ event: { type: 'attempt_started' }, facts: started });
  }
  return yield* endAsReported(context, row, end, { ...sandbox, acceptedAtMs: nowMs, startedAtMs, bytes, steps });
}

/** Whether output of the end is still to come. */
const isIncomplete = (committed: OfStreams<number>, end: ReportedEnd): boolean =>
  !end.final && ATTEMPT_STREAMS.some((stream) => committed[stream] < end.streams[stream].bytes);

/** What an attempt has come to before its end. */
interface Past {
  readonly driver: string | null;
  readonly isolation: string | null;
  readonly acceptedAtMs: number | null;
  readonly startedAtMs: number | null;
  readonly bytes: OfStreams<number>;
  /** What its execution does not know of it yet. */
  readonly steps: readonly Step[];
}

const asRecorded = (row: FoundRow): Past => ({
  driver: row.driver,
  isolation: row.isolation,
  acceptedAtMs: row.attempt_accepted_at,
  startedAtMs: row.attempt_started_at,
  bytes: committedBytes(row),
  steps: [],
});

function* endAsReported(context: Context, row: FoundRow, end: ReportedEnd, past: Past): Verb<EndRecorded> {
  const { bytes } = past;
  const whole = end.intact && ATTEMPT_STREAMS.every((stream) => end.streams[stream].bytes === bytes[stream]);
  // An attempt that its host lost has no output that anybody waits for.
  const stands = whole || end.outcome.kind === 'lost';
  const outcome: Outcome = stands ? end.outcome : OUTPUT_LOST;
  const message = stands ? end.message : 'the committed output is not what the worker reported';
  const goesOn = yield* endAttempt(context, row, past, { type: 'attempt_ended', outcome }, outcome, message, end.beat, {
    streams: whole ? end.streams : ofStreams((stream) => ({ ...end.streams[stream], sha256: null })),
    artifactFiles: end.artifactFiles,
    result: whole ? end.result : null,
    error: whole ? end.error : null,
    usage: end.usage,
    signature: end.signature,
  });
  if (goesOn) return 'goes_on';
  return end.isAwaited ? (yield* readExecution(context, row.project_id, row.execution_id))! : 'recorded';
}

/** What is known of an end only when the worker reported it. */
interface ReportedFacts {
  readonly streams: OfStreams<{ readonly truncated: boolean; readonly sha256: string | null }>;
  readonly artifactFiles: number;
  readonly result: string | null;
  readonly error: FunctionError | null;
  readonly usage: ReportedEnd['usage'];
  readonly signature: string | null;
}

const NOTHING_REPORTED: ReportedFacts = {
  streams: ofStreams(() => ({ truncated: false, sha256: null })),
  artifactFiles: 0,
  result: null,
  error: null,
  usage: { host: null, guest: null },
  signature: null,
};

/** Ends an accepted attempt and, by the event, its execution, unless that goes on with another attempt. @returns whether it does */
function* endAttempt(
  context: Context,
  row: FoundRow,
  past: Past,
  event: ExecutionEvent,
  outcome: Outcome,
  message: string | null,
  beat: Beat | null,
  facts: ReportedFacts = NOTHING_REPORTED,
): Verb<boolean> {
  const nowMs = context.now();
  const { streams } = facts;
  const { bytes, steps } = past;
  const outputBytes = ATTEMPT_STREAMS.reduce((sum, stream) => sum + bytes[stream], 0);
  const wallMs = past.acceptedAtMs === null ? null : Math.max(0, nowMs - past.acceptedAtMs);
  yield* context.db.change(
    `UPDATE attempts SET state = 'ended', driver = ?, isolation = ?, accepted_at = ?, started_at = ?, stdout_bytes = ?, stderr_bytes = ?,
       result_bytes = ?, artifacts_bytes = ?, ended_at = ?, outcome = ?, usage_control = ?, last_beat_at = ?, agent_age_ms = ?,
       stdout_truncated = ?, stderr_truncated = ?, stdout_digest = ?, stderr_digest = ?, result_digest = ?, artifacts_digest = ?,
       artifact_files = ?, usage_host = ?, usage_guest = ?, usage_egress = ?, worker_signature = ?
     WHERE project_id = ? AND execution_id = ? AND attempt_id = ? AND state <> 'ended'`,
    past.driver,
    past.isolation,
    past.acceptedAtMs,
    past.startedAtMs,
    bytes.stdout,
    bytes.stderr,
    bytes.result,
    bytes.artifacts,
    nowMs,
    JSON.stringify(outcome),
    optionalText(wallMs === null ? null : { cpuMs: null, memoryPeakBytes: null, wallMs }),
    beat?.atMs ?? null,
    beat?.agentAgeMs ?? null,
    Number(streams.stdout.truncated),
    Number(streams.stderr.truncated),
    streams.stdout.sha256,
    streams.stderr.sha256,
    streams.result.sha256,
    streams.artifacts.sha256,
    facts.artifactFiles,
    optionalText(facts.usage.host),
    optionalText(facts.usage.guest),
    optionalText(facts.usage.egress ?? null),
    facts.signature,
    row.project_id,
    row.execution_id,
    row.attempt_id,
  );
  if (outputBytes > 0) yield* count(context, row, { outputBytes });
  yield* noteLargeOutput(context, row, bytes);
  if (yield* goesOn(context, row, outcome, steps)) return true;
  const { result, error } = facts;
  const ended = { decidingAttempt: row.attempt_id, message, outcome, result, error: optionalText(error) };
  yield* applySteps(context, row, [...steps, { event, facts: ended }]);
  return false;
}

export function* compareEnd(
  { db }: Context,
  attemptId: string,
  workerId: string,
  signature: string,
): Verb<Exclude<Reported, 'recorded'> | 'late'> {
  const row = yield* db.get<{
    worker_id: string | null;
    state: AttemptState;
    accepted_at: number | null;
    worker_signature: string | null;
    late_end: string | null;
  }>('SELECT worker_id, state, accepted_at, worker_signature, late_end FROM attempts WHERE attempt_id = ?', attemptId);
  if (row === undefined || row.worker_id !== workerId || row.state !== 'ended') return 'stale';
  const known =
    row.worker_signature ?? (row.late_end === null ? null : (JSON.parse(row.late_end) as LateEnd).signature);
  if (known !== null) return known === signature ? 'repeated' : 'conflict';
  return row.accepted_at === null ? 'repeated' : 'late';
}

/** Whether its worker never said how the attempt ended, which has. */
export function* isEndMissing(context: Context, attemptId: string, workerId: string): Verb<boolean> {
  return (yield* compareEnd(context, attemptId, workerId, '')) === 'late';
}

export function* recordLateEnd(
  context: Context,
  attemptId: string,
  workerId: string,
  end: Omit<LateEnd, 'receivedAt'>,
): Verb<Reported> {
  const compared = yield* compareEnd(context, attemptId, workerId, end.signature);
  if (compared !== 'late') return compared;
  const lateEnd: LateEnd = { receivedAt: timestamp(context.now()), ...end };
  yield* context.db.change(
    'UPDATE attempts SET late_end = ? WHERE attempt_id = ? AND worker_signature IS NULL AND late_end IS NULL',
    JSON.stringify(lateEnd),
    attemptId,
  );
  return 'recorded';
}

/** Takes an attempt from its worker: queued again when it was never accepted, else ended as lost. */
export function* giveUp(context: Context, attempt: AttemptKey, beat: Beat | null): Verb<'ended' | 'requeued'> {
  const found = yield* find(context, attempt);
  const row = found!;
  const outcome: Outcome = { kind: 'lost', cause: 'host_lost' };
  if (row.attempt_state === 'assigned') {
    yield* applyEvent(context, row, { type: 'attempt_lost', cause: 'host_lost' }, {});
    yield* requeue(context, row);
    return 'requeued';
  }
  yield* endAttempt(context, row, asRecorded(row), { type: 'attempt_lost', cause: 'host_lost' }, outcome, null, beat);
  return 'ended';
}

export function* recordLost(
  context: Context,
  attempt: AttemptKey,
  workerId: string,
  beat: Beat | null,
  sessionId: string | null = null,
): Verb<'ended' | 'requeued' | 'stale'> {
  const row = yield* find(context, attempt);
  if (row === undefined || row.worker_id !== workerId || row.attempt_state === 'ended') return 'stale';
  if (sessionId !== null && row.session_id !== sessionId) return 'stale';
  return yield* giveUp(context, attempt, beat);
}

export function* endByControl(
  context: Context,
  attempt: AttemptKey,
  why: ControlEnd,
  beat: Beat | null,
  sessionId: string | null = null,
): Verb<boolean> {
  const row = yield* find(context, attempt);
  if (sessionId !== null && row?.session_id !== sessionId) return false;
  if (row?.attempt_state !== 'accepted' && row?.attempt_state !== 'started') return false;
  if (why === 'output_lost' || why === 'protocol') {
    const lost: Outcome = { kind: 'lost', cause: why };
    const message = why === 'protocol' ? 'its worker broke the protocol' : 'its output was not delivered';
    yield* endAttempt(context, row, asRecorded(row), { type: 'attempt_ended', outcome: lost }, lost, message, beat);
    return true;
  }
  const outcome: Outcome = { kind: 'timed_out', clock: why === 'run_deadline' ? 'run' : 'prepare' };
  const isRunTimeout = endOf(outcome).state === 'timeout' || row.cancel_requested_at !== null;
  const event: ExecutionEvent = isRunTimeout ? { type: 'deadline_passed' } : { type: 'attempt_ended', outcome };
  const message = 'ended by the control server: its worker did not';
  yield* endAttempt(context, row, asRecorded(row), event, outcome, message, beat);
  return true;
}

export function* endUnplaceable(context: Context, attempt: AttemptKey, message: string): Verb<boolean> {
  const row = yield* find(context, attempt);
  if (row?.attempt_state !== 'queued') return false;
  yield* applyEvent(context, row, { type: 'found_unplaceable' }, { message });
  yield* endAttempts(context, row.project_id, row.execution_id);
  return true;
}
