import { execFile } from 'node:child_process';
import { createReadStream, createWriteStream } from 'node:fs';
import { copyFile, mkdir, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { defaultArtifacts } from '../../src/config.ts';
import { type Artifacts, readArtifacts } from '../../src/sandbox/microvm/artifacts.ts';
import { SnapshotStore } from '../../src/sandbox/microvm/snapshot-store.ts';
import type { HostileTarget } from '../hostile-guest.conformance.ts';
import { workspace } from './workspace.ts';

const HOSTILE = fileURLToPath(new URL('../../../../guest/hostile', import.meta.url));
const run = promisify(execFile);

/** What a driver of microVMs starts from when its guests are to be hostile. */
export interface HostileParts {
  readonly artifacts: Artifacts;
  /** Of these guests alone; null: they boot. */
  readonly snapshots: SnapshotStore | null;
}

/** A target whose machines have the hostile guest in the agent's place. Within `muteMs` a restored one runs. */
export async function hostileMicrovm(
  muteMs: number,
  makeTarget: (parts: HostileParts) => Promise<Pick<HostileTarget, 'driver' | 'leftovers'> & AsyncDisposable>,
): Promise<HostileTarget> {
  await using scope = new AsyncDisposableStack();
  const { path } = scope.use(await workspace());
  const real = readArtifacts(defaultArtifacts(process.env));
  const artifacts = { ...real, initrd: await hostileInitrd(real.initrd, path) };
  const store = new SnapshotStore({ directory: join(path, 'snapshots'), budgetBytes: 2 ** 30 });
  const restored = scope.use(await makeTarget({ artifacts, snapshots: store }));
  const cold = scope.use(await makeTarget({ artifacts, snapshots: null }));
  for (const { driver } of [restored, cold]) await driver.prepare();
  // The first start boots a machine, and makes the snapshot.
  const beganMs = performance.now();
  const drive = join(path, 'empty');
  await writeFile(drive, Buffer.alloc(65_536));
  const shape = { memoryMiB: 128, cpus: 1, scratchMiB: 512 };
  const first = { ...shape, name: 'first', imagePath: drive, codePath: drive };
  await (await restored.driver.start(first, new AbortController().signal)).destroy();
  const bootMs = performance.now() - beganMs;
  const owned = scope.move();
  return {
    driver: restored.driver,
    cold: cold.driver,
    muteMs: { driver: muteMs, cold: 2_000 + 2 * bootMs },
    leftovers: async () => [...(await restored.leftovers()), ...(await cold.leftovers())],
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** The kernel unpacks one archive after the other, and a later file replaces an earlier one. */
async function hostileInitrd(initrd: string, directory: string): Promise<string> {
  await run('make', ['--silent', '-C', HOSTILE]);
  const tree = join(directory, 'tree');
  await mkdir(tree);
  await copyFile(join(HOSTILE, 'build/hostile'), join(tree, 'init'));
  // The same bytes again give the same archive.
  await utimes(join(tree, 'init'), 0, 0);
  await writeFile(join(directory, 'names'), 'init\n');
  const pack = 'cpio --quiet -o -H newc --reproducible -R 0:0 <../names >../init.cpio';
  await run('/bin/sh', ['-c', pack], { cwd: tree });
  const path = join(directory, 'initrd.img');
  await pipeline(createReadStream(initrd), createWriteStream(path));
  await pipeline(createReadStream(join(directory, 'init.cpio')), createWriteStream(path, { flags: 'a' }));
  return path;
}
