import {
  type ExecutionEvent,
  type ExecutionPhase,
  type ExecutionState,
  type ExecutionStatus,
  isTerminal,
  type Outcome,
  type Reason,
  type Transition,
  transition,
} from '@cocore/protocol';
import type { Context } from './context.ts';
import { count } from './counters.ts';
import type { Verb } from './statements.ts';

/** The columns of an execution that its next state depends on. */
export interface StatusRow {
  readonly project_id: string;
  readonly execution_id: string;
  readonly function_id: string;
  readonly state: ExecutionState;
  readonly phase: ExecutionPhase | null;
  readonly reason: Reason | null;
  readonly cancel_requested_at: number | null;
}

/** What else becomes true with an event; what is left out stays as it is. */
export interface EventFacts {
  readonly acceptedAtMs?: number;
  readonly startedAtMs?: number;
  readonly deadlineAtMs?: number;
  readonly decidingAttempt?: string;
  readonly message?: string | null;
  readonly outcome?: Outcome;
  /** JSON text. */
  readonly result?: string | null;
  readonly error?: string | null;
}

const UPDATE = `
  UPDATE executions SET state = ?, phase = ?, reason = ?, cancel_requested_at = coalesce(cancel_requested_at, ?),
    accepted_at = coalesce(accepted_at, ?), started_at = coalesce(started_at, ?), deadline_at = coalesce(?, deadline_at),
    ended_at = ?, deciding_attempt = coalesce(?, deciding_attempt), message = coalesce(?, message),
    exit_code = coalesce(?, exit_code), signal = coalesce(?, signal), result = coalesce(?, result), error = coalesce(?, error)
  WHERE project_id = ? AND execution_id = ? AND state = ? AND phase IS NOT DISTINCT FROM ?`;

/** Whether it waits for a worker to accept it. */
export const isQueued = ({ state, phase }: Pick<StatusRow, 'state' | 'phase'>): boolean =>
  state === 'open' || phase === 'requeued';

/** Something that happened to an execution, and what becomes true with it. */
export interface Step {
  readonly event: ExecutionEvent;
  readonly facts: EventFacts;
}

export const applyEvent = (
  context: Context,
  row: StatusRow,
  event: ExecutionEvent,
  facts: EventFacts,
): Verb<Transition> => applySteps(context, row, [{ event, facts }]);

/**
 * The one place that writes an execution's state: asks the protocol's table, step by step, and writes what it comes to at once, guarded by the
 * status it was asked about. When a step changes nothing, nothing is written, and what the table says of that step is the answer.
 */
export function* applySteps(context: Context, row: StatusRow, steps: readonly Step[]): Verb<Transition> {
  const { state, phase, reason, cancel_requested_at } = row;
  let result: Transition = { kind: 'unchanged', why: 'already_so' };
  let next: ExecutionStatus = { state, phase, reason, cancelRequested: cancel_requested_at !== null };
  let facts: EventFacts = {};
  for (const step of steps) {
    result = transition(next, step.event);
    if (result.kind !== 'changed') return result;
    next = result.next;
    facts = { ...facts, ...step.facts };
  }
  const { db } = context;
  const nowMs = context.now();
  const ended = isTerminal(next.state);
  yield* db.change(
    UPDATE,
    next.state,
    next.phase,
    next.reason,
    next.cancelRequested ? nowMs : null,
    facts.acceptedAtMs ?? null,
    facts.startedAtMs ?? null,
    facts.deadlineAtMs ?? null,
    ended ? nowMs : null,
    facts.decidingAttempt ?? null,
    facts.message ?? null,
    facts.outcome?.kind === 'exited' || facts.outcome?.kind === 'raised' ? facts.outcome.code : null,
    facts.outcome?.kind === 'signaled' ? facts.outcome.signal : null,
    facts.result ?? null,
    facts.error ?? null,
    row.project_id,
    row.execution_id,
    row.state,
    row.phase,
  );
  const queued = Number(isQueued(next)) - Number(isQueued(row));
  if (ended || queued !== 0) yield* count(context, row, { live: ended ? -1 : 0, queued });
  return result;
}
