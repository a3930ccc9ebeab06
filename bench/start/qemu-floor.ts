import { spawn } from 'node:child_process';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import type { SandboxSpec } from '../../packages/worker/src/sandbox/driver.ts';
import type { Artifacts } from '../../packages/worker/src/sandbox/microvm/artifacts.ts';
import { ScratchTemplates } from '../../packages/worker/src/sandbox/microvm/scratch.ts';
import { machineMemoryMiB } from '../../packages/worker/src/sandbox/microvm/shape.ts';
import { AGENT_FD, drivePath, JAIL_PATHS, qemuCommand } from '../../packages/worker/src/sandbox/qemu/command.ts';
import { hostTscKhz } from '../../packages/worker/src/sandbox/qemu/tsc.ts';
import { type StartTimes, talk } from './first-byte.ts';

const tscKhz = await hostTscKhz();
let templates: ScratchTemplates | null = null;

/** QEMU with the same machine, started as anybody would from a shell: as this user, in no jail and no control group. */
export async function qemuFloor(artifacts: Artifacts, spec: SandboxSpec, directory: string): Promise<StartTimes> {
  templates ??= new ScratchTemplates(directory);
  const scratch = join(directory, `${spec.name}.scratch`);
  // Made before the clock runs: a floor has it lying there.
  await templates.write(scratch, spec.scratchMiB, 0);
  const places = new Map([
    [JAIL_PATHS.kernel, artifacts.kernel],
    [JAIL_PATHS.initrd, artifacts.initrd],
    [drivePath('rootfs'), spec.imagePath],
    [drivePath('code'), spec.codePath],
    [drivePath('scratch'), scratch],
  ]);
  const [program, ...args] = qemuCommand({
    qemu: artifacts.qemu,
    accelerator: 'tcg',
    memoryMiB: machineMemoryMiB(spec.memoryMiB),
    cpus: spec.cpus,
    tscKhz,
    drives: 'files',
    restore: false,
  }).map((argument) => [...places].reduce((text, [from, to]) => text.replaceAll(from, to), argument));
  const beganMs = performance.now();
  const child = spawn(program!, args, { stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'] });
  const exited = new Promise((resolve) => child.once('exit', resolve));
  try {
    return await talk(child.stdio[AGENT_FD] as Duplex, spec, beganMs);
  } finally {
    child.kill('SIGKILL');
    await exited;
    await rm(scratch);
  }
}
