import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** A directory of one test's own; removed when disposed of. */
export async function workspace(): Promise<AsyncDisposable & { path: string }> {
  const path = await mkdtemp(join(tmpdir(), 'cocore-worker-test-'));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

/** Resolves when `condition` holds. @throws after 10 s, naming what was waited for */
export async function eventually(
  what: string,
  condition: () => boolean | Promise<boolean>,
  limitMs = 10_000,
): Promise<void> {
  const due = performance.now() + limitMs;
  while (!(await condition())) {
    if (performance.now() > due) throw new Error(`not within ${limitMs} ms: ${what}`);
    await sleep(5);
  }
}
