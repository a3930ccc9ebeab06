import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Scheduler } from '../src/scheduler/scheduler.ts';
import { item, online, placements, queue, scheduler } from './support/scheduling.ts';

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
  online(made, 'w', { memoryMiB: 512, cpus: 8, attempts: [item('a')] });
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
  online(made, 'w', { memoryMiB: 1024, cpus: 8 });
  assert.deepEqual(placements(made), ['b>w']);
});

test('a drained worker, it gets nothing until it is given work again, and its attempts wait for it', () => {
  const made = scheduler({ w: { memoryMiB: 1024, cpus: 8 } });
  made.apply({ type: 'worker_drained', workerId: 'w', drained: true });
  queue(made, item('a'));
  assert.deepEqual(placements(made), []);
  assert.deepEqual(made.misfits(), []);
  made.apply({ type: 'worker_drained', workerId: 'w', drained: false });
  assert.deepEqual(placements(made), ['a>w']);
});

test('a worker to which what it was given is still on its way, it gets nothing until that is there, and who waits is told why', () => {
  const made = scheduler({ w: { memoryMiB: 1024, cpus: 8 } });
  queue(made, item('a'));
  assert.deepEqual(placements(made), ['a>w']);
  made.apply({ type: 'worker_behind', workerId: 'w', behind: true });
  queue(made, item('b'));
  made.apply({ type: 'released', attemptId: 'a' });
  assert.deepEqual(placements(made), []);
  assert.match(made.why('b')!.message, /1 still being sent what they were given/);
  made.apply({ type: 'worker_behind', workerId: 'w', behind: false });
  assert.deepEqual(placements(made), ['b>w']);
});

test('attempts that no online worker could run, they are named; none while no worker is online', () => {
  const made = scheduler({});
  queue(made, item('huge', { memoryMiB: 16_384 }), item('strong', { isolation: 'gvisor' }), item('a'));
  assert.deepEqual(made.misfits(), []);
  online(made, 'w', { memoryMiB: 512, cpus: 8 });
  const misfits = made.misfits().map(({ attemptId, why }) => [attemptId, why.code]);
  assert.deepEqual(misfits, [
    ['huge', 'too_large'],
    ['strong', 'isolation'],
  ]);
});

test('disk that is all taken, nothing more is placed; an attempt that needs more than there is, it is a misfit', () => {
  const made = scheduler({ w: { memoryMiB: 8192, cpus: 8, diskMiB: 1024 } });
  queue(made, item('a'), item('b'), item('c'), item('wide', { diskMiB: 2048 }));
  assert.deepEqual(placements(made), ['a>w', 'b>w']);
  assert.deepEqual(
    made.misfits().map(({ attemptId }) => attemptId),
    ['wide'],
  );
  made.apply({ type: 'released', attemptId: 'a' });
  assert.deepEqual(placements(made), ['c>w']);
});

const CLASSES = ['microvm', 'gvisor', 'emulated', 'container'] as const;
const ROOM = { memoryMiB: 1024, cpus: 8 };

for (const required of CLASSES) {
  test(`an attempt that requires ${required}, no weaker worker ever gets it, and each that is as strong does`, () => {
    for (const given of CLASSES) {
      const made = scheduler({ w: { ...ROOM, isolation: given } });
      queue(made, item('a', { isolation: required }));
      const isStrong = CLASSES.indexOf(given) <= CLASSES.indexOf(required);
      assert.deepEqual(placements(made), isStrong ? ['a>w'] : [], given);
    }
  });
}

test('one project, attempts of several classes of one shape, each goes where it may and none holds up another', () => {
  const weak = { ...ROOM, isolation: 'emulated' } as const;
  const made = scheduler({ weak });
  queue(made, item('s1', { isolation: 'gvisor' }), item('w1'), item('s2', { isolation: 'gvisor' }), item('w2'));
  assert.deepEqual(placements(made), ['w1>weak', 'w2>weak']);
  online(made, 'strong', { ...ROOM, memoryMiB: 8192, isolation: 'microvm' });
  assert.deepEqual(placements(made), ['s1>strong', 's2>strong']);
});

test('strong and weak workers with room, the tightest is taken, whatever its class', () => {
  const made = scheduler({
    weak: { memoryMiB: 4096, cpus: 8 },
    strong: { memoryMiB: 512, cpus: 8, isolation: 'microvm' },
  });
  queue(made, item('a'));
  assert.deepEqual(placements(made), ['a>strong']);
});

test('a worker that comes back with another class, what waits is placed by the new one', () => {
  const made = scheduler({ w: { ...ROOM, isolation: 'gvisor' } });
  made.apply({ type: 'worker_offline', workerId: 'w' });
  online(made, 'w', { ...ROOM, isolation: 'emulated' });
  queue(made, item('strong', { isolation: 'gvisor' }));
  assert.deepEqual(placements(made), []);
  made.apply({ type: 'worker_offline', workerId: 'w' });
  online(made, 'w', { ...ROOM, isolation: 'gvisor' });
  assert.deepEqual(placements(made), ['strong>w']);
});

test('an attempt that waits, why says what is needed and what is there, and nothing once it is placed', () => {
  const made = scheduler({});
  queue(made, item('a', { isolation: 'gvisor' }));
  const why = () => made.why('a');
  assert.deepEqual(why(), {
    code: 'no_worker',
    message: 'no worker is online; needed is one that gives isolation gvisor or better',
    position: 1,
  });
  online(made, 'c', { ...ROOM });
  online(made, 'e1', { ...ROOM, isolation: 'emulated' });
  online(made, 'e2', { ...ROOM, isolation: 'emulated' });
  assert.deepEqual(why(), {
    code: 'isolation',
    message: 'no worker that is online gives isolation gvisor or better; there is: emulated (2), container (1)',
    position: 1,
  });
  online(made, 'small', { memoryMiB: 300, cpus: 2, diskMiB: 600, sandboxOverheadMiB: 100, isolation: 'gvisor' });
  assert.deepEqual(why(), {
    code: 'too_large',
    message:
      'no worker that is online and gives isolation gvisor or better is large enough for 256 MiB of memory, 1 CPU and 512 MiB of disk; the largest has 200 MiB of memory, 2 CPU and 600 MiB of disk',
    position: 1,
  });
  online(made, 'full', { ...ROOM, isolation: 'microvm', attempts: [item('other', { cpus: 8 })] });
  assert.deepEqual(why(), {
    code: 'busy',
    message: 'workers that could run it: 1; none has room now for 256 MiB of memory, 1 CPU and 512 MiB of disk',
    position: 1,
  });
  made.apply({ type: 'released', attemptId: 'other' });
  assert.equal(why(), null);
  assert.deepEqual(placements(made), ['a>full']);
  assert.equal(why(), null);
  assert.equal(made.why('never'), null);
});

test('a thousand workers and ten thousand attempts, each is placed once and no worker is overfull', () => {
  const made = new Scheduler();
  for (let at = 0; at < 1_000; at += 1) {
    online(made, `w${at}`, { memoryMiB: 2560, cpus: 10 });
  }
  for (let at = 0; at < 10_000; at += 1) queue(made, item(`a${at}`, { projectId: `p${at % 7}` }));
  const placed = placements(made);
  assert.equal(new Set(placed.map((one) => one.split('>')[0])).size, 10_000);
  for (let at = 0; at < 1_000; at += 1) assert.equal(made.usage(`w${at}`).cpus, 10);
});

/** Has these large blobs. */
const has = (made: Scheduler, workerId: string, ...added: string[]) =>
  made.apply({ type: 'worker_blobs', workerId, added, removed: [] });

test('a worker that has the image, it is taken before a tighter one; then the code counts, then the fit', () => {
  const made = scheduler({
    tight: { memoryMiB: 512, cpus: 8 },
    coded: { memoryMiB: 512, cpus: 8 },
    imaged: { memoryMiB: 4096, cpus: 8 },
    both: { memoryMiB: 8192, cpus: 1 },
  });
  has(made, 'coded', 'code');
  has(made, 'imaged', 'image', 'other');
  has(made, 'both', 'code', 'image');
  queue(made, item('a'), item('b'), item('c', { blobs: ['else', 'code'] }), item('d', { blobs: ['else', 'none'] }));
  assert.deepEqual(placements(made), ['a>both', 'b>imaged', 'c>coded', 'd>coded']);
});

test('the worker that has the image is full, another takes the attempt at once', () => {
  const made = scheduler({ holder: { memoryMiB: 256, cpus: 8 }, other: { memoryMiB: 4096, cpus: 8 } });
  has(made, 'holder', 'image');
  queue(made, item('a'), item('b'), item('c'));
  assert.deepEqual(placements(made), ['a>holder', 'b>other', 'c>other']);
});

test('blobs that are there for one project only, the others are served in turn all the same', () => {
  const made = scheduler({ w: { memoryMiB: 256 * 4, cpus: 8 } });
  has(made, 'w', 'image');
  queue(made, item('a1'), item('a2'), item('b1', { projectId: 'q', blobs: ['else'] }), item('a3'));
  assert.deepEqual(placements(made), ['a1>w', 'b1>w', 'a2>w', 'a3>w']);
});

test('blobs of attempts of one shape, the oldest attempt goes first whatever it needs', () => {
  const made = scheduler({ w: { memoryMiB: 256, cpus: 8 } });
  has(made, 'w', 'image');
  queue(made, item('a', { blobs: ['else'] }), item('b'));
  assert.deepEqual(placements(made), ['a>w']);
});

test('a blob that is removed, or a worker that comes back, it counts no more', () => {
  const made = scheduler({ holder: { memoryMiB: 8192, cpus: 8 }, tight: { memoryMiB: 1024, cpus: 8 } });
  has(made, 'holder', 'image');
  queue(made, item('a'));
  assert.deepEqual(placements(made), ['a>holder']);
  made.apply({ type: 'worker_blobs', workerId: 'holder', added: [], removed: ['image'] });
  queue(made, item('b'));
  assert.deepEqual(placements(made), ['b>tight']);
  has(made, 'holder', 'image');
  made.apply({ type: 'worker_offline', workerId: 'holder' });
  online(made, 'holder', { memoryMiB: 8192, cpus: 8 });
  queue(made, item('c'));
  assert.deepEqual(placements(made), ['c>tight']);
  has(made, 'unknown', 'image');
  assert.equal(made.blobCount('unknown'), 0);
});
