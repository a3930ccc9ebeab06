import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { LEASE_MS } from '@cocore/protocol';
import { CAPABILITIES, SANDBOX, type StoreScene } from './store-scene.ts';

export function sessions(scene: StoreScene): void {
  const { create, join, running, read } = scene;

  describe('a session', () => {
    test('rule 4: a worker that comes back, what it has goes on, what it lacks is released or lost, the rest is revoked', async () => {
      const [kept, gone, assigned] = [await create(), await create(), await create()];
      const { workerId } = await join('k1', 's1');
      for (const attempt of [kept, gone, assigned]) await scene.store.assign(attempt, { workerId, sessionId: 's1' });
      for (const attempt of [kept, gone]) await scene.store.recordAccepted(attempt, 's1', SANDBOX);
      await scene.store.recordOutput(kept, 's1', [{ stream: 'stderr', from: 0, to: 3, inline: Buffer.from('abc') }]);
      const unknown = 'at_00000000000000000000000000';
      const opened = await join('k1', 's2', [kept.attemptId, unknown]);
      assert.equal(opened.workerId, workerId);
      assert.deepEqual(
        opened.resume.map(({ attemptId, bytes }) => [attemptId, bytes.stderr]),
        [[kept.attemptId, 3]],
      );
      assert.deepEqual(
        opened.requeued.map(({ attemptId }) => attemptId),
        [assigned.attemptId],
      );
      assert.deepEqual(
        opened.lost.map(({ attemptId }) => attemptId),
        [gone.attemptId],
      );
      assert.deepEqual(opened.revoke, [unknown]);
      assert.equal((await read(gone)).phase, 'requeued');
      assert.equal((await read(assigned)).state, 'open');
    });

    test('another worker’s attempt in the inventory, it is revoked and stays the other’s', async () => {
      const { attempt } = await running();
      const opened = await join('k2', 's2', [attempt.attemptId]);
      assert.deepEqual(opened.revoke, [attempt.attemptId]);
      assert.equal((await scene.store.recordStarted(attempt, 's1', 0)).reported, 'recorded');
    });

    test('a token that is used, has expired or was never made, nobody joins by it', async () => {
      const hello = (publicKey: string, joinTokenHash: Uint8Array | null) =>
        scene.store.openSession({
          sessionId: 's',
          publicKey,
          joinTokenHash,
          name: 'n',
          daemonVersion: '1',
          platform: 'p',
          capabilities: CAPABILITIES,
          inventory: [],
        });
      const [used, old] = [Buffer.from('used'), Buffer.from('old')];
      await scene.store.createJoinToken({ hash: used, ttlMs: 1e9 });
      await scene.store.createJoinToken({ hash: old, ttlMs: 10 });
      scene.clock.advance(LEASE_MS);
      const race = await Promise.all([hello('a', used), hello('b', used)]);
      assert.deepEqual(race.map(({ kind }) => kind).sort(), ['opened', 'token_invalid']);
      assert.equal((await hello('c', old)).kind, 'token_invalid');
      assert.equal((await hello('c', Buffer.from('never'))).kind, 'token_invalid');
      assert.equal((await hello('c', null)).kind, 'unknown_key');
      assert.equal((await scene.store.listWorkers()).length, 1);
    });
  });
}
