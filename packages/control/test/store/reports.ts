import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { ofStreams, type Outcome } from '@cocore/protocol';
import { EMPTY, SANDBOX, reportedEnd, type StoreScene } from './store-scene.ts';

export function reports(scene: StoreScene): void {
  const { create, join, running, read } = scene;

  const assertOutputLost = async (attempt: { executionId: string }): Promise<void> => {
    const { phase, attempts } = await read(attempt);
    assert.deepEqual([phase, attempts[0]?.outcome], ['requeued', { kind: 'lost', cause: 'output_lost' }]);
  };

  describe('reports', () => {
    test('rule 8: each report twice, the second is known and changes nothing', async () => {
      const { attempt } = await running();
      assert.equal((await scene.store.recordAccepted(attempt, 's1', SANDBOX)).reported, 'repeated');
      scene.clock.advance(1_000);
      const started = await scene.store.recordStarted(attempt, 's1', 400);
      scene.clock.advance(1_000);
      assert.deepEqual(await scene.store.recordStarted(attempt, 's1', 0), { ...started, reported: 'repeated' });
      assert.equal(await scene.store.recordEnd(attempt, 's1', reportedEnd()), 'recorded');
      const record = await read(attempt);
      assert.equal(Date.parse(record.startedAt!) - Date.parse(record.acceptedAt!), 600);
      assert.equal(record.attempts[0]?.usage.control?.wallMs, 2_000);
      assert.equal(record.state, 'success');
      assert.equal(record.decidingAttempt, attempt.attemptId);
    });

    test('a start from before the acceptance, it counts from the acceptance', async () => {
      const { attempt } = await running();
      const { startedAtMs, deadlineAtMs } = await scene.store.recordStarted(attempt, 's1', 1e9);
      assert.equal(startedAtMs, scene.clock.nowMs());
      assert.equal(deadlineAtMs, scene.clock.nowMs() + 60_000);
    });

    test('another acceptance than the first, it is a conflict', async () => {
      const { attempt } = await running();
      const other = { driver: 'qemu', isolation: 'emulated' } as const;
      assert.equal((await scene.store.recordAccepted(attempt, 's1', other)).reported, 'conflict');
      assert.equal(await scene.store.recordRefused(attempt, 's1'), 'conflict');
    });

    test('rule 3: reports from an earlier session or another worker’s, they are stale', async () => {
      const { attempt } = await running();
      await join('k2', 's9');
      await join('k1', 's2', [attempt.attemptId]);
      for (const sessionId of ['s1', 's9']) {
        assert.equal((await scene.store.recordStarted(attempt, sessionId, 0)).reported, 'stale');
        assert.equal(
          await scene.store.recordOutput(attempt, sessionId, [
            { stream: 'stdout', from: 0, to: 1, inline: Buffer.from('x') },
          ]),
          'stale',
        );
        assert.equal(await scene.store.recordEnd(attempt, sessionId, reportedEnd()), 'stale');
      }
      assert.equal((await scene.store.recordStarted(attempt, 's2', 0)).reported, 'recorded');
    });

    test('an attempt id of another project, it is stale', async () => {
      const { attempt } = await running();
      const other = await scene.store.ensureProject('other');
      assert.equal(await scene.store.recordEnd({ ...attempt, projectId: other }, 's1', reportedEnd()), 'stale');
    });

    test('a refusal, the attempt is queued and can be assigned again', async () => {
      const attempt = await create();
      const { workerId } = await join('k1', 's1');
      await scene.store.assign(attempt, { workerId, sessionId: 's1' });
      assert.equal(await scene.store.recordRefused(attempt, 's1'), 'recorded');
      assert.equal((await scene.store.recordAccepted(attempt, 's1', SANDBOX)).reported, 'stale');
      const again = await scene.store.assign(attempt, { workerId, sessionId: 's1' });
      assert.ok(again !== null && again !== 'stale');
    });

    const ENDS: [Outcome, string, string | null][] = [
      [{ kind: 'exited', code: 0 }, 'success', null],
      [{ kind: 'exited', code: 3 }, 'failure', 'exit_code'],
      [{ kind: 'raised', code: 1 }, 'failure', 'exception'],
      [{ kind: 'rejected', cause: 'result_invalid' }, 'failure', 'result_invalid'],
      [{ kind: 'rejected', cause: 'artifacts_too_large' }, 'failure', 'artifacts_too_large'],
      [{ kind: 'signaled', signal: 9 }, 'failure', 'signal'],
      [{ kind: 'oom' }, 'failure', 'oom'],
      [{ kind: 'timed_out', clock: 'run' }, 'timeout', 'run_timeout'],
      [{ kind: 'cancelled' }, 'cancelled', 'user_cancel'],
      [{ kind: 'lost', cause: 'agent_lost' }, 'failure', 'agent_lost'],
    ];
    for (const [outcome, state, reason] of ENDS) {
      test(`an end ${JSON.stringify(outcome)}, the execution is ${state}`, async () => {
        const { attempt } = await running();
        await scene.store.recordEnd(attempt, 's1', reportedEnd({ outcome }));
        const record = await read(attempt);
        assert.deepEqual([record.state, record.reason], [state, reason]);
        assert.deepEqual(record.attempts[0]?.outcome, outcome);
      });
    }

    test('an end with a result and artifacts, the record has them; of an end that is not whole it has neither', async () => {
      for (const [index, intact] of [true, false].entries()) {
        const { attempt } = await running(`s${index}`, `k${index}`);
        const growth = { stream: 'artifacts', from: 0, to: 3, inline: Buffer.from('tar') } as const;
        await scene.store.recordOutput(attempt, `s${index}`, [growth]);
        const nothing = { bytes: 0, sha256: EMPTY, truncated: false };
        const streams = { ...ofStreams(() => nothing), artifacts: { ...nothing, bytes: 3 } };
        const left = { streams, artifactFiles: 2, result: '{"a":null}', intact };
        await scene.store.recordEnd(attempt, `s${index}`, reportedEnd(left));
        const { result, error, artifacts, phase } = await read(attempt);
        const expected = intact
          ? { result: { value: { a: null } }, artifacts: { bytes: 3, sha256: EMPTY, files: 2 }, phase: null }
          : { result: null, artifacts: null, phase: 'requeued' };
        assert.deepEqual({ result, artifacts, phase }, expected);
        assert.equal(error, null);
        const [inline] = await scene.store.readInline(attempt, 'artifacts', 0);
        assert.equal(Buffer.from(inline!).toString(), 'tar');
      }
    });

    test('a result of null, it is a result; an exception is kept whole', async () => {
      const error = { type: 'ValueError', message: 'bad', stack: 'Traceback\n  line 1' };
      const { attempt } = await running();
      await scene.store.recordEnd(
        attempt,
        's1',
        reportedEnd({ outcome: { kind: 'raised', code: 1 }, result: 'null', error }),
      );
      const record = await read(attempt);
      assert.deepEqual([record.result, record.error, record.exitCode], [{ value: null }, error, 1]);
    });

    test('rule 8: an end after the end, the first stays; only the same signature is the same end', async () => {
      const { attempt, workerId } = await running();
      await scene.store.recordEnd(attempt, 's1', reportedEnd());
      assert.equal(await scene.store.recordEnd(attempt, 's1', reportedEnd({ outcome: { kind: 'oom' } })), 'stale');
      assert.equal(await scene.store.compareEnd(attempt.attemptId, workerId, 'first'), 'repeated');
      assert.equal(await scene.store.compareEnd(attempt.attemptId, workerId, 'other'), 'conflict');
      assert.equal(await scene.store.compareEnd(attempt.attemptId, 'wk_other', 'first'), 'stale');
      assert.equal((await read(attempt)).state, 'success');
    });

    test('rule 9: an end before all of its output is committed, it is incomplete and changes nothing, unless it is final', async () => {
      const nothing = ofStreams(() => ({ bytes: 0, sha256: EMPTY, truncated: false }));
      for (const [index, streams] of [
        { ...nothing, stdout: { bytes: 4, sha256: EMPTY, truncated: false } },
        { ...nothing, artifacts: { bytes: 1024, sha256: EMPTY, truncated: false } },
      ].entries()) {
        const { attempt } = await running(`s${index}`, `k${index}`);
        assert.equal(await scene.store.recordEnd(attempt, `s${index}`, reportedEnd({ streams })), 'incomplete');
        assert.equal((await read(attempt)).state, 'running');
        assert.equal(
          await scene.store.recordEnd(attempt, `s${index}`, reportedEnd({ streams, final: true })),
          'goes_on',
        );
        await assertOutputLost(attempt);
      }
    });

    test('rule 9: an end that more output cannot make true, it is recorded as output_lost', async () => {
      for (const [index, intact] of [false, true].entries()) {
        const { attempt } = await running(`s${index}`, `k${index}`);
        // With the last digest right, the output is longer than the end says.
        const growth = { stream: 'stdout', from: 0, to: 1, inline: Buffer.from('x') } as const;
        if (intact) await scene.store.recordOutput(attempt, `s${index}`, [growth]);
        assert.equal(await scene.store.recordEnd(attempt, `s${index}`, reportedEnd({ intact })), 'goes_on');
        await assertOutputLost(attempt);
      }
    });
  });

  describe('output', () => {
    test('growth in order, lengths and inline bytes are kept; growth from elsewhere is a conflict', async () => {
      const { attempt } = await running();
      const grow = (from: number, text: string) =>
        scene.store.recordOutput(attempt, 's1', [
          { stream: 'stdout', from, to: from + text.length, inline: Buffer.from(text) },
        ]);
      assert.equal(await grow(0, 'hello '), 'recorded');
      assert.equal(await grow(6, 'world'), 'recorded');
      assert.equal(await grow(3, 'x'), 'conflict');
      assert.equal(await grow(12, 'x'), 'conflict');
      assert.equal((await read(attempt)).output.stdout.bytes, 11);
      const text = (pieces: Uint8Array[]) => Buffer.concat(pieces).toString();
      assert.equal(text(await scene.store.readInline(attempt, 'stdout', 0)), 'hello world');
      assert.equal(text(await scene.store.readInline(attempt, 'stdout', 8)), 'rld');
      assert.equal(text(await scene.store.readInline(attempt, 'stderr', 0)), '');
    });

    test('output of an attempt that was not accepted, it is a conflict', async () => {
      const attempt = await create();
      const { workerId } = await join('k1', 's1');
      await scene.store.assign(attempt, { workerId, sessionId: 's1' });
      assert.equal(await scene.store.recordOutput(attempt, 's1', []), 'conflict');
    });
  });
}
