/**
 * The control path beside what people would pick instead. Each system in turn, round after round, in the other order in every second round; services,
 * worker and client are processes of their own, all on this machine. See bench/README.md.
 */
import { mkdtemp, chmod, rm, writeFile } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type Floor, floors } from './peers/floors.ts';
import { measure, type Measured } from './peers/measure.ts';
import { printFloors, printRatios, printSystems } from './peers/print.ts';
import { setUp } from './peers/setup.ts';
import type { Peer } from './peers/peer.ts';

const FILES = ['cocore', 'bullmq', 'restate', 'pg-boss', 'graphile', 'dbos'] as const;

const { values } = parseArgs({
  args: process.argv.slice(3),
  options: {
    rounds: { type: 'string', default: '2' },
    only: { type: 'string' },
    json: { type: 'string' },
    scale: { type: 'string', default: '1' },
  },
});
const rounds = Number(values.rounds);
const scale = Number(values.scale);

await setUp();
const systems: { readonly file: string; readonly peer: Peer }[] = [];
for (const file of FILES) {
  const { PEERS } = (await import(`./peers/${file}.ts`)) as { PEERS: readonly Peer[] };
  systems.push(...PEERS.map((peer) => ({ file, peer })));
}
const wanted = values.only?.split(',') ?? systems.map(({ peer }) => peer.name);
const unknown = wanted.filter((name) => systems.every(({ peer }) => peer.name !== name));
if (unknown.length > 0)
  throw new Error(`there is no ${unknown.join(', ')}; there are ${systems.map(({ peer }) => peer.name).join(', ')}`);
const chosen = systems.filter(({ peer }) => wanted.includes(peer.name));

/** A directory of its own, on the disk that is measured, which is removed afterwards. */
async function inDirectory<T>(work: (directory: string) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), 'cocore-bench-'));
  // PostgreSQL runs as another user.
  await chmod(directory, 0o711);
  try {
    return await work(directory);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

const measured: Measured[] = [];
const floorsOfRounds: Floor[][] = [];
for (let round = 0; round < rounds; round += 1) {
  floorsOfRounds.push(await inDirectory(floors));
  for (const { file, peer } of round % 2 === 0 ? chosen : chosen.toReversed()) {
    const load = loadavg()[0]!;
    process.stderr.write(`round ${round + 1} of ${rounds}: ${peer.name}, load ${load.toFixed(2)}\n`);
    try {
      measured.push({ ...(await inDirectory((directory) => measure(file, peer, directory, scale))), load });
    } catch (error) {
      process.stderr.write(`${peer.name} failed: ${error instanceof Error ? error.message : String(error)}\n`);
    }
  }
}
const peers = chosen.map(({ peer }) => peer);
printFloors(floorsOfRounds);
printSystems(peers, measured);
printRatios(peers, measured);
if (values.json !== undefined) {
  const systemsOf = peers.map(({ name, durability, store }) => ({ name, durability, store }));
  await writeFile(
    values.json,
    `${JSON.stringify({ systems: systemsOf, measured, floors: floorsOfRounds }, null, 2)}\n`,
  );
}
