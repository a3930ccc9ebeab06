import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ExecutionId, FunctionName, isId, isIdOf, IdMaker, makeId } from '../src/index.ts';

const random = (fill: number) => new Uint8Array(10).fill(fill);

test('an id made now, is one by its schema and by its kind only', () => {
  const id = makeId('execution', 1_790_000_000_000, random(0xff));
  assert.match(id, /^ex_[0-7][0-9a-hjkmnp-tv-z]{25}$/);
  assert.ok(ExecutionId.safeParse(id).success);
  assert.ok(isIdOf('execution', id));
  assert.ok(!isIdOf('attempt', id));
});

test('the UUID within an id, has version 7, variant 2 and the time in its first 48 bits', () => {
  const body = makeId('function', 0x0123456789ab, random(0)).slice(3);
  let bits = 0n;
  for (const char of body) bits = (bits << 5n) | BigInt('0123456789abcdefghjkmnpqrstvwxyz'.indexOf(char));
  assert.equal(bits >> 80n, 0x0123456789abn);
  assert.equal((bits >> 76n) & 15n, 7n);
  assert.equal((bits >> 62n) & 3n, 2n);
});

test('ids made later, sort later', () => {
  const ids = [1, 2, 1000, 1_790_000_000_000].map((ms) => makeId('attempt', ms, random(0x80)));
  assert.deepEqual([...ids].sort(), ids);
});

test('ids of one maker, they sort in the order in which they were made: of one millisecond, and of a clock that steps back', () => {
  for (const fill of [0, 0x80, 0xff]) {
    const ids = new IdMaker();
    const made = [5_000, 5_000, 5_000, 4_990, 5_001, 5_001, 5_000].map((ms) => ids.make('attempt', ms, random(fill)));
    for (let more = 0; more < 1_000; more += 1) made.push(ids.make('attempt', 5_001, random(fill)));
    assert.deepEqual([...made].sort(), made);
    assert.equal(new Set(made).size, made.length);
    for (const id of made) assert.ok(isIdOf('attempt', id), id);
    // Set back by much, it is another time, and the id says so.
    assert.ok(ids.make('attempt', 1_000, random(fill)) < made[0]!);
  }
});

test('another spelling of an id, is not accepted', () => {
  const id = makeId('worker', 1_790_000_000_000, random(1));
  for (const other of [id.toUpperCase(), id.slice(0, -1), `${id}0`, id.replace('wk_', 'xx_'), `wk_8${id.slice(4)}`]) {
    assert.ok(!isId(other), other);
  }
});

test('a name, is lower case, short and no id', () => {
  for (const good of ['add', 'a', 'a-1', 'x'.repeat(63)]) assert.ok(FunctionName.safeParse(good).success, good);
  for (const bad of ['', 'Add', '1a', '-a', 'a_b', 'x'.repeat(64), 'a\n', makeId('function', 1, random(1))]) {
    assert.ok(!FunctionName.safeParse(bad).success, bad);
  }
});
