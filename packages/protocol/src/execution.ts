import { z } from 'zod';
import { assertNever } from './errors.ts';
import { type Outcome, wentWithItsHost } from './outcome.ts';

/**
 * The life of an execution.
 *
 * - `open`: recorded and durable; no worker has accepted it. An attempt is queued, or assigned and not yet accepted.
 *   It leaves by a worker's acceptance, by the user's cancellation, by its queue time running out, or because no worker could ever
 *   run it.
 * - `running`: a worker's acceptance is committed. `phase` says more: `preparing` (blobs, microVM, image), `executing`
 *   (the agent said that the process runs), `stopping` (cancellation was asked for), `requeued` (an attempt has ended and the next
 *   one waits, which `afterAttempt` decided). It leaves by the attempt's end, by the loss of the attempt, because its deadline passed and the worker did not say
 *   so, or from `requeued` as from `open`.
 * - `success`, `failure`, `timeout`, `cancelled`: ended. Nothing leaves them: the first end decides.
 */
export const ExecutionState = z.enum(['open', 'running', 'success', 'failure', 'timeout', 'cancelled']);
export type ExecutionState = z.infer<typeof ExecutionState>;

export const ExecutionPhase = z.enum(['preparing', 'executing', 'stopping', 'requeued']);
export type ExecutionPhase = z.infer<typeof ExecutionPhase>;

/** Why an execution ended, for every end but success. */
export const Reason = z.enum([
  'exit_code',
  'signal',
  'oom',
  'run_timeout',
  'prepare_timeout',
  'queue_ttl',
  'user_cancel',
  'unplaceable',
  'image',
  'start',
  'host_lost',
  'host_reclaimed',
  'agent_lost',
  'protocol',
  'sandbox',
  'blob',
  'output_lost',
  'exception',
  'result_invalid',
  'artifacts_too_large',
]);
export type Reason = z.infer<typeof Reason>;

/** Whose doing an end is: the user's function or request, the platform's, or nobody's (success). */
export const Fault = z.enum(['none', 'user', 'platform']);
export type Fault = z.infer<typeof Fault>;

const REASON_FAULT: Record<Reason, Exclude<Fault, 'none'>> = {
  exit_code: 'user',
  signal: 'user',
  oom: 'user',
  run_timeout: 'user',
  prepare_timeout: 'platform',
  queue_ttl: 'platform',
  user_cancel: 'user',
  unplaceable: 'platform',
  image: 'platform',
  start: 'user',
  host_lost: 'platform',
  host_reclaimed: 'platform',
  agent_lost: 'platform',
  protocol: 'platform',
  sandbox: 'platform',
  blob: 'platform',
  output_lost: 'platform',
  exception: 'user',
  result_invalid: 'user',
  artifacts_too_large: 'user',
};

export function faultOf(reason: Reason | null): Fault {
  return reason === null ? 'none' : REASON_FAULT[reason];
}

/** A terminal state with its reason. */
export type End = { state: 'success'; reason: null } | { state: 'failure' | 'timeout' | 'cancelled'; reason: Reason };

/** Maps how an attempt ended to how its execution ends. */
export function endOf(outcome: Outcome): End {
  switch (outcome.kind) {
    case 'exited':
      return outcome.code === 0 ? { state: 'success', reason: null } : { state: 'failure', reason: 'exit_code' };
    case 'raised':
      return { state: 'failure', reason: 'exception' };
    case 'rejected':
      return { state: 'failure', reason: outcome.cause };
    case 'signaled':
      return { state: 'failure', reason: 'signal' };
    case 'oom':
      return { state: 'failure', reason: 'oom' };
    case 'timed_out':
      return outcome.clock === 'run'
        ? { state: 'timeout', reason: 'run_timeout' }
        : { state: 'failure', reason: 'prepare_timeout' };
    case 'cancelled':
      return { state: 'cancelled', reason: 'user_cancel' };
    case 'not_started':
      return { state: 'failure', reason: outcome.cause };
    case 'lost':
      return { state: 'failure', reason: outcome.cause };
    default:
      return assertNever(outcome);
  }
}

/** What can happen to an execution. */
export type ExecutionEvent =
  /** The worker took the assigned attempt. */
  | { type: 'attempt_accepted' }
  /** The worker would not take it (no room, a shape it cannot make): the attempt goes back to the queue. */
  | { type: 'attempt_refused' }
  /** The agent's word that the function's process runs. */
  | { type: 'attempt_started' }
  /** The worker's report of the end. */
  | { type: 'attempt_ended'; outcome: Outcome }
  /** The control server gave up on the worker that had it. */
  | { type: 'attempt_lost'; cause: 'host_lost' }
  /** An attempt ended, and the execution goes on with another one. */
  | { type: 'attempt_requeued' }
  /** The attempt that was given up came back with its worker, before anybody took the next one. */
  | { type: 'attempt_readopted'; phase: 'preparing' | 'executing' }
  | { type: 'cancel_requested' }
  | { type: 'queue_expired' }
  | { type: 'found_unplaceable' }
  /** `deadlineAt` and the grace after it passed, and the worker said nothing. */
  | { type: 'deadline_passed' };

export type ExecutionEventType = ExecutionEvent['type'];

/** The part of an execution that transitions depend on. */
export interface ExecutionStatus {
  readonly state: ExecutionState;
  /** Set exactly while `running`. */
  readonly phase: ExecutionPhase | null;
  /** Set exactly when ended other than by success. */
  readonly reason: Reason | null;
  readonly cancelRequested: boolean;
}

export type Transition =
  /** The status changes to `next`. */
  | { kind: 'changed'; next: ExecutionStatus }
  /** The event is a fact already known, or one that came too late; nothing changes and nobody did wrong. */
  | { kind: 'unchanged'; why: 'already_so' | 'already_ended' }
  /** The event cannot happen in this state: whoever sent it broke the protocol. */
  | { kind: 'impossible' };

const ENDED: Transition = { kind: 'unchanged', why: 'already_ended' };
const ALREADY: Transition = { kind: 'unchanged', why: 'already_so' };
const IMPOSSIBLE: Transition = { kind: 'impossible' };

type Cell = (status: ExecutionStatus, event: never) => Transition;
type Row = {
  [T in ExecutionEventType]: (status: ExecutionStatus, event: Extract<ExecutionEvent, { type: T }>) => Transition;
};

const ended = (status: ExecutionStatus, end: End): Transition => ({
  kind: 'changed',
  next: { state: end.state, phase: null, reason: end.reason, cancelRequested: status.cancelRequested },
});
const always = (transition: Transition) => () => transition;
const cancelledBeforeItRan = always({
  kind: 'changed',
  next: { state: 'cancelled', phase: null, reason: 'user_cancel', cancelRequested: true },
});
const CANCELLED: End = { state: 'cancelled', reason: 'user_cancel' };
const QUEUE_EXPIRED: End = { state: 'timeout', reason: 'queue_ttl' };
const UNPLACEABLE: End = { state: 'failure', reason: 'unplaceable' };

const OPEN: Row = {
  attempt_accepted: (status) => ({
    kind: 'changed',
    next: { state: 'running', phase: 'preparing', reason: null, cancelRequested: status.cancelRequested },
  }),
  attempt_refused: always(ALREADY),
  attempt_started: always(IMPOSSIBLE),
  attempt_ended: always(IMPOSSIBLE),
  // Assigned, never accepted: nothing ran, the attempt is queued again.
  attempt_lost: always(ALREADY),
  attempt_requeued: always(IMPOSSIBLE),
  attempt_readopted: always(IMPOSSIBLE),
  cancel_requested: cancelledBeforeItRan,
  queue_expired: (status) => ended(status, QUEUE_EXPIRED),
  found_unplaceable: (status) => ended(status, UNPLACEABLE),
  deadline_passed: always(IMPOSSIBLE),
};

const RUNNING: Row = {
  attempt_accepted: always(ALREADY),
  attempt_refused: always(IMPOSSIBLE),
  attempt_started: (status) =>
    status.phase === 'preparing' ? { kind: 'changed', next: { ...status, phase: 'executing' } } : ALREADY,
  attempt_ended: (status, { outcome }) =>
    ended(status, status.cancelRequested && wentWithItsHost(outcome) ? CANCELLED : endOf(outcome)),
  // A cancelled execution is never run again; its lost worker leaves it cancelled, unconfirmed.
  attempt_lost: (status, event) =>
    ended(status, status.cancelRequested ? CANCELLED : { state: 'failure', reason: event.cause }),
  // What is being stopped never runs again.
  attempt_requeued: (status) =>
    status.cancelRequested ? IMPOSSIBLE : { kind: 'changed', next: { ...status, phase: 'requeued' } },
  attempt_readopted: always(IMPOSSIBLE),
  cancel_requested: (status) =>
    status.cancelRequested
      ? ALREADY
      : { kind: 'changed', next: { ...status, phase: 'stopping', cancelRequested: true } },
  queue_expired: always(ALREADY),
  found_unplaceable: always(ALREADY),
  deadline_passed: (status) =>
    ended(status, status.cancelRequested ? CANCELLED : { state: 'timeout', reason: 'run_timeout' }),
};

/** Running, and no worker has it: as `open`, but for the state, which never goes back. */
const REQUEUED: Row = {
  ...OPEN,
  attempt_accepted: (status) => ({ kind: 'changed', next: { ...status, phase: 'preparing' } }),
  attempt_readopted: (status, { phase }) => ({ kind: 'changed', next: { ...status, phase } }),
};

const TERMINAL: Row = {
  attempt_accepted: always(ENDED),
  attempt_refused: always(ENDED),
  attempt_started: always(ENDED),
  attempt_ended: always(ENDED),
  attempt_lost: always(ENDED),
  attempt_requeued: always(ENDED),
  attempt_readopted: always(ENDED),
  cancel_requested: always(ENDED),
  queue_expired: always(ENDED),
  found_unplaceable: always(ENDED),
  deadline_passed: always(ENDED),
};

/** The one table: every state by every event; `running` has a row of its own for the phase in which no worker has it. */
export const TRANSITIONS: Record<ExecutionState | 'requeued', Row> = {
  open: OPEN,
  running: RUNNING,
  requeued: REQUEUED,
  success: TERMINAL,
  failure: TERMINAL,
  timeout: TERMINAL,
  cancelled: TERMINAL,
};

/** Applies one event to one status. The only function that decides a state. */
export function transition(status: ExecutionStatus, event: ExecutionEvent): Transition {
  const row = status.phase === 'requeued' ? 'requeued' : status.state;
  return (TRANSITIONS[row][event.type] as Cell)(status, event as never);
}

export function isTerminal(state: ExecutionState): boolean {
  return state !== 'open' && state !== 'running';
}

export const INITIAL_STATUS: ExecutionStatus = { state: 'open', phase: null, reason: null, cancelRequested: false };
