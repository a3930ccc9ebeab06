import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type ExecutionRecord, type Outcome, ofStreams } from '@cocore/protocol';
import type { NewExecution, OutputGrowth, QueuedAttempt, ReportedEnd } from '../../src/store/store.ts';
import { EMPTY, SANDBOX, reportedEnd, type StoreScene } from './store-scene.ts';

interface Told {
  readonly name: string;
  readonly request?: Partial<NewExecution>;
  readonly isStarted?: boolean;
  readonly growth?: readonly OutputGrowth[];
  readonly end: Partial<ReportedEnd>;
}

const NOTHING = { bytes: 0, sha256: EMPTY, truncated: false };
const SHORT: OutputGrowth = { stream: 'stdout', from: 0, to: 3, inline: Buffer.from('abc') };
/** More than the store keeps by itself. */
const LONG: OutputGrowth = { stream: 'stderr', from: 0, to: 100_000, inline: Buffer.alloc(65_536, 'x') };
const of = (outcome: Outcome): Partial<ReportedEnd> => ({ outcome });
const failed = of({ kind: 'exited', code: 3 });

const LIVES: readonly Told[] = [
  {
    name: 'a success',
    end: { result: '{"a":1}', usage: { host: { cpuMs: 1, memoryPeakBytes: 2, wallMs: 3 }, guest: null } },
  },
  {
    name: 'output',
    growth: [SHORT, LONG],
    end: {
      streams: {
        ...ofStreams(() => NOTHING),
        stdout: { ...NOTHING, bytes: 3 },
        stderr: { ...NOTHING, bytes: 100_000, truncated: true },
      },
    },
  },
  { name: 'a failure', end: failed },
  { name: 'a failure that is tried again', request: { retries: { max: 1, backoffMs: 1000 } }, end: failed },
  { name: 'what was never started', isStarted: false, end: of({ kind: 'lost', cause: 'sandbox' }) },
  {
    name: 'an exception',
    end: { ...of({ kind: 'raised', code: 1 }), error: { type: 'E', message: 'bad', stack: null } },
  },
  { name: 'a host that was taken back', end: of({ kind: 'lost', cause: 'host_reclaimed' }) },
  { name: 'output that is not what it was said to be', growth: [SHORT], end: { intact: false } },
  {
    name: 'an end that is final without its output',
    end: { final: true, streams: ofStreams(() => ({ ...NOTHING, bytes: 9 })) },
  },
];

/** Without what is another for each execution. */
function comparable({ id: _id, decidingAttempt, attempts, ...rest }: ExecutionRecord): unknown {
  return {
    ...{ ...rest, isDecided: decidingAttempt !== null },
    // A wait before a retry is drawn by lot.
    attempts: attempts.map(({ id: _attemptId, notBefore, ...attempt }) => ({ ...attempt, waits: notBefore !== null })),
  };
}

export function lives(scene: StoreScene): void {
  const { create, join, read } = scene;

  const assigned = async (request: Partial<NewExecution> = {}): Promise<QueuedAttempt> => {
    const attempt = await create(request);
    const { workerId } = await join('k1', 's1', []);
    await scene.store.assign(attempt, { workerId, sessionId: 's1' });
    return attempt;
  };

  describe('whole lives', () => {
    for (const { name, request, isStarted = true, growth = [], end } of LIVES) {
      test(`${name}, told at once it is recorded as when it is told piece by piece`, async () => {
        const pieces = await assigned(request);
        await scene.store.recordAccepted(pieces, 's1', SANDBOX);
        if (isStarted) await scene.store.recordStarted(pieces, 's1', 5);
        if (growth.length > 0) await scene.store.recordOutput(pieces, 's1', growth);
        const expected = await scene.store.recordEnd(pieces, 's1', reportedEnd(end));
        const whole = await assigned(request);
        const life = { sandbox: SANDBOX, isStarted, growth, end: reportedEnd(end) };
        assert.equal(await scene.store.recordLife(whole, 's1', life), expected);
        assert.deepEqual(comparable(await read(whole)), comparable(await read(pieces)));
        for (const { stream } of growth) {
          const [one, other] = await Promise.all([whole, pieces].map((of) => scene.store.readInline(of, stream, 0)));
          assert.deepEqual(one, other);
        }
        const large = (await scene.store.beginArchiving('', 10)).map(({ attemptId }) => attemptId);
        assert.equal(large.includes(whole.attemptId), large.includes(pieces.attemptId));
        assert.equal((await scene.store.readNext(whole)) === null, expected === 'recorded');
      });

      test(`${name}, whoever waits for its end has the record with the commit`, async () => {
        const awaited = reportedEnd({ ...end, isAwaited: true });
        const whole = await assigned(request);
        const asOne = await scene.store.recordLife(whole, 's1', { sandbox: SANDBOX, isStarted, growth, end: awaited });
        const pieces = await assigned(request);
        await scene.store.recordAccepted(pieces, 's1', SANDBOX);
        if (growth.length > 0) await scene.store.recordOutput(pieces, 's1', growth);
        const asLast = await scene.store.recordEnd(pieces, 's1', awaited);
        for (const [reported, of] of [
          [asOne, whole],
          [asLast, pieces],
        ] as const) {
          const record = await read(of);
          assert.deepEqual(reported, record.state === 'running' ? 'goes_on' : record);
        }
      });
    }

    test('a second time, or in another session, it is stale', async () => {
      const attempt = await assigned();
      const life = { sandbox: SANDBOX, isStarted: true, growth: [], end: reportedEnd() };
      assert.equal(await scene.store.recordLife(attempt, 's2', life), 'stale');
      assert.equal(await scene.store.recordLife(attempt, 's1', life), 'recorded');
      assert.equal(await scene.store.recordLife(attempt, 's1', life), 'stale');
    });

    test('of what is accepted already, with output that is not its first or not all: it is untold, and nothing is changed', async () => {
      const life = { sandbox: SANDBOX, isStarted: true, growth: [SHORT], end: reportedEnd() };
      const later = { ...SHORT, from: 1, to: 4 };
      const streams = { ...ofStreams(() => NOTHING), stdout: { ...NOTHING, bytes: 9 } };
      const attempt = await assigned();
      const before = await read(attempt);
      assert.equal(await scene.store.recordLife(attempt, 's1', { ...life, growth: [later] }), 'untold');
      assert.equal(await scene.store.recordLife(attempt, 's1', { ...life, end: reportedEnd({ streams }) }), 'untold');
      assert.deepEqual(await read(attempt), before);
      await scene.store.recordAccepted(attempt, 's1', SANDBOX);
      assert.equal(await scene.store.recordLife(attempt, 's1', life), 'untold');
      assert.deepEqual(await scene.store.readInline(attempt, 'stdout', 0), []);
      assert.equal((await read(attempt)).state, 'running');
    });
  });
}
