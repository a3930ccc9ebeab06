import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type LateEnd, ofStreams } from '@cocore/protocol';
import type { AttemptKey } from '../../src/store/store.ts';
import { EMPTY, reportedEnd, SANDBOX, type StoreScene } from './store-scene.ts';

export function lateWorkers(scene: StoreScene): void {
  const { create, join, running, read } = scene;

  describe('workers that come back late', () => {
    /** The attempt that waits, given to a worker and accepted. */
    const again = async (attempt: AttemptKey & { executionId: string }, sessionId: string, publicKey: string) => {
      const next = (await scene.store.readNext(attempt))!;
      const { workerId } = await join(publicKey, sessionId);
      assert.notEqual(await scene.store.assign(next, { workerId, sessionId }), null);
      assert.equal((await scene.store.recordAccepted(next, sessionId, SANDBOX)).reported, 'recorded');
      return { attempt: next, workerId };
    };

    test('rule 13: a lost attempt that comes back before anybody took the next one, it goes on and nothing was counted', async () => {
      const { attempt, workerId } = await running();
      await scene.store.recordStarted(attempt, 's1', 0);
      await scene.store.recordOutput(attempt, 's1', [{ stream: 'stdout', from: 0, to: 3, inline: Buffer.from('abc') }]);
      const before = await read(attempt);
      for (const life of [2, 3, 4, 5]) {
        scene.clock.advance(1_000);
        await scene.store.recordLost(attempt, workerId, null);
        const next = (await scene.store.readNext(attempt))!;
        const opened = await join('k1', `s${life}`, [attempt.attemptId]);
        assert.deepEqual(opened.readopted, [
          { attemptId: attempt.attemptId, executionId: attempt.executionId, superseded: next.attemptId },
        ]);
        assert.deepEqual(
          opened.resume.map(({ attemptId, state, bytes, sessionId }) => [attemptId, state, bytes.stdout, sessionId]),
          [[attempt.attemptId, 'started', 3, `s${life}`]],
        );
        assert.deepEqual([opened.revoke, opened.late], [[], []]);
        assert.equal(await scene.store.readNext(attempt), null);
        const { attempts, ...record } = await read(attempt);
        assert.deepEqual({ ...record, attempts: before.attempts }, before);
        assert.deepEqual([attempts[0]?.state, attempts[0]?.outcome, attempts[0]?.endedAt], ['started', null, null]);
        assert.deepEqual(attempts.at(-1)?.outcome, { kind: 'superseded' });
      }
      assert.equal(await scene.store.recordEnd(attempt, 's1', reportedEnd()), 'stale');
      const stdout = { bytes: 3, sha256: EMPTY, truncated: false };
      const streams = { ...reportedEnd().streams, stdout };
      assert.equal(await scene.store.recordEnd(attempt, 's5', reportedEnd({ streams })), 'recorded');
      const record = await read(attempt);
      assert.deepEqual([record.state, record.decidingAttempt], ['success', attempt.attemptId]);
    });

    test('rule 13: a lost attempt that was being prepared, it goes on with what was left of its time', async () => {
      const { attempt, workerId } = await running();
      const { deadlineAt } = await read(attempt);
      scene.clock.advance(40_000);
      await scene.store.recordLost(attempt, workerId, null);
      await join('k1', 's2', [attempt.attemptId]);
      const record = await read(attempt);
      assert.deepEqual([record.phase, record.deadlineAt], ['preparing', deadlineAt]);
      assert.equal((await scene.store.recordStarted(attempt, 's2', 0)).reported, 'recorded');
    });

    test('rule 13: a lost attempt that comes back when somebody has the next one, or holds less than is missing, it stays ended', async () => {
      const taken = await running('s1', 'k1');
      await scene.store.recordLost(taken.attempt, taken.workerId, null);
      const next = (await scene.store.readNext(taken.attempt))!;
      const other = await join('k2', 's2');
      await scene.store.assign(next, { workerId: other.workerId, sessionId: 's2' });
      const opened = await join('k1', 's3', [taken.attempt.attemptId]);
      assert.deepEqual(
        [opened.readopted, opened.resume, opened.revoke, opened.late],
        [[], [], [taken.attempt.attemptId], [taken.attempt.attemptId]],
      );
      // Nor when it is another worker that says so, or the execution has ended.
      const stolen = await running('s4', 'k4');
      await scene.store.recordLost(stolen.attempt, stolen.workerId, null);
      const thief = await join('k5', 's5', [stolen.attempt.attemptId]);
      assert.deepEqual([thief.readopted, thief.revoke, thief.late], [[], [stolen.attempt.attemptId], []]);
      const heldFrom = { ...ofStreams(() => 0), stderr: 1 };
      const spent = await join('k4', 's6', [stolen.attempt.attemptId], 'container', heldFrom);
      assert.deepEqual([spent.readopted, spent.late], [[], [stolen.attempt.attemptId]]);
      await scene.store.requestCancel(scene.projectId, stolen.attempt.executionId);
      assert.deepEqual((await join('k4', 's7', [stolen.attempt.attemptId])).readopted, []);
      assert.equal((await read(stolen.attempt)).state, 'cancelled');
    });

    test('rule 13: a retry that waits when the lost attempt comes back, the retry is not counted', async () => {
      const { attempt, workerId } = await running();
      const queued = await create({ retries: { max: 1, on: ['host_lost'], backoffMs: 0 } });
      await scene.store.assign(queued, { workerId, sessionId: 's1' });
      await scene.store.recordAccepted(queued, 's1', SANDBOX);
      await scene.store.recordEnd(attempt, 's1', reportedEnd());
      let current = { attempt: queued as AttemptKey & { executionId: string }, workerId };
      for (const life of [2, 3]) {
        await scene.store.recordLost(current.attempt, current.workerId, null);
        current = await again(current.attempt, `s${life}`, `k${life}`);
      }
      for (const life of [4, 5]) {
        await scene.store.recordLost(current.attempt, current.workerId, null);
        const next = (await scene.store.readNext(current.attempt))!;
        assert.equal((await read(queued)).attempts.at(-1)?.cause, 'retry');
        const opened = await join('k3', `s${life}`, [current.attempt.attemptId]);
        assert.equal(opened.readopted[0]?.superseded, next.attemptId);
      }
    });

    test('rule 13: the late end of an attempt that was given up, it is kept once as evidence and changes nothing', async () => {
      const { attempt, workerId } = await running();
      await scene.store.recordLost(attempt, workerId, null);
      const { attemptId } = attempt;
      const stream = { bytes: 5, sha256: EMPTY, truncated: false };
      // The longest message there is, in what takes the most room.
      const end: Omit<LateEnd, 'receivedAt'> = {
        outcome: { kind: 'exited', code: 0 },
        message: '\u0001'.repeat(1000),
        ...ofStreams(() => stream),
        artifactFiles: 0,
        usage: { host: { cpuMs: 7, memoryPeakBytes: 8, wallMs: 9 }, guest: null },
        signature: 'late',
      };
      assert.equal(await scene.store.compareEnd(attemptId, workerId, 'late'), 'late');
      assert.equal(await scene.store.recordLateEnd(attemptId, 'wk_other', end), 'stale');
      scene.clock.advance(5_000);
      const before = await read(attempt);
      assert.equal(await scene.store.recordLateEnd(attemptId, workerId, end), 'recorded');
      assert.equal(await scene.store.recordLateEnd(attemptId, workerId, end), 'repeated');
      assert.equal(await scene.store.recordLateEnd(attemptId, workerId, { ...end, signature: 'other' }), 'conflict');
      assert.equal(await scene.store.compareEnd(attemptId, workerId, 'other'), 'conflict');
      const record = await read(attempt);
      const lateEnd = { receivedAt: new Date(scene.clock.nowMs()).toISOString(), ...end };
      assert.deepEqual(record.attempts[0], { ...before.attempts[0], lateEnd });
      assert.deepEqual({ ...record, attempts: [] }, { ...before, attempts: [] });
      assert.ok(JSON.stringify(lateEnd).length <= 8192);
      // It has said itself that it is over.
      assert.deepEqual((await join('k1', 's2', [attemptId])).readopted, []);
    });
  });
}
