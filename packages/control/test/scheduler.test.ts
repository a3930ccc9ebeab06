import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Scheduler, type SchedulerItem } from '../src/scheduler/scheduler.ts';

const item = (attemptId: string, change: Partial<SchedulerItem> = {}): SchedulerItem => ({
  attemptId,
  projectId: 'p',
  memoryMiB: 256,
  cpus: 1,
  ...change,
});

function scheduler(
  workers: Record<string, { memoryMiB: number; cpus: number; sandboxOverheadMiB?: number }>,
): Scheduler {
  const made = new Scheduler();
  for (const [workerId, room] of Object.entries(workers)) {
    made.apply({ type: 'worker_online', workerId, sandboxOverheadMiB: 0, attempts: [], ...room });
  }
  return made;
}

function queue(made: Scheduler, ...items: SchedulerItem[]): void {
  for (const one of items) made.apply({ type: 'queued', ...one });
}

/** Places all that can be placed: `attempt>worker`. */
function placements(made: Scheduler): string[] {
  const found: string[] = [];
  for (let next = made.next(); next !== null; next = made.next()) found.push(`${next.attemptId}>${next.workerId}`);
  return found;
}

test('no room, nothing is placed until room is given back', () => {
  const made = scheduler({ w: { memoryMiB: 512, cpus: 8 } });
  queue(made, item('a'), item('b'), item('c'));
  assert.deepEqual(placements(made), ['a>w', 'b>w']);
  made.apply({ type: 'released', attemptId: 'a' });
  assert.deepEqual(placements(made), ['c>w']);
});

test('the overhead of a sandbox, it counts', () => {
  const made = scheduler({ w: { memoryMiB: 512, cpus: 8, sandboxOverheadMiB: 100 } });
  queue(made, item('a'), item('b'));
  assert.deepEqual(placements(made), ['a>w']);
  assert.deepEqual(made.usage('w'), { memoryMiB: 356, cpus: 1, attempts: 1 });
});

test('CPUs that are all taken, nothing more is placed', () => {
  const made = scheduler({ w: { memoryMiB: 8192, cpus: 3 } });
  queue(made, item('a', { cpus: 2 }), item('b', { cpus: 2 }), item('c'));
  assert.deepEqual(placements(made), ['a>w', 'c>w']);
});

test('several workers with room, the tightest is taken', () => {
  const made = scheduler({ large: { memoryMiB: 4096, cpus: 8 }, small: { memoryMiB: 512, cpus: 8 } });
  queue(made, item('a'), item('b'), item('c'));
  assert.deepEqual(placements(made), ['a>small', 'b>small', 'c>large']);
});

test('one project with a long queue, another is served in turn', () => {
  const made = scheduler({ w: { memoryMiB: 256 * 4, cpus: 8 } });
  queue(made, item('a1'), item('a2'), item('a3'), item('b1', { projectId: 'q' }), item('b2', { projectId: 'q' }));
  assert.deepEqual(placements(made), ['a1>w', 'b1>w', 'a2>w', 'b2>w']);
});

test('a large attempt without room at the head, smaller ones behind it go on', () => {
  const made = scheduler({ w: { memoryMiB: 512, cpus: 8 } });
  queue(made, item('large', { memoryMiB: 1024 }), item('small'));
  assert.deepEqual(placements(made), ['small>w']);
});

test('a dequeued attempt, it is not placed', () => {
  const made = scheduler({ w: { memoryMiB: 512, cpus: 8 } });
  queue(made, item('a'), item('b'));
  made.apply({ type: 'dequeued', attemptId: 'a' });
  assert.deepEqual(placements(made), ['b>w']);
  assert.equal(made.queuedCount, 0);
});

test('a worker that goes offline and comes back with what it has, its room is counted anew', () => {
  const made = scheduler({ w: { memoryMiB: 512, cpus: 8 } });
  queue(made, item('a'), item('b'), item('c'));
  assert.equal(placements(made).length, 2);
  made.apply({ type: 'worker_offline', workerId: 'w' });
  assert.deepEqual(placements(made), []);
  made.apply({
    type: 'worker_online',
    workerId: 'w',
    memoryMiB: 512,
    cpus: 8,
    sandboxOverheadMiB: 0,
    attempts: [item('a')],
  });
  assert.deepEqual(placements(made), ['c>w']);
});

test('a closed worker, it gets nothing until it is opened or gives room back', () => {
  const made = scheduler({ w: { memoryMiB: 1024, cpus: 8 } });
  queue(made, item('a'));
  placements(made);
  made.apply({ type: 'worker_closed', workerId: 'w' });
  queue(made, item('b'), item('c'));
  assert.deepEqual(placements(made), []);
  made.apply({ type: 'released', attemptId: 'a' });
  assert.deepEqual(placements(made), ['b>w', 'c>w']);
});

test('a stopping worker, it gets nothing more, also when it gives room back, until it comes back', () => {
  const made = scheduler({ w: { memoryMiB: 1024, cpus: 8 } });
  queue(made, item('a'));
  placements(made);
  made.apply({ type: 'worker_stopping', workerId: 'w' });
  queue(made, item('b'));
  made.apply({ type: 'released', attemptId: 'a' });
  assert.deepEqual(placements(made), []);
  made.apply({ type: 'worker_offline', workerId: 'w' });
  const room = { memoryMiB: 1024, cpus: 8, sandboxOverheadMiB: 0 };
  made.apply({ type: 'worker_online', workerId: 'w', attempts: [], ...room });
  assert.deepEqual(placements(made), ['b>w']);
});

test('attempts that no online worker could run, they are named; none while no worker is online', () => {
  const made = scheduler({});
  queue(made, item('huge', { memoryMiB: 16_384 }), item('a'));
  assert.deepEqual(made.misfits(), []);
  made.apply({ type: 'worker_online', workerId: 'w', memoryMiB: 512, cpus: 8, sandboxOverheadMiB: 0, attempts: [] });
  assert.deepEqual(made.misfits(), ['huge']);
});

test('a thousand workers and ten thousand attempts, each is placed once and no worker is overfull', () => {
  const made = new Scheduler();
  for (let at = 0; at < 1_000; at += 1) {
    made.apply({
      type: 'worker_online',
      workerId: `w${at}`,
      memoryMiB: 2560,
      cpus: 10,
      sandboxOverheadMiB: 0,
      attempts: [],
    });
  }
  for (let at = 0; at < 10_000; at += 1) queue(made, item(`a${at}`, { projectId: `p${at % 7}` }));
  const placed = placements(made);
  assert.equal(new Set(placed.map((one) => one.split('>')[0])).size, 10_000);
  for (let at = 0; at < 1_000; at += 1) assert.equal(made.usage(`w${at}`).cpus, 10);
});
