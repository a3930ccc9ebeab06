/** `npm run bench -- connections`: what idle workers cost a control server. See bench/README.md. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { CocoreClient } from '@cocore/client';
import { HEARTBEAT_MS } from '@cocore/protocol';
import { type Reachable, ScriptedWorker } from '../packages/control/test/support/scripted-worker.ts';
import { start } from '../tests/e2e/support/command.ts';
import { freePort } from '../tests/e2e/support/relay.ts';
import { temporary } from '../tests/e2e/support/stack.ts';
import { cpuMs, memoryMiB } from './peers/usage.ts';
import { median, quantile, row } from './table.ts';

/** Handshakes at once. */
const DIALLING = 64;
const IDLE_MS = 30_000;
/** In so many steps all have sent a heartbeat. */
const BEAT_STEPS = 50;

const { values } = parseArgs({
  args: process.argv.slice(3),
  options: { workers: { type: 'string', default: '10000' } },
});
const most = Number(values.workers);

await using scope = new AsyncDisposableStack();
const home = scope.use(temporary());
const dataDir = join(home.path, 'server');
const port = await freePort();
const server = start(['server', '--port', String(port), '--data-dir', dataDir], home.env, 'keep open');
scope.defer(async () => {
  server.child.kill('SIGTERM');
  await server.ended;
});
const [, url] = await server.waitFor('stdout', /^ready (http:\/\/\S+)$/m);
const client = new CocoreClient({ url: url!, apiKey: readFileSync(join(dataDir, 'operator.key'), 'utf8').trim() });
const reachable: Reachable = {
  url: url!,
  authority: new URL(url!).host,
  joinToken: async () => (await client.joinTokens.create({})).token,
};

const workers: ScriptedWorker[] = [];
scope.defer(() => {
  for (const { socket } of workers) socket.terminate();
});

/** All send their heartbeats, spread over the interval, as workers do. */
let sequence = 0;
const beating = setInterval(() => {
  sequence += 1;
  for (let at = sequence % BEAT_STEPS; at < workers.length; at += BEAT_STEPS) {
    workers[at]!.beat(sequence, []);
    workers[at]!.received.length = 0;
  }
}, HEARTBEAT_MS / BEAT_STEPS);
scope.defer(() => clearInterval(beating));

/** With no worker. */
let idleAlone: Awaited<ReturnType<typeof beIdle>> | null = null;
row('workers', 'joined a second', 'memory', 'of each', 'CPU', 'of each', 'answer p50, p99');
for (const count of [0, most / 10, most / 2, most].map(Math.round)) {
  const began = performance.now();
  const missing = count - workers.length;
  const join = joinUntil(count);
  await Promise.all(Array.from({ length: DIALLING }, join));
  const perSecond = missing === 0 ? 0 : (missing / (performance.now() - began)) * 1_000;
  const idle = await beIdle();
  const alone = (idleAlone ??= idle);
  const each = (value: number, less: number) => (count === 0 ? '–' : ((value - less) / count).toFixed(3));
  row(
    String(count),
    perSecond.toFixed(0),
    `${idle.memoryMiB.toFixed(0)} MiB`,
    `${each(idle.memoryMiB * 1_024, alone.memoryMiB * 1_024)} KiB`,
    `${idle.cpuShare.toFixed(3)} cores`,
    `${each(idle.cpuShare * 60_000, alone.cpuShare * 60_000)} ms/min`,
    `${median(idle.answersMs).toFixed(1)} ${quantile(idle.answersMs, 0.99).toFixed(1)} ms`,
  );
}

/** One of those who dial at once. */
function joinUntil(count: number): () => Promise<void> {
  let begun = workers.length;
  return async () => {
    while (begun < count) {
      begun += 1;
      workers.push(await ScriptedWorker.connect(reachable));
    }
  };
}

/** Nothing happens but heartbeats, and a user asks something ten times a second. */
async function beIdle() {
  await sleep(2 * HEARTBEAT_MS);
  const cpuBeganMs = cpuMs();
  const began = performance.now();
  const answersMs: number[] = [];
  while (performance.now() - began < IDLE_MS) {
    const askedMs = performance.now();
    await client.server.get();
    answersMs.push(performance.now() - askedMs);
    await sleep(100);
  }
  const cpuShare = (cpuMs() - cpuBeganMs) / (performance.now() - began);
  const online = (await client.workers.list()).filter(({ state }) => state === 'online').length;
  if (online !== workers.length) throw new Error(`${online} of ${workers.length} are there`);
  return { answersMs, cpuShare, memoryMiB: memoryMiB() ?? 0 };
}
