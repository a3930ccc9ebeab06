/** Starts a container and holds it until this process is killed: `hold-container.ts RUNTIME TAG` prints its processes as JSON. */
import { setTimeout as sleep } from 'node:timers/promises';
import { openCgroups } from '../../src/cgroup/open.ts';
import { CRUN, GVISOR } from '../../src/sandbox/oci/runtimes.ts';
import { ociTarget } from './oci-target.ts';
import { startProgram } from './run-program.ts';

const [, , name, tag = 'held'] = process.argv;
const target = await ociTarget(name === 'crun' ? CRUN : GVISOR, tag);
await target.driver.prepare();
const { imagePath, codePath } = target;
const spec = { name: 'held', memoryMiB: 128, cpus: 1, scratchMiB: 512, imagePath, codePath };
const program = await startProgram(target.driver, spec, target.argv(['sleep:60000']));
await program.started;
const pids = await (await openCgroups()).open(`${tag}.held`).pids();
process.stdout.write(`${JSON.stringify({ pids, path: target.path })}\n`);
await sleep(60_000);
