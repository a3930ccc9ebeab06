/** `npm run bench -- output`: one function's output to a following user, beside a pipe into a file that is as durable. See bench/README.md. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { CocoreClient } from '@cocore/client';
import { type Address, nodeFlags, startControl, startDaemon } from './daemons.ts';
import { cpuMsOf, residentMiB } from './peers/usage.ts';
import { median, row } from './table.ts';

/** In so many equal parts of the output the memory is told apart. */
const PARTS = 10;
const SAMPLE_MS = 50;
const TIMEOUT_MS = 3_600_000;
const MAX_OUTPUT_BYTES = 1024 * 2 ** 20;
/** The fake driver takes the argument as what to do. */
const ARGUMENT = 'outbytes:';
const CODE = `head -c "\${1#${ARGUMENT}}" /dev/zero\n`;

const { values } = parseArgs({
  args: process.argv.slice(3),
  options: {
    mb: { type: 'string', default: '1000' },
    drivers: { type: 'string', default: 'fake,gvisor' },
    rounds: { type: 'string', default: '1' },
    json: { type: 'string' },
  },
});
const bytes = Number(values.mb) * 1_000_000;
if (bytes > MAX_OUTPUT_BYTES) throw new Error(`an execution may write ${MAX_OUTPUT_BYTES} bytes`);

type Part = 'server' | 'worker' | 'follower';
const PARTIES: readonly Part[] = ['server', 'worker', 'follower'];

interface Measured {
  readonly driver: string;
  readonly load: number;
  readonly seconds: number;
  readonly commits: number;
  /** Before it and after it, each as the pieces that were committed. */
  readonly floorSeconds: readonly number[];
  readonly cpuSeconds: Record<Part, number>;
  /** The most that each party had in each part of the output, in MiB. */
  readonly memoryMiB: Record<Part, number[]>;
}

const measured: Measured[] = [];
for (let round = 0; round < Number(values.rounds); round += 1) {
  for (const driver of values.drivers.split(',')) {
    process.stderr.write(`round ${round + 1}: ${driver}, load ${loadavg()[0]!.toFixed(2)}\n`);
    const directory = await mkdtemp(join(tmpdir(), 'cocore-bench-'));
    try {
      measured.push(await measure(directory, driver));
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  }
}
print();
if (values.json !== undefined) await writeFile(values.json, `${JSON.stringify({ bytes, measured }, null, 2)}\n`);

async function measure(directory: string, driver: string): Promise<Measured> {
  const load = loadavg()[0]!;
  await using scope = new AsyncDisposableStack();
  const server = await startControl(directory, process.env);
  scope.use(server.program);
  const worker = scope.use(await startDaemon(server, directory, driver, 1));
  const client = new CocoreClient(server);
  await client.functions.deploy({
    name: 'print',
    runtime: 'bash',
    file: { name: 'print.sh', contentBase64: Buffer.from(CODE).toString('base64') },
    timeoutMs: TIMEOUT_MS,
    outputLimitBytes: MAX_OUTPUT_BYTES,
    isolation: 'container',
  });
  // What it needs is fetched, and some of the code compiled.
  await follow(server, 1_000_000, () => []);
  const commitsBefore = await commitsOf(server);
  const pids = { server: server.program.pid, worker: worker.pid };
  const cpuBefore = PARTIES.map((party) => (party === 'follower' ? 0 : cpuMsOf(pids[party])));
  const followed = await follow(server, bytes, (follower) => [pids.server, pids.worker, follower]);
  const commits = (await commitsOf(server)) - commitsBefore;
  const cpuAfter = PARTIES.map((party) => (party === 'follower' ? followed.cpuMs : cpuMsOf(pids[party])));
  await scope.disposeAsync();
  const pieceBytes = Math.ceil(bytes / commits);
  const floorSeconds = [await pipeToFile(directory, pieceBytes), await pipeToFile(directory, pieceBytes)];
  return {
    driver,
    load,
    seconds: followed.seconds,
    commits,
    floorSeconds,
    cpuSeconds: byParty((index) => (cpuAfter[index]! - cpuBefore[index]!) / 1_000),
    memoryMiB: byParty((index) => followed.memoryMiB.map((part) => part[index] ?? 0)),
  };
}

function byParty<T>(of: (index: number) => T): Record<Part, T> {
  return Object.fromEntries(PARTIES.map((party, index) => [party, of(index)])) as Record<Part, T>;
}

/** The command as a user has it, its output into a pipe. The time is from its first byte to its end, which says that all is durable. */
async function follow({ url, apiKey }: Address, count: number, pidsOf: (follower: number) => readonly number[]) {
  const main = fileURLToPath(new URL('../packages/cli/src/main.ts', import.meta.url));
  const follower = spawn(process.execPath, [...nodeFlags('client'), main, 'run', 'print', `${ARGUMENT}${count}`], {
    env: { ...process.env, COCORE_URL: url, COCORE_API_KEY: apiKey },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(follower, 'exit');
  const pids = pidsOf(follower.pid!);
  const memoryMiB = Array.from({ length: PARTS }, () => pids.map(() => 0));
  let [received, beganMs, cpuMs] = [0, 0, 0];
  const look = () => {
    const part = memoryMiB[Math.min(PARTS - 1, Math.floor((received / count) * PARTS))]!;
    pids.forEach((pid, index) => (part[index] = Math.max(part[index]!, residentMiB(pid))));
    cpuMs = Math.max(cpuMs, cpuMsOf(follower.pid!));
  };
  const timer = setInterval(look, SAMPLE_MS);
  for await (const chunk of follower.stdout as AsyncIterable<Buffer>) {
    if (received === 0) beganMs = performance.now();
    received += chunk.length;
  }
  const seconds = (performance.now() - beganMs) / 1_000;
  clearInterval(timer);
  const [code] = (await ended) as [number | null];
  if (code !== 0 || received !== count) throw new Error(`${received} of ${count} bytes came, exit code ${code}`);
  return { seconds, cpuMs, memoryMiB };
}

async function commitsOf({ url, apiKey }: Address): Promise<number> {
  const reply = await fetch(`${url}/metrics`, { headers: { authorization: `Bearer ${apiKey}` } });
  return Number(/^cocore_output_commits_total (\d+)/m.exec(await reply.text())?.[1] ?? Number.NaN);
}

/** The same bytes through a pipe into a file of the same disk, each piece durable before the next. @returns seconds */
async function pipeToFile(directory: string, pieceBytes: number): Promise<number> {
  const path = join(directory, 'floor');
  const began = performance.now();
  const command = `head -c ${bytes} /dev/zero | dd of=${path} bs=${pieceBytes} iflag=fullblock oflag=dsync conv=fsync status=none`;
  const [code] = (await once(spawn('sh', ['-c', command], { stdio: ['ignore', 'ignore', 'inherit'] }), 'exit')) as [
    number,
  ];
  if (code !== 0) throw new Error(`dd ended with ${code}`);
  const seconds = (performance.now() - began) / 1_000;
  await rm(path);
  return seconds;
}

function print(): void {
  const rate = (seconds: number) => `${(bytes / seconds / 1e6).toFixed(0)} MB/s`;
  row(`output, ${values.mb} MB, medians`, 'to the user', 'pipe to file', 'share', 'KiB a commit', 'load');
  for (const [driver, of] of Map.groupBy(measured, (one) => one.driver)) {
    const floor = median(of.flatMap((one) => one.floorSeconds));
    const seconds = median(of.map((one) => one.seconds));
    const piece = bytes / median(of.map((one) => one.commits)) / 1024;
    const load = median(of.map((one) => one.load));
    row(
      `  ${driver}`,
      rate(seconds),
      rate(floor),
      `${((floor / seconds) * 100).toFixed(0)} %`,
      piece.toFixed(0),
      load.toFixed(1),
    );
  }
  console.log();
  row('each party', 'CPU s', 'first tenth', 'most later', 'last tenth');
  for (const { driver, cpuSeconds, memoryMiB } of measured) {
    for (const party of PARTIES) {
      const [first, ...later] = memoryMiB[party];
      const cells = [first!, Math.max(...later), later.at(-1)!].map((mib) => `${mib.toFixed(0)} MiB`);
      row(`  ${driver}, ${party}`, cpuSeconds[party].toFixed(1), ...cells);
    }
  }
}
