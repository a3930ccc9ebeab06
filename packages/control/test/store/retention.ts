import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { DEFAULT_LIMITS } from '../../src/admission.ts';
import type { QueuedAttempt, Retention } from '../../src/store/store.ts';
import { reportedEnd, SANDBOX, type StoreScene } from './store-scene.ts';

export function retention(scene: StoreScene): void {
  const { create, code, join, read, running } = scene;
  const kept: Retention = { maxAgeMs: 1000, maxOutputBytes: 100 };

  /** One that has ended with so many bytes of output. */
  const ended = async (bytes: number, change = {}): Promise<QueuedAttempt> => {
    const attempt = await create(change);
    const { workerId } = await join('k1', 's1');
    await scene.store.assign(attempt, { workerId, sessionId: 's1' });
    await scene.store.recordAccepted(attempt, 's1', SANDBOX);
    const growth = { stream: 'stdout' as const, from: 0, to: bytes, inline: Buffer.alloc(bytes) };
    if (bytes > 0) await scene.store.recordOutput(attempt, 's1', [growth]);
    const end = reportedEnd({ result: '"r"', message: 'm' });
    const stdout = { ...end.streams.stdout, bytes };
    assert.equal(
      await scene.store.recordEnd(attempt, 's1', { ...end, streams: { ...end.streams, stdout } }),
      'recorded',
    );
    scene.clock.advance(1);
    return attempt;
  };
  const isExpired = async (attempts: readonly QueuedAttempt[]) =>
    Promise.all(attempts.map(async (attempt) => (await read(attempt)).expired));

  describe('retention', () => {
    test('an execution that ended longer ago than is kept, what it came to stays and the rest is gone', async () => {
      const digest = `sha256:${'b'.repeat(64)}`;
      await scene.store.addBlob(scene.projectId, { digest, bytes: 1 }, DEFAULT_LIMITS);
      const attempt = await ended(10, { stdin: { blob: digest }, idempotencyKey: 'k' });
      const live = await create();
      const before = await read(attempt);
      scene.clock.advance(kept.maxAgeMs - 2);
      assert.equal(await scene.store.expireExecutions(kept, 10), 0);
      scene.clock.advance(1);
      assert.equal(await scene.store.expireExecutions(kept, 10), 1);
      assert.equal(await scene.store.expireExecutions(kept, 10), 0);
      const stream = { bytes: 0, truncated: false, sha256: null };
      assert.deepEqual(await read(attempt), {
        ...before,
        expired: true,
        args: [],
        message: null,
        result: null,
        decidingAttempt: null,
        attempts: [],
        output: { stdout: stream, stderr: stream },
      });
      assert.equal((await read(live)).expired, false);
      assert.deepEqual(await scene.store.readInline(attempt, 'stdout', 0), []);
      // Its list and its key still lead to it, and its blob may go.
      const { executions } = await scene.store.listExecutions(scene.projectId, { limit: 10 });
      assert.deepEqual(executions.map(({ id }) => id).toSorted(), [attempt.executionId, live.executionId].toSorted());
      const request = scene.request({ stdin: { blob: digest }, idempotencyKey: 'k' });
      const [again] = await scene.store.createExecutions([request], DEFAULT_LIMITS);
      assert.equal(again?.executionId, attempt.executionId);
      await scene.store.forgetUnusedBlobs({ layersMs: 0, blobsMs: 0 });
      scene.clock.advance(1);
      await scene.store.forgetUnusedBlobs({ layersMs: 0, blobsMs: 0 });
      assert.equal(await code(create({ stdin: { blob: digest } })), 'blob_not_found');
      // A late word of its worker touches nothing.
      assert.equal(await scene.store.recordEnd(attempt, 's1', reportedEnd()), 'stale');
      assert.equal((await scene.store.requestCancel(scene.projectId, attempt.executionId))?.result, 'already_ended');
    });

    test('a project with more output than is kept, its oldest go, and no more than is needed', async () => {
      const attempts = [await ended(40), await ended(0), await ended(50), await ended(50)];
      assert.equal(await scene.store.expireExecutions({ ...kept, maxAgeMs: 1e9 }, 10), 1);
      assert.deepEqual(await isExpired(attempts), [true, false, false, false]);
      const more = await ended(1);
      assert.equal(await scene.store.expireExecutions({ ...kept, maxAgeMs: 1e9 }, 10), 2);
      assert.deepEqual(await isExpired([...attempts, more]), [true, true, true, false, false]);
      assert.equal(await scene.store.expireExecutions({ ...kept, maxAgeMs: 1e9 }, 10), 0);
    });

    test('an attempt that was lost and taken back, its output counts once', async () => {
      const { attempt, workerId } = await running();
      const growth = { stream: 'stdout' as const, from: 0, to: 60, inline: Buffer.alloc(60) };
      await scene.store.recordOutput(attempt, 's1', [growth]);
      await scene.store.recordLost(attempt, workerId, null);
      const opened = await join('k1', 's2', [attempt.attemptId]);
      assert.equal(opened.resume.length, 1);
      const end = reportedEnd();
      const stdout = { ...end.streams.stdout, bytes: 60 };
      await scene.store.recordEnd(attempt, 's2', { ...end, streams: { ...end.streams, stdout } });
      assert.equal((await read(attempt)).state, 'success');
      assert.equal(await scene.store.expireExecutions({ maxAgeMs: 1e9, maxOutputBytes: 60 }, 10), 0);
      assert.equal(await scene.store.expireExecutions({ maxAgeMs: 1e9, maxOutputBytes: 59 }, 10), 1);
    });

    test('pages, each takes no more than its limit, and what was removed is told until its files are gone', async () => {
      const attempts = [await ended(1), await ended(0), await ended(1)];
      scene.clock.advance(kept.maxAgeMs);
      const counts = [];
      for (let at = 0; at < 3; at += 1) counts.push(await scene.store.expireExecutions(kept, 2));
      assert.deepEqual(counts, [2, 1, 0]);
      await scene.reopen();
      const ids = attempts.map(({ attemptId }) => attemptId);
      const removed = async () => (await scene.store.listRemovedOutputs('', 10)).map(({ attemptId }) => attemptId);
      assert.deepEqual(await removed(), ids.toSorted());
      await scene.store.forgetRemovedOutputs(ids.slice(1));
      assert.deepEqual(await removed(), ids.slice(0, 1));
    });
  });
}
