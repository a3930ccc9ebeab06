/**
 * `npm test`: every check, in order from the cheapest to the dearest (two of those that busy one CPU beside each other), then one line `N passed, N failed, N skipped`.
 *
 * A file with a failure is run once more, by itself; what passes then is said as such, and is a fault to be mended all the same.
 *
 * Names of stages given as arguments run only these, and each file once: `npm test -- types e2e-qemu`. Some run only when they are named: `npm run test:drivers`.
 */
import { spawn } from 'node:child_process';
import { globSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { fileURLToPath } from 'node:url';
import { inspect } from 'node:util';
import { FIRECRACKER } from '../tests/e2e/support/firecracker.ts';
import { leaks, snapshot } from './leaks.ts';

const root = fileURLToPath(new URL('..', import.meta.url));
process.chdir(root);

// Hundreds of processes and threads of Node run the same files: half of what a start costs is to strip their types and to compile them.
process.env['NODE_COMPILE_CACHE'] ??= `${root}node_modules/.cache/compiled`;

const wanted = process.argv.slice(2);
/** Who names a stage looks for what fails in it. */
const hasSecondTries = wanted.length === 0;

interface Tally {
  passed: number;
  failed: number;
  skipped: number;
}

/** What failed, with its stage and its first lines: said again at the end, since a log may be kept by its end alone. */
const failures: string[] = [];
/** What failed, and passed when its file ran again by itself: a fault in the test or in what it tests, which a busy machine shows. */
const flaky: string[] = [];

interface Stage {
  readonly name: string;
  /** Runs only when it is named. */
  readonly onDemand?: boolean;
  /** It busies one CPU, and is not upset by others: it runs beside one of those next to it that does, too. */
  readonly besideOthers?: boolean;
  run(): Promise<Tally>;
}

/** One command that is one check. */
function command(name: string, program: string, ...args: string[]): Stage {
  return {
    name,
    besideOthers: true,
    run: async () => {
      const ok = (await whole(name, program, args)).code === 0;
      return { passed: ok ? 1 : 0, failed: ok ? 0 : 1, skipped: 0 };
    },
  };
}

/** Runs a program to its end, then prints what it printed. */
async function whole(
  name: string,
  program: string,
  args: readonly string[],
): Promise<{ code: number | null; output: string }> {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  const pieces: Buffer[] = [];
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (piece: Buffer) => pieces.push(piece));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  const output = Buffer.concat(pieces).toString();
  process.stdout.write(`\n--- ${name}\n${output}`);
  return { code, output };
}

/** A command that counts for itself: its last lines `N passed, N failed` are added up. */
function counted(name: string, program: string, ...args: string[]): Stage {
  return {
    name,
    besideOthers: true,
    run: async () => {
      const { code, output } = await whole(name, program, args);
      const tally: Tally = { passed: 0, failed: 0, skipped: 0 };
      for (const [, passed, failed] of output.matchAll(/(\d+) passed, (\d+) failed/g)) {
        tally.passed += Number(passed);
        tally.failed += Number(failed);
      }
      if (code !== 0 && tally.failed === 0) tally.failed += 1;
      if (tally.passed + tally.failed === 0) throw new Error(`${name} ran no test`);
      return tally;
    },
  };
}

interface TestOptions {
  readonly concurrency: number;
  /** Files that begin first because they take longest: begun late, one would run alone at the end. Named without folder and ending. */
  readonly longest?: readonly string[];
  readonly leakCheck?: boolean;
  readonly besideOthers?: boolean;
  readonly onDemand?: boolean;
  /** For the files' processes, beside the environment of this one. */
  readonly env?: Readonly<Record<string, string>>;
}

/** Files of Node's test runner, some at once. Leaves are counted, not the suites around them. */
function tests(name: string, pattern: string, options: TestOptions): Stage {
  return {
    name,
    onDemand: options.onDemand ?? false,
    besideOthers: options.besideOthers ?? false,
    run: async () => {
      const files = globSync(pattern).sort();
      if (files.length === 0) throw new Error(`no test files match ${pattern}`);
      const before = snapshot();
      const env = { ...process.env, ...options.env };
      const results = new Map<string, FileResult>();
      const waiting = inOrder(files, options.longest ?? []);
      const take = async () => {
        for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) {
          const result = await runFile(file, env);
          // Beside others it is said whose this is.
          process.stdout.write((options.besideOthers === true ? `\n--- ${name}\n` : '') + result.report);
          results.set(file, result);
        }
      };
      await Promise.all(Array.from({ length: options.concurrency }, take));
      for (const [file, first] of hasSecondTries ? results : []) {
        if (first.failures.length === 0) continue;
        console.log(`${file} is run again, by itself`);
        const second = await runFile(file, env);
        process.stdout.write(second.report);
        results.set(file, second);
        if (second.failures.length === 0) flaky.push(...first.failures.map((failure) => `${name}: ${failure}`));
      }
      const tally: Tally = { passed: 0, failed: 0, skipped: 0 };
      for (const result of results.values()) {
        tally.passed += result.passed;
        tally.failed += result.failed;
        tally.skipped += result.skipped;
        failures.push(...result.failures.map((failure) => `${name}: ${failure}`));
      }
      if (options.leakCheck === true) {
        const left = await leaks(before);
        for (const leak of left) {
          console.error(`✖ left behind: ${leak}`);
          failures.push(`${name}: left behind: ${leak}`);
        }
        if (left.length > 0) tally.failed += 1;
        else tally.passed += 1;
      }
      return tally;
    },
  };
}

function inOrder(files: readonly string[], longest: readonly string[]): string[] {
  const first = longest.map((name) => {
    const found = files.find((file) => file.endsWith(`/${name}.test.ts`));
    if (found === undefined) throw new Error(`there is no ${name}.test.ts among ${files.join(', ')}`);
    return found;
  });
  return [...first, ...files.filter((file) => !first.includes(file))];
}

interface FileResult extends Tally {
  readonly failures: string[];
  /** What its reporter says. */
  report: string;
}

/** What the reporter says of a file that the end of the whole run says of all. */
const SUMMARY = /^ℹ (?:tests|suites|pass|fail|cancelled|skipped|todo|duration_ms) [\d.]+\n/gm;

async function runFile(file: string, env: NodeJS.ProcessEnv): Promise<FileResult> {
  const result: FileResult = { passed: 0, failed: 0, skipped: 0, failures: [], report: '' };
  const events = run({ files: [file], timeout: 900_000, env });
  const isLeaf = (data: { details: { type?: string | undefined } }) => data.details.type !== 'suite';
  events.on('test:pass', (data) => {
    if (!isLeaf(data)) return;
    if (data.skip === undefined || data.skip === false) result.passed += 1;
    else result.skipped += 1;
  });
  events.on('test:fail', (data) => {
    const { error } = data.details;
    // What failed within it is counted and said by itself.
    if ('failureType' in error && error.failureType === 'subtestsFailed') return;
    result.failed += 1;
    const why = inspect(error.cause ?? error)
      .split('\n')
      .slice(0, 12)
      .join('\n    ');
    result.failures.push(`${data.file ?? file}:${data.line ?? ''} ${data.name}\n    ${why}`);
  });
  result.report = (await text(events.pipe(new spec()))).replace(SUMMARY, '');
  return result;
}

/** The whole main job on one driver. */
function endToEnd(driver: string, options: Partial<TestOptions> = {}): Stage {
  const env = { ...options.env, COCORE_TEST_ISOLATION: driver };
  return tests(`e2e-${driver}`, 'tests/e2e/*.test.ts', {
    // For a third of the time a file waits: for leases, and for functions that sleep.
    ...{ concurrency: 3, leakCheck: true, longest: ['faults'] },
    ...options,
    env,
  });
}

const STAGES: Stage[] = [
  command('format', 'prettier', '--check', '--log-level', 'warn', '.'),
  command('types', 'tsc', '--noEmit'),
  command('lint', 'eslint', '--max-warnings', '0', '.'),
  counted('agent', 'make', '--no-print-directory', '-C', 'guest/agent', 'test', 'sanitize', 'fuzz'),
  tests('simulation', 'tests/simulation/*.test.ts', { concurrency: 1, besideOthers: true }),
  tests('repo', 'tests/repo/*.test.ts', { concurrency: 1, besideOthers: true }),
  tests('protocol', 'packages/protocol/test/**/*.test.ts', { concurrency: 1, besideOthers: true }),
  tests('client', 'packages/client/test/**/*.test.ts', { concurrency: 1, besideOthers: true }),
  // They wait as much as they work.
  tests('control', 'packages/control/test/**/*.test.ts', {
    concurrency: 3,
    leakCheck: true,
    longest: ['store.sqlite'],
  }),
  tests('worker', 'packages/worker/test/**/*.test.ts', {
    concurrency: 2,
    leakCheck: true,
    longest: ['firecracker-driver', 'qemu-driver', 'qemu-fast-start', 'firecracker/fast-start', 'firecracker/failures'],
  }),
  tests('cli', 'packages/cli/test/**/*.test.ts', { concurrency: 2, leakCheck: true }),
  tests('fuzz', 'tests/fuzz/*.test.ts', { concurrency: 1, leakCheck: true }),
  tests('faults', 'tests/faults/*.test.ts', { concurrency: 2, leakCheck: true }),
  tests('command', 'tests/e2e/command/*.test.ts', { concurrency: 2, leakCheck: true, longest: ['command'] }),
  endToEnd('qemu'),
  endToEnd('gvisor'),
  tests('smoke', 'tests/e2e/smoke/*.test.ts', { concurrency: 2, leakCheck: true, longest: ['drivers', 'blob-store'] }),
  endToEnd('crun', { onDemand: true }),
  tests('runtimes', 'tests/e2e/runtimes/*.test.ts', {
    concurrency: 1,
    leakCheck: true,
    onDemand: true,
    env: { COCORE_TEST_ISOLATION: 'gvisor' },
  }),
  endToEnd('firecracker', { onDemand: true, env: FIRECRACKER }),
];

for (const name of wanted) {
  if (!STAGES.some((stage) => stage.name === name)) {
    console.error(`error: there is no stage ${name}; the stages are ${STAGES.map((stage) => stage.name).join(', ')}`);
    process.exit(2);
  }
}

const total: Tally = { passed: 0, failed: 0, skipped: 0 };
const rows: string[] = [];

async function runStage(stage: Stage): Promise<void> {
  const began = performance.now();
  if (stage.besideOthers !== true) console.log(`\n--- ${stage.name}`);
  const tally = await stage.run().catch((error: unknown) => {
    console.error(`✖ ${stage.name}: ${error instanceof Error ? error.message : String(error)}`);
    return { passed: 0, failed: 1, skipped: 0 };
  });
  const isSaid = failures.some((failure) => failure.startsWith(`${stage.name}: `));
  if (tally.failed > 0 && !isSaid) failures.push(`${stage.name}: see its output above`);
  total.passed += tally.passed;
  total.failed += tally.failed;
  total.skipped += tally.skipped;
  const seconds = ((performance.now() - began) / 1000).toFixed(1).padStart(7);
  rows.push(`${stage.name.padEnd(10)}${seconds} s  ${tally.passed} ok, ${tally.failed} not, ${tally.skipped} skipped`);
}

const asked = STAGES.filter(({ name, onDemand }) => (wanted.length > 0 ? wanted.includes(name) : onDemand !== true));
for (let at = 0; at < asked.length;) {
  const together = [asked[at]!];
  while (together[0]!.besideOthers === true && asked[at + together.length]?.besideOthers === true) {
    together.push(asked[at + together.length]!);
  }
  at += together.length;
  const lane = async () => {
    for (let stage = together.shift(); stage !== undefined; stage = together.shift()) await runStage(stage);
  };
  await Promise.all([lane(), lane()]);
}

if (flaky.length > 0) console.log(`\nWhat failed at first, and passed when it ran again\n${flaky.join('\n')}`);
if (failures.length > 0) console.log(`\nWhat failed\n${failures.join('\n')}`);
console.log(`\nWhere the time went\n${rows.join('\n')}\n`);
console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
process.exitCode = total.failed > 0 ? 1 : 0;
