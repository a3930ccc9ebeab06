import assert from 'node:assert/strict';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { SnapshotStore } from '../../src/sandbox/microvm/snapshot-store.ts';
import { fastStartConformance } from '../fast-start.conformance.ts';
import { firecrackerSkip, firecrackerTarget, isReal } from '../support/firecracker-target.ts';
import { workspace } from '../support/workspace.ts';

const name = isReal ? 'firecracker' : 'firecracker (double)';
const tag = `fcfast${process.pid}`;

fastStartConformance(name, (snapshots) => firecrackerTarget(tag, { options: { snapshots } }), {
  skip: firecrackerSkip(),
  memoryFile: 'memory',
});

test(
  'a snapshot, it is root’s and nobody may write what every clone starts from',
  { skip: firecrackerSkip() },
  async () => {
    await using space = await workspace();
    const directory = join(space.path, 'snapshots');
    const snapshots = new SnapshotStore({ directory, budgetBytes: 2 ** 30 });
    await using target = await firecrackerTarget(tag, { options: { snapshots } });
    await target.driver.prepare();
    const { imagePath, codePath } = target;
    const spec = { name: 'first', memoryMiB: 128, cpus: 1, scratchMiB: 512, imagePath, codePath };
    await using sandbox = await target.driver.start(spec, new AbortController().signal);
    const [name] = await readdir(directory);
    for (const file of ['memory', 'state']) {
      const { uid, mode, size } = await stat(join(directory, name!, file));
      assert.deepEqual([uid, mode & 0o777], [0, 0o444], file);
      assert.ok(size > 0);
    }
    await sandbox.destroy();
    assert.deepEqual(await target.leftovers(), []);
  },
);
