/**
 * A first look, to compare later work with: how many executions a second the control path carries (fake driver), beside
 * how many requests a second the same server answers; and how long a microVM takes from the task to the first byte.
 */
import { performance } from 'node:perf_hooks';
import type { CocoreClient } from '@cocore/client';
import { Stack } from '../tests/e2e/support/stack.ts';
import { ms, quantile, row } from './table.ts';

const EXECUTIONS = 2_000;
const IN_FLIGHT = 50;
const MICROVM_RUNS = 7;

/** Runs `count` jobs, so many at once; resolves with the rate a second and each job's time in milliseconds. */
async function atOnce(count: number, inFlight: number, job: () => Promise<unknown>) {
  const timesMs: number[] = [];
  const began = performance.now();
  let next = 0;
  const lane = async () => {
    while (next < count) {
      next += 1;
      const at = performance.now();
      await job();
      timesMs.push(performance.now() - at);
    }
  };
  await Promise.all(Array.from({ length: inFlight }, lane));
  return { perSecond: (count / (performance.now() - began)) * 1000, timesMs };
}

async function dispatch(): Promise<void> {
  await using stack = await Stack.dev('--isolation', 'fake', '--cpus', '4');
  await stack.deploy('noop', 'bash', 'exit 0');
  const run = () => stack.client.executions.create('noop', {}, { waitMs: 60_000 });
  const read = () => stack.client.server.get();
  await atOnce(200, IN_FLIGHT, run);
  await atOnce(200, IN_FLIGHT, read);
  const floor = await atOnce(EXECUTIONS, IN_FLIGHT, read);
  const many = await atOnce(EXECUTIONS, IN_FLIGHT, run);
  const single = await atOnce(200, 1, run);
  row('dispatch, fake driver', 'a second', 'p50', 'p99');
  for (const [name, result] of [
    [`floor: GET /v1/server, ${IN_FLIGHT} in flight`, floor],
    [`execution to its end, ${IN_FLIGHT} in flight`, many],
    ['execution to its end, one at a time', single],
  ] as const) {
    row(
      `  ${name}`,
      result.perSecond.toFixed(0),
      ms(quantile(result.timesMs, 0.5)),
      ms(quantile(result.timesMs, 0.99)),
    );
  }
  row('  share of the floor', (many.perSecond / floor.perSecond).toFixed(3));
}

/** From the request to the first byte at the user, and how much of it passed before the function's process began. */
async function firstByte(client: CocoreClient): Promise<{ firstByteMs: number; startedMs: number }> {
  const began = performance.now();
  const { id } = await client.executions.create('hello', {});
  let firstByteMs = 0;
  let startedMs = 0;
  for await (const event of client.executions.follow(id)) {
    if (event.event === 'output' && firstByteMs === 0) firstByteMs = performance.now() - began;
    if (event.event === 'end') startedMs = Date.parse(event.data.startedAt!) - Date.parse(event.data.acceptedAt!);
  }
  return { firstByteMs, startedMs };
}

async function microvm(): Promise<void> {
  await using stack = await Stack.dev('--isolation', 'qemu');
  await stack.deploy('hello', 'bash', 'echo hello');
  const runs: { firstByteMs: number; startedMs: number }[] = [];
  // The first one also fetches the blobs.
  await firstByte(stack.client);
  for (let at = 0; at < MICROVM_RUNS; at += 1) runs.push(await firstByte(stack.client));
  const firstBytes = runs.map((run) => run.firstByteMs);
  const started = runs.map((run) => run.startedMs);
  row('microVM, qemu, cold', 'median', 'p95');
  row('  request to first byte', ms(quantile(firstBytes, 0.5)), ms(quantile(firstBytes, 0.95)));
  row('  acceptance to process (boot, mounts, crun)', ms(quantile(started, 0.5)), ms(quantile(started, 0.95)));
  row('  share before the process', (quantile(started, 0.5) / quantile(firstBytes, 0.5)).toFixed(3));
}

await dispatch();
await microvm();
