import assert from 'node:assert/strict';
import { test } from 'node:test';
import { RecentOutput } from '../src/output/recent-output.ts';

test('what was committed last is read from any byte of it on; of all streams together no more is kept than there may be', () => {
  const recent = new RecentOutput(10);
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
