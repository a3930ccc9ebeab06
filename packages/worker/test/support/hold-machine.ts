/** Starts a machine and holds it until this process is killed: `hold-machine.ts TAG` prints its processes as JSON. */
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { openCgroups } from '../../src/cgroup/open.ts';
import { qemuTarget } from './qemu-target.ts';
import { startProgram } from './run-program.ts';

const [, , tag = 'held'] = process.argv;
const target = await qemuTarget(tag);
await target.driver.prepare();
const { imagePath, codePath } = target;
const spec = { name: 'held', memoryMiB: 128, cpus: 1, scratchMiB: 512, imagePath, codePath };
const program = await startProgram(target.driver, spec, target.argv(['sleep:60000']));
await program.started;
const pids = await (await openCgroups()).open(`${tag}.held`).pids();
process.stdout.write(`${JSON.stringify({ pids, path: dirname(target.runDir) })}\n`);
await sleep(60_000);
