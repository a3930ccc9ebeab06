import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { LostCause, Outcome } from '@cocore/protocol';
import {
  EVIDENCE_MS,
  FAST_FAILURE_MS,
  FIRST_ALLOWANCE,
  FULL_ALLOWANCE,
  MAX_BACKOFF_MS,
  MIN_BACKOFF_MS,
  Trust,
} from '../src/scheduler/trust.ts';

const SUCCESS: Outcome = { kind: 'exited', code: 0 };
const UNHARMED = { allowance: Infinity, onTrialSinceMs: null, notBeforeMs: null, failures: 0 };
const lost = (cause: LostCause): Outcome => ({ kind: 'lost', cause });

/** One attempt after the other, on a clock of its own. */
class History {
  readonly trust: Trust;
  nowMs = 1_000_000;

  constructor(isEarned = false) {
    this.trust = new Trust(isEarned);
  }

  /** The worker is given an attempt now, and it ends after `tookMs`. */
  end(workerId: string, outcome: Outcome, { tookMs = 100, functionId = 'f', hasStarted = false } = {}): void {
    const givenMs = this.nowMs;
    this.nowMs += tookMs;
    this.trust.ended({ workerId, functionId, givenMs, hasStarted }, outcome, this.nowMs);
  }

  /** How long the worker still gets nothing. */
  pauseMs(workerId: string): number {
    const { notBeforeMs } = this.trust.standing(workerId);
    return notBeforeMs === null ? 0 : notBeforeMs - this.nowMs;
  }

  /** Lets its pause pass. */
  wait(workerId: string): void {
    this.nowMs += this.pauseMs(workerId);
    this.trust.passTime(this.nowMs);
  }
}

test('a function that runs elsewhere fails fast on a worker again and again, the pause doubles up to its limit and one run clears it', () => {
  for (const cause of ['sandbox', 'blob'] as const) {
    const history = new History();
    const pauses: number[] = [];
    for (let times = 0; times < 12; times += 1) {
      history.end('good', SUCCESS);
      history.end('broken', lost(cause));
      pauses.push(history.pauseMs('broken'));
      assert.equal(history.trust.standing('broken').allowance, 1);
      history.wait('broken');
      assert.equal(history.pauseMs('broken'), 0);
    }
    assert.deepEqual(
      pauses.slice(0, 4),
      [1, 2, 4, 8].map((times) => times * MIN_BACKOFF_MS),
    );
    assert.deepEqual(pauses.slice(-2), [MAX_BACKOFF_MS, MAX_BACKOFF_MS]);
    assert.equal(history.trust.standing('broken').failures, 12);
    history.end('broken', { kind: 'exited', code: 1 });
    assert.deepEqual(history.trust.standing('broken'), UNHARMED);
    history.end('broken', lost(cause));
    assert.equal(history.pauseMs('broken'), MIN_BACKOFF_MS);
  }
});

test('a function that fails on every worker, none of them pauses longer each time or has less at once', () => {
  const history = new History();
  for (let times = 0; times < 5; times += 1) {
    for (const workerId of ['a', 'b']) {
      history.end(workerId, lost('blob'));
      assert.equal(history.pauseMs(workerId), MIN_BACKOFF_MS);
      assert.deepEqual(
        [history.trust.standing(workerId).allowance, history.trust.standing(workerId).failures],
        [Infinity, 0],
      );
    }
    history.wait('a');
    history.wait('b');
  }
});

test('a run on another worker counts for a time, and one on the same worker never', () => {
  const history = new History();
  history.end('w', SUCCESS);
  history.end('w', lost('sandbox'));
  assert.equal(history.trust.standing('w').failures, 0);
  history.wait('w');
  history.end('other', SUCCESS);
  history.end('w', SUCCESS);
  history.end('w', lost('sandbox'));
  assert.equal(history.trust.standing('w').failures, 1);
  history.wait('w');
  history.end('w', SUCCESS);
  history.nowMs += EVIDENCE_MS;
  history.end('w', lost('sandbox'));
  assert.equal(history.trust.standing('w').failures, 0);
});

test('a burst that the worker was given before it failed is one failure, and what ends well of it clears nothing', () => {
  const history = new History();
  history.end('good', SUCCESS);
  const facts = { workerId: 'w', functionId: 'f', givenMs: history.nowMs, hasStarted: false };
  history.nowMs += 50;
  for (let times = 0; times < 64; times += 1) history.trust.ended(facts, lost('sandbox'), history.nowMs);
  assert.deepEqual([history.trust.standing('w').failures, history.pauseMs('w')], [1, MIN_BACKOFF_MS]);
  assert.equal(history.trust.standing('w').onTrialSinceMs, history.nowMs);
  history.trust.ended(facts, SUCCESS, history.nowMs);
  assert.deepEqual([...history.trust.suspects()], ['w']);
});

test('an end that is slow, the user’s, the owner’s or of an attempt that ran, nothing is held against its worker', () => {
  const others: [Outcome, object][] = [
    [lost('sandbox'), { tookMs: FAST_FAILURE_MS + 1 }],
    [lost('sandbox'), { hasStarted: true }],
    ...(['agent_lost', 'protocol', 'host_lost', 'host_reclaimed', 'output_lost'] as const).map(
      (cause): [Outcome, object] => [lost(cause), {}],
    ),
    [{ kind: 'not_started', cause: 'image' }, {}],
    [{ kind: 'cancelled' }, {}],
    [{ kind: 'timed_out', clock: 'prepare' }, {}],
  ];
  for (const [outcome, how] of others) {
    const history = new History();
    history.end('good', SUCCESS);
    history.end('w', outcome, how);
    assert.deepEqual(history.trust.standing('w'), UNHARMED);
    // Nor does it speak for one that failed.
    history.end('w', lost('sandbox'));
    history.wait('w');
    history.end('w', outcome, how);
    assert.equal(history.trust.standing('w').failures, 1, JSON.stringify(outcome));
  }
});

test('trust that is earned, it begins with little and doubles with what succeeds, and a server’s next life knows it', () => {
  const history = new History(true);
  const allowance = () => history.trust.standing('w').allowance;
  assert.equal(allowance(), FIRST_ALLOWANCE);
  let succeeded = 0;
  for (let earned = FIRST_ALLOWANCE; earned < FULL_ALLOWANCE; earned *= 2) {
    for (let times = 0; times < earned; times += 1) {
      assert.equal(allowance(), earned);
      history.end('w', { kind: 'exited', code: 1 });
      history.end('w', SUCCESS);
      succeeded += 1;
    }
  }
  assert.deepEqual([allowance(), succeeded], [Infinity, FULL_ALLOWANCE - FIRST_ALLOWANCE]);
  history.end('good', SUCCESS);
  history.end('w', lost('sandbox'));
  assert.equal(allowance(), 1);
  history.wait('w');
  history.end('w', SUCCESS);
  assert.equal(allowance(), Infinity);

  const next = new Trust(true);
  next.know('w', 16);
  assert.equal(next.standing('w').allowance, 16);
  const atOnce = new Trust(false);
  assert.equal(atOnce.standing('w').allowance, Infinity);
});
