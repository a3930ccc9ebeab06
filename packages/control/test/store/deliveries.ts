import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ofStreams, QUEUE_TTL_MS } from '@cocore/protocol';
import { DEFAULT_LIMITS } from '../../src/admission.ts';
import type { AttemptKey, QueuedAttempt } from '../../src/store/store.ts';
import { BASH_FILE } from '../support/version-fields.ts';
import { BLOB, EMPTY, SANDBOX, reportedEnd, type StoreScene } from './store-scene.ts';

export function deliveries(scene: StoreScene): void {
  const { create, join, running, read } = scene;

  describe('deliveries', () => {
    /** The attempt that waits, given to a worker and accepted. */
    const again = async (attempt: AttemptKey & { executionId: string }, sessionId = 's1', publicKey = 'k1') => {
      const next = await scene.store.readNext(attempt);
      const { workerId } = await join(publicKey, sessionId);
      assert.notEqual(await scene.store.assign(next!, { workerId, sessionId }), null);
      assert.equal((await scene.store.recordAccepted(next!, sessionId, SANDBOX)).reported, 'recorded');
      return { attempt: next!, workerId };
    };
    const retries = { max: 2, backoffMs: 1000 };
    const failed = reportedEnd({ outcome: { kind: 'exited', code: 3 } });

    test('rule 1: a lost attempt, the execution runs on and ends by the attempt after it', async () => {
      const first = await running();
      await scene.store.recordLost(first.attempt, first.workerId, null);
      const second = await again(first.attempt, 's2', 'k2');
      assert.notEqual(second.attempt.attemptId, first.attempt.attemptId);
      assert.equal((await read(first.attempt)).phase, 'preparing');
      assert.equal(await scene.store.recordEnd(second.attempt, 's2', reportedEnd()), 'recorded');
      const record = await read(first.attempt);
      assert.deepEqual([record.state, record.decidingAttempt], ['success', second.attempt.attemptId]);
      assert.equal(await scene.store.readNext(first.attempt), null);
    });

    test('rule 3: what is asked about an attempt that has ended, it does not touch the one after it', async () => {
      const first = await running();
      await scene.store.recordLost(first.attempt, first.workerId, null);
      const queued = (await scene.store.readNext(first.attempt))!;
      assert.equal(await scene.store.endByControl(queued, 'run_deadline', null), false);
      assert.equal(await scene.store.endUnplaceable(first.attempt, 'too large'), false);
      const second = await again(first.attempt, 's2', 'k2');
      assert.equal(await scene.store.endByControl(first.attempt, 'run_deadline', null), false);
      assert.equal(await scene.store.endUnplaceable(first.attempt, 'too large'), false);
      assert.equal(await scene.store.recordLost(first.attempt, first.workerId, null), 'stale');
      assert.equal(await scene.store.recordEnd(first.attempt, 's1', reportedEnd()), 'stale');
      assert.deepEqual(
        (await read(first.attempt)).attempts.map(({ id, state }) => [id, state]),
        [
          [first.attempt.attemptId, 'ended'],
          [second.attempt.attemptId, 'accepted'],
        ],
      );
    });

    test('what a lost attempt wrote, it stays until another is accepted, and when none ever is', async () => {
      const growth = [{ stream: 'stdout', from: 0, to: 3, inline: Buffer.from('abc') }] as const;
      const bytes = async (of: { executionId: string }) => (await read(of)).output.stdout.bytes;
      const [taken, cancelled] = [await running('s3', 'k3'), await running('s4', 'k4')];
      for (const [sessionId, { attempt, workerId }] of [
        ['s3', taken],
        ['s4', cancelled],
      ] as const) {
        assert.equal(await scene.store.recordOutput(attempt, sessionId, growth), 'recorded');
        await scene.store.recordLost(attempt, workerId, null);
        assert.equal(await bytes(attempt), 3);
      }
      await scene.store.requestCancel(scene.projectId, cancelled.attempt.executionId);
      assert.equal(await bytes(cancelled.attempt), 3);
      await again(taken.attempt, 's2', 'k2');
      assert.equal(await bytes(taken.attempt), 0);
    });

    test('an attempt after another that nothing can run, its execution ends', async () => {
      const first = await running();
      await scene.store.recordLost(first.attempt, first.workerId, null);
      assert.equal(await scene.store.endUnplaceable((await scene.store.readNext(first.attempt))!, 'too large'), true);
      assert.equal((await read(first.attempt)).reason, 'unplaceable');
    });

    test('a reclaimed host that has not delivered all output, its execution is run again all the same', async () => {
      const { attempt } = await running();
      const stream = { bytes: 9, sha256: EMPTY, truncated: false };
      const outcome = { kind: 'lost', cause: 'host_reclaimed' } as const;
      const end = reportedEnd({ outcome, streams: ofStreams(() => stream), final: true });
      assert.equal(await scene.store.recordEnd(attempt, 's1', end), 'goes_on');
      const record = await read(attempt);
      assert.deepEqual([record.phase, record.attempts[0]?.outcome], ['requeued', outcome]);
    });

    test('a host lost again and again, two redeliveries are made and then it ends', async () => {
      let { attempt, workerId } = await running();
      for (const life of [2, 3]) {
        await scene.store.recordLost(attempt, workerId, null);
        ({ attempt, workerId } = await again(attempt, `s${life}`, `k${life}`));
      }
      assert.equal(await scene.store.recordLost(attempt, workerId, null), 'ended');
      const record = await read(attempt);
      assert.deepEqual([record.state, record.reason, record.attempts.length], ['failure', 'host_lost', 3]);
    });

    test('output lost again and again, two redeliveries are made and then it ends; hosts that are lost count with it', async () => {
      const gone = reportedEnd({
        streams: ofStreams(() => ({ bytes: 9, sha256: EMPTY, truncated: false })),
        final: true,
      });
      let { attempt, workerId } = await running();
      assert.equal(await scene.store.recordEnd(attempt, 's1', gone), 'goes_on');
      ({ attempt, workerId } = await again(attempt, 's2', 'k2'));
      await scene.store.recordLost(attempt, workerId, null);
      ({ attempt, workerId } = await again(attempt, 's3', 'k3'));
      assert.equal(await scene.store.recordEnd(attempt, 's3', gone), 'recorded');
      const { state, reason, attempts } = await read(attempt);
      assert.deepEqual([state, reason], ['failure', 'output_lost']);
      assert.deepEqual(
        attempts.map(({ cause, outcome }) => [cause, outcome?.kind === 'lost' && outcome.cause]),
        [
          ['first', 'output_lost'],
          ['redelivery', 'host_lost'],
          ['redelivery', 'output_lost'],
        ],
      );
      assert.equal(await scene.store.readNext(attempt), null);
    });

    test('a worker that comes back with what it ended without its output, the next attempt stays', async () => {
      const { attempt } = await running();
      const streams = ofStreams(() => ({ bytes: 9, sha256: EMPTY, truncated: false }));
      await scene.store.recordEnd(attempt, 's1', reportedEnd({ streams, final: true }));
      const opened = await join('k1', 's2', [attempt.attemptId]);
      assert.deepEqual([opened.readopted, opened.revoke], [[], [attempt.attemptId]]);
      assert.equal((await read(attempt)).phase, 'requeued');
    });

    test('retries that were asked for, each waits longer and the last end stands', async () => {
      const queued = await create({ retries });
      const { workerId } = await join('k1', 's1');
      await scene.store.assign(queued, { workerId, sessionId: 's1' });
      await scene.store.recordAccepted(queued, 's1', SANDBOX);
      let attempt: QueuedAttempt = queued;
      for (const longestMs of [1000, 2000]) {
        assert.equal(await scene.store.recordEnd(attempt, 's1', failed), 'goes_on');
        const record = await read(attempt);
        assert.deepEqual([record.state, record.phase, record.exitCode], ['running', 'requeued', null]);
        const next = (await scene.store.readNext(attempt))!;
        const waitMs = next.notBeforeMs! - scene.clock.nowMs();
        assert.ok(waitMs >= longestMs / 2 && waitMs <= longestMs, `${waitMs} of ${longestMs}`);
        await scene.store.assign(next, { workerId, sessionId: 's1' });
        await scene.store.recordAccepted(next, 's1', SANDBOX);
        attempt = next;
      }
      await scene.store.recordEnd(attempt, 's1', failed);
      const record = await read(attempt);
      assert.deepEqual([record.state, record.reason, record.exitCode], ['failure', 'exit_code', 3]);
      assert.deepEqual(
        record.attempts.map(({ cause }) => cause),
        ['first', 'retry', 'retry'],
      );
      assert.deepEqual(record.retries, retries);
    });

    test('a function’s retries, its executions have them unless they say otherwise', async () => {
      await scene.store.createFunctionVersion(
        {
          ...{
            projectId: scene.projectId,
            name: 'tried',
            ...BASH_FILE,
            code: BLOB,
            image: BLOB,
            memoryMiB: 256,
            cpus: 1,
            timeoutMs: 1000,
          },
          ...{ outputLimitBytes: 1000, env: {}, isolation: 'container', retries },
        },
        DEFAULT_LIMITS,
      );
      assert.deepEqual((await read(await create({ function: 'tried' }))).retries, retries);
      assert.equal((await read(await create({ function: 'tried', retries: null }))).retries, null);
    });

    test('an execution that waits for its next attempt, it is cancelled at once, and expires as it does while it is open', async () => {
      const one = await running('s1', 'k1');
      const two = await running('s2', 'k2');
      for (const { attempt, workerId } of [one, two]) await scene.store.recordLost(attempt, workerId, null);
      assert.equal((await scene.store.requestCancel(scene.projectId, one.attempt.executionId))?.result, 'cancelled');
      assert.deepEqual(await scene.store.readNext(one.attempt), null);
      scene.clock.advance(QUEUE_TTL_MS + 1);
      const expired = await scene.store.expireQueue(10);
      assert.deepEqual(
        expired.map(({ executionId }) => executionId),
        [two.attempt.executionId],
      );
      assert.equal((await read(two.attempt)).reason, 'queue_ttl');
      assert.equal((await read(one.attempt)).state, 'cancelled');
    });

    test('rule 7: what is being cancelled when its worker is lost, it is cancelled and nothing follows', async () => {
      const { attempt, workerId } = await running();
      await scene.store.requestCancel(scene.projectId, attempt.executionId);
      await scene.store.recordLost(attempt, workerId, null);
      assert.equal((await read(attempt)).state, 'cancelled');
      assert.equal(await scene.store.readNext(attempt), null);
    });

    test('rule 7: what is being cancelled when its output is lost, it is cancelled and nothing follows', async () => {
      const { attempt } = await running();
      await scene.store.requestCancel(scene.projectId, attempt.executionId);
      await scene.store.recordEnd(attempt, 's1', reportedEnd({ intact: false }));
      assert.equal((await read(attempt)).state, 'cancelled');
      assert.equal(await scene.store.readNext(attempt), null);
    });
  });

  describe('giving up', () => {
    test('an accepted attempt whose worker is lost, it ends and the next waits; its worker’s late word is stale', async () => {
      const { attempt, workerId } = await running();
      assert.equal(await scene.store.recordLost(attempt, 'wk_other', null), 'stale');
      const beat = { atMs: scene.clock.nowMs(), agentAgeMs: 7 };
      assert.equal(await scene.store.recordLost(attempt, workerId, beat), 'ended');
      assert.equal(await scene.store.recordLost(attempt, workerId, null), 'stale');
      assert.equal((await scene.store.recordStarted(attempt, 's1', 0)).reported, 'stale');
      const record = await read(attempt);
      assert.deepEqual([record.state, record.phase, record.attempts[0]?.agentAgeMs], ['running', 'requeued', 7]);
      assert.deepEqual(
        record.attempts.map(({ number, cause, state, outcome }) => [number, cause, state, outcome]),
        [
          [1, 'first', 'ended', { kind: 'lost', cause: 'host_lost' }],
          [2, 'redelivery', 'queued', null],
        ],
      );
      const next = await scene.store.readNext(attempt);
      assert.deepEqual([next?.attemptId, next?.notBeforeMs], [record.attempts[1]?.id, null]);
    });

    test('an attempt that was only assigned, it is queued again', async () => {
      const attempt = await create();
      const { workerId } = await join('k1', 's1');
      await scene.store.assign(attempt, { workerId, sessionId: 's1' });
      assert.equal(await scene.store.recordLost(attempt, workerId, null), 'requeued');
      const [live] = await scene.store.loadLive();
      assert.deepEqual([live?.state, live?.workerId], ['queued', null]);
    });

    test('a deadline that passed, the control server ends it by the clock that ran out', async () => {
      const one = await running('s1', 'k1');
      const two = await running('s2', 'k2');
      assert.equal(await scene.store.endByControl(one.attempt, 'prepare_deadline', null), true);
      assert.equal(await scene.store.endByControl(two.attempt, 'run_deadline', null), true);
      assert.equal(await scene.store.endByControl(two.attempt, 'run_deadline', null), false);
      assert.equal((await read(one.attempt)).reason, 'prepare_timeout');
      assert.equal((await read(two.attempt)).state, 'timeout');
      const three = await running('s3', 'k3');
      assert.equal(await scene.store.endByControl(three.attempt, 'output_lost', null), true);
      const { phase, attempts } = await read(three.attempt);
      assert.deepEqual([phase, attempts[0]?.outcome], ['requeued', { kind: 'lost', cause: 'output_lost' }]);
    });

    test('an execution that waited longer than its queue time, it ends; others stay', async () => {
      const attempt = await create();
      assert.deepEqual(await scene.store.expireQueue(10), []);
      scene.clock.advance(QUEUE_TTL_MS);
      const later = await create();
      assert.deepEqual(
        (await scene.store.expireQueue(10)).map((one) => one.attemptId),
        [attempt.attemptId],
      );
      assert.deepEqual([(await read(attempt)).state, (await read(later)).state], ['timeout', 'open']);
    });

    test('an execution that nothing can run, it ends; not when it runs', async () => {
      const attempt = await create();
      assert.equal(await scene.store.endUnplaceable(attempt, 'too large'), true);
      assert.equal(await scene.store.endUnplaceable(attempt, 'again'), false);
      const record = await read(attempt);
      assert.deepEqual(
        [record.reason, record.message, record.attempts[0]?.state],
        ['unplaceable', 'too large', 'ended'],
      );
      const other = await running();
      assert.equal(await scene.store.endUnplaceable(other.attempt, 'too large'), false);
      const assigned = await create();
      await scene.store.assign(assigned, { workerId: other.workerId, sessionId: 's1' });
      assert.equal(await scene.store.endUnplaceable(assigned, 'too large'), false);
    });
  });
}
