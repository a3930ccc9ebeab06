import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import {
  type MakeSnapshot,
  type Snapshot,
  type SnapshotKey,
  SnapshotStore,
} from '../src/sandbox/microvm/snapshot-store.ts';
import { workspace } from './support/workspace.ts';

const KEY: SnapshotKey = { kernel: 'k', initrd: 'i', vmm: 'v', cpu: 'c', memoryMiB: 128, cpus: 1 };

const FILES = ['memory', 'state'];

const MAKES_ONE = fileURLToPath(new URL('support/make-snapshot.ts', import.meta.url));
const skip = process.geteuid?.() === 0 ? false : 'network namespaces are made by root';

/** Writes so many bytes, and counts how often it was asked to. */
function maker(bytes = 100) {
  const make = async (directory: string) => {
    make.times += 1;
    await writeFile(join(directory, 'memory'), Buffer.alloc(bytes - 1, 'm'));
    await writeFile(join(directory, 'state'), 's');
  };
  make.times = 0;
  return make;
}

async function read(store: SnapshotStore, key: SnapshotKey, make: MakeSnapshot): Promise<number> {
  await using snapshot = await store.open(key, FILES, make);
  return bytesOf(snapshot);
}

async function bytesOf({ files }: Snapshot): Promise<number> {
  const pieces = await Promise.all(files.map((file) => file.readFile()));
  return Buffer.concat(pieces).length;
}

describe('snapshot store', () => {
  test('ten that ask at once, one snapshot is made and all get it', async () => {
    await using space = await workspace();
    const store = new SnapshotStore({ directory: space.path, budgetBytes: 1000 });
    const make = maker();
    const sizes = await Promise.all(Array.from({ length: 10 }, () => read(store, KEY, make)));
    assert.deepEqual(
      sizes,
      Array.from({ length: 10 }, () => 100),
    );
    assert.equal(make.times, 1);
  });

  test('two daemons that ask at once, one of them makes it', async () => {
    await using space = await workspace();
    const stores = [1, 2].map(() => new SnapshotStore({ directory: space.path, budgetBytes: 1000 }));
    const make = maker();
    const sizes = await Promise.all(stores.map((store) => read(store, KEY, make)));
    assert.deepEqual(sizes, [100, 100]);
    assert.equal(make.times, 1);
  });

  for (const [field, value] of Object.entries({
    kernel: 'x',
    initrd: 'x',
    vmm: 'x',
    cpu: 'x',
    memoryMiB: 256,
    cpus: 2,
  })) {
    test(`another ${field}, another snapshot`, async () => {
      await using space = await workspace();
      const store = new SnapshotStore({ directory: space.path, budgetBytes: 1000 });
      const make = maker();
      await read(store, KEY, make);
      await read(store, { ...KEY, [field]: value }, make);
      assert.equal(make.times, 2);
    });
  }

  test('more than the budget, the one used longest ago goes', async () => {
    await using space = await workspace();
    let nowMs = 0;
    const store = new SnapshotStore({ directory: space.path, budgetBytes: 250, now: () => (nowMs += 1_000) });
    const make = maker();
    const keys = ['a', 'b', 'c'].map((kernel) => ({ ...KEY, kernel }));
    await read(store, keys[0]!, make);
    await read(store, keys[1]!, make);
    await read(store, keys[0]!, make);
    await read(store, keys[2]!, make);
    assert.equal(make.times, 3);
    assert.equal((await readdir(space.path)).length, 2);
    await read(store, keys[0]!, make);
    assert.equal(make.times, 3, 'the one used later stayed');
  });

  test('one that is larger than the budget, it is made and stays alone', async () => {
    await using space = await workspace();
    const store = new SnapshotStore({ directory: space.path, budgetBytes: 10 });
    assert.equal(await read(store, KEY, maker()), 100);
    assert.equal((await readdir(space.path)).length, 1);
  });

  test('an eviction while it is read, the reader reads it to its end', async () => {
    await using space = await workspace();
    const store = new SnapshotStore({ directory: space.path, budgetBytes: 1000 });
    await using snapshot = await store.open(KEY, FILES, maker());
    await store.discard(KEY);
    assert.equal(await bytesOf(snapshot), 100);
    assert.deepEqual(await readdir(space.path), []);
  });

  test('making fails, it is told, nothing is left, and the next one makes it', async () => {
    await using space = await workspace();
    const store = new SnapshotStore({ directory: space.path, budgetBytes: 1000 });
    const fail = async (directory: string) => {
      await writeFile(join(directory, 'memory'), 'half');
      throw new Error('no machine');
    };
    await assert.rejects(store.open(KEY, FILES, fail), /no machine/);
    assert.deepEqual(await readdir(space.path), []);
    assert.equal(await read(store, KEY, maker()), 100);
  });

  test('what a dead daemon left half-made, it is made anew, and that is removed when nobody can be at it', async () => {
    await using space = await workspace();
    const store = new SnapshotStore({ directory: space.path, budgetBytes: 1000 });
    await read(store, KEY, maker());
    const [name] = await readdir(space.path);
    await store.discard(KEY);
    const [old, young] = [join(space.path, `.making-${name}-1`), join(space.path, `.making-${name}-2`)];
    for (const half of [old, young]) {
      await mkdir(half);
      await writeFile(join(half, 'memory'), 'half of it');
    }
    const longAgo = Date.now() / 1000 - 601;
    await utimes(old, longAgo, longAgo);
    assert.equal(await read(store, KEY, maker()), 100);
    // Somebody may be at it.
    assert.deepEqual((await readdir(space.path)).toSorted(), [basename(young), name]);
  });

  test(
    'two daemons that do not see each other’s lock, each makes it and what is there is whole',
    { skip },
    async () => {
      await using space = await workspace();
      const store = new SnapshotStore({ directory: space.path, budgetBytes: 1000 });
      const child = spawn('unshare', ['--net', process.execPath, MAKES_ONE, space.path], {
        stdio: ['pipe', 'pipe', 'inherit'],
      });
      const exited = once(child, 'exit');
      await once(child.stdout, 'data');
      // It has begun. Ours is made in the middle of it.
      assert.equal(await read(store, KEY, maker()), 100);
      child.stdin.end();
      assert.deepEqual(await exited, [0, null]);
      assert.equal(await read(store, KEY, () => Promise.reject(new Error('it is there'))), 100);
      assert.equal((await readdir(space.path)).length, 1);
    },
  );

  test('one of its files is gone, it is made anew', async () => {
    await using space = await workspace();
    const store = new SnapshotStore({ directory: space.path, budgetBytes: 1000 });
    const make = maker();
    await read(store, KEY, make);
    const [name] = await readdir(space.path);
    await rm(join(space.path, name!, 'state'));
    assert.equal(await read(store, KEY, make), 100);
    assert.equal(make.times, 2);
  });
});
