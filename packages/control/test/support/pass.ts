import { SWEEP_MS } from '../../src/dispatch/sweeper.ts';
import type { ManualClock } from './manual-clock.ts';
import type { TestServer } from './test-server.ts';
import { until } from './until.ts';

/** Lets time pass, with a sweep for each second of it. */
export async function pass(server: TestServer, clock: ManualClock, ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += SWEEP_MS) {
    clock.advance(SWEEP_MS);
    await server.server.sweeper.sweep();
  }
}

export async function executing(server: TestServer, id: string): Promise<void> {
  await until('it executes', async () => (await server.execution(id)).phase === 'executing');
}
