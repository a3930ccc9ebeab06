import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { FIRST_ALLOWANCE } from '../../src/scheduler/trust.ts';
import type { QueuedAttempt } from '../../src/store/store.ts';
import { type StoreScene } from './store-scene.ts';

export function assigning(scene: StoreScene): void {
  const { create, join, read, deploy } = scene;

  describe('assigning', () => {
    test('two workers race for one attempt, exactly one gets it', async () => {
      const [one, two] = [await join('k1', 's1'), await join('k2', 's2')];
      for (let round = 0; round < 20; round += 1) {
        const attempt = await create();
        const tasks = await Promise.all([
          scene.store.assign(attempt, { workerId: one.workerId, sessionId: 's1' }),
          scene.store.assign(attempt, { workerId: two.workerId, sessionId: 's2' }),
        ]);
        assert.equal(tasks.filter((task) => task !== null).length, 1);
      }
    });

    test('limits that are counted here, no more is assigned than they allow, whoever knew of them', async () => {
      const { workerId } = await join('k1', 's1');
      const worker = { workerId, sessionId: 's1' };
      const assign = (attempt: QueuedAttempt) =>
        scene.store.assign(attempt, worker, { caps: attempt, isContended: false });
      const outcome = async (asked: Promise<Awaited<ReturnType<typeof assign>>>) => {
        const task = await asked;
        return task === null || task === 'stale' ? task : 'capped' in task ? task.capped : 'assigned';
      };
      const early = await create();
      assert.equal(await outcome(assign(early)), 'assigned');
      const before = await create();
      const { id, version } = await deploy('add', scene.projectId, 'container', undefined, 2);
      // Who asks has not heard of the limit, and of what to hold.
      const capped = { id, version, limit: 2 };
      assert.deepEqual(await outcome(assign(before)), capped);
      assert.equal(await outcome(assign({ ...before, function: capped })), 'assigned');
      const [third, keyed, other] = [
        await create(),
        await create({ concurrency: { key: 'k', limit: 1 } }),
        await create({ concurrency: { key: 'k', limit: 1 } }),
      ];
      assert.deepEqual(await outcome(assign(third)), capped);
      await scene.store.requestCancel(scene.projectId, early.executionId);
      assert.equal(await outcome(assign(keyed)), 'assigned');
      await deploy('add');
      const unlimited = { id, version: version + 1, limit: null };
      assert.deepEqual(await outcome(assign({ ...other, function: unlimited })), unlimited);
      assert.equal(await outcome(assign({ ...third, function: unlimited })), 'assigned');
      await scene.store.recordRefused(keyed, 's1');
      assert.equal(await outcome(assign({ ...other, function: unlimited })), 'assigned');
    });

    test('a session that is not the worker’s any more, it gets nothing', async () => {
      const attempt = await create();
      const { workerId } = await join('k1', 's1');
      await join('k1', 's2');
      assert.equal(await scene.store.assign(attempt, { workerId, sessionId: 's1' }), 'stale');
      assert.equal((await read(attempt)).attempts[0]?.state, 'queued');
    });

    test('a drained worker, nothing is assigned to it, in its next session neither, until it is given work again', async () => {
      const attempt = await create();
      const { workerId } = await join('k1', 's1');
      const at = scene.clock.nowMs();
      assert.deepEqual(await scene.store.setDrained(workerId, true), { drainedAtMs: at });
      scene.clock.advance(1000);
      assert.deepEqual(await scene.store.setDrained(workerId, true), { drainedAtMs: at });
      assert.equal(await scene.store.assign(attempt, { workerId, sessionId: 's1' }), 'stale');
      await join('k1', 's2');
      assert.equal(await scene.store.assign(attempt, { workerId, sessionId: 's2' }), 'stale');
      assert.equal((await scene.store.listWorkers())[0]?.drainedAtMs, at);
      assert.deepEqual(await scene.store.setDrained(workerId, false), { drainedAtMs: null });
      assert.ok(await scene.store.assign(attempt, { workerId, sessionId: 's2' }));
      assert.equal(await scene.store.setDrained('wk_nobody', true), null);
    });

    test('what a worker may have at once, it is little at first and grows as it is told, over its sessions', async () => {
      const { workerId } = await join('k1', 's1');
      const { workerId: other } = await join('k2', 's2');
      const allowances = async () => {
        const workers = await scene.store.listWorkers();
        return [workerId, other].map((id) => workers.find((worker) => worker.workerId === id)!.allowance);
      };
      assert.deepEqual(await allowances(), [FIRST_ALLOWANCE, FIRST_ALLOWANCE]);
      await scene.store.recordAllowance(workerId, 8);
      await scene.store.recordAllowance(workerId, 4);
      await join('k1', 's3');
      assert.deepEqual(await allowances(), [8, FIRST_ALLOWANCE]);
    });

    test('a cancelled execution, its attempt is not assigned', async () => {
      const attempt = await create();
      const { workerId } = await join('k1', 's1');
      await scene.store.requestCancel(scene.projectId, attempt.executionId);
      assert.equal(await scene.store.assign(attempt, { workerId, sessionId: 's1' }), null);
    });
  });

  describe('isolation', () => {
    test('a version’s class, it is in the records of its function and executions, and a new version changes neither', async () => {
      await deploy('strong', scene.projectId, 'microvm');
      const attempt = await create({ function: 'strong' });
      assert.equal(attempt.isolation, 'microvm');
      assert.equal((await deploy('strong', scene.projectId, 'emulated')).isolation, 'emulated');
      assert.equal((await read(attempt)).isolation, 'microvm');
      assert.deepEqual(
        (await scene.store.loadLive()).map(({ isolation }) => isolation),
        ['microvm'],
      );
    });

    test('a worker of a weaker class than is required, nothing is assigned to it', async () => {
      await deploy('strong', scene.projectId, 'gvisor');
      const attempt = await create({ function: 'strong' });
      for (const weak of ['emulated', 'container'] as const) {
        const { workerId } = await join(weak, weak, [], weak);
        await assert.rejects(scene.store.assign(attempt, { workerId, sessionId: weak }), /requires gvisor/);
      }
      assert.equal((await read(attempt)).attempts[0]?.state, 'queued');
      const { workerId } = await join('strong', 'strong', [], 'gvisor');
      assert.ok(await scene.store.assign(attempt, { workerId, sessionId: 'strong' }));
    });

    test('a worker that comes back with a weaker class, what it had not accepted is taken from it; what runs goes on', async () => {
      await deploy('strong', scene.projectId, 'gvisor');
      const [begun, waiting] = [await create({ function: 'strong' }), await create({ function: 'strong' })];
      const { workerId } = await join('k1', 's1', [], 'gvisor');
      for (const attempt of [begun, waiting]) await scene.store.assign(attempt, { workerId, sessionId: 's1' });
      await scene.store.recordAccepted(begun, 's1', { driver: 'gvisor', isolation: 'gvisor' });
      const opened = await join('k1', 's2', [begun.attemptId, waiting.attemptId], 'emulated');
      const ids = (attempts: readonly { attemptId: string }[]) => attempts.map(({ attemptId }) => attemptId);
      assert.deepEqual(
        [ids(opened.resume), ids(opened.requeued), opened.revoke],
        [[begun.attemptId], [waiting.attemptId], [waiting.attemptId]],
      );
      assert.equal((await read(waiting)).attempts[0]?.state, 'queued');
    });
  });
}
