import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  type End,
  endOf,
  type ExecutionEvent,
  type ExecutionEventType,
  ExecutionState,
  type ExecutionStatus,
  faultOf,
  isTerminal,
  type Outcome,
  Reason,
  transition,
  TRANSITIONS,
} from '../src/index.ts';

const STATUSES: Record<string, ExecutionStatus> = {
  open: { state: 'open', phase: null, reason: null, cancelRequested: false },
  preparing: { state: 'running', phase: 'preparing', reason: null, cancelRequested: false },
  executing: { state: 'running', phase: 'executing', reason: null, cancelRequested: false },
  stopping: { state: 'running', phase: 'stopping', reason: null, cancelRequested: true },
  requeued: { state: 'running', phase: 'requeued', reason: null, cancelRequested: false },
  success: { state: 'success', phase: null, reason: null, cancelRequested: false },
  failure: { state: 'failure', phase: null, reason: 'exit_code', cancelRequested: false },
  timeout: { state: 'timeout', phase: null, reason: 'run_timeout', cancelRequested: false },
  cancelled: { state: 'cancelled', phase: null, reason: 'user_cancel', cancelRequested: true },
};

const EVENTS: Record<ExecutionEventType, ExecutionEvent> = {
  attempt_accepted: { type: 'attempt_accepted' },
  attempt_refused: { type: 'attempt_refused' },
  attempt_started: { type: 'attempt_started' },
  attempt_ended: { type: 'attempt_ended', outcome: { kind: 'exited', code: 3 } },
  attempt_lost: { type: 'attempt_lost', cause: 'host_lost' },
  attempt_requeued: { type: 'attempt_requeued' },
  attempt_readopted: { type: 'attempt_readopted', phase: 'executing' },
  cancel_requested: { type: 'cancel_requested' },
  queue_expired: { type: 'queue_expired' },
  found_unplaceable: { type: 'found_unplaceable' },
  deadline_passed: { type: 'deadline_passed' },
};

/** What each event makes of each status: `state/phase/reason`, or why nothing changes. Written by hand, not derived. */
const EXPECTED: Record<string, Record<ExecutionEventType, string>> = {
  open: {
    attempt_accepted: 'running/preparing/-',
    attempt_refused: 'already_so',
    attempt_started: 'impossible',
    attempt_ended: 'impossible',
    attempt_lost: 'already_so',
    attempt_requeued: 'impossible',
    attempt_readopted: 'impossible',
    cancel_requested: 'cancelled/-/user_cancel',
    queue_expired: 'timeout/-/queue_ttl',
    found_unplaceable: 'failure/-/unplaceable',
    deadline_passed: 'impossible',
  },
  preparing: {
    attempt_accepted: 'already_so',
    attempt_refused: 'impossible',
    attempt_started: 'running/executing/-',
    attempt_ended: 'failure/-/exit_code',
    attempt_lost: 'failure/-/host_lost',
    attempt_requeued: 'running/requeued/-',
    attempt_readopted: 'impossible',
    cancel_requested: 'running/stopping/-',
    queue_expired: 'already_so',
    found_unplaceable: 'already_so',
    deadline_passed: 'timeout/-/run_timeout',
  },
  executing: {
    attempt_accepted: 'already_so',
    attempt_refused: 'impossible',
    attempt_started: 'already_so',
    attempt_ended: 'failure/-/exit_code',
    attempt_lost: 'failure/-/host_lost',
    attempt_requeued: 'running/requeued/-',
    attempt_readopted: 'impossible',
    cancel_requested: 'running/stopping/-',
    queue_expired: 'already_so',
    found_unplaceable: 'already_so',
    deadline_passed: 'timeout/-/run_timeout',
  },
  stopping: {
    attempt_accepted: 'already_so',
    attempt_refused: 'impossible',
    attempt_started: 'already_so',
    attempt_ended: 'failure/-/exit_code',
    attempt_lost: 'cancelled/-/user_cancel',
    attempt_requeued: 'impossible',
    attempt_readopted: 'impossible',
    cancel_requested: 'already_so',
    queue_expired: 'already_so',
    found_unplaceable: 'already_so',
    deadline_passed: 'cancelled/-/user_cancel',
  },
  requeued: {
    attempt_accepted: 'running/preparing/-',
    attempt_refused: 'already_so',
    attempt_started: 'impossible',
    attempt_ended: 'impossible',
    attempt_lost: 'already_so',
    attempt_requeued: 'impossible',
    attempt_readopted: 'running/executing/-',
    cancel_requested: 'cancelled/-/user_cancel',
    queue_expired: 'timeout/-/queue_ttl',
    found_unplaceable: 'failure/-/unplaceable',
    deadline_passed: 'impossible',
  },
};

function describeTransition(status: ExecutionStatus, event: ExecutionEvent): string {
  const result = transition(status, event);
  switch (result.kind) {
    case 'changed':
      return [result.next.state, result.next.phase ?? '-', result.next.reason ?? '-'].join('/');
    case 'unchanged':
      return result.why;
    case 'impossible':
      return 'impossible';
  }
}

describe('the execution state table', () => {
  test('every state is in the table, and so is every event', () => {
    const rows = Object.keys(TRANSITIONS).filter((name) => name !== 'requeued');
    assert.deepEqual(rows, ExecutionState.options);
    for (const row of Object.values(TRANSITIONS)) assert.deepEqual(Object.keys(row).sort(), Object.keys(EVENTS).sort());
  });

  for (const [name, status] of Object.entries(STATUSES)) {
    for (const event of Object.values(EVENTS)) {
      const expected = isTerminal(status.state) ? 'already_ended' : EXPECTED[name]![event.type];
      test(`${name}, ${event.type} gives ${expected}`, () => {
        assert.equal(describeTransition(status, event), expected);
      });
    }
  }

  test('a changed status always keeps its own rules', () => {
    for (const status of Object.values(STATUSES)) {
      for (const event of Object.values(EVENTS)) {
        const result = transition(status, event);
        if (result.kind !== 'changed') continue;
        const { next } = result;
        assert.equal(next.phase !== null, next.state === 'running');
        assert.equal(next.reason !== null, isTerminal(next.state) && next.state !== 'success');
        assert.ok(next.cancelRequested || !status.cancelRequested, 'a cancellation is never forgotten');
      }
    }
  });

  test('a cancel-requested execution whose function succeeded first stays a success', () => {
    const event: ExecutionEvent = { type: 'attempt_ended', outcome: { kind: 'exited', code: 0 } };
    assert.equal(describeTransition(STATUSES['stopping']!, event), 'success/-/-');
  });

  test('a cancel-requested execution whose worker reports that the host, or the output, was lost is cancelled', () => {
    const endOfLost = (status: string, cause: Extract<Outcome, { kind: 'lost' }>['cause']) =>
      describeTransition(STATUSES[status]!, { type: 'attempt_ended', outcome: { kind: 'lost', cause } });
    for (const cause of ['host_lost', 'host_reclaimed', 'output_lost'] as const) {
      assert.equal(endOfLost('stopping', cause), 'cancelled/-/user_cancel');
      assert.equal(endOfLost('executing', cause), `failure/-/${cause}`);
    }
    assert.equal(endOfLost('stopping', 'agent_lost'), 'failure/-/agent_lost');
  });
});

describe('outcomes', () => {
  const cases: [Outcome, End, string][] = [
    [{ kind: 'exited', code: 0 }, { state: 'success', reason: null }, 'none'],
    [{ kind: 'exited', code: 1 }, { state: 'failure', reason: 'exit_code' }, 'user'],
    [{ kind: 'signaled', signal: 11 }, { state: 'failure', reason: 'signal' }, 'user'],
    [{ kind: 'oom' }, { state: 'failure', reason: 'oom' }, 'user'],
    [{ kind: 'timed_out', clock: 'run' }, { state: 'timeout', reason: 'run_timeout' }, 'user'],
    [{ kind: 'timed_out', clock: 'prepare' }, { state: 'failure', reason: 'prepare_timeout' }, 'platform'],
    [{ kind: 'cancelled' }, { state: 'cancelled', reason: 'user_cancel' }, 'user'],
    [{ kind: 'not_started', cause: 'image' }, { state: 'failure', reason: 'image' }, 'platform'],
    [{ kind: 'not_started', cause: 'start' }, { state: 'failure', reason: 'start' }, 'user'],
    [{ kind: 'lost', cause: 'agent_lost' }, { state: 'failure', reason: 'agent_lost' }, 'platform'],
  ];
  for (const [outcome, end, fault] of cases) {
    test(`${JSON.stringify(outcome)}, the execution ends ${end.state}, the fault is ${fault}`, () => {
      assert.deepEqual(endOf(outcome), end);
      assert.equal(faultOf(end.reason), fault);
    });
  }

  test('every reason has a fault', () => {
    for (const reason of Reason.options) assert.ok(['user', 'platform'].includes(faultOf(reason)));
  });
});
