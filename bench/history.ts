/** `npm run bench -- history`: what reading costs as the store grows. See bench/README.md. */
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { parseArgs } from 'node:util';
import { reportedEnd, StoreScene } from '../packages/control/test/store/store-scene.ts';
import { DEFAULT_LIMITS } from '../packages/control/src/admission.ts';
import { openSqliteStore } from '../packages/control/src/store/sqlite/sqlite-store.ts';
import type { Store } from '../packages/control/src/store/store.ts';
import { Random } from '../tests/faults/random.ts';
import { History } from './history/grow.ts';
import { median, quantile, row } from './table.ts';

const { values } = parseArgs({
  args: process.argv.slice(3),
  options: { executions: { type: 'string', default: '1000000' }, calls: { type: 'string', default: '400' } },
});
const most = Number(values.executions);
const calls = Number(values.calls);
const sizes = [most / 100, most / 10, most].map(Math.round);

await using scope = new AsyncDisposableStack();
const directory = await mkdtemp(join(tmpdir(), 'cocore-bench-'));
scope.defer(() => rm(directory, { recursive: true, force: true }));
const path = join(directory, 'cocore.db');

const template = await makeTemplate();
const measured: { readonly size: number; readonly timesMs: Map<string, number[]> }[] = [];
const history = new History(template, new Random('history'));
for (const size of sizes) {
  const db = new DatabaseSync(path);
  history.grow(db, size);
  db.close();
  const store = await openSqliteStore({ path });
  measured.push({ size, timesMs: await measure(store) });
  await store.close();
  console.log(`${size} executions: ${((await stat(path)).size / 2 ** 20).toFixed(0)} MiB`);
}

console.log('');
row(
  'p50, p99 in ms, with executions in the store',
  ...sizes.map((size) => size.toLocaleString('en')),
  'p99, last by first',
);
for (const name of measured[0]!.timesMs.keys()) {
  const times = measured.map(({ timesMs }) => timesMs.get(name)!);
  const [first, last] = [quantile(times[0]!, 0.99), quantile(times.at(-1)!, 0.99)];
  row(
    name,
    ...times.map((of) => `${median(of).toFixed(2)} ${quantile(of, 0.99).toFixed(2)}`),
    `× ${(last / first).toFixed(2)}`,
  );
}

/** One execution as the verbs make it, which all others are copies of. */
async function makeTemplate() {
  const scene = new StoreScene(
    (at, now) => openSqliteStore({ path: at, now }),
    () => ({ path, [Symbol.dispose]: () => undefined }),
  );
  await scene.begin();
  for (let number = 0; number < 20; number += 1) await scene.deploy(`function-${number}`);
  const batch = await scene.store.createBatch(
    { projectId: scene.projectId, executions: [scene.request()], idempotencyKey: null },
    DEFAULT_LIMITS,
  );
  const { attempt } = await scene.running();
  await scene.store.recordStarted(attempt, 's1', 0);
  const stdout = Buffer.alloc(100, 'x');
  await scene.store.recordOutput(attempt, 's1', [{ stream: 'stdout', from: 0, to: 100, inline: stdout }]);
  const end = reportedEnd();
  await scene.store.recordEnd(attempt, 's1', {
    ...end,
    streams: { ...end.streams, stdout: { ...end.streams.stdout, bytes: 100 } },
  });
  const functions = await scene.store.listFunctions(scene.projectId);
  await scene.end();
  return {
    projectId: scene.projectId,
    executionId: attempt.executionId,
    batchId: batch.batchId,
    functionIds: functions.filter(({ name }) => name.startsWith('function-')).map(({ id }) => id),
  };
}

/** Each call in turn, so that what else the machine does falls on all alike. */
async function measure(store: Store): Promise<Map<string, number[]>> {
  const random = new Random('calls');
  const { projectId, functionIds } = template;
  const page = { limit: 50 };
  const anyId = () => history.idAt(random.next());
  const reads: Record<string, () => Promise<unknown>> = {
    'get, any': () => store.readExecution(projectId, anyId()),
    'get, one that is not there': () => store.readExecution(projectId, `${anyId().slice(0, -8)}00000000`),
    'list, the newest 50': () => store.listExecutions(projectId, page),
    'list, 50 from anywhere': () => store.listExecutions(projectId, { ...page, cursor: anyId() }),
    'list, of a function': () =>
      store.listExecutions(projectId, { ...page, function: random.pick(functionIds), cursor: anyId() }),
    'list, failures (1 in 1,000)': () =>
      store.listExecutions(projectId, { ...page, state: 'failure', cursor: anyId() }),
    'list, failures of a function': () =>
      store.listExecutions(projectId, {
        ...page,
        state: 'failure',
        function: random.pick(functionIds),
        cursor: anyId(),
      }),
    'list, timeouts (none)': () => store.listExecutions(projectId, { ...page, state: 'timeout' }),
    'list, running (none)': () => store.listExecutions(projectId, { ...page, state: 'running' }),
    'list, of a batch': () => store.listExecutions(projectId, { ...page, batch: history.batchAt(random.next()) }),
    'get a batch of 100': () => store.readBatch(projectId, history.batchAt(random.next())),
    'count what has not ended': () => store.countLive(projectId, { createdBeforeMs: Date.now() }),
    'list functions': () => store.listFunctions(projectId),
    'list workers': () => store.listWorkers(),
  };
  const timesMs = new Map(Object.keys(reads).map((name) => [name, [] as number[]]));
  for (let call = 0; call < calls; call += 1) {
    for (const [name, read] of Object.entries(reads)) {
      const began = performance.now();
      await read();
      timesMs.get(name)!.push(performance.now() - began);
    }
  }
  return timesMs;
}
