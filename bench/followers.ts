/** `npm run bench -- followers`: many users follow at once, one execution or one each. See bench/README.md. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { get, type IncomingMessage } from 'node:http';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { CocoreClient } from '@cocore/client';
import { SseParser } from '../packages/client/src/sse.ts';
import { type Address, startControl, startDaemon } from './daemons.ts';
import { cpuMsOf, residentMiB } from './peers/usage.ts';
import { median, ms, quantile, row } from './table.ts';

const SAMPLE_MS = 100;
const FUNCTION = 'print';

const { values } = parseArgs({
  args: process.argv.slice(3),
  options: {
    followers: { type: 'string', default: '1000' },
    kib: { type: 'string', default: '256' },
    json: { type: 'string' },
  },
});
const count = Number(values.followers);
const bytes = Number(values.kib) * 1024;

interface Measured {
  readonly what: string;
  readonly load: number;
  /** From the first byte that anybody got. */
  readonly endsMs: readonly number[];
  readonly serverCpuSeconds: number;
  /** With all followers and nothing to follow yet; and at most. */
  readonly serverMiB: readonly [waiting: number, most: number];
  readonly missingBytes: number;
}

/** One user's connection: it reads every event, and counts what it was given in its place. */
class Follower {
  /** It was given the record. */
  readonly following: Promise<void>;
  readonly ended: Promise<void>;
  firstByteMs = Infinity;
  endMs = 0;
  received = 0;

  constructor({ url, apiKey }: Address, id: string) {
    const following = Promise.withResolvers<void>();
    const ended = Promise.withResolvers<void>();
    [this.following, this.ended] = [following.promise, ended.promise];
    const headers = { authorization: `Bearer ${apiKey}`, accept: 'text/event-stream' };
    const failed = (error: Error) => {
      following.reject(error);
      ended.reject(error);
    };
    get(`${url}/v1/executions/${id}/events`, { headers, agent: false }, (reply) => {
      reply.on('error', failed);
      this.#read(reply, following.resolve).then(ended.resolve, failed);
    }).on('error', failed);
  }

  async #read(reply: IncomingMessage, following: () => void): Promise<void> {
    const parser = new SseParser();
    reply.setEncoding('utf8');
    for await (const text of reply as AsyncIterable<string>) {
      for (const { event, data } of parser.push(text)) {
        if (event === 'execution') following();
        if (event === 'end') this.endMs = performance.now();
        if (event !== 'output') continue;
        if (this.received === 0) this.firstByteMs = performance.now();
        const { offset, base64 } = JSON.parse(data) as { offset: number; base64: string };
        if (offset === this.received) this.received += Buffer.byteLength(base64, 'base64');
      }
    }
    if (this.endMs === 0) throw new Error(`a stream ended early, with status ${reply.statusCode}`);
  }
}

const measured = [await measure('all follow one execution', 1), await measure('each follows one of its own', count)];
row(
  `followers, ${count} with ${values.kib} KiB each`,
  'median end',
  'last end',
  'server CPU',
  'waiting',
  'at most',
  'missing',
  'load',
);
for (const { what, endsMs, serverCpuSeconds, serverMiB, missingBytes, load } of measured) {
  row(
    `  ${what}`,
    ms(median(endsMs)),
    ms(quantile(endsMs, 1)),
    `${serverCpuSeconds.toFixed(1)} s`,
    ...serverMiB.map((mib) => `${mib.toFixed(0)} MiB`),
    `${missingBytes} bytes`,
    load.toFixed(1),
  );
}
if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify({ count, bytes, measured }, null, 2)}\n`);

/** All are there before the worker is, so that nobody misses the beginning. */
async function measure(what: string, executions: number): Promise<Measured> {
  process.stderr.write(`${what}, load ${loadavg()[0]!.toFixed(2)}\n`);
  const load = loadavg()[0]!;
  const directory = await mkdtemp(join(tmpdir(), 'cocore-bench-'));
  await using scope = new AsyncDisposableStack();
  scope.defer(() => rm(directory, { recursive: true, force: true }));
  const server = await startControl(directory, process.env);
  scope.use(server.program);
  const client = new CocoreClient(server);
  const file = { name: 'print.sh', contentBase64: Buffer.from('exit 0\n').toString('base64') };
  await client.functions.deploy({ name: FUNCTION, runtime: 'bash', file, isolation: 'container', memoryMiB: 128 });
  const ids: string[] = [];
  for (let at = 0; at < executions; at += 1) {
    ids.push((await client.executions.create(FUNCTION, { args: [`outbytes:${bytes}`] })).id);
  }
  const followers = Array.from({ length: count }, (_, at) => new Follower(server, ids[at % ids.length]!));
  await Promise.all(followers.map((one) => one.following));
  const { pid } = server.program;
  const waiting = residentMiB(pid);
  const cpuBefore = cpuMsOf(pid);
  let most = waiting;
  const timer = setInterval(() => (most = Math.max(most, residentMiB(pid))), SAMPLE_MS);
  scope.defer(() => clearInterval(timer));
  scope.use(await startDaemon(server, directory, 'fake', 64));
  await Promise.all(followers.map((one) => one.ended));
  const beganMs = Math.min(...followers.map((one) => one.firstByteMs));
  return {
    what,
    load,
    endsMs: followers.map((one) => one.endMs - beganMs),
    serverCpuSeconds: (cpuMsOf(pid) - cpuBefore) / 1_000,
    serverMiB: [waiting, Math.max(most, residentMiB(pid))],
    missingBytes: followers.reduce((sum, one) => sum + bytes - one.received, 0),
  };
}
