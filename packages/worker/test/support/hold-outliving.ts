/**
 * `hold-outliving.ts firecracker|qemu TAG` starts two sandboxes and holds them until this process is killed: `kept` runs a program and was made
 * to outlive this process, `waiting` waits with nothing in it. It prints `Held` as JSON.
 */
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { MeterReading } from '@cocore/protocol';
import { openCgroups } from '../../src/cgroup/open.ts';
import type { SandboxHandle } from '../../src/sandbox/driver.ts';
import { firecrackerTarget } from './firecracker-target.ts';
import { hostSnapshots } from './host-snapshots.ts';
import { qemuTarget } from './qemu-target.ts';
import { startProgram } from './run-program.ts';
import { eventually } from './workspace.ts';

export interface Held {
  readonly handle: SandboxHandle;
  readonly usage: MeterReading;
  readonly pids: { readonly kept: readonly number[]; readonly waiting: readonly number[] };
  readonly runDir: string;
  /** To be removed. */
  readonly path: string;
}

const [, , driver, tag = 'held'] = process.argv;
if (driver !== undefined) {
  const snapshots = hostSnapshots();
  const target =
    driver === 'qemu'
      ? await qemuTarget(tag, snapshots, { recover: true })
      : await firecrackerTarget(tag, { options: { snapshots, recover: true } });
  await target.driver.prepare();
  const { imagePath, codePath, runDir } = target;
  const shape = { memoryMiB: 128, cpus: 1, scratchMiB: 512 };
  await target.driver.startBlank('waiting', shape, new AbortController().signal);
  const spec = { name: 'kept', ...shape, imagePath, codePath };
  const steps = ['out:first\n', 'sleep:1000', 'out:second\n', 'sleep:1000', 'out:third\n', 'artifact:a:b', 'exit:7'];
  const program = await startProgram(target.driver, spec, target.argv(steps));
  await eventually('output', () => Buffer.concat(program.output.stdout).length > 0);
  const { sandbox, channel } = program.booted;
  channel[Symbol.dispose]();
  sandbox.outlive?.();
  const cgroups = await openCgroups();
  const pids = (name: string) => cgroups.open(`${tag}.${name}`).pids();
  const held: Held = {
    handle: sandbox.handle,
    usage: await sandbox.usage(),
    pids: { kept: await pids('kept'), waiting: await pids('waiting') },
    runDir,
    path: dirname(runDir),
  };
  process.stdout.write(`${JSON.stringify(held)}\n`);
  await sleep(60_000);
}
