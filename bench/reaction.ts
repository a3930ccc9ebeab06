/**
 * How long it takes until what was asked for is so: from a cancellation to the sandbox that is gone, and from the death of a worker to the record that
 * says so. With no fault beside, unlike `npm run chaos`, which measures the same under faults.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { HEARTBEAT_MS } from '@cocore/protocol';
import { Apart, Stack } from '../tests/e2e/support/stack.ts';
import { median, ms, quantile, row } from './table.ts';

/** How often each, by how long a sandbox takes to start. */
const CANCELLATIONS = { fake: 200, gvisor: 50, qemu: 20 };
const STACKS = 4;
const DEATHS_EACH = 3;

/** What says that it runs, and sleeps; the fake driver plays the arguments instead. */
const SLEEPER = 'echo up\nexec sleep 3600\n';
const ARGS = ['out:up', 'sleep:3600000'];

function show(name: string, valuesMs: readonly number[]): void {
  const worst = Math.max(...valuesMs);
  row(`  ${name}`, ms(median(valuesMs)), ms(quantile(valuesMs, 0.99)), ms(worst), String(valuesMs.length));
}

/** An end is told once the sandbox is gone; so what is measured ends at the user. */
async function cancellations(isolation: string, times: number): Promise<number[]> {
  await using stack = await Stack.dev('--isolation', isolation);
  await stack.deploy('sleeper', 'bash', SLEEPER, { timeoutMs: 3_600_000 });
  const takenMs: number[] = [];
  for (let at = 0; at < times; at += 1) {
    const { id } = await stack.client.executions.create('sleeper', { args: ARGS });
    let askedMs = 0;
    for await (const event of stack.client.executions.follow(id)) {
      if (event.event === 'output' && askedMs === 0) {
        askedMs = performance.now();
        await stack.client.executions.cancel(id);
      }
      if (event.event === 'end') takenMs.push(performance.now() - askedMs);
    }
  }
  return takenMs;
}

/** @param comesBack whether its next life begins at once */
async function deaths(comesBack: boolean): Promise<number[]> {
  await using stack = await Apart.start({ isolation: 'fake' });
  await stack.deploy('sleeper', SLEEPER);
  const takenMs: number[] = [];
  for (let at = 0; at < DEATHS_EACH; at += 1) {
    const { id } = await stack.client.executions.create('sleeper', { args: ARGS, timeoutMs: 3_600_000 });
    const attempt = async () => (await stack.client.executions.get(id)).attempts[0];
    while ((await attempt())?.state !== 'started') await sleep(50);
    // Anywhere between two heartbeats.
    await sleep(Math.random() * HEARTBEAT_MS);
    const diedMs = performance.now();
    stack.killWorker();
    const back = comesBack ? stack.startWorker() : null;
    while ((await attempt())?.outcome === null) await sleep(20);
    takenMs.push(performance.now() - diedMs);
    await (back ?? stack.startWorker());
    await stack.client.executions.cancel(id).catch(() => undefined);
  }
  return takenMs;
}

row('', 'p50', 'p99', 'worst', 'times');
for (const [isolation, times] of Object.entries(CANCELLATIONS)) {
  show(`cancellation → sandbox gone, ${isolation}`, await cancellations(isolation, times));
}
for (const [name, comesBack] of [
  ['worker killed → known, for good', false],
  ['worker killed → known, back at once', true],
] as const) {
  show(name, (await Promise.all(Array.from({ length: STACKS }, () => deaths(comesBack)))).flat());
}
