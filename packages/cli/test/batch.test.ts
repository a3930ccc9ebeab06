import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CocoreError, MAX_BATCH_EXECUTIONS } from '@cocore/protocol';
import { entriesOf } from '../src/commands/run-batch.ts';

test('lines of a batch, are entries as they are given; a function is theirs that name none', () => {
  const lines = ['{"args":["4","9"]}', '', ' {"function":"sub","event":null} ', '\r'];
  assert.deepEqual(entriesOf(lines, 'add'), [
    { function: 'add', args: ['4', '9'] },
    { function: 'sub', event: null },
  ]);
});

test('a line that is wrong, is named as an editor counts', () => {
  const wrong: [string, string, RegExp][] = [
    ['{', 'invalid_json', /^line 3 is not JSON/],
    ['[]', 'invalid_request', /^line 3 is not an object/],
    ['{}', 'invalid_request', /^line 3 is not valid: function/],
    ['{"function":"add","argv":[]}', 'invalid_request', /^line 3 .*argv/],
    ['{"function":"add","idempotencyKey":"k"}', 'invalid_request', /^line 3 .*idempotencyKey/],
  ];
  for (const [line, code, message] of wrong) {
    const thrown = (error: unknown) =>
      error instanceof CocoreError && error.code === code && message.test(error.message);
    assert.throws(() => entriesOf(['{"function":"add"}', '', line], undefined), thrown, line);
  }
});

test('no lines, and more than a batch may have, are refused', () => {
  assert.throws(() => entriesOf(['', ' '], 'add'), /no lines/);
  const lines = Array.from({ length: MAX_BATCH_EXECUTIONS + 1 }, () => '{}');
  assert.throws(() => entriesOf(lines, 'add'), /at most 1000 lines, not 1001/);
  assert.equal(entriesOf(lines.slice(1), 'add').length, MAX_BATCH_EXECUTIONS);
});
