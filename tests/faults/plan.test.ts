import assert from 'node:assert/strict';
import { test } from 'node:test';
import { jobsOf } from './jobs.ts';
import { ALL_KINDS, describePlan, type Fault, planOf } from './plan.ts';

const SEEDS = Array.from({ length: 500 }, (_, at) => at + 1);

test('the same seed, gives the same plan and the same jobs', () => {
  assert.equal(describePlan(planOf(7)), describePlan(planOf(7)));
  assert.notEqual(describePlan(planOf(7)), describePlan(planOf(8)));
  assert.deepEqual(jobsOf(7, 50, 1_000), jobsOf(7, 50, 1_000));
});

test('many seeds, every kind of fault strikes every target that it can strike', () => {
  const struck = new Set<string>();
  for (const seed of SEEDS) {
    for (const { kind, target } of planOf(seed, { kinds: ALL_KINDS }).faults) {
      struck.add(`${kind} ${typeof target === 'number' ? 'worker' : target}`);
    }
  }
  const expected = [
    ...ALL_KINDS.filter((kind) => kind !== 'full').map((kind) => `${kind} worker`),
    ...[
      'sync control',
      'full control',
      'clock control',
      'kill control',
      'restart control',
      'stop control',
      'kill all',
      'cut user',
      'tear user',
    ],
  ];
  assert.deepEqual([...struck].sort(), expected.sort());
});

test('two faults of one target, are never at once', () => {
  const isApart = (one: Fault, other: Fault) =>
    one.target !== other.target || other.atMs > one.atMs + one.forMs || one.atMs > other.atMs + other.forMs;
  for (const seed of SEEDS) {
    const { faults } = planOf(seed, { kinds: ALL_KINDS });
    for (const [at, fault] of faults.entries()) {
      for (const other of faults.slice(at + 1)) assert.ok(isApart(fault, other), describePlan(planOf(seed)));
    }
  }
});
