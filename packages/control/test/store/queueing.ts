import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { CocoreError, QUEUE_TTL_MS } from '@cocore/protocol';
import { DEFAULT_LIMITS, type Limits } from '../../src/admission.ts';
import type { NewExecution } from '../../src/store/store.ts';
import { BASH_FILE } from '../support/version-fields.ts';
import { BLOB, reportedEnd, SANDBOX, type StoreScene } from './store-scene.ts';

export function queueing(scene: StoreScene): void {
  const { create, join, running, read, request } = scene;

  describe('how executions wait', () => {
    const limited = (name: string, maxConcurrent: number | null) =>
      scene.store.createFunctionVersion(
        {
          ...{ projectId: scene.projectId, name, ...BASH_FILE, code: BLOB, image: BLOB, memoryMiB: 256, cpus: 1 },
          ...{ timeoutMs: 60_000, outputLimitBytes: 1000, env: {}, isolation: 'container', maxConcurrent },
        },
        DEFAULT_LIMITS,
      );

    test('priority, key and queue time, they are in the record, and whoever loads the queue has them', async () => {
      const asked = { priority: 3, concurrency: { key: 'user-1', limit: 2 }, queueTtlMs: 5_000 };
      const queued = await create(asked);
      const plain = await create();
      const { priority, concurrencyKey, concurrencyLimit, queueTtlMs } = await read(queued);
      assert.deepEqual([priority, concurrencyKey, concurrencyLimit, queueTtlMs], [3, 'user-1', 2, 5_000]);
      const record = await read(plain);
      assert.deepEqual([record.priority, record.concurrencyKey, record.queueTtlMs], [0, null, QUEUE_TTL_MS]);
      await scene.reopen();
      const loaded = (await scene.store.loadLive()).map(({ attemptId, priority, concurrency }) => [
        attemptId,
        priority,
        concurrency,
      ]);
      assert.deepEqual(loaded, [
        [queued.attemptId, 3, asked.concurrency],
        [plain.attemptId, 0, null],
      ]);
      assert.deepEqual([queued.priority, queued.concurrency], [3, asked.concurrency]);
    });

    test('executions that were asked for in one millisecond, they are loaded in the order in which they came, after a restart too', async () => {
      const made: string[] = [];
      for (let index = 0; index < 20; index += 1) made.push((await create()).executionId);
      const batch = await scene.store.createBatch(
        { projectId: scene.projectId, executions: Array.from({ length: 20 }, () => request()), idempotencyKey: null },
        DEFAULT_LIMITS,
      );
      made.push(...batch.queued.map(({ executionId }) => executionId));
      const loaded = async () => (await scene.store.loadLive()).map(({ executionId }) => executionId);
      assert.deepEqual(await loaded(), made);
      await scene.reopen();
      assert.deepEqual(await loaded(), made);
    });

    test('the size of what waits, it is about that of its arguments, variables and input, and the same after a restart', async () => {
      const small = await create();
      const large = await create({
        args: ['\u0001'.repeat(10_000), 'é'.repeat(5_000)],
        env: { V: 'x'.repeat(20_000) },
        stdin: { inline: Buffer.alloc(30_000) },
        files: [{ name: 'f', base64: Buffer.alloc(3_000).toString('base64') }],
      });
      const more = large.taskBytes - small.taskBytes;
      assert.ok(more >= 60_000 + 10_000 + 20_000 + 40_000 + 4_000 && more < 135_000, String(more));
      await scene.reopen();
      const loaded = new Map((await scene.store.loadLive()).map((row) => [row.attemptId, row.taskBytes]));
      for (const one of [small, large]) assert.equal(loaded.get(one.attemptId), one.taskBytes);
    });

    test('executions with queue times of their own, each ends at its own, and a retry has as long again', async () => {
      const short = await create({ queueTtlMs: 5_000 });
      const long = await create({ queueTtlMs: 60_000 });
      scene.clock.advance(5_000);
      assert.deepEqual(await scene.store.expireQueue(10), [
        { executionId: short.executionId, attemptId: short.attemptId },
      ]);
      const { workerId } = await join('k1', 's1');
      await scene.store.assign(long, { workerId, sessionId: 's1' });
      await scene.store.recordAccepted(long, 's1', SANDBOX);
      scene.clock.advance(100_000);
      await scene.store.recordLost(long, workerId, null);
      scene.clock.advance(59_999);
      assert.deepEqual(await scene.store.expireQueue(10), []);
      scene.clock.advance(1);
      assert.equal((await scene.store.expireQueue(10)).length, 1);
      const { state, reason } = await read(long);
      assert.deepEqual([state, reason], ['timeout', 'queue_ttl']);
    });

    test('the same idempotency key, and another way to wait, it is refused', async () => {
      const ask = (change: Partial<NewExecution>) =>
        scene.store.createExecutions([request({ idempotencyKey: 'k', ...change })], DEFAULT_LIMITS);
      const [first] = await ask({ priority: 1 });
      assert.equal((await ask({ priority: 1 }))[0]?.executionId, first?.executionId);
      for (const change of [{}, { priority: 2 }, { priority: 1, concurrency: { key: 'a', limit: 1 } }]) {
        await assert.rejects(ask(change), (error: CocoreError) => error.code === 'idempotency_conflict');
      }
    });

    test('a function’s limit, the newest version’s holds for what waits already', async () => {
      const { id } = await limited('narrow', 2);
      const first = await create({ function: 'narrow' });
      assert.deepEqual(first.function, { id, version: 1, limit: 2 });
      assert.equal((await limited('narrow', null)).maxConcurrent, null);
      assert.deepEqual((await scene.store.loadLive())[0]?.function, { id, version: 2, limit: null });
      assert.equal((await limited('narrow', 5)).maxConcurrent, 5);
      assert.deepEqual((await create({ function: 'narrow' })).function, { id, version: 3, limit: 5 });
      assert.equal((await scene.store.readFunction(scene.projectId, 'narrow'))?.maxConcurrent, 5);
    });

    /** How many more are taken, up to ten, with so much room in the queue. */
    const room = async (limits: Partial<Limits>, name = 'add'): Promise<{ taken: number; refused: string }> => {
      const before = (await scene.store.loadLive()).map(({ executionId }) => executionId);
      let refused = 'nothing';
      let taken = 0;
      for (; taken < 10 && refused === 'nothing'; taken += 1) {
        await scene.store
          .createExecutions([request({ function: name })], { ...DEFAULT_LIMITS, ...limits })
          .catch((error: unknown) => {
            if (!(error instanceof CocoreError) || error.code !== 'quota_exceeded') throw error;
            refused = String(error.details?.['name']);
          });
      }
      for (const { executionId } of await scene.store.loadLive()) {
        if (!before.includes(executionId)) await scene.store.requestCancel(scene.projectId, executionId);
      }
      return { taken: refused === 'nothing' ? taken : taken - 1, refused };
    };

    test('a full queue, of the project or of the function, what is more is refused and the cap is named; whatever leaves it makes room', async () => {
      await scene.deploy('other');
      const cap = { maxQueuedExecutions: 4 };
      const ofFunction = { maxQueuedOfFunction: 2 };
      assert.deepEqual(await room(cap), { taken: 4, refused: 'queuedExecutions' });
      assert.deepEqual(await room(ofFunction), { taken: 2, refused: 'queuedOfFunction' });
      const expired = await create({ queueTtlMs: 1_000 });
      const cancelled = await create();
      const accepted = await create({ retries: { max: 1, backoffMs: 0 } });
      assert.deepEqual(await room(cap, 'other'), { taken: 1, refused: 'queuedExecutions' });
      assert.deepEqual(await room(ofFunction), { taken: 0, refused: 'queuedOfFunction' });
      assert.deepEqual(await room(ofFunction, 'other'), { taken: 2, refused: 'queuedOfFunction' });
      scene.clock.advance(1_000);
      assert.equal((await scene.store.expireQueue(10))[0]?.executionId, expired.executionId);
      await scene.store.requestCancel(scene.projectId, cancelled.executionId);
      assert.deepEqual(await room(cap), { taken: 3, refused: 'queuedExecutions' });
      const { workerId } = await join('k1', 's1');
      await scene.store.assign(accepted, { workerId, sessionId: 's1' });
      assert.deepEqual(await room(cap), { taken: 3, refused: 'queuedExecutions' }, 'no worker has accepted it yet');
      await scene.store.recordAccepted(accepted, 's1', SANDBOX);
      assert.deepEqual(await room(cap), { taken: 4, refused: 'queuedExecutions' });
      await scene.store.recordEnd(accepted, 's1', reportedEnd({ outcome: { kind: 'exited', code: 1 } }));
      assert.equal((await read(accepted)).phase, 'requeued');
      assert.deepEqual(await room(cap), { taken: 3, refused: 'queuedExecutions' });
      await scene.store.requestCancel(scene.projectId, accepted.executionId);
      assert.deepEqual(await room(cap), { taken: 4, refused: 'queuedExecutions' });
      await running('s2', 'k2');
      assert.deepEqual(await room(cap), { taken: 4, refused: 'queuedExecutions' });
    });
  });
}
