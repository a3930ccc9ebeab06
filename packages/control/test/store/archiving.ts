import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type AttemptKey, INLINE_OUTPUT_BYTES, type QueuedAttempt } from '../../src/store/store.ts';
import { reportedEnd, type StoreScene } from './store-scene.ts';

export function archiving(scene: StoreScene): void {
  const write = async (attempt: AttemptKey, bytes: number): Promise<void> => {
    const growth = { stream: 'stdout' as const, from: 0, to: bytes, inline: Buffer.alloc(bytes, 'x') };
    assert.equal(await scene.store.recordOutput(attempt, 's1', [growth]), 'recorded');
  };
  const ended = async (bytes: number): Promise<QueuedAttempt> => {
    const { attempt } = await scene.running();
    await write(attempt, bytes);
    const end = reportedEnd();
    const streams = { ...end.streams, stdout: { ...end.streams.stdout, bytes } };
    assert.equal(await scene.store.recordEnd(attempt, 's1', { ...end, streams }), 'recorded');
    return attempt;
  };
  const begin = async (after = '', limit = 10) =>
    (await scene.store.beginArchiving(after, limit)).map(({ attemptId }) => attemptId);
  const removed = () => scene.store.listRemovedOutputs('', 10);

  describe('archiving', () => {
    test('what has more than the store keeps by itself, it is named by pages until it is archived', async () => {
      const large = [await ended(INLINE_OUTPUT_BYTES + 1), await ended(70_000)];
      const small = await ended(INLINE_OUTPUT_BYTES);
      const ids = large.map(({ attemptId }) => attemptId).toSorted();
      assert.deepEqual(await begin(), ids);
      assert.deepEqual([await begin('', 1), await begin(ids[0], 1), await begin(ids[1], 1)], [[ids[0]], [ids[1]], []]);
      for (const attempt of large) {
        assert.equal(await scene.store.recordArchived(attempt), true);
        assert.equal(await scene.store.recordArchived(attempt), true);
        assert.deepEqual(await scene.store.readInline(attempt, 'stdout', 0), []);
      }
      assert.deepEqual(await begin(), []);
      const [piece] = await scene.store.readInline(small, 'stdout', 0);
      assert.equal(piece?.length, INLINE_OUTPUT_BYTES);
    });

    test('an attempt that is lost, it is not named while its execution goes on, since it may too', async () => {
      const { attempt, workerId } = await scene.running();
      await write(attempt, 20_000);
      assert.equal(await scene.store.recordLost(attempt, workerId, null), 'ended');
      assert.deepEqual(await begin(), []);
      await scene.store.requestCancel(scene.projectId, attempt.executionId);
      assert.deepEqual(await begin(), [attempt.attemptId]);
    });

    test('what is kept no more, its removal says whether objects of it may be there', async () => {
      const [never, begun, archived] = [await ended(20_000), await ended(20_000), await ended(20_000)];
      await scene.store.expireExecutions({ maxAgeMs: 1e9, maxOutputBytes: 40_000 }, 10);
      assert.deepEqual(await removed(), [{ attemptId: never.attemptId, inArchive: false }]);
      assert.deepEqual(await begin(), [begun.attemptId, archived.attemptId].toSorted());
      await scene.store.recordArchived(archived);
      await scene.store.expireExecutions({ maxAgeMs: 0, maxOutputBytes: 0 }, 10);
      assert.equal(await scene.store.recordArchived(begun), false);
      const places = new Map((await removed()).map(({ attemptId, inArchive }) => [attemptId, inArchive]));
      assert.deepEqual(
        [never, begun, archived].map((one) => places.get(one.attemptId)),
        [false, true, true],
      );
    });
  });
}
