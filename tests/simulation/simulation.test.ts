import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { describe as describeFault, scenarioOf } from './scenario.ts';
import { type Plant, simulate } from './simulate.ts';
import { virtualTime } from './virtual-time.ts';

/** How many scenarios of each kind are played. */
const MANY = 150;

describe('simulation', () => {
  const time = virtualTime();
  after(() => time[Symbol.dispose]());

  const play = (seed: number, plant: Plant | null = null) => simulate(scenarioOf(seed), time, { plant });
  const fails = async (seed: number): Promise<string | null> => {
    const { violations } = await play(seed);
    if (violations.length === 0) return null;
    return `seed ${seed}: ${scenarioOf(seed).faults.map(describeFault).join('; ')}\n  ${violations.join('\n  ')}`;
  };

  test(`${MANY} scenarios, nothing is lost, nothing is stuck, and every execution ends as it should`, async () => {
    const failed: string[] = [];
    for (let seed = 1; seed <= MANY; seed += 1) {
      const failure = await fails(seed);
      if (failure !== null) failed.push(failure);
    }
    assert.equal(failed.join('\n'), '');
  });

  test('a scenario played again, it is the same, event by event', async () => {
    for (const seed of [3, 4]) assert.deepEqual(await play(seed), await play(seed));
  });

  const plants: readonly (readonly [string, Plant])[] = [
    ['a store that says yes to output and does not keep it', 'output'],
    ['a store that says yes to an end and does not keep it', 'end'],
    ['a wire that loses one message of a hundred', 'message'],
    ['a control server whose clock runs fast', 'clock'],
  ];
  for (const [what, plant] of plants) {
    test(`${what}, it is found`, async () => {
      for (let seed = 1; seed <= MANY; seed += 1) {
        if ((await play(seed, plant)).violations.length > 0) return;
      }
      assert.fail(`nothing was found in ${MANY} scenarios`);
    });
  }
});
