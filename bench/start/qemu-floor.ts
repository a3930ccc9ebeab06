import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { rm } from 'node:fs/promises';
import { createConnection, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { SandboxSpec } from '../../packages/worker/src/sandbox/driver.ts';
import type { Artifacts } from '../../packages/worker/src/sandbox/microvm/artifacts.ts';
import { GuestStream } from '../../packages/worker/src/sandbox/microvm/guest-stream.ts';
import { ScratchTemplates } from '../../packages/worker/src/sandbox/microvm/scratch.ts';
import { machineMemoryMiB } from '../../packages/worker/src/sandbox/microvm/shape.ts';
import { drivePath, JAIL_PATHS, qemuCommand } from '../../packages/worker/src/sandbox/qemu/command.ts';
import { hostTscKhz } from '../../packages/worker/src/sandbox/qemu/tsc.ts';
import { type StartTimes, talk } from './first-byte.ts';

const LOOK_MS = 2;
const DEADLINE_MS = 60_000;
const tscKhz = await hostTscKhz();
let templates: ScratchTemplates | null = null;

/** QEMU with the same machine, started as anybody would from a shell: as this user, in no jail and no control group. */
export async function qemuFloor(artifacts: Artifacts, spec: SandboxSpec, directory: string): Promise<StartTimes> {
  templates ??= new ScratchTemplates(directory);
  const scratch = join(directory, `${spec.name}.scratch`);
  // Made before the clock runs: a floor has it lying there.
  await templates.write(scratch, spec.scratchMiB, 0);
  const agent = join(directory, `${spec.name}.agent`);
  const places = new Map([
    [JAIL_PATHS.agent, agent],
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
    hasNetwork: false,
    restore: false,
  }).map((argument) => [...places].reduce((text, [from, to]) => text.replaceAll(from, to), argument));
  const beganMs = performance.now();
  const child = spawn(program!, args, { stdio: ['ignore', 'ignore', 'ignore', 'ignore', 'ignore', 'pipe'] } as const);
  const exited = new Promise((resolve) => child.once('exit', resolve));
  const gone = new AbortController();
  void exited.then(() => gone.abort());
  const connect = () => connectWhenThere(agent, gone.signal);
  const stream = new GuestStream({ connect, deadlineMs: DEADLINE_MS, signal: gone.signal });
  try {
    return await talk(stream, spec, beganMs);
  } finally {
    stream.destroy();
    child.kill('SIGKILL');
    await exited;
    await Promise.all([scratch, agent].map((path) => rm(path, { force: true })));
  }
}

async function connectWhenThere(path: string, signal: AbortSignal): Promise<Socket> {
  for (;;) {
    const socket = createConnection(path);
    try {
      await once(socket, 'connect');
      return socket.on('error', () => undefined);
    } catch {
      await sleep(LOOK_MS, undefined, { signal });
    }
  }
}
