import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { z } from 'zod';
import { KIND_SETS, planOf } from './plan.ts';
import { runRound } from './round.ts';

/** Seeds that are run each time: the first few, and those that ever failed, with what they found. */
const Seeds = z.array(z.strictObject({ set: z.enum(['hosts', 'disks']), seed: z.int(), why: z.string() }));
const seeds = Seeds.parse(JSON.parse(readFileSync(new URL('seeds.json', import.meta.url), 'utf8')));

/** A round mostly waits: for outages, and for leases to run out. */
const ROUNDS_AT_ONCE = 4;
const EXECUTIONS = 300;

describe('faults by a plan', { concurrency: ROUNDS_AT_ONCE }, () => {
  for (const { set, seed, why } of seeds) {
    test(`${set}, seed ${seed} (${why}), nothing lost, nothing twice, nothing stuck`, async () => {
      const { verdict, text } = await runRound(planOf(seed, { executions: EXECUTIONS, kinds: KIND_SETS[set] }));
      console.log(`\n${text}`);
      assert.deepEqual(verdict.violations, []);
    });
  }
});
