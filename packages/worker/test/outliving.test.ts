import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdir, readdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import type { Cgroup } from '../src/cgroup/cgroup.ts';
import { takeHostLock } from '../src/host/lock.ts';
import { isRunning, markOf, userIdsOf } from '../src/host/process.ts';
import type { SandboxHandle } from '../src/sandbox/driver.ts';
import { findOutliving, type OutlivingState } from '../src/sandbox/outliving.ts';
import { removeAllBut } from '../src/sandbox/sweep.ts';
import { UidPool } from '../src/sandbox/uid-pool.ts';
import { eventually, workspace } from './support/workspace.ts';

const isRoot = process.geteuid?.() === 0;

test('a lock that a child inherited, it is held until the child ends too', async () => {
  const name = `test/${process.pid}/inherited`;
  const lock = await takeHostLock(name);
  const child = spawn('sleep', ['60'], { stdio: ['ignore', 'ignore', 'ignore', lock!.fd] });
  const exited = new Promise((resolve) => child.once('exit', resolve));
  await lock![Symbol.asyncDispose]();
  assert.equal(await takeHostLock(name), null);
  child.kill('SIGKILL');
  await exited;
  const again = await takeHostLock(name);
  assert.ok(again !== null);
  await again[Symbol.asyncDispose]();
});

test('a process’s mark, it is that of no other and ends with it, whether or not it was asked how', async () => {
  const child = spawn('sh', ['-c', 'sleep 60 & echo $!; exec sleep 60'], { stdio: ['ignore', 'pipe', 'ignore'] });
  const exited = new Promise((resolve) => child.once('exit', resolve));
  const inner = Number(await new Promise<Buffer>((resolve) => child.stdout.once('data', resolve)));
  const marks = [markOf(child.pid!)!, markOf(inner)!] as const;
  assert.deepEqual(marks.map(isRunning), [true, true]);
  assert.equal(isRunning({ ...marks[0], startTicks: marks[0].startTicks - 1 }), false);
  // Its parent waits for nobody.
  process.kill(inner, 'SIGKILL');
  await eventually('it has ended', () => !isRunning(marks[1]));
  child.kill('SIGKILL');
  await exited;
  assert.equal(isRunning(marks[0]), false);
});

test('a directory that is swept, what is spared stays, and no link is followed', async () => {
  await using space = await workspace();
  const [run, other] = [join(space.path, 'run'), join(space.path, 'other')];
  for (const path of ['vmm/kept/root', 'vmm/kept2', 'scratch-1']) await mkdir(join(run, path), { recursive: true });
  await mkdir(other);
  for (const path of ['placeholder', 'vmm/kept/scratch', '../other/file']) await writeFile(join(run, path), '');
  await symlink(other, join(run, 'vmm/link'));
  await removeAllBut(run, [join(run, 'vmm/kept'), join(run, 'vmm/gone')]);
  assert.deepEqual((await readdir(run, { recursive: true })).sort(), [
    'vmm',
    'vmm/kept',
    'vmm/kept/root',
    'vmm/kept/scratch',
  ]);
  assert.deepEqual(await readdir(other), ['file']);
  await removeAllBut(run, []);
  assert.deepEqual(await readdir(space.path), ['other']);
});

describe('a handle of an earlier life', { skip: isRoot ? false : 'it changes user ids' }, () => {
  const uids = new UidPool(3_900_000 + (process.pid % 50_000), 1);
  let scope: AsyncDisposableStack;
  beforeEach(() => (scope = new AsyncDisposableStack()));
  afterEach(() => scope.disposeAsync());

  const live = async (uid: number): Promise<number> => {
    const child = spawn('setpriv', ['--reuid', String(uid), '--', 'sleep', '60'], { stdio: 'ignore' });
    const exited = new Promise((resolve) => child.once('exit', resolve));
    scope.defer(async () => {
      child.kill('SIGKILL');
      await exited;
    });
    await eventually('it is its user’s', () => userIdsOf([child.pid!])[0] === uid);
    return child.pid!;
  };

  /** A sandbox as one is: a process of root's, and one of its user's. */
  const sandbox = async () => {
    const { uid } = scope.use(await uids.take());
    const pids = [await live(0), await live(uid)];
    const state: OutlivingState = { process: markOf(pids[0]!)!, uid, beganMs: 1, cpuMsBefore: 2 };
    return { uid, pids, state };
  };
  const find = (state: unknown, pids: readonly number[]) => {
    const handle: SandboxHandle = { version: 1, driver: 'any', name: 'any', state };
    return findOutliving(handle, { pids: () => Promise.resolve([...pids]) } as Partial<Cgroup> as Cgroup, uids);
  };

  test('that is true, the sandbox is found', async () => {
    const { pids, state } = await sandbox();
    assert.deepEqual(await find(JSON.parse(JSON.stringify(state)), pids), { state });
  });

  test('that is not true in one thing, nothing is found', async () => {
    const { uid, pids, state } = await sandbox();
    const stranger = await live(uid + 7);
    const other = markOf(process.pid)!;
    const wrong: readonly (readonly [string, unknown, readonly number[]])[] = [
      ['no state', undefined, pids],
      ['a state of another form', { ...state, uid: '0' }, pids],
      ['root’s own id', { ...state, uid: 0 }, pids],
      ['process 1', { ...state, process: { ...state.process, pid: 1 } }, [1, ...pids]],
      ['an empty group', state, []],
      ['a process outside of the group', state, pids.slice(1)],
      ['a number that is another’s now', { ...state, process: { ...state.process, startTicks: 5 } }, pids],
      ['a process of the daemon’s', { ...state, process: other }, pids],
      ['nothing of the user', state, pids.slice(0, 1)],
      ['something of another user', state, [...pids, stranger]],
      ['an id beyond the pool', { ...state, uid: uid + 7 }, [pids[0]!, stranger]],
    ];
    for (const [what, claimed, group] of wrong) assert.equal(await find(claimed, group), null, what);
    assert.deepEqual(await find(state, pids), { state });
  });

  test('whose user id nobody holds, nothing is found: another sandbox may have had it', async () => {
    const { uid, pids, state } = await sandbox();
    assert.ok(await uids.isTaken(uid));
    const free = new UidPool(uid + 100_000, 1);
    const handle: SandboxHandle = { version: 1, driver: 'any', name: 'any', state: { ...state, uid: uid + 100_000 } };
    const group = { pids: async () => [pids[0]!, await live(uid + 100_000)] } as Partial<Cgroup> as Cgroup;
    assert.equal(await findOutliving(handle, group, free), null);
  });
});
