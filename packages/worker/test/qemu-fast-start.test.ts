import assert from 'node:assert/strict';
import { readdir, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { SandboxDriver } from '../src/sandbox/driver.ts';
import { SnapshotStore } from '../src/sandbox/microvm/snapshot-store.ts';
import { PooledDriver } from '../src/sandbox/pool/pooled-driver.ts';
import { driverConformance, type DriverTarget } from './driver.conformance.ts';
import { qemuSkip, qemuTarget } from './support/qemu-target.ts';
import { runProgram } from './support/run-program.ts';
import { eventually, workspace } from './support/workspace.ts';

const skip = qemuSkip();
const tag = `fast${process.pid}`;

const SHAPE = { memoryMiB: 128, cpus: 1, scratchMiB: 512 };

/** What must differ between two clones of one snapshot, and the time, which must be right. */
const IDENTITY =
  'cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid; od -An -N16 -tx1 /dev/urandom; date +%s%3N; head -c 1 /dev/vda';

async function identityOf(driver: SandboxDriver, target: DriverTarget, name: string) {
  const { imagePath, codePath } = target;
  const askedMs = Date.now();
  const { stdout } = await runProgram(driver, { ...SHAPE, name, imagePath, codePath }, ['/bin/sh', '-c', IDENTITY]);
  const [bootId, uuid, random, timeMs] = stdout.toString().split('\n');
  return { bootId: bootId!, uuid: uuid!, random: random!, timeMs: Number(timeMs), askedMs, answeredMs: Date.now() };
}

function assertApart(identities: readonly Awaited<ReturnType<typeof identityOf>>[]): void {
  for (const field of ['bootId', 'uuid', 'random'] as const) {
    const values = identities.map((identity) => identity[field]);
    assert.match(values[0]!, /[0-9a-f]{2}.*[0-9a-f]{2}/, field);
    assert.equal(new Set(values).size, values.length, `${field}: ${values.join(' = ')}`);
  }
  for (const { timeMs, askedMs, answeredMs } of identities) {
    assert.ok(timeMs > askedMs - 100 && timeMs < answeredMs + 100, `${askedMs} … ${timeMs} … ${answeredMs}`);
  }
}

describe('qemu, fast start', { skip }, () => {
  test('two clones of one snapshot, made once, differ in everything random and have the right time', async () => {
    await using space = await workspace();
    const store = new SnapshotStore({ directory: join(space.path, 'snapshots'), budgetBytes: 2 ** 30 });
    await using target = await qemuTarget(tag, store);
    await target.driver.prepare();
    const identities = await Promise.all(['one', 'two'].map((name) => identityOf(target.driver, target, name)));
    assertApart(identities);
    assert.equal((await readdir(join(space.path, 'snapshots'))).length, 1);
  });

  test('a snapshot that is damaged, it is removed and the program runs all the same', async () => {
    await using space = await workspace();
    const directory = join(space.path, 'snapshots');
    const store = new SnapshotStore({ directory, budgetBytes: 2 ** 30 });
    await using target = await qemuTarget(tag, store);
    await target.driver.prepare();
    await identityOf(target.driver, target, 'good');
    const [name] = await readdir(directory);
    await truncate(join(directory, name!, 'machine'), 1_000_000);
    const again = await identityOf(target.driver, target, 'again');
    assert.match(again.bootId, /^[0-9a-f-]{36}$/);
  });

  test('snapshots are off, the machine boots', async () => {
    await using target = await qemuTarget(tag, null);
    await target.driver.prepare();
    const { bootId } = await identityOf(target.driver, target, 'cold');
    assert.match(bootId, /^[0-9a-f-]{36}$/);
  });

  test('two from the pool, they ran before they knew what, and differ', async () => {
    await using target = await qemuTarget(tag);
    await using pool = new PooledDriver({ driver: target.driver, roomMiB: () => 400 });
    await pool.prepare();
    const identities = [await identityOf(pool, target, 'first')];
    for (const name of ['second', 'third']) {
      await eventually('one waits', () => pool.ready === 1, 30_000);
      identities.push(await identityOf(pool, target, name));
    }
    assertApart(identities);
  });
});

/** Every start but the first is from the pool, so the first is made here. */
async function pooledTarget(): Promise<DriverTarget> {
  const target = await qemuTarget(tag);
  const pool = new PooledDriver({ driver: target.driver, roomMiB: () => 800 });
  return {
    ...target,
    driver: pool,
    // What waits is no sandbox of a program.
    leftovers: async () => (await target.leftovers()).filter((name) => !/\bpool_\d+$/.test(name)),
    [Symbol.asyncDispose]: async () => {
      await pool[Symbol.asyncDispose]();
      await target[Symbol.asyncDispose]();
    },
  };
}

if (skip === false) driverConformance('qemu from the pool', pooledTarget);
