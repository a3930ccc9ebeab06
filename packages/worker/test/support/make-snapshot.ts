/** `make-snapshot.ts DIRECTORY`: makes a snapshot there, says `begun` in the middle of it, and goes on when its input ends. */
import { once } from 'node:events';
import { appendFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SnapshotStore } from '../../src/sandbox/microvm/snapshot-store.ts';

const store = new SnapshotStore({ directory: process.argv[2]!, budgetBytes: 1000 });
const key = { kernel: 'k', initrd: 'i', vmm: 'v', cpu: 'c', memoryMiB: 128, cpus: 1 };
const snapshot = await store.open(key, ['memory', 'state'], async (directory) => {
  await writeFile(join(directory, 'memory'), Buffer.alloc(9, 'm'));
  process.stdout.write('begun\n');
  process.stdin.resume();
  await once(process.stdin, 'end');
  await appendFile(join(directory, 'memory'), Buffer.alloc(90, 'm'));
  await writeFile(join(directory, 'state'), 's');
});
await snapshot[Symbol.asyncDispose]();
