import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type { BatchRecord } from '@cocore/protocol';
import { Stack } from '../support/stack.ts';

describe('cocore run --batch', () => {
  let stack: Stack;
  before(async () => {
    // What the functions do is not the point: the driver that plays their arguments serves.
    stack = await Stack.dev('--isolation', 'fake');
    for (const name of ['play', 'other']) await stack.deploy(name, 'bash', ':');
  });
  after(() => stack[Symbol.asyncDispose]());

  const lines = (...entries: object[]) => Buffer.from(entries.map((entry) => JSON.stringify(entry)).join('\n'));

  test('lines of a file, the ids are printed in their order, and the executions run', async () => {
    const path = join(stack.home.path, 'batch.jsonl');
    writeFileSync(path, lines({ args: ['out:a'] }, { function: 'other', args: ['out:b'] }));
    const result = await stack.cocore(['run', '--batch', path, 'play']);
    assert.deepEqual([result.code, /^cocore: batch ba_\w+\n$/.test(result.stderr)], [0, true], result.stderr);
    const ids = result.stdout.toString().trimEnd().split('\n');
    const records = await Promise.all(ids.map((id) => stack.client.executions.get(id, { waitMs: 30_000 })));
    assert.deepEqual(
      records.map(({ functionName, stdout }) => [functionName, stdout?.data]),
      [
        ['play', 'a'],
        ['other', 'b'],
      ],
    );
    const listed = await stack.cocore(['ps', '--batch', records[0]!.batchId!]);
    assert.equal(listed.stdout.toString().split('\n').length, 1 + 2 + 1);
  });

  test('a wait for a batch that succeeds, the exit code is 0', async () => {
    const batch = lines({ args: ['out:a'] }, { args: ['sleep:300', 'out:b'] });
    const result = await stack.cocore(['run', '--batch', '-', '--wait', 'play'], batch);
    assert.equal(result.code, 0, result.stderr);
    assert.match(result.stderr, /^cocore: 2 success$/m);
  });

  test('a wait for a batch that does not succeed as a whole, the exit code is 1 and what failed is named', async () => {
    const batch = lines({ function: 'play', args: ['out:a'] }, { function: 'play', args: ['exit:3'] });
    const result = await stack.cocore(['run', '--batch', '-', '--wait'], batch);
    const [, failed] = result.stdout.toString().split('\n');
    assert.equal(result.code, 1);
    assert.match(
      result.stderr,
      new RegExp(`^cocore: ${failed} failure \\(exit_code\\)\ncocore: 1 success, 1 failure$`, 'm'),
    );
  });

  test('--json with --wait, the batch at its end is printed and nothing else', async () => {
    const result = await stack.cocore(['run', '--batch', '-', '--wait', '--json', 'play'], lines({}, {}));
    const batch = JSON.parse(result.stdout.toString()) as BatchRecord;
    assert.deepEqual([result.code, result.stderr, batch.counts.success], [0, '', 2]);
    assert.notEqual(batch.endedAt, null);
  });

  test('the same key, the same ids', async () => {
    const run = async () =>
      (await stack.cocore(['run', '--batch', '-', '--idempotency-key', 'k', 'play'], lines({}))).stdout.toString();
    assert.equal(await run(), await run());
  });

  const wrong: [string, string[], string, RegExp][] = [
    ['a function that is not there', ['--batch', '-', 'nothing'], '{}', /^error function_not_found: executions\.0: /],
    ['arguments beside it', ['--batch', '-', 'play', 'x'], '{}', /^error usage: /],
    ['options of one execution', ['--batch', '-', '--timeout', '3s', 'play'], '{}', /^error usage: .*--timeout/],
    ['neither function nor batch', [], '', /^error usage: /],
    ['--wait without it', ['--wait', 'play'], '', /^error usage: --wait/],
  ];
  for (const [what, args, input, line] of wrong) {
    test(`${what}, the command says so`, async () => {
      const result = await stack.cocore(['run', ...args], Buffer.from(input));
      assert.equal(result.code, 2);
      assert.match(result.stderr, line);
    });
  }
});
