import { type AttemptEnded, makeId, parseWorkerMessage, ROOT_USER, type TaskSpec } from '@cocore/protocol';
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { BlobCache } from '../../src/blobs/blob-cache.ts';
import { EndJournal } from '../../src/execution/end-journal.ts';
import { Execution, type ExecutionParts } from '../../src/execution/execution.ts';
import type { Sandbox, SandboxDriver } from '../../src/sandbox/driver.ts';
import { silent } from './run-program.ts';
import { workspace } from './workspace.ts';

export interface AttemptSetup {
  readonly driver: SandboxDriver;
  /** In the place of the driver's own. */
  readonly bootDeadlineMs?: number;
  /** Files of the host. */
  readonly imagePath: string;
  readonly codePath: string;
  readonly task?: Partial<TaskSpec>;
  readonly parts?: Partial<Pick<ExecutionParts, 'pingMs' | 'agentLostMs' | 'networks'>>;
  /** Where its end is written down; the default is a directory of its own. */
  readonly endsPath?: string;
  /** Take and acknowledge output as it comes, as a control server does. */
  readonly acknowledges?: boolean;
}

/** What one attempt came to, and what it cost the daemon. */
export interface AttemptRun {
  readonly ended: AttemptEnded;
  /** What was taken of it. */
  readonly stdout: string;
  /** Sandboxes in the order of their starts. All have ended. */
  readonly sandboxes: readonly Sandbox[];
  /** How many of them did not become ready, and were followed by another. */
  readonly bootRetries: number;
  /** From the start of the function, as far as it came, to the end of the attempt. */
  readonly ranMs: number | null;
  /** How much more memory the daemon's process held at its most than before. */
  readonly heldBytes: number;
  /** The longest that the daemon did nothing else. */
  readonly stalledMs: number;
}

const LOOK_MS = 10;
const WEIGH_MS = 150;

const refOf = async (path: string) => {
  const bytes = await readFile(path);
  return { digest: `sha256:${createHash('sha256').update(bytes).digest('hex')}`, bytes: bytes.length };
};

/** Runs one attempt as the daemon does, to its end. */
export async function runAttempt(setup: AttemptSetup): Promise<AttemptRun> {
  const { driver, imagePath, codePath, task = {}, parts = {}, acknowledges = true } = setup;
  const { bootDeadlineMs = driver.capabilities.bootDeadlineMs } = setup;
  await using scope = new AsyncDisposableStack();
  const { path } = scope.use(await workspace());
  const source = () => Promise.reject(new Error('every blob is given'));
  const given = [imagePath, codePath];
  const blobs = scope.use(
    await BlobCache.open({ directory: join(path, 'blobs'), budgetBytes: 2 ** 30, source, given }),
  );
  const directory = setup.endsPath ?? join(path, 'ends');
  const { journal } = await EndJournal.open({ directory, isOurs: () => true, log: silent });
  scope.use(journal);
  const sandboxes: Sandbox[] = [];
  const attemptId = makeId('attempt', Date.now(), randomBytes(10));
  const [image, code] = await Promise.all(given.map(refOf));
  const watch = watchProcess();
  let startedMs: number | null = null;
  let bootRetries = 0;
  const stdout: Uint8Array[] = [];
  const take = () => {
    for (let piece = execution.output.take(65_536); piece !== null; piece = execution.output.take(65_536)) {
      if (piece.stream === 'stdout') stdout.push(Uint8Array.from(piece.data));
      execution.output.acknowledge(piece.stream, piece.offset + piece.data.length);
    }
  };
  const execution: Execution = Execution.begin(
    {
      attemptId,
      task: {
        argv: ['/bin/true'],
        env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/work' },
        cwd: '/work',
        user: ROOT_USER,
        image: image!,
        code: code!,
        stdin: null,
        files: [],
        memoryMiB: 128,
        cpus: 1,
        scratchMiB: 512,
        prepareTimeoutMs: 120_000,
        runTimeoutMs: 60_000,
        outputLimitBytes: 10_000_000,
        artifactsLimitBytes: 1_000_000,
        network: { mode: 'none' },
        ...task,
      },
    },
    {
      driver: watched(driver, bootDeadlineMs, sandboxes),
      blobs,
      journal,
      log: silent,
      sign: () => 'A'.repeat(86),
      onNews: () => {
        if (execution.startedAtMs !== null) startedMs ??= performance.now();
        if (acknowledges) setImmediate(take);
      },
      onBootRetry: () => (bootRetries += 1),
      ...parts,
    },
  );
  execution.acceptanceCommitted();
  await execution.done;
  const endedMs = performance.now();
  const { heldBytes, stalledMs } = watch.stop();
  await Promise.all(sandboxes.map(({ exited }) => exited));
  const ended = execution.ended ?? assert.fail('an attempt without an end');
  // A report that the server would refuse would cost the worker its session.
  assert.deepEqual(parseWorkerMessage(JSON.stringify(ended)), ended);
  return {
    ended,
    stdout: Buffer.concat(stdout).toString(),
    sandboxes,
    bootRetries,
    ranMs: startedMs === null ? null : endedMs - startedMs,
    heldBytes,
    stalledMs,
  };
}

/** The driver; what it starts is also put into `sandboxes`. */
function watched(driver: SandboxDriver, bootDeadlineMs: number, sandboxes: Sandbox[]): SandboxDriver {
  return {
    capabilities: { ...driver.capabilities, bootDeadlineMs },
    probe: () => driver.probe(),
    prepare: () => driver.prepare(),
    start: async (spec, signal) => {
      const sandbox = await driver.start(spec, signal);
      sandboxes.push(sandbox);
      return sandbox;
    },
    recover: (handle) => driver.recover(handle),
    [Symbol.asyncDispose]: () => driver[Symbol.asyncDispose](),
  };
}

/** Looks at this process while an attempt runs. */
function watchProcess() {
  const before = heldBytes();
  let most = before;
  let stalledMs = 0;
  let lastMs = performance.now();
  const look = () => {
    stalledMs = Math.max(stalledMs, performance.now() - lastMs - LOOK_MS);
    lastMs = performance.now();
  };
  const weigh = () => {
    const beganMs = performance.now();
    most = Math.max(most, heldBytes());
    // The weighing is no stall of the daemon's.
    lastMs = performance.now();
    return lastMs - beganMs;
  };
  let weighing: NodeJS.Timeout;
  /** It takes a tenth of the time at most. */
  const weighAgain = (tookMs: number) => {
    weighing = setTimeout(() => weighAgain(weigh()), Math.max(WEIGH_MS, 9 * tookMs));
  };
  const looking = setInterval(look, LOOK_MS);
  weighAgain(0);
  return {
    stop: () => {
      look();
      weigh();
      clearInterval(looking);
      clearTimeout(weighing);
      return { heldBytes: most - before, stalledMs };
    },
  };
}

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** What is in use, without what only waits to be collected: that is as much as V8 likes, whatever a guest does. */
function heldBytes(): number {
  // The first frees the buffers of what it collects only later; the second waits for that.
  collect();
  collect();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}
