/** Starts a Firecracker machine and holds it until this process is killed: `hold-firecracker.ts TAG` prints its processes as JSON. */
import { setTimeout as sleep } from 'node:timers/promises';
import { openCgroups } from '../../src/cgroup/open.ts';
import { firecrackerTarget } from './firecracker-target.ts';

const [, , tag = 'held'] = process.argv;
const target = await firecrackerTarget(tag);
await target.driver.prepare();
const { imagePath, codePath } = target;
const spec = { name: 'held', memoryMiB: 128, cpus: 1, scratchMiB: 512, imagePath, codePath };
await target.driver.start(spec, new AbortController().signal);
const pids = await (await openCgroups()).open(`${tag}.held`).pids();
process.stdout.write(`${JSON.stringify({ pids, path: target.path })}\n`);
await sleep(60_000);
