import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { PREPARE_TIMEOUT_MS } from '@cocore/protocol';
import { archiving } from './store/archiving.ts';
import { arriving } from './store/arriving.ts';
import { assigning } from './store/assigning.ts';
import { batches } from './store/batches.ts';
import { cancelling } from './store/cancelling.ts';
import { creating } from './store/creating.ts';
import { deliveries } from './store/deliveries.ts';
import { queueing } from './store/queueing.ts';
import { lateWorkers } from './store/late-workers.ts';
import { lives } from './store/lives.ts';
import { reports } from './store/reports.ts';
import { retention } from './store/retention.ts';
import { sessions } from './store/sessions.ts';
import { type StoreFactory, StoreScene } from './store/store-scene.ts';

/** What every store must do, by topic in `store/`. Each test gets a store of its own. */
export function storeConformance(
  name: string,
  open: StoreFactory,
  makePath: () => { path: string } & Disposable,
): void {
  describe(`${name}: the store`, () => {
    const scene = new StoreScene(open, makePath);
    beforeEach(() => scene.begin());
    afterEach(() => scene.end());

    const topics = [
      archiving,
      creating,
      batches,
      assigning,
      arriving,
      reports,
      lives,
      cancelling,
      deliveries,
      queueing,
      retention,
      sessions,
      lateWorkers,
    ];
    for (const topic of topics) topic(scene);

    test('a store that is closed and opened again, everything is there', async () => {
      const { attempt } = await scene.running();
      const queued = await scene.create();
      const before = await scene.read(attempt);
      await scene.reopen();
      assert.deepEqual(await scene.read(attempt), before);
      const live = await scene.store.loadLive();
      assert.deepEqual(
        live.map(({ attemptId, state }) => [attemptId, state]).sort(),
        [
          [attempt.attemptId, 'accepted'],
          [queued.attemptId, 'queued'],
        ].sort(),
      );
      const deadlineAtMs = scene.clock.nowMs() + PREPARE_TIMEOUT_MS;
      assert.equal(live.find(({ state }) => state === 'accepted')?.deadlineAtMs, deadlineAtMs);
    });

    test('a hundred verbs at once of which some fail, each gets its own answer', async () => {
      const answers = await Promise.all(
        Array.from({ length: 100 }, (_, index) =>
          scene.code(scene.create({ function: index % 3 === 0 ? 'nothing' : 'add' })),
        ),
      );
      assert.equal(answers.filter((answer) => answer === 'function_not_found').length, 34);
      assert.equal((await scene.store.listExecutions(scene.projectId, { limit: 200 })).executions.length, 66);
    });
  });
}
