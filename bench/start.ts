/**
 * How long a sandbox takes from the task to the function: for each driver of this machine cold, from a snapshot and from the pool, beside the raw
 * floor, which is the same monitor or runtime started by hand without any of CoCore's walls. All in turn, round after round, so that
 * what else the machine does falls on all alike.
 */
import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { defaultArtifacts } from '../packages/worker/src/config.ts';
import type { BlankSandboxes, SandboxDriver, SandboxSpec } from '../packages/worker/src/sandbox/driver.ts';
import { FirecrackerDriver } from '../packages/worker/src/sandbox/firecracker/firecracker-driver.ts';
import { findTools } from '../packages/worker/src/sandbox/firecracker/tools.ts';
import { readArtifacts } from '../packages/worker/src/sandbox/microvm/artifacts.ts';
import { SnapshotStore } from '../packages/worker/src/sandbox/microvm/snapshot-store.ts';
import { OciDriver } from '../packages/worker/src/sandbox/oci/oci-driver.ts';
import { CRUN, GVISOR } from '../packages/worker/src/sandbox/oci/runtimes.ts';
import { PooledDriver } from '../packages/worker/src/sandbox/pool/pooled-driver.ts';
import { QemuDriver } from '../packages/worker/src/sandbox/qemu/qemu-driver.ts';
import { firstByteOf, type StartTimes } from './start/first-byte.ts';
import { runtimeFloor } from './start/runtime-floor.ts';
import { qemuFloor } from './start/qemu-floor.ts';
import { median, ms, quantile, ratio, row } from './table.ts';

const ROUNDS = 9;
const SHAPE = { memoryMiB: 128, cpus: 1, scratchMiB: 512 };

/** One way to start, measured once a round. */
interface Way {
  readonly name: string;
  readonly once: () => Promise<StartTimes>;
  readonly measured: StartTimes[];
}

await using scope = new AsyncDisposableStack();
const directory = await mkdtemp(join(tmpdir(), 'cocore-bench-'));
scope.defer(() => rm(directory, { recursive: true, force: true }));
const artifacts = readArtifacts(defaultArtifacts(process.env));
const { guestKernel, kernelVersion } = JSON.parse(await readFile(defaultArtifacts(process.env), 'utf8')) as Record<
  string,
  string
>;
console.log(`guest kernel: ${guestKernel}, Linux ${kernelVersion}\n`);
const codePath = join(directory, 'code.erofs');
await mkdir(join(directory, 'code'));
await writeFile(join(directory, 'code', 'hello.sh'), 'echo hello\n');
await promisify(execFile)('mkfs.erofs', ['--quiet', codePath, join(directory, 'code')]);

let serial = 0;
const spec = (): SandboxSpec => {
  serial += 1;
  return { ...SHAPE, name: `bench_${serial}`, imagePath: artifacts.baseImage, codePath };
};
const way = (name: string, once: () => Promise<StartTimes>): Way => ({ name, once, measured: [] });
const parts = (name: string) => ({ artifacts, runDir: join(directory, name), daemonTag: `bench${process.pid}${name}` });

async function prepared<Driver extends SandboxDriver>(driver: Driver): Promise<Driver> {
  scope.use(driver);
  await driver.prepare();
  return driver;
}

async function qemuWays(): Promise<Way[]> {
  const floor = way('floor: QEMU by hand, same kernel, no jail', () => qemuFloor(artifacts, spec(), directory));
  return [floor, ...(await microvmWays((name, snapshots) => new QemuDriver({ ...parts(name), snapshots })))];
}

async function microvmWays(
  make: (name: string, snapshots: SnapshotStore | null) => SandboxDriver & BlankSandboxes,
): Promise<Way[]> {
  const snapshots = new SnapshotStore({ directory: join(directory, 'snapshots'), budgetBytes: 2 ** 31 });
  const cold = await prepared(make('cold', null));
  const restored = await prepared(make('restored', snapshots));
  const pool = scope.use(new PooledDriver({ driver: await prepared(make('pool', snapshots)), roomMiB: () => 450 }));
  // The first start makes the snapshot, and tells the pool which shape to keep.
  await firstByteOf(restored, spec());
  await firstByteOf(pool, spec());
  return [
    way('cold', () => firstByteOf(cold, spec())),
    way('snapshot', () => firstByteOf(restored, spec())),
    way('pool', async () => {
      while (pool.ready === 0) await sleep(20);
      return firstByteOf(pool, spec());
    }),
  ];
}

async function ociWays(runtime: typeof GVISOR): Promise<Way[]> {
  const driver = await prepared(new OciDriver({ ...parts(runtime.name), runtime }));
  return [
    way(`floor: ${runtime.name} by hand, files mounted`, () => runtimeFloor(runtime, spec(), directory)),
    way('cold', () => firstByteOf(driver, spec())),
  ];
}

async function firecrackerWays(): Promise<Way[]> {
  const tools = await findTools(process.env);
  return microvmWays((name, snapshots) => new FirecrackerDriver({ ...parts(name), tools, snapshots }));
}

async function measure(driver: string, makeWays: () => Promise<Way[]>): Promise<void> {
  const ways = await makeWays().catch((error: unknown) => {
    console.log(`${driver}: not on this machine: ${error instanceof Error ? error.message : String(error)}\n`);
    return [];
  });
  if (ways.length === 0) return;
  for (let round = 0; round < ROUNDS; round += 1) for (const one of ways) one.measured.push(await one.once());
  row(`${driver}, ${ROUNDS} rounds`, 'agent ready', 'p95', 'first byte', 'p95');
  for (const one of ways) {
    const { ready, byte } = timesOf(one);
    const readyCells = ready === null ? ['–', '–'] : [ms(median(ready)), ms(quantile(ready, 0.95))];
    row(`  ${one.name}`, ...readyCells, ms(median(byte)), ms(quantile(byte, 0.95)));
  }
  for (const [at, one] of ways.entries()) {
    const before = ways[at - 1];
    if (before === undefined) continue;
    const [now, then] = [timesOf(one), timesOf(before)];
    const ready = now.ready === null || then.ready === null ? '–' : ratio(median(now.ready), median(then.ready));
    row(`  ${one.name} beside ${before.name.split(':')[0]}`, ready, '', ratio(median(now.byte), median(then.byte)));
  }
  console.log();
}

function timesOf({ measured }: Way): { ready: number[] | null; byte: number[] } {
  const ready = measured.flatMap(({ agentReadyMs }) => (agentReadyMs === null ? [] : [agentReadyMs]));
  return { ready: ready.length === 0 ? null : ready, byte: measured.map(({ firstByteMs }) => firstByteMs) };
}

await measure('qemu (software emulation)', qemuWays);
await measure('gvisor', () => ociWays(GVISOR));
await measure('crun', () => ociWays(CRUN));
await measure('firecracker', firecrackerWays);
