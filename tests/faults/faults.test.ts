import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import { z } from 'zod';
import { planOf } from './plan.ts';
import { runRound } from './round.ts';

/** Seeds that are run each time: the first few, and those that ever failed, with what they found. */
const Seeds = z.array(z.strictObject({ seed: z.int(), why: z.string() }));
const seeds = Seeds.parse(JSON.parse(readFileSync(new URL('seeds.json', import.meta.url), 'utf8')));

/** A round mostly waits: for outages, and for leases to run out. */
const ROUNDS_AT_ONCE = 4;
const EXECUTIONS = 300;

describe('faults by a plan', { concurrency: ROUNDS_AT_ONCE }, () => {
  for (const { seed, why } of seeds) {
    test(`seed ${seed} (${why}), nothing lost, nothing twice, nothing stuck`, async () => {
      const { verdict, text } = await runRound(planOf(seed, { executions: EXECUTIONS }));
      console.log(`\n${text}`);
      assert.deepEqual(verdict.violations, []);
    });
  }
});
