import assert from 'node:assert/strict';
import { test } from 'node:test';
import { KIND_SETS, planOf } from './plan.ts';
import { runRound } from './round.ts';

/** Two daemons killed whose machines live on, a control server that is restarted, and three wires that fail. */
const SEED = 377;

test('faults by a plan, on real microVMs: nothing lost, nothing twice, nothing stuck', async () => {
  const plan = planOf(SEED, { executions: 10, workMs: 20_000, kinds: KIND_SETS.hosts });
  const { verdict, text } = await runRound(plan, 'qemu');
  console.log(`\n${text}`);
  assert.deepEqual(verdict.violations, []);
});
