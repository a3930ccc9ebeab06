import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { afterEach, beforeEach, describe, test } from 'node:test';
import {
  CocoreError,
  type IsolationClass,
  LEASE_MS,
  ofStreams,
  type Outcome,
  PREPARE_TIMEOUT_MS,
  QUEUE_TTL_MS,
} from '@cocore/protocol';
import { DEFAULT_LIMITS } from '../src/admission.ts';
import type { AttemptKey, NewExecution, QueuedAttempt, ReportedEnd, SessionOpened, Store } from '../src/store/store.ts';
import { ManualClock } from './support/manual-clock.ts';
import { BASH_FILE } from './support/version-fields.ts';

/** Opens the store at a path, which may exist; times come from the clock. */
export type StoreFactory = (path: string, now: () => number) => Promise<Store>;

const BLOB = { digest: `sha256:${'a'.repeat(64)}`, bytes: 10 };
const EMPTY = `sha256:${createHash('sha256').digest('hex')}`;
const CAPABILITIES = {
  driver: 'fake',
  isolation: 'container',
  cpus: 8,
  memoryMiB: 8192,
  diskMiB: 1024,
  sandboxOverheadMiB: 16,
} as const;
const SANDBOX = { driver: 'fake', isolation: 'container' } as const;

export function reportedEnd(change: Partial<ReportedEnd> = {}): ReportedEnd {
  const stream = { bytes: 0, sha256: EMPTY, truncated: false };
  return {
    outcome: { kind: 'exited', code: 0 },
    message: null,
    streams: ofStreams(() => stream),
    artifactFiles: 0,
    result: null,
    error: null,
    usage: { host: null, guest: null },
    signature: 'first',
    intact: true,
    final: false,
    beat: null,
    ...change,
  };
}

/** What every store must do. Each test gets a store of its own. */
export function storeConformance(
  name: string,
  open: StoreFactory,
  makePath: () => { path: string } & Disposable,
): void {
  describe(`${name}: the store`, () => {
    let place: { path: string } & Disposable;
    let clock: ManualClock;
    let store: Store;
    let projectId: string;

    beforeEach(async () => {
      place = makePath();
      clock = new ManualClock();
      store = await open(place.path, clock.nowMs);
      projectId = await store.ensureProject('default');
      await deploy('add');
    });
    afterEach(async () => {
      await store.close();
      place[Symbol.dispose]();
    });

    const deploy = (functionName: string, project = projectId, isolation: IsolationClass = 'container', image = BLOB) =>
      store.createFunctionVersion(
        {
          projectId: project,
          name: functionName,
          ...BASH_FILE,
          code: BLOB,
          image,
          memoryMiB: 256,
          cpus: 1,
          timeoutMs: 60_000,
          outputLimitBytes: 1000,
          env: {},
          isolation,
        },
        DEFAULT_LIMITS,
      );
    const request = (change: Partial<NewExecution> = {}): NewExecution => ({
      projectId,
      function: 'add',
      args: ['4', '9'],
      env: {},
      stdin: null,
      files: [],
      timeoutMs: null,
      outputLimitBytes: null,
      idempotencyKey: null,
      ...change,
    });
    const create = async (change: Partial<NewExecution> = {}): Promise<QueuedAttempt> => {
      const [created] = await store.createExecutions([request(change)], DEFAULT_LIMITS);
      return created!.queued!;
    };
    const join = async (
      publicKey: string,
      sessionId: string,
      inventory: string[] = [],
      isolation: IsolationClass = 'container',
    ): Promise<SessionOpened> => {
      const hash = createHash('sha256').update(publicKey).digest();
      await store.createJoinToken({ hash, ttlMs: 60_000 }).catch(() => undefined);
      const opened = await store.openSession({
        sessionId,
        publicKey,
        joinTokenHash: hash,
        name: publicKey,
        daemonVersion: '1',
        platform: 'test',
        capabilities: { ...CAPABILITIES, isolation },
        inventory,
      });
      assert.equal(opened.kind, 'opened');
      return opened;
    };
    const running = async (sessionId = 's1', publicKey = 'k1') => {
      const attempt = await create();
      const { workerId } = await join(publicKey, sessionId);
      const task = await store.assign(attempt, { workerId, sessionId });
      assert.ok(task !== null && task !== 'stale');
      assert.equal((await store.recordAccepted(attempt, sessionId, SANDBOX)).reported, 'recorded');
      return { attempt, workerId };
    };
    const read = async (attempt: QueuedAttempt) => (await store.readExecution(projectId, attempt.executionId))!;
    const code = async (work: Promise<unknown>): Promise<string> => {
      try {
        await work;
      } catch (error) {
        if (error instanceof CocoreError) return error.code;
        throw error;
      }
      return 'none';
    };

    describe('creating', () => {
      test('a new execution, it is open with one queued attempt and can be read', async () => {
        const attempt = await create();
        const record = await read(attempt);
        assert.equal(record.state, 'open');
        assert.deepEqual(record.args, ['4', '9']);
        assert.deepEqual(
          record.attempts.map(({ id, number, state }) => ({ id, number, state })),
          [{ id: attempt.attemptId, number: 1, state: 'queued' }],
        );
      });

      test('rule 14: the same idempotency key and input, also at the same time and after a new deployment, one execution', async () => {
        const ask = () => store.createExecutions([request({ idempotencyKey: 'once' })], DEFAULT_LIMITS);
        const answers = await Promise.all(Array.from({ length: 10 }, ask));
        await deploy('add');
        answers.push(await ask());
        assert.equal(new Set(answers.map(([one]) => one!.executionId)).size, 1);
        assert.equal(answers.filter(([one]) => one!.queued !== null).length, 1);
      });

      test('rule 14: the same idempotency key and another input, it is refused', async () => {
        await create({ idempotencyKey: 'once' });
        const bytes = { inline: Buffer.from('x') };
        for (const other of [{ args: ['5'] }, { env: { A: '1' } }, { stdin: bytes }, { timeoutMs: 1000 }]) {
          assert.equal(await code(create({ idempotencyKey: 'once', ...other })), 'idempotency_conflict');
        }
      });

      test('one bad execution in a list, none is made', async () => {
        const list = [request(), request({ function: 'nothing' })];
        assert.equal(await code(store.createExecutions(list, DEFAULT_LIMITS)), 'function_not_found');
        assert.deepEqual((await store.listExecutions(projectId, { limit: 10 })).executions, []);
      });

      test('more live executions than the limit, it is refused until one has ended', async () => {
        const limits = { ...DEFAULT_LIMITS, maxLiveExecutions: 2 };
        const [first] = await store.createExecutions([request(), request()], limits);
        assert.equal(await code(store.createExecutions([request()], limits)), 'quota_exceeded');
        await store.requestCancel(projectId, first!.executionId);
        assert.equal((await store.createExecutions([request()], limits)).length, 1);
      });

      test('a blob or function of another project, it is as if there were none', async () => {
        const other = await store.ensureProject('other');
        await deploy('theirs', other);
        const digest = `sha256:${'b'.repeat(64)}`;
        await store.addBlob(other, { digest, bytes: 1 }, DEFAULT_LIMITS);
        assert.equal(await code(create({ function: 'theirs' })), 'function_not_found');
        assert.equal(await code(create({ stdin: { blob: digest } })), 'blob_not_found');
        const attempt = await create();
        assert.equal(await store.readExecution(other, attempt.executionId), null);
        assert.equal(await store.requestCancel(other, attempt.executionId), null);
      });

      test('blobs that nothing of a project names, it loses them after their time and no others', async () => {
        const other = await store.ensureProject('other');
        const [used, unused, renewed] = ['b', 'c', 'd'].map((letter) => `sha256:${letter.repeat(64)}`);
        const add = (project: string, digest: string) => store.addBlob(project, { digest, bytes: 1 }, DEFAULT_LIMITS);
        const file = `sha256:${'f'.repeat(64)}`;
        for (const digest of [used!, unused!, renewed!, file]) await add(projectId, digest);
        await create({
          files: [
            { name: 'a', blob: file },
            { name: 'b', blob: file },
          ],
        });
        // That one project uses it keeps it for no other.
        await add(other, used!);
        await create({ stdin: { blob: used! } });
        clock.advance(1000);
        await add(projectId, renewed!);
        await store.forgetUnusedBlobs({ layersMs: 1000, blobsMs: 1000 });
        assert.equal(await store.isBlobNeeded(unused!), true, 'not yet');
        clock.advance(1);
        await store.forgetUnusedBlobs({ layersMs: 1000, blobsMs: 1000 });
        assert.equal(await code(create({ stdin: { blob: unused! } })), 'blob_not_found');
        assert.equal(await store.isBlobNeeded(unused!), false);
        for (const digest of [used!, renewed!]) await create({ stdin: { blob: digest } });
        await deploy('theirs', other);
        const theirs = request({ projectId: other, function: 'theirs', stdin: { blob: used! } });
        assert.equal(await code(store.createExecutions([theirs], DEFAULT_LIMITS)), 'blob_not_found');
        for (const digest of [used!, renewed!, file, BLOB.digest]) assert.equal(await store.isBlobNeeded(digest), true);
      });

      test('an image that no project has, a version that names it needs it', async () => {
        const image = { digest: `sha256:${'e'.repeat(64)}`, bytes: 5 };
        assert.equal(await store.isBlobNeeded(image.digest), false);
        await deploy('imaged', projectId, 'container', image);
        assert.equal(await store.isBlobNeeded(image.digest), true);
      });

      test('a list, newest first, page by page', async () => {
        const ids: string[] = [];
        for (let at = 0; at < 5; at += 1) {
          clock.advance(1);
          ids.unshift((await create()).executionId);
        }
        const first = await store.listExecutions(projectId, { limit: 3 });
        const second = await store.listExecutions(projectId, { limit: 3, cursor: first.next! });
        assert.deepEqual(
          [...first.executions, ...second.executions].map(({ id }) => id),
          ids,
        );
        assert.equal(second.next, null);
      });
    });

    describe('assigning', () => {
      test('two workers race for one attempt, exactly one gets it', async () => {
        const [one, two] = [await join('k1', 's1'), await join('k2', 's2')];
        for (let round = 0; round < 20; round += 1) {
          const attempt = await create();
          const tasks = await Promise.all([
            store.assign(attempt, { workerId: one.workerId, sessionId: 's1' }),
            store.assign(attempt, { workerId: two.workerId, sessionId: 's2' }),
          ]);
          assert.equal(tasks.filter((task) => task !== null).length, 1);
        }
      });

      test('a session that is not the worker’s any more, it gets nothing', async () => {
        const attempt = await create();
        const { workerId } = await join('k1', 's1');
        await join('k1', 's2');
        assert.equal(await store.assign(attempt, { workerId, sessionId: 's1' }), 'stale');
        assert.equal((await read(attempt)).attempts[0]?.state, 'queued');
      });

      test('a cancelled execution, its attempt is not assigned', async () => {
        const attempt = await create();
        const { workerId } = await join('k1', 's1');
        await store.requestCancel(projectId, attempt.executionId);
        assert.equal(await store.assign(attempt, { workerId, sessionId: 's1' }), null);
      });
    });

    describe('isolation', () => {
      test('a version’s class, it is in the records of its function and executions, and a new version changes neither', async () => {
        await deploy('strong', projectId, 'microvm');
        const attempt = await create({ function: 'strong' });
        assert.equal(attempt.isolation, 'microvm');
        assert.equal((await deploy('strong', projectId, 'emulated')).isolation, 'emulated');
        assert.equal((await read(attempt)).isolation, 'microvm');
        assert.deepEqual(
          (await store.loadLive()).map(({ isolation }) => isolation),
          ['microvm'],
        );
      });

      test('a worker of a weaker class than is required, nothing is assigned to it', async () => {
        await deploy('strong', projectId, 'gvisor');
        const attempt = await create({ function: 'strong' });
        for (const weak of ['emulated', 'container'] as const) {
          const { workerId } = await join(weak, weak, [], weak);
          await assert.rejects(store.assign(attempt, { workerId, sessionId: weak }), /requires gvisor/);
        }
        assert.equal((await read(attempt)).attempts[0]?.state, 'queued');
        const { workerId } = await join('strong', 'strong', [], 'gvisor');
        assert.ok(await store.assign(attempt, { workerId, sessionId: 'strong' }));
      });

      test('a worker that comes back with a weaker class, what it had not accepted is taken from it; what runs goes on', async () => {
        await deploy('strong', projectId, 'gvisor');
        const [begun, waiting] = [await create({ function: 'strong' }), await create({ function: 'strong' })];
        const { workerId } = await join('k1', 's1', [], 'gvisor');
        for (const attempt of [begun, waiting]) await store.assign(attempt, { workerId, sessionId: 's1' });
        await store.recordAccepted(begun, 's1', { driver: 'gvisor', isolation: 'gvisor' });
        const opened = await join('k1', 's2', [begun.attemptId, waiting.attemptId], 'emulated');
        const ids = (attempts: readonly { attemptId: string }[]) => attempts.map(({ attemptId }) => attemptId);
        assert.deepEqual(
          [ids(opened.resume), ids(opened.requeued), opened.revoke],
          [[begun.attemptId], [waiting.attemptId], [waiting.attemptId]],
        );
        assert.equal((await read(waiting)).attempts[0]?.state, 'queued');
      });
    });

    describe('reports', () => {
      test('rule 8: each report twice, the second is known and changes nothing', async () => {
        const { attempt } = await running();
        assert.equal((await store.recordAccepted(attempt, 's1', SANDBOX)).reported, 'repeated');
        clock.advance(1_000);
        const started = await store.recordStarted(attempt, 's1', 400);
        clock.advance(1_000);
        assert.deepEqual(await store.recordStarted(attempt, 's1', 0), { ...started, reported: 'repeated' });
        assert.equal(await store.recordEnd(attempt, 's1', reportedEnd()), 'recorded');
        const record = await read(attempt);
        assert.equal(Date.parse(record.startedAt!) - Date.parse(record.acceptedAt!), 600);
        assert.equal(record.attempts[0]?.usage.control?.wallMs, 2_000);
        assert.equal(record.state, 'success');
        assert.equal(record.decidingAttempt, attempt.attemptId);
      });

      test('a start from before the acceptance, it counts from the acceptance', async () => {
        const { attempt } = await running();
        const { startedAtMs, deadlineAtMs } = await store.recordStarted(attempt, 's1', 1e9);
        assert.equal(startedAtMs, clock.nowMs());
        assert.equal(deadlineAtMs, clock.nowMs() + 60_000);
      });

      test('another acceptance than the first, it is a conflict', async () => {
        const { attempt } = await running();
        const other = { driver: 'qemu', isolation: 'emulated' } as const;
        assert.equal((await store.recordAccepted(attempt, 's1', other)).reported, 'conflict');
        assert.equal(await store.recordRefused(attempt, 's1'), 'conflict');
      });

      test('rule 3: reports from an earlier session or another worker’s, they are stale', async () => {
        const { attempt } = await running();
        await join('k2', 's9');
        await join('k1', 's2', [attempt.attemptId]);
        for (const sessionId of ['s1', 's9']) {
          assert.equal((await store.recordStarted(attempt, sessionId, 0)).reported, 'stale');
          assert.equal(
            await store.recordOutput(attempt, sessionId, [
              { stream: 'stdout', from: 0, to: 1, inline: Buffer.from('x') },
            ]),
            'stale',
          );
          assert.equal(await store.recordEnd(attempt, sessionId, reportedEnd()), 'stale');
        }
        assert.equal((await store.recordStarted(attempt, 's2', 0)).reported, 'recorded');
      });

      test('an attempt id of another project, it is stale', async () => {
        const { attempt } = await running();
        const other = await store.ensureProject('other');
        assert.equal(await store.recordEnd({ ...attempt, projectId: other }, 's1', reportedEnd()), 'stale');
      });

      test('a refusal, the attempt is queued and can be assigned again', async () => {
        const attempt = await create();
        const { workerId } = await join('k1', 's1');
        await store.assign(attempt, { workerId, sessionId: 's1' });
        assert.equal(await store.recordRefused(attempt, 's1'), 'recorded');
        assert.equal((await store.recordAccepted(attempt, 's1', SANDBOX)).reported, 'stale');
        const again = await store.assign(attempt, { workerId, sessionId: 's1' });
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
          await store.recordEnd(attempt, 's1', reportedEnd({ outcome }));
          const record = await read(attempt);
          assert.deepEqual([record.state, record.reason], [state, reason]);
          assert.deepEqual(record.attempts[0]?.outcome, outcome);
        });
      }

      test('an end with a result and artifacts, the record has them; of an end that is not whole it has neither', async () => {
        for (const [index, intact] of [true, false].entries()) {
          const { attempt } = await running(`s${index}`, `k${index}`);
          const growth = { stream: 'artifacts', from: 0, to: 3, inline: Buffer.from('tar') } as const;
          await store.recordOutput(attempt, `s${index}`, [growth]);
          const nothing = { bytes: 0, sha256: EMPTY, truncated: false };
          const streams = { ...ofStreams(() => nothing), artifacts: { ...nothing, bytes: 3 } };
          const left = { streams, artifactFiles: 2, result: '{"a":null}', intact };
          await store.recordEnd(attempt, `s${index}`, reportedEnd(left));
          const { result, error, artifacts, reason } = await read(attempt);
          const expected = intact
            ? { result: { value: { a: null } }, artifacts: { bytes: 3, sha256: EMPTY, files: 2 }, reason: null }
            : { result: null, artifacts: null, reason: 'output_lost' };
          assert.deepEqual({ result, artifacts, reason }, expected);
          assert.equal(error, null);
          const [inline] = await store.readInline(attempt, 'artifacts', 0);
          assert.equal(Buffer.from(inline!).toString(), 'tar');
        }
      });

      test('a result of null, it is a result; an exception is kept whole', async () => {
        const error = { type: 'ValueError', message: 'bad', stack: 'Traceback\n  line 1' };
        const { attempt } = await running();
        await store.recordEnd(
          attempt,
          's1',
          reportedEnd({ outcome: { kind: 'raised', code: 1 }, result: 'null', error }),
        );
        const record = await read(attempt);
        assert.deepEqual([record.result, record.error, record.exitCode], [{ value: null }, error, 1]);
      });

      test('rule 8: an end after the end, the first stays; only the same signature is the same end', async () => {
        const { attempt, workerId } = await running();
        await store.recordEnd(attempt, 's1', reportedEnd());
        assert.equal(await store.recordEnd(attempt, 's1', reportedEnd({ outcome: { kind: 'oom' } })), 'stale');
        assert.equal(await store.compareEnd(attempt.attemptId, workerId, 'first'), 'repeated');
        assert.equal(await store.compareEnd(attempt.attemptId, workerId, 'other'), 'conflict');
        assert.equal(await store.compareEnd(attempt.attemptId, 'wk_other', 'first'), 'stale');
        assert.equal((await read(attempt)).state, 'success');
      });

      test('rule 9: an end before all of its output is committed, it is incomplete and changes nothing, unless it is final', async () => {
        const nothing = ofStreams(() => ({ bytes: 0, sha256: EMPTY, truncated: false }));
        for (const [index, streams] of [
          { ...nothing, stdout: { bytes: 4, sha256: EMPTY, truncated: false } },
          { ...nothing, artifacts: { bytes: 1024, sha256: EMPTY, truncated: false } },
        ].entries()) {
          const { attempt } = await running(`s${index}`, `k${index}`);
          assert.equal(await store.recordEnd(attempt, `s${index}`, reportedEnd({ streams })), 'incomplete');
          assert.equal((await read(attempt)).state, 'running');
          assert.equal(await store.recordEnd(attempt, `s${index}`, reportedEnd({ streams, final: true })), 'recorded');
          assert.equal((await read(attempt)).reason, 'output_lost');
        }
      });

      test('rule 9: an end that more output cannot make true, it is recorded as output_lost', async () => {
        for (const [index, intact] of [false, true].entries()) {
          const { attempt } = await running(`s${index}`, `k${index}`);
          // With the last digest right, the output is longer than the end says.
          const growth = { stream: 'stdout', from: 0, to: 1, inline: Buffer.from('x') } as const;
          if (intact) await store.recordOutput(attempt, `s${index}`, [growth]);
          assert.equal(await store.recordEnd(attempt, `s${index}`, reportedEnd({ intact })), 'recorded');
          assert.equal((await read(attempt)).reason, 'output_lost');
        }
      });
    });

    describe('output', () => {
      test('growth in order, lengths and inline bytes are kept; growth from elsewhere is a conflict', async () => {
        const { attempt } = await running();
        const grow = (from: number, text: string) =>
          store.recordOutput(attempt, 's1', [
            { stream: 'stdout', from, to: from + text.length, inline: Buffer.from(text) },
          ]);
        assert.equal(await grow(0, 'hello '), 'recorded');
        assert.equal(await grow(6, 'world'), 'recorded');
        assert.equal(await grow(3, 'x'), 'conflict');
        assert.equal(await grow(12, 'x'), 'conflict');
        assert.equal((await read(attempt)).output.stdout.bytes, 11);
        const text = (pieces: Uint8Array[]) => Buffer.concat(pieces).toString();
        assert.equal(text(await store.readInline(attempt, 'stdout', 0)), 'hello world');
        assert.equal(text(await store.readInline(attempt, 'stdout', 8)), 'rld');
        assert.equal(text(await store.readInline(attempt, 'stderr', 0)), '');
      });

      test('output of an attempt that was not accepted, it is a conflict', async () => {
        const attempt = await create();
        const { workerId } = await join('k1', 's1');
        await store.assign(attempt, { workerId, sessionId: 's1' });
        assert.equal(await store.recordOutput(attempt, 's1', []), 'conflict');
      });
    });

    describe('cancelling', () => {
      test('an open execution, it is cancelled at once, and a second time it has ended', async () => {
        const attempt = await create();
        assert.equal((await store.requestCancel(projectId, attempt.executionId))?.result, 'cancelled');
        assert.equal((await store.requestCancel(projectId, attempt.executionId))?.result, 'already_ended');
        const record = await read(attempt);
        assert.deepEqual(
          [record.state, record.reason, record.attempts[0]?.state],
          ['cancelled', 'user_cancel', 'ended'],
        );
      });

      test('a running execution, it is asked for once, and its worker’s word decides', async () => {
        const { attempt } = await running();
        assert.equal((await store.requestCancel(projectId, attempt.executionId))?.result, 'requested');
        assert.equal((await store.requestCancel(projectId, attempt.executionId))?.result, 'already_requested');
        assert.equal((await read(attempt)).phase, 'stopping');
        await store.recordStarted(attempt, 's1', 0);
        assert.ok((await read(attempt)).startedAt);
        await store.recordEnd(attempt, 's1', reportedEnd());
        assert.equal((await read(attempt)).state, 'success');
      });

      test('rule 7: a cancelled execution whose worker is lost, it is cancelled', async () => {
        const { attempt, workerId } = await running();
        await store.requestCancel(projectId, attempt.executionId);
        assert.equal(await store.recordLost(attempt, workerId, null), 'ended');
        assert.equal((await read(attempt)).state, 'cancelled');
      });
    });

    describe('deliveries', () => {
      /** The attempt that waits, given to a worker and accepted. */
      const again = async (attempt: AttemptKey & { executionId: string }, sessionId = 's1', publicKey = 'k1') => {
        const next = await store.readNext(attempt);
        const { workerId } = await join(publicKey, sessionId);
        assert.notEqual(await store.assign(next!, { workerId, sessionId }), null);
        assert.equal((await store.recordAccepted(next!, sessionId, SANDBOX)).reported, 'recorded');
        return { attempt: next!, workerId };
      };
      const retries = { max: 2, backoffMs: 1000 };
      const failed = reportedEnd({ outcome: { kind: 'exited', code: 3 } });

      test('rule 1: a lost attempt, the execution runs on and ends by the attempt after it', async () => {
        const first = await running();
        await store.recordLost(first.attempt, first.workerId, null);
        const second = await again(first.attempt, 's2', 'k2');
        assert.notEqual(second.attempt.attemptId, first.attempt.attemptId);
        assert.equal((await read(first.attempt)).phase, 'preparing');
        assert.equal(await store.recordEnd(second.attempt, 's2', reportedEnd()), 'recorded');
        const record = await read(first.attempt);
        assert.deepEqual([record.state, record.decidingAttempt], ['success', second.attempt.attemptId]);
        assert.equal(await store.readNext(first.attempt), null);
      });

      test('rule 3: what is asked about an attempt that has ended, it does not touch the one after it', async () => {
        const first = await running();
        await store.recordLost(first.attempt, first.workerId, null);
        const queued = (await store.readNext(first.attempt))!;
        assert.equal(await store.endByControl(queued, 'run_deadline', null), false);
        assert.equal(await store.endUnplaceable(first.attempt, 'too large'), false);
        const second = await again(first.attempt, 's2', 'k2');
        assert.equal(await store.endByControl(first.attempt, 'run_deadline', null), false);
        assert.equal(await store.endUnplaceable(first.attempt, 'too large'), false);
        assert.equal(await store.recordLost(first.attempt, first.workerId, null), 'stale');
        assert.equal(await store.recordEnd(first.attempt, 's1', reportedEnd()), 'stale');
        assert.deepEqual(
          (await read(first.attempt)).attempts.map(({ id, state }) => [id, state]),
          [
            [first.attempt.attemptId, 'ended'],
            [second.attempt.attemptId, 'accepted'],
          ],
        );
      });

      test('an attempt after another that nothing can run, its execution ends', async () => {
        const first = await running();
        await store.recordLost(first.attempt, first.workerId, null);
        assert.equal(await store.endUnplaceable((await store.readNext(first.attempt))!, 'too large'), true);
        assert.equal((await read(first.attempt)).reason, 'unplaceable');
      });

      test('a reclaimed host that has not delivered all output, its execution is run again all the same', async () => {
        const { attempt } = await running();
        const stream = { bytes: 9, sha256: EMPTY, truncated: false };
        const outcome = { kind: 'lost', cause: 'host_reclaimed' } as const;
        const end = reportedEnd({ outcome, streams: ofStreams(() => stream), final: true });
        assert.equal(await store.recordEnd(attempt, 's1', end), 'recorded');
        const record = await read(attempt);
        assert.deepEqual([record.phase, record.attempts[0]?.outcome], ['requeued', outcome]);
      });

      test('a host lost again and again, two redeliveries are made and then it ends', async () => {
        let { attempt, workerId } = await running();
        for (const life of [2, 3]) {
          await store.recordLost(attempt, workerId, null);
          ({ attempt, workerId } = await again(attempt, `s${life}`, `k${life}`));
        }
        assert.equal(await store.recordLost(attempt, workerId, null), 'ended');
        const record = await read(attempt);
        assert.deepEqual([record.state, record.reason, record.attempts.length], ['failure', 'host_lost', 3]);
      });

      test('retries that were asked for, each waits longer and the last end stands', async () => {
        const queued = await create({ retries });
        const { workerId } = await join('k1', 's1');
        await store.assign(queued, { workerId, sessionId: 's1' });
        await store.recordAccepted(queued, 's1', SANDBOX);
        let attempt: QueuedAttempt = queued;
        for (const longestMs of [1000, 2000]) {
          assert.equal(await store.recordEnd(attempt, 's1', failed), 'recorded');
          const record = await read(attempt);
          assert.deepEqual([record.state, record.phase, record.exitCode], ['running', 'requeued', null]);
          const next = (await store.readNext(attempt))!;
          const waitMs = next.notBeforeMs! - clock.nowMs();
          assert.ok(waitMs >= longestMs / 2 && waitMs <= longestMs, `${waitMs} of ${longestMs}`);
          await store.assign(next, { workerId, sessionId: 's1' });
          await store.recordAccepted(next, 's1', SANDBOX);
          attempt = next;
        }
        await store.recordEnd(attempt, 's1', failed);
        const record = await read(attempt);
        assert.deepEqual([record.state, record.reason, record.exitCode], ['failure', 'exit_code', 3]);
        assert.deepEqual(
          record.attempts.map(({ cause }) => cause),
          ['first', 'retry', 'retry'],
        );
        assert.deepEqual(record.retries, retries);
      });

      test('a function’s retries, its executions have them unless they say otherwise', async () => {
        await store.createFunctionVersion(
          {
            ...{
              projectId,
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
        for (const { attempt, workerId } of [one, two]) await store.recordLost(attempt, workerId, null);
        assert.equal((await store.requestCancel(projectId, one.attempt.executionId))?.result, 'cancelled');
        assert.deepEqual(await store.readNext(one.attempt), null);
        clock.advance(QUEUE_TTL_MS + 1);
        const expired = await store.expireQueue(10);
        assert.deepEqual(
          expired.map(({ executionId }) => executionId),
          [two.attempt.executionId],
        );
        assert.equal((await read(two.attempt)).reason, 'queue_ttl');
        assert.equal((await read(one.attempt)).state, 'cancelled');
      });

      test('rule 7: what is being cancelled when its worker is lost, it is cancelled and nothing follows', async () => {
        const { attempt, workerId } = await running();
        await store.requestCancel(projectId, attempt.executionId);
        await store.recordLost(attempt, workerId, null);
        assert.equal((await read(attempt)).state, 'cancelled');
        assert.equal(await store.readNext(attempt), null);
      });
    });

    describe('giving up', () => {
      test('an accepted attempt whose worker is lost, it ends and the next waits; its worker’s late word is stale', async () => {
        const { attempt, workerId } = await running();
        assert.equal(await store.recordLost(attempt, 'wk_other', null), 'stale');
        const beat = { atMs: clock.nowMs(), agentAgeMs: 7 };
        assert.equal(await store.recordLost(attempt, workerId, beat), 'ended');
        assert.equal(await store.recordLost(attempt, workerId, null), 'stale');
        assert.equal((await store.recordStarted(attempt, 's1', 0)).reported, 'stale');
        const record = await read(attempt);
        assert.deepEqual([record.state, record.phase, record.attempts[0]?.agentAgeMs], ['running', 'requeued', 7]);
        assert.deepEqual(
          record.attempts.map(({ number, cause, state, outcome }) => [number, cause, state, outcome]),
          [
            [1, 'first', 'ended', { kind: 'lost', cause: 'host_lost' }],
            [2, 'redelivery', 'queued', null],
          ],
        );
        const next = await store.readNext(attempt);
        assert.deepEqual([next?.attemptId, next?.notBeforeMs], [record.attempts[1]?.id, null]);
      });

      test('an attempt that was only assigned, it is queued again', async () => {
        const attempt = await create();
        const { workerId } = await join('k1', 's1');
        await store.assign(attempt, { workerId, sessionId: 's1' });
        assert.equal(await store.recordLost(attempt, workerId, null), 'requeued');
        const [live] = await store.loadLive();
        assert.deepEqual([live?.state, live?.workerId], ['queued', null]);
      });

      test('a deadline that passed, the control server ends it by the clock that ran out', async () => {
        const one = await running('s1', 'k1');
        const two = await running('s2', 'k2');
        assert.equal(await store.endByControl(one.attempt, 'prepare_deadline', null), true);
        assert.equal(await store.endByControl(two.attempt, 'run_deadline', null), true);
        assert.equal(await store.endByControl(two.attempt, 'run_deadline', null), false);
        assert.equal((await read(one.attempt)).reason, 'prepare_timeout');
        assert.equal((await read(two.attempt)).state, 'timeout');
        const three = await running('s3', 'k3');
        assert.equal(await store.endByControl(three.attempt, 'output_lost', null), true);
        assert.equal((await read(three.attempt)).reason, 'output_lost');
      });

      test('an execution that waited longer than its queue time, it ends; others stay', async () => {
        const attempt = await create();
        assert.deepEqual(await store.expireQueue(10), []);
        clock.advance(QUEUE_TTL_MS);
        const later = await create();
        assert.deepEqual(
          (await store.expireQueue(10)).map((one) => one.attemptId),
          [attempt.attemptId],
        );
        assert.deepEqual([(await read(attempt)).state, (await read(later)).state], ['timeout', 'open']);
      });

      test('an execution that nothing can run, it ends; not when it runs', async () => {
        const attempt = await create();
        assert.equal(await store.endUnplaceable(attempt, 'too large'), true);
        assert.equal(await store.endUnplaceable(attempt, 'again'), false);
        const record = await read(attempt);
        assert.deepEqual(
          [record.reason, record.message, record.attempts[0]?.state],
          ['unplaceable', 'too large', 'ended'],
        );
        const other = await running();
        assert.equal(await store.endUnplaceable(other.attempt, 'too large'), false);
        const assigned = await create();
        await store.assign(assigned, { workerId: other.workerId, sessionId: 's1' });
        assert.equal(await store.endUnplaceable(assigned, 'too large'), false);
      });
    });

    describe('a session', () => {
      test('rule 4: a worker that comes back, what it has goes on, what it lacks is released or lost, the rest is revoked', async () => {
        const [kept, gone, assigned] = [await create(), await create(), await create()];
        const { workerId } = await join('k1', 's1');
        for (const attempt of [kept, gone, assigned]) await store.assign(attempt, { workerId, sessionId: 's1' });
        for (const attempt of [kept, gone]) await store.recordAccepted(attempt, 's1', SANDBOX);
        await store.recordOutput(kept, 's1', [{ stream: 'stderr', from: 0, to: 3, inline: Buffer.from('abc') }]);
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
        assert.equal((await store.recordStarted(attempt, 's1', 0)).reported, 'recorded');
      });

      test('a token that is used, has expired or was never made, nobody joins by it', async () => {
        const hello = (publicKey: string, joinTokenHash: Uint8Array | null) =>
          store.openSession({
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
        await store.createJoinToken({ hash: used, ttlMs: 1e9 });
        await store.createJoinToken({ hash: old, ttlMs: 10 });
        clock.advance(LEASE_MS);
        const race = await Promise.all([hello('a', used), hello('b', used)]);
        assert.deepEqual(race.map(({ kind }) => kind).sort(), ['opened', 'token_invalid']);
        assert.equal((await hello('c', old)).kind, 'token_invalid');
        assert.equal((await hello('c', Buffer.from('never'))).kind, 'token_invalid');
        assert.equal((await hello('c', null)).kind, 'unknown_key');
        assert.equal((await store.listWorkers()).length, 1);
      });
    });

    test('a store that is closed and opened again, everything is there', async () => {
      const { attempt } = await running();
      const queued = await create();
      const before = await read(attempt);
      await store.close();
      store = await open(place.path, clock.nowMs);
      assert.deepEqual(await read(attempt), before);
      const live = await store.loadLive();
      assert.deepEqual(
        live.map(({ attemptId, state }) => [attemptId, state]).sort(),
        [
          [attempt.attemptId, 'accepted'],
          [queued.attemptId, 'queued'],
        ].sort(),
      );
      assert.equal(live.find(({ state }) => state === 'accepted')?.deadlineAtMs, clock.nowMs() + PREPARE_TIMEOUT_MS);
    });

    test('a hundred verbs at once of which some fail, each gets its own answer', async () => {
      const answers = await Promise.all(
        Array.from({ length: 100 }, (_, index) => code(create({ function: index % 3 === 0 ? 'nothing' : 'add' }))),
      );
      assert.equal(answers.filter((answer) => answer === 'function_not_found').length, 34);
      assert.equal((await store.listExecutions(projectId, { limit: 200 })).executions.length, 66);
    });
  });
}
