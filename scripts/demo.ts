/**
 * `npm run demo`: the main job, once, in front of you. Starts control server and worker on a QEMU microVM, deploys
 * examples/add.py, runs it with 4 and 9, shows its record, stops everything. With --keep it goes on until Ctrl-C.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ExecutionList, ExecutionRecord } from '@cocore/protocol';

const root = fileURLToPath(new URL('..', import.meta.url));
const command = join(root, 'packages/cli/bin/cocore.js');
const keep = process.argv.includes('--keep');
const home = mkdtempSync(join(tmpdir(), 'cocore-demo-'));
const env: NodeJS.ProcessEnv = { ...process.env };
// The demo's server keeps its data apart; with --keep its key goes where the command in another terminal finds it.
if (!keep) env['XDG_CONFIG_HOME'] = join(home, 'config');
let dev: ChildProcess | null = null;

/** Starts control server and worker; resolves with their address once the worker can take work. */
async function startDev(): Promise<string> {
  const args = [
    command,
    'dev',
    '--isolation',
    'qemu',
    '--data-dir',
    join(home, 'data'),
    ...(keep ? [] : ['--port', '0']),
  ];
  const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'pipe', 'inherit'] });
  dev = child;
  let printed = '';
  return new Promise((resolve, reject) => {
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      printed += text;
      const ready = /^ready (\S+)$/m.exec(printed);
      if (ready !== null) resolve(ready[1]!);
    });
    child.once('error', reject);
    child.once('exit', (code) => reject(new Error(`cocore dev ended with ${code}`)));
  });
}

async function stopDev(): Promise<void> {
  const child = dev;
  dev = null;
  if (child === null || child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  await ended;
}

/** Runs a command as a user would type it; its output is shown, or given back when `quiet`. */
async function cocore(args: readonly string[], quiet = false): Promise<string> {
  if (!quiet) console.log(`\n$ cocore ${args.join(' ')}`);
  const child = spawn(process.execPath, [command, ...args], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  let printed = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    printed += text;
    if (!quiet) process.stdout.write(text);
  });
  const code = await new Promise<number | null>((resolve, reject) =>
    child.once('error', reject).once('close', resolve),
  );
  if (code !== 0) throw new Error(`cocore ${args[0]} exited with ${code}`);
  return printed;
}

function show(record: ExecutionRecord): void {
  const attempt = record.attempts[0]!;
  const sinceMs = (time: string | null) =>
    time === null ? '–' : `+${Date.parse(time) - Date.parse(record.createdAt)} ms`;
  const { host, guest } = attempt.usage;
  const mib = (bytes: number | null | undefined) => (bytes == null ? '–' : `${(bytes / 2 ** 20).toFixed(0)} MiB`);
  const rows: [string, string][] = [
    ['execution', record.id],
    ['open', record.createdAt],
    ['running', sinceMs(record.acceptedAt)],
    ['process began', sinceMs(record.startedAt)],
    [record.state, `${sinceMs(record.endedAt)}, exit code ${record.exitCode}`],
    ['isolation', `${attempt.isolation} (driver ${attempt.driver})`],
    ['usage, host', `${host?.cpuMs?.toFixed(0) ?? '–'} ms of CPU, ${mib(host?.memoryPeakBytes)} at most`],
    ['usage, guest', `${guest?.cpuMs?.toFixed(0) ?? '–'} ms of CPU, ${mib(guest?.memoryPeakBytes)} at most`],
  ];
  console.log('\nThe execution’s record');
  for (const [name, value] of rows) console.log(`  ${name.padEnd(14)}${value}`);
}

for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => void finish(signal === 'SIGINT' && keep ? 0 : 130));
}

/** What a worker that sudo started has written is root's. */
function removeHome(): void {
  if (process.getuid?.() === 0) rmSync(home, { recursive: true, force: true });
  else execFileSync('sudo', ['--', 'rm', '-rf', '--', home], { stdio: 'inherit' });
}

async function finish(code: number): Promise<never> {
  await stopDev();
  removeHome();
  process.exit(code);
}

try {
  console.log('demo: starting control server and worker (QEMU, software emulation: a real microVM, slowly)');
  const url = await startDev();
  env['COCORE_URL'] = url;
  await cocore(['deploy', 'examples/add.py', '--name', 'add']);
  await cocore(['run', 'add', '4', '9']);
  const { executions } = JSON.parse(await cocore(['ps', '--json'], true)) as ExecutionList;
  const record = executions[0]!;
  show(record);
  if (record.state !== 'success') throw new Error(`the execution ended ${record.state}`);
  if (keep) {
    console.log(`
It runs on at ${url}. In another terminal:
  npx cocore run add 1 2 3
  npx cocore deploy examples/word-count.sh --name words && npx cocore run words < README.md
  npx cocore ps; npx cocore workers; npx cocore doctor
Ctrl-C here stops it.`);
    await new Promise((resolve) => (dev as ChildProcess).once('exit', resolve));
  }
  await stopDev();
  console.log('\ndemo: done, everything is stopped');
  await finish(0);
} catch (error) {
  console.error(`error: ${error instanceof Error ? error.message : String(error)}`);
  await finish(1);
}
