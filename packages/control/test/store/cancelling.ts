import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { DEFAULT_LIMITS } from '../../src/admission.ts';
import type { CancelledPage, LiveFilter, QueuedAttempt } from '../../src/store/store.ts';
import { reportedEnd, type StoreScene } from './store-scene.ts';

export function cancelling(scene: StoreScene): void {
  const { code, create, deploy, read, request, running } = scene;

  describe('cancelling', () => {
    test('an open execution, it is cancelled at once, and a second time it has ended', async () => {
      const attempt = await create();
      assert.equal((await scene.store.requestCancel(scene.projectId, attempt.executionId))?.result, 'cancelled');
      assert.equal((await scene.store.requestCancel(scene.projectId, attempt.executionId))?.result, 'already_ended');
      const record = await read(attempt);
      assert.deepEqual([record.state, record.reason, record.attempts[0]?.state], ['cancelled', 'user_cancel', 'ended']);
    });

    test('a running execution, it is asked for once, and its worker’s word decides', async () => {
      const { attempt } = await running();
      assert.equal((await scene.store.requestCancel(scene.projectId, attempt.executionId))?.result, 'requested');
      assert.equal(
        (await scene.store.requestCancel(scene.projectId, attempt.executionId))?.result,
        'already_requested',
      );
      assert.equal((await read(attempt)).phase, 'stopping');
      await scene.store.recordStarted(attempt, 's1', 0);
      assert.ok((await read(attempt)).startedAt);
      await scene.store.recordEnd(attempt, 's1', reportedEnd());
      assert.equal((await read(attempt)).state, 'success');
    });

    test('rule 7: a cancelled execution whose worker is lost, it is cancelled', async () => {
      const { attempt, workerId } = await running();
      await scene.store.requestCancel(scene.projectId, attempt.executionId);
      assert.equal(await scene.store.recordLost(attempt, workerId, null), 'ended');
      assert.equal((await read(attempt)).state, 'cancelled');
    });

    describe('many at once', () => {
      const filter = (change: Partial<LiveFilter> = {}): LiveFilter => ({
        createdBeforeMs: scene.clock.nowMs() + 1,
        ...change,
      });
      const cancelAll = async (change: Partial<LiveFilter> = {}, limit = 2) => {
        const done: [string, string][] = [];
        for (let after: string | null = ''; after !== null;) {
          const page: CancelledPage = await scene.store.requestCancelOf(scene.projectId, filter(change), after, limit);
          assert.ok(page.executions.length <= limit);
          for (const { executionId, result } of page.executions) done.push([executionId, result]);
          after = page.next;
        }
        return done;
      };
      const results = (done: readonly [string, string][]) => done.map(([, result]) => result).toSorted();

      test('all that have not ended, in pages, each as if alone; again, only what is still stopping', async () => {
        const { attempt } = await running();
        const [ended] = [await create()];
        await scene.store.requestCancel(scene.projectId, ended.executionId);
        for (let at = 0; at < 4; at += 1) await create();
        assert.equal(await scene.store.countLive(scene.projectId, filter()), 5);
        assert.deepEqual(results(await cancelAll()), [...Array<string>(4).fill('cancelled'), 'requested']);
        assert.deepEqual(await cancelAll(), [[attempt.executionId, 'already_requested']]);
        assert.equal(await scene.store.countLive(scene.projectId, filter()), 1);
      });

      test('criteria, what meets all of them and nothing else', async () => {
        await deploy('sub');
        const { attempt } = await running();
        const early = await create();
        scene.clock.advance(1000);
        const sub = await create({ function: 'sub' });
        const [member] = (
          await scene.store.createBatch(
            { projectId: scene.projectId, executions: [request()], idempotencyKey: null },
            DEFAULT_LIMITS,
          )
        ).queued;
        const { batchId } = await read(member!);
        const other = await scene.store.ensureProject('other');
        await deploy('theirs', other);
        const theirs = [request({ projectId: other, function: 'theirs' })];
        await scene.store.createExecutions(theirs, DEFAULT_LIMITS);

        const before = { createdBeforeMs: scene.clock.nowMs() };
        const cases: [Partial<LiveFilter>, QueuedAttempt[]][] = [
          [{ function: 'sub', state: 'running' }, []],
          [{ function: 'sub' }, [sub]],
          [{ batch: batchId! }, [member!]],
          [{ state: 'open', ...before }, [early]],
          [{ function: 'add', state: 'running' }, [attempt]],
        ];
        for (const [criteria, expected] of cases) {
          assert.equal(await scene.store.countLive(scene.projectId, filter(criteria)), expected.length);
          const done = await cancelAll(criteria);
          assert.deepEqual(
            done.map(([id]) => id),
            expected.map(({ executionId }) => executionId),
          );
        }
        assert.equal(await scene.store.countLive(other, filter()), 1);
        assert.equal(await code(cancelAll({ function: 'nothing' })), 'function_not_found');
        assert.equal(await code(cancelAll({ batch: 'ba_00000000000000000000000000' })), 'batch_not_found');
      });
    });
  });
}
