import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { DEFAULT_LIMITS } from '../../src/admission.ts';
import { taskSpec } from '../../src/dispatch/task.ts';
import type {
  AssignedTask,
  CreatedAssigned,
  NewExecution,
  PlacedArrival,
  QueuedAttempt,
} from '../../src/store/store.ts';
import { type StoreScene } from './store-scene.ts';

/** Whatever kind of bytes a store gives. */
const plain = (task: AssignedTask): unknown => JSON.parse(JSON.stringify(taskSpec(task)));

const ATTEMPT = 'at_01m8515c5dec3ssmk0fssmppb1';

export function arriving(scene: StoreScene): void {
  const { create, join, read, deploy } = scene;

  describe('executions that are made and assigned at once', () => {
    const placed = async (change: Partial<PlacedArrival> = {}): Promise<PlacedArrival> => {
      const { workerId } = await join('k1', 's1');
      const { id, version } = (await scene.store.readFunction(scene.projectId, 'add'))!;
      const worker = { workerId, sessionId: 's1' };
      return { attemptId: ATTEMPT, function: { id, version }, worker, shared: null, ...change };
    };
    const arrive = (of: PlacedArrival, change: Partial<NewExecution> = {}): Promise<CreatedAssigned> =>
      scene.store.createAssigned(scene.request(change), DEFAULT_LIMITS, of);
    const assertQueued = async ({ queued, task }: CreatedAssigned): Promise<void> => {
      assert.equal(task, null);
      assert.equal((await read(queued!)).attempts[0]?.state, 'queued');
      assert.deepEqual(await scene.store.readNext(queued!), { ...(await scene.store.readNext(queued!)), ...queued });
    };

    test('with all that a request may have, the task and the records are what they are when it is done in two', async () => {
      const request: Partial<NewExecution> = {
        ...{ env: { A: 'ä' }, stdin: { inline: Buffer.from('in') }, timeoutMs: 7, outputLimitBytes: 9 },
        ...{ retries: { max: 1, backoffMs: 5 }, priority: 3, concurrency: { key: 'k', limit: 4 }, queueTtlMs: 99_000 },
        files: [{ name: 'a.txt', base64: 'AAE=' }],
      };
      await deploy('add', scene.projectId, 'container', undefined, 9);
      const of = await placed();
      const once = await arrive(of, request);
      const queued: QueuedAttempt = await create(request);
      const task = await scene.store.assign(queued, of.worker);
      assert.ok(task !== null && task !== 'stale' && !('capped' in task));
      assert.deepEqual(plain(once.task!), plain({ ...task, executionId: once.executionId }));
      const { attemptId } = once.queued!;
      assert.equal(attemptId, ATTEMPT);
      assert.deepEqual(once.queued, { ...queued, executionId: once.executionId, attemptId });
      const [one, other] = (await scene.store.loadLive()).map(({ attemptId: _, executionId: __, ...rest }) => rest);
      assert.deepEqual(one, other);
      const [first, second] = [await read(once), await read(queued)];
      const same = { id: second.id, attempts: [{ ...first.attempts[0]!, id: queued.attemptId }] };
      assert.deepEqual({ ...first, ...same }, second);
      // Both count against the function's limit and the key's.
      const shared = { caps: { ...queued, concurrency: { key: 'k', limit: 2 } }, isContended: false };
      const third = await create({ concurrency: { key: 'k', limit: 2 } });
      const capped = await scene.store.assign(third, of.worker, shared);
      assert.ok(capped !== null && capped !== 'stale' && 'capped' in capped);
    });

    test('with a key that was used, it is the earlier one, and nothing is assigned', async () => {
      const of = await placed();
      const first = await arrive(of, { idempotencyKey: 'once' });
      const second = await arrive({ ...of, attemptId: ATTEMPT.replace('pb1', 'pb2') }, { idempotencyKey: 'once' });
      assert.deepEqual(second, { executionId: first.executionId, queued: null, task: null });
      assert.equal(await scene.code(arrive(of, { idempotencyKey: 'once', args: ['9'] })), 'idempotency_conflict');
    });

    test('what is refused, it is not there', async () => {
      const of = await placed();
      assert.equal(await scene.code(arrive(of, { function: 'nothing' })), 'function_not_found');
      assert.equal(
        await scene.code(scene.store.createAssigned(scene.request(), { ...DEFAULT_LIMITS, maxLiveExecutions: 0 }, of)),
        'quota_exceeded',
      );
      assert.deepEqual(await scene.store.loadLive(), []);
    });

    test('a session that is not the worker’s any more, it is queued', async () => {
      const of = await placed();
      await join('k1', 's2');
      await assertQueued(await arrive(of));
    });

    test('a drained worker, it is queued', async () => {
      const of = await placed();
      await scene.store.setDrained(of.worker.workerId, true);
      await assertQueued(await arrive(of));
    });

    test('another version than it was placed by, it is queued, of the newest version', async () => {
      const of = await placed();
      await deploy('add', scene.projectId, 'microvm');
      const created = await arrive(of);
      await assertQueued(created);
      assert.deepEqual([created.queued!.isolation, created.queued!.function.version], ['microvm', 2]);
    });

    test('a worker of a weaker class, it is queued', async () => {
      await deploy('add', scene.projectId, 'microvm');
      await assertQueued(await arrive(await placed()));
    });

    test('a limit that is counted here and is reached, it is queued', async () => {
      await deploy('add', scene.projectId, 'container', undefined, 1);
      const of = await placed();
      const shared = (limit: number) => ({
        caps: { function: { ...of.function, limit }, concurrency: null },
        isContended: false,
      });
      assert.notEqual((await arrive({ ...of, shared: shared(1) })).task, null);
      await assertQueued(await arrive({ ...of, attemptId: ATTEMPT.replace('pb1', 'pb2'), shared: shared(1) }));
    });
  });
}
