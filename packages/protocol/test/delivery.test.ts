import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  afterAttempt,
  type DeliveryFacts,
  LostCause,
  MAX_RETRY_BACKOFF_MS,
  type Outcome,
  Reason,
  RetryPolicy,
} from '../src/index.ts';

const NONE: Omit<DeliveryFacts, 'outcome'> = {
  cancelRequested: false,
  policy: null,
  retries: 0,
  redeliveries: 0,
  hasNetwork: false,
  isIdempotent: false,
};
const EXITED: Outcome = { kind: 'exited', code: 1 };
const lost = (cause: LostCause): Outcome => ({ kind: 'lost', cause });
const kindOf = (outcome: Outcome, facts: Partial<DeliveryFacts> = {}) =>
  afterAttempt({ ...NONE, outcome, ...facts }, 0.5).kind;

describe('how an execution goes on after an attempt', () => {
  test('rule 12: only what a host did is redelivered', () => {
    const redelivered = LostCause.options.filter((cause) => kindOf(lost(cause)) === 'redelivery');
    assert.deepEqual(redelivered, ['host_lost', 'host_reclaimed', 'output_lost']);
    for (const outcome of [
      EXITED,
      { kind: 'exited', code: 0 },
      { kind: 'oom' },
      { kind: 'signaled', signal: 9 },
      { kind: 'timed_out', clock: 'run' },
      { kind: 'timed_out', clock: 'prepare' },
      { kind: 'not_started', cause: 'image' },
    ] as const)
      assert.equal(kindOf(outcome), 'end', JSON.stringify(outcome));
  });

  test('redeliveries, there are two, and none where an attempt may have been seen', () => {
    assert.equal(kindOf(lost('host_lost'), { redeliveries: 1 }), 'redelivery');
    assert.equal(kindOf(lost('host_lost'), { redeliveries: 2 }), 'end');
    assert.equal(kindOf(lost('host_lost'), { hasNetwork: true }), 'end');
    assert.equal(kindOf(lost('host_lost'), { hasNetwork: true, isIdempotent: true }), 'redelivery');
  });

  test('rule 7: what is being cancelled, is neither redelivered nor retried', () => {
    const policy = RetryPolicy.parse({ max: 3 });
    assert.equal(kindOf(lost('host_lost'), { cancelRequested: true }), 'end');
    assert.equal(kindOf(EXITED, { cancelRequested: true, policy }), 'end');
    assert.equal(kindOf({ kind: 'cancelled' }, { policy }), 'end');
  });

  test('retries, by count and reason', () => {
    const policy = RetryPolicy.parse({ max: 2 });
    assert.equal(kindOf(EXITED, { policy }), 'retry');
    assert.equal(kindOf(EXITED, { policy, retries: 2 }), 'end');
    assert.equal(kindOf(lost('agent_lost'), { policy }), 'retry');
    assert.equal(kindOf({ kind: 'exited', code: 0 }, { policy }), 'end');
    const onOom = RetryPolicy.parse({ max: 2, on: ['oom'] });
    assert.equal(kindOf(EXITED, { policy: onOom }), 'end');
    assert.equal(kindOf({ kind: 'oom' }, { policy: onOom }), 'retry');
    // What the platform owes comes first, and is not counted against the user.
    assert.equal(kindOf(lost('host_lost'), { policy }), 'redelivery');
    assert.equal(kindOf(lost('host_lost'), { policy, redeliveries: 2 }), 'retry');
  });

  test('the wait before a retry, doubles and is spread', () => {
    const policy = RetryPolicy.parse({ max: 10, backoffMs: 1000 });
    const delay = (retries: number, random: number) => {
      const after = afterAttempt({ ...NONE, outcome: EXITED, policy, retries }, random);
      return after.kind === 'end' ? null : after.delayMs;
    };
    assert.deepEqual([delay(0, 0), delay(0, 1), delay(1, 0), delay(3, 0.5)], [500, 1000, 1000, 6000]);
    const longest = RetryPolicy.parse({ max: 10, backoffMs: MAX_RETRY_BACKOFF_MS });
    const after = afterAttempt({ ...NONE, outcome: EXITED, policy: longest, retries: 9 }, 1);
    assert.deepEqual(after, { kind: 'retry', delayMs: MAX_RETRY_BACKOFF_MS });
  });

  test('ends that nothing could change, cannot be asked to be retried', () => {
    const taken = Reason.options.filter((reason) => RetryPolicy.safeParse({ max: 1, on: [reason] }).success);
    assert.deepEqual(
      Reason.options.filter((reason) => !taken.includes(reason as never)),
      ['queue_ttl', 'user_cancel', 'unplaceable'],
    );
  });
});
