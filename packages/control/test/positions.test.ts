import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Random } from '../../../tests/faults/random.ts';
import { Positions } from '../src/scheduler/positions.ts';

test('positions in a queue of thousands, they are what counting says', () => {
  const random = new Random('positions');
  const positions = new Positions();
  const waiting: { priority: number; order: number }[] = [];
  for (let order = 0; order < 6_000; order += 1) {
    const added = { priority: random.int(-1, 1), order };
    positions.add(added.priority, order);
    waiting.push(added);
    if (order < 3_000 || random.chance(0.2)) continue;
    // As many leave as come, of which most are the oldest.
    const [left] = waiting.splice(random.chance(0.7) ? 0 : random.int(0, waiting.length - 1), 1);
    positions.delete(left!.priority, left!.order);
    // Some come back to their place.
    if (random.chance(0.2)) {
      positions.add(left!.priority, left!.order);
      waiting.push(left!);
    }
    const asked = random.pick(waiting);
    const before = waiting.filter(
      ({ priority, order: other }) => priority > asked.priority || (priority === asked.priority && other < asked.order),
    );
    assert.equal(positions.of(asked.priority, asked.order), before.length + 1);
  }
  for (const { priority, order } of waiting) positions.delete(priority, order);
  positions.add(0, 7_000);
  assert.equal(positions.of(0, 7_000), 1);
});
