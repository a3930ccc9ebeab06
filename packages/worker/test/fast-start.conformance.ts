import assert from 'node:assert/strict';
import { readdir, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { BlankSandboxes, SandboxDriver } from '../src/sandbox/driver.ts';
import { SnapshotStore } from '../src/sandbox/microvm/snapshot-store.ts';
import { PooledDriver } from '../src/sandbox/pool/pooled-driver.ts';
import type { DriverTarget } from './driver.conformance.ts';
import { runProgram } from './support/run-program.ts';
import { eventually, workspace } from './support/workspace.ts';

const SHAPE = { memoryMiB: 128, cpus: 1, scratchMiB: 512 };

/** What must differ between two clones of one snapshot, and the time, which must be right. */
const IDENTITY =
  'cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid; od -An -N16 -tx1 /dev/urandom; date +%s%3N; head -c 1 /dev/vda';

/** A driver that can start machines from snapshots, and before it is known what runs in them. */
export interface FastStartTarget extends DriverTarget {
  readonly driver: SandboxDriver & BlankSandboxes;
}

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

/** What every driver with snapshots must show. `memoryFile` is the largest file of a snapshot. */
export function fastStartConformance(
  name: string,
  makeTarget: (snapshots: SnapshotStore | null) => Promise<FastStartTarget>,
  { skip, memoryFile }: { readonly skip: string | false; readonly memoryFile: string },
): void {
  describe(`${name}, fast start`, { skip }, () => {
    test('two clones of one snapshot, made once, differ in everything random and have the right time', async () => {
      await using space = await workspace();
      const store = new SnapshotStore({ directory: join(space.path, 'snapshots'), budgetBytes: 2 ** 30 });
      await using target = await makeTarget(store);
      await target.driver.prepare();
      const identities = await Promise.all(['one', 'two'].map((one) => identityOf(target.driver, target, one)));
      assertApart(identities);
      assert.equal((await readdir(join(space.path, 'snapshots'))).length, 1);
      assert.deepEqual(await target.leftovers(), []);
    });

    test('a snapshot that is damaged, it is removed and the program runs all the same', async () => {
      await using space = await workspace();
      const directory = join(space.path, 'snapshots');
      const store = new SnapshotStore({ directory, budgetBytes: 2 ** 30 });
      await using target = await makeTarget(store);
      await target.driver.prepare();
      await identityOf(target.driver, target, 'good');
      const [snapshot] = await readdir(directory);
      const memory = join(directory, snapshot!, memoryFile);
      await truncate(memory, 1_000_000);
      const again = await identityOf(target.driver, target, 'again');
      assert.match(again.bootId, /^[0-9a-f-]{36}$/);
      // Another one may have been made in its place.
      const sizeNow = () =>
        stat(memory).then(
          ({ size }) => size,
          () => 0,
        );
      await eventually('it is removed', async () => (await sizeNow()) !== 1_000_000);
      assert.deepEqual(await target.leftovers(), []);
    });

    test('snapshots are off, the machine boots', async () => {
      await using target = await makeTarget(null);
      await target.driver.prepare();
      const { bootId } = await identityOf(target.driver, target, 'cold');
      assert.match(bootId, /^[0-9a-f-]{36}$/);
    });

    test('two from the pool, they ran before they knew what, and differ', async () => {
      await using space = await workspace();
      const store = new SnapshotStore({ directory: join(space.path, 'snapshots'), budgetBytes: 2 ** 30 });
      await using target = await makeTarget(store);
      await using pool = new PooledDriver({ driver: target.driver, roomMiB: () => 800 });
      await pool.prepare();
      const identities = [await identityOf(pool, target, 'first')];
      for (const one of ['second', 'third']) {
        await eventually('one waits', () => pool.ready >= 1, 60_000);
        identities.push(await identityOf(pool, target, one));
      }
      assertApart(identities);
    });
  });
}
