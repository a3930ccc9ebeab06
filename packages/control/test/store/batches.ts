import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { CocoreError } from '@cocore/protocol';
import { DEFAULT_LIMITS, type Limits } from '../../src/admission.ts';
import type { NewExecution } from '../../src/store/store.ts';
import type { StoreScene } from './store-scene.ts';

export function batches(scene: StoreScene): void {
  const { create, read, code, deploy, request } = scene;
  const batch = (executions: readonly NewExecution[], idempotencyKey: string | null = null) =>
    scene.store.createBatch({ projectId: scene.projectId, executions, idempotencyKey }, DEFAULT_LIMITS);
  const stored = async (batchId: string) => (await scene.store.readBatch(scene.projectId, batchId))!;

  describe('batches', () => {
    test('a batch, its executions are there in its order, know their place, and are listed by it page by page', async () => {
      await deploy('sub');
      await create();
      const args = ['a', 'b', 'c', 'd', 'e'];
      const made = await batch(args.map((arg, at) => request({ args: [arg], function: at % 2 === 0 ? 'add' : 'sub' })));
      const { executions, createdAtMs } = await stored(made.batchId);
      assert.equal(createdAtMs, scene.clock.nowMs());
      assert.deepEqual(
        executions.map(({ executionId, state }) => [executionId, state]),
        made.queued.map(({ executionId }) => [executionId, 'open']),
      );
      const records = await Promise.all(made.queued.map(read));
      assert.deepEqual(
        records.map((one) => [one.batchId, one.batchIndex, one.args, one.functionName]),
        args.map((arg, at) => [made.batchId, at, [arg], at % 2 === 0 ? 'add' : 'sub']),
      );
      const query = { batch: made.batchId, limit: 3 };
      const first = await scene.store.listExecutions(scene.projectId, query);
      const second = await scene.store.listExecutions(scene.projectId, { ...query, cursor: first.next! });
      const ids = [...first.executions, ...second.executions].map(({ id }) => id);
      assert.deepEqual(ids.toSorted(), made.queued.map(({ executionId }) => executionId).toSorted());
      assert.equal(second.next, null);
      await scene.store.requestCancel(scene.projectId, executions[2]!.executionId);
      assert.deepEqual(
        (await stored(made.batchId)).executions.map(({ state, endedAtMs }) => [state, endedAtMs !== null]),
        [0, 1, 2, 3, 4].map((at) => (at === 2 ? ['cancelled', true] : ['open', false])),
      );
    });

    test('one bad entry, none is made and the refusal names its place', async () => {
      const refused = await batch([request(), request({ function: 'nothing' }), request()], 'k').catch(
        (error: unknown) => error,
      );
      assert.ok(refused instanceof CocoreError);
      assert.deepEqual([refused.code, refused.details['index']], ['function_not_found', 1]);
      assert.match(refused.message, /^executions\.1: /);
      assert.deepEqual((await scene.store.listExecutions(scene.projectId, { limit: 10 })).executions, []);
      // Nor has its key been used.
      assert.equal((await batch([request()], 'k')).queued.length, 1);
    });

    test('more than the limit, none is made', async () => {
      const limits = { ...DEFAULT_LIMITS, maxLiveExecutions: 2 };
      const three = { projectId: scene.projectId, executions: [request(), request(), request()], idempotencyKey: null };
      assert.equal(await code(scene.store.createBatch(three, limits)), 'quota_exceeded');
      assert.equal((await scene.store.createExecutions([request(), request()], limits)).length, 2);
    });

    test('of several functions, by name and by id, each limit is met exactly, in a batch and after it', async () => {
      const { id } = await scene.deploy('other');
      const [add, other] = [request(), request({ function: 'other' })];
      const executions = [add, other, add, request({ function: id })];
      const asked = (limits: Partial<Limits>) =>
        code(
          scene.store.createBatch(
            { projectId: scene.projectId, executions, idempotencyKey: null },
            { ...DEFAULT_LIMITS, ...limits },
          ),
        );
      assert.equal(await asked({ maxQueuedOfFunction: 1 }), 'quota_exceeded');
      assert.equal(await asked({ maxQueuedExecutions: 3 }), 'quota_exceeded');
      assert.equal(await asked({ maxLiveExecutions: 3 }), 'quota_exceeded');
      assert.equal(await asked({ maxLiveExecutions: 4, maxQueuedExecutions: 4, maxQueuedOfFunction: 2 }), 'none');
      const oneMore = (limits: Partial<Limits>) =>
        code(scene.store.createExecutions([other], { ...DEFAULT_LIMITS, ...limits }));
      assert.equal(await oneMore({ maxQueuedOfFunction: 2 }), 'quota_exceeded');
      assert.equal(await oneMore({ maxLiveExecutions: 4 }), 'quota_exceeded');
      assert.equal(await oneMore({ maxLiveExecutions: 5, maxQueuedOfFunction: 3 }), 'none');
    });

    test('another project’s batch, it is as if there were none', async () => {
      const { batchId } = await batch([request()]);
      const other = await scene.store.ensureProject('other');
      assert.equal(await scene.store.readBatch(other, batchId), null);
      assert.equal(await code(scene.store.listExecutions(other, { batch: batchId, limit: 1 })), 'batch_not_found');
    });

    test('rule 14: the same key and the same list, also at the same time, one batch; another list is refused', async () => {
      const list = [request({ args: ['1'] }), request({ args: ['2'] })];
      const answers = await Promise.all(Array.from({ length: 5 }, () => batch(list, 'once')));
      assert.equal(new Set(answers.map(({ batchId }) => batchId)).size, 1);
      assert.deepEqual(
        answers.map(({ queued }) => queued.length),
        [2, 0, 0, 0, 0],
      );
      for (const other of [list.toReversed(), list.slice(0, 1), [...list, request()]]) {
        assert.equal(await code(batch(other, 'once')), 'idempotency_conflict');
      }
      // The keys of executions are others.
      assert.ok(await create({ idempotencyKey: 'once' }));
    });
  });

  describe('idempotency keys', () => {
    const ttlMs = DEFAULT_LIMITS.idempotencyTtlMs;
    const ask = async (key: string, args = ['1']) =>
      (await scene.store.createExecutions([request({ idempotencyKey: key, args })], DEFAULT_LIMITS))[0]!;

    test('rule 14: a key holds for its time, from its first use; then it is a new one', async () => {
      const first = await ask('k');
      const made = await batch([request()], 'k');
      scene.clock.advance(ttlMs - 1);
      assert.equal((await ask('k')).executionId, first.executionId);
      assert.equal((await batch([request()], 'k')).batchId, made.batchId);
      scene.clock.advance(1);
      const second = await ask('k', ['other']);
      assert.notEqual(second.executionId, first.executionId);
      assert.notEqual((await batch([request()], 'k')).batchId, made.batchId);
      assert.equal((await ask('k', ['other'])).executionId, second.executionId);
      assert.ok(await read(first));
    });

    test('keys whose time is over, they are forgotten in pages and no others', async () => {
      for (const key of ['a', 'b', 'c']) await ask(key);
      scene.clock.advance(ttlMs);
      const { executionId } = await ask('d');
      const pages = [];
      for (let at = 0; at < 3; at += 1) pages.push(await scene.store.forgetIdempotencyKeys(2));
      assert.deepEqual(pages, [2, 1, 0]);
      assert.equal((await ask('d')).executionId, executionId);
    });
  });
}
