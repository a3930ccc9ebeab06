/**
 * From an image in a registry on the loopback to the first output of its function: nothing kept, with the layers and the file system of an earlier
 * import kept, and beside both the floor, the same by hand with the usual tools and none of CoCore's walls and checks. All in turn,
 * round after round.
 */
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { image, push, tar } from '../packages/control/test/importer/support/images.ts';
import { startRegistry } from '../packages/control/test/importer/support/registry.ts';
import { Stack } from '../tests/e2e/support/stack.ts';
import { median, ms, quantile, ratio, row } from './table.ts';

const run = promisify(execFile);

const ROUNDS = 5;
/** Half of each file does not compress, as in the images that people make. */
const FILES = 600;
const FILE_BYTES = 256 * 1024;
const LAYERS = 4;

await using scope = new AsyncDisposableStack();
const directory = await mkdtemp(join(tmpdir(), 'cocore-bench-'));
scope.defer(() => rm(directory, { recursive: true, force: true }));
const registry = scope.use(await startRegistry());
const stack = scope.use(await Stack.on({}, '--isolation', 'gvisor'));

await writeFile(join(directory, 'hello.c'), '#include <stdio.h>\nint main(void) { return puts("hello") < 0; }\n');
await run('cc', ['-static', '-Os', '-o', join(directory, 'hello'), join(directory, 'hello.c')]);
const program = await readFile(join(directory, 'hello'));

/** Another image each round: nothing of it is known to anybody. */
async function newImage(round: number): Promise<string> {
  const layers = Array.from({ length: LAYERS }, (_, layer) =>
    tar([
      { name: `layer${layer}/`, type: '5' },
      ...(layer === 0 ? [{ name: 'hello', content: program, mode: 0o755 }] : []),
      ...Array.from({ length: FILES / LAYERS }, (__, file) => ({
        name: `layer${layer}/file${file}`,
        content: Buffer.concat([randomBytes(FILE_BYTES / 2), Buffer.alloc(FILE_BYTES / 2, 'text ')]),
      })),
    ]),
  );
  return push(registry.host, 'bench', image({ layers, config: { Cmd: ['/hello'] } }), { tag: `round${round}` });
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const began = performance.now();
  await work();
  return performance.now() - began;
}

/** With the usual tools, one after the other. */
async function byHand(reference: string, work: string): Promise<void> {
  const layout = `${join(work, 'layout')}:image`;
  await run('skopeo', ['copy', '--quiet', '--src-tls-verify=false', `docker://${reference}`, `oci:${layout}`]);
  await run('umoci', ['raw', 'unpack', '--image', layout, join(work, 'rootfs')]);
  await run('mkfs.erofs', ['--quiet', join(work, 'rootfs.erofs'), join(work, 'rootfs')]);
}

async function deployAndRun(reference: string, name: string): Promise<void> {
  await stack.client.functions.deploy({ name, image: { reference } });
  await runOnce(name);
}

async function runOnce(name: string): Promise<void> {
  const { stdout } = await stack.client.executions.create(name, {}, { waitMs: 60_000 });
  if (stdout?.data !== 'hello\n') throw new Error(`the function printed ${JSON.stringify(stdout?.data)}`);
}

const times = { floor: [] as number[], warm: [] as number[], cold: [] as number[], cached: [] as number[] };
for (let round = 0; round < ROUNDS; round += 1) {
  const reference = await newImage(round);
  const work = await mkdtemp(join(directory, 'floor-'));
  times.floor.push(await timed(() => byHand(reference, work)));
  await rm(work, { recursive: true });
  times.cold.push(await timed(() => deployAndRun(reference, `cold${round}`)));
  times.cached.push(await timed(() => deployAndRun(reference, `cached${round}`)));
  times.warm.push(await timed(() => runOnce(`cached${round}`)));
}

const mebibytes = Math.round((FILES * FILE_BYTES) / 2 ** 20);
row(`an image of ${mebibytes} MiB, ${ROUNDS} rounds`, 'median', 'p95', 'to the floor');
const print = (name: string, values: readonly number[]) =>
  row(`  ${name}`, ms(median(values)), ms(quantile(values, 0.95)), ratio(median(values), median(times.floor)));
print('floor: skopeo, umoci, mkfs.erofs by hand', times.floor);
print('cold: deploy to first output', times.cold);
print('cached: deploy to first output', times.cached);
print('a run of what is deployed', times.warm);
