import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, test } from 'node:test';
import type { Random } from '../faults/random.ts';
import { hostileWorkerTarget } from './hostile-worker.ts';
import { httpTarget, rawHttpTarget } from './http.ts';
import { parserTargets } from './parsers.ts';
import { type LiveTarget, play, type Target, tell } from './target.ts';

/** `npm run fuzz` plays as many as there is time for. */
const CASES = 150;
const SEED = '1';

const nothingFound = async (target: Target, cases: number): Promise<void> => {
  const finding = await play(target, { seed: SEED, cases });
  assert.equal(finding === null ? '' : tell(finding), '');
};

describe('readers of what another trust zone writes', () => {
  for (const target of parserTargets()) {
    test(`${target.name}, damaged in any way, are taken whole or refused by the right error`, () =>
      nothingFound(target, CASES));
  }
});

describe('a server at work', () => {
  const live = async (open: () => Promise<LiveTarget>, cases: number) => {
    await using target = await open();
    await nothingFound(target, cases);
    await target.finish();
  };

  test('requests of any kind, none is answered with 500 and it goes on working', () => live(httpTarget, 120));

  test('bytes that are hardly HTTP, none of them is its own failure', () => live(rawHttpTarget, 60));

  test('hostile workers, what an honest one has under way ends as it says and memory stays bounded', () =>
    live(hostileWorkerTarget, 12));
});

describe('a finding', () => {
  const target: Target<number> = {
    name: 'numbers',
    corpus: [],
    make: (random: Random) => random.int(0, 99),
    check: (input) => assert.notEqual(input, 42),
  };

  test('a reader with a fault, it is found, and is found again by its seed and case', async () => {
    const finding = await play(target, { seed: SEED, cases: 1000 });
    assert.equal(finding?.input, '42');
    const number = Number(/case (\d+)/.exec(finding.where)?.[1]);
    assert.deepEqual((await play(target, { seed: SEED, from: number, cases: 1 }))?.where, finding.where);
  });

  test('a reader that goes through its input again for each byte, is one', async () => {
    const block = new Uint8Array(1024 * 1024);
    const slow: Target<number> = {
      ...target,
      check: () => {
        for (let left = 100; left > 0; left -= 1) createHash('sha256').update(block).digest();
      },
    };
    const finding = await play(slow, { seed: SEED, cases: 1, maxCpuMs: 10 });
    assert.match(String(finding?.error), /ms of the processor/);
  });
});
