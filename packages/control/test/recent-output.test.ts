import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RecentOutput } from '../src/output/recent-output.ts';

test('what was committed last is read from any byte of it on; of all streams together no more is kept than there may be', () => {
  const recent = new RecentOutput(10, 1);
  const read = (attempt: string, offset: number) => {
    const bytes = recent.at(attempt, 'stdout', offset);
    return bytes === null ? null : Buffer.from(bytes).toString();
  };
  recent.add('a', 'stdout', 0, Buffer.from('0123'));
  recent.add('a', 'stdout', 4, Buffer.from('4567'));
  recent.add('a', 'stderr', 0, Buffer.from('xy'));
  assert.deepEqual([read('a', 0), read('a', 3), read('a', 5), read('a', 8)], ['0123', '3', '567', null]);
  assert.equal(recent.at('a', 'stderr', 2), null);
  recent.add('b', 'stdout', 7, Buffer.from('b'));
  assert.deepEqual([read('a', 0), read('a', 4), read('b', 7), read('b', 6)], [null, '4567', 'b', null]);
  recent.add('b', 'stdout', 8, Buffer.from('more than all'));
  assert.deepEqual([read('a', 4), read('b', 7), read('b', 8)], [null, null, null]);
});

test('small pieces, each counts as what it costs, and holds on to nothing else', () => {
  const recent = new RecentOutput(8 * 1024);
  const chunk = Buffer.from('of the network');
  for (const [at, name] of ['a', 'b', 'c'].entries()) recent.add(name, 'stdout', 0, chunk.subarray(at, at + 1));
  assert.deepEqual(
    ['a', 'b', 'c'].map((name) => recent.at(name, 'stdout', 0)?.length ?? 0),
    [0, 1, 1],
  );
  assert.equal(recent.at('b', 'stdout', 0)!.buffer.byteLength, 1);
});
