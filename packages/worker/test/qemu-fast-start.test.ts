import { PooledDriver } from '../src/sandbox/pool/pooled-driver.ts';
import { driverConformance, type DriverTarget } from './driver.conformance.ts';
import { fastStartConformance } from './fast-start.conformance.ts';
import { qemuSkip, qemuTarget } from './support/qemu-target.ts';

const skip = qemuSkip();
const tag = `fast${process.pid}`;

fastStartConformance('qemu', (snapshots) => qemuTarget(tag, snapshots), { skip, memoryFile: 'machine' });

/** Every start but the first is from the pool, so the first is made here. */
async function pooledTarget(): Promise<DriverTarget> {
  const target = await qemuTarget(tag);
  const pool = new PooledDriver({ driver: target.driver, roomMiB: () => 800 });
  return {
    ...target,
    driver: pool,
    // What waits is no sandbox of a program.
    leftovers: async () => (await target.leftovers()).filter((name) => !/\bpool_\w+$/.test(name)),
    [Symbol.asyncDispose]: async () => {
      await pool[Symbol.asyncDispose]();
      await target[Symbol.asyncDispose]();
    },
  };
}

if (skip === false) driverConformance('qemu from the pool', pooledTarget);
