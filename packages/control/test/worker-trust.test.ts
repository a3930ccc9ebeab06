import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type BatchRecord,
  type Capabilities,
  type LostCause,
  type Outcome,
  parseServerMessage,
  type WorkerList,
  type WorkerRecord,
} from '@cocore/protocol';
import { SWEEP_MS } from '../src/dispatch/sweeper.ts';
import { FIRST_ALLOWANCE, MIN_BACKOFF_MS } from '../src/scheduler/trust.ts';
import { ManualClock } from './support/manual-clock.ts';
import { pass } from './support/pass.ts';
import { ScriptedWorker } from './support/scripted-worker.ts';
import { TestServer } from './support/test-server.ts';
import { until } from './support/until.ts';

const RETRIES = { max: 3, on: ['sandbox' as const, 'blob' as const], backoffMs: 0 };

/** A worker whose every attempt fails before it begins; `given` counts them. */
class Broken {
  readonly worker: ScriptedWorker;
  given = 0;

  constructor(worker: ScriptedWorker, cause: LostCause) {
    this.worker = worker;
    const outcome: Outcome = { kind: 'lost', cause };
    worker.socket.on('message', (data) => {
      const message = parseServerMessage((data as Buffer).toString('utf8'));
      if (message?.type !== 'AttemptAssign') return;
      this.given += 1;
      worker.accept(message);
      worker.end(message, outcome);
    });
  }
}

const workerOf = async (server: TestServer, { welcome }: ScriptedWorker): Promise<WorkerRecord> =>
  (await server.call<WorkerList>('GET', '/v1/workers')).body.workers.find(({ id }) => id === welcome.workerId)!;

/** A server and a hundred executions of one function; a broken worker that placement prefers to the good one. */
async function runHundred(workerTrust: 'earned' | 'full', cause: LostCause, room: Partial<Capabilities>) {
  await using server = await TestServer.start({ workerTrust });
  await server.deploy('f', { retries: RETRIES });
  const executions = Array.from({ length: 100 }, () => ({ function: 'f' }));
  const made = await server.call<BatchRecord>('POST', '/v1/batches', { body: { json: { executions } } });
  await using worker = await ScriptedWorker.connect(server, { capabilities: room });
  const broken = new Broken(worker, cause);
  await using good = await ScriptedWorker.connect(server);
  good.echoAll();
  const done = await server.call<BatchRecord>('GET', `/v1/batches/${made.body.id}?wait=60s`);
  const records = await Promise.all(done.body.executionIds.map((id) => server.execution(id)));
  return { counts: done.body.counts, given: broken.given, record: await workerOf(server, worker), records };
}

test('a broken worker beside a good one, of a hundred executions few go to it and all succeed', async () => {
  for (const cause of ['sandbox', 'blob'] as const) {
    const { counts, given, record, records } = await runHundred('earned', cause, { memoryMiB: 32_768 });
    assert.equal(counts.success, 100);
    assert.ok(given >= 1 && given <= 5, `${given} at the broken worker`);
    assert.equal(records.filter(({ attempts }) => attempts.length > 1).length, given);
    assert.equal(record.allowance === null, false);
  }
});

test('workers that are trusted from the first, a broken one takes at most what it has room for, and then one at a time', async () => {
  const { counts, given } = await runHundred('full', 'sandbox', { cpus: 8, memoryMiB: 32_768 });
  assert.equal(counts.success, 100);
  assert.ok(given >= 1 && given <= 8 + 4, `${given} at the broken worker`);
});

test('a worker that failed, its record says so, it gets one attempt after its pause, and one that runs clears it', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  await server.deploy('f');
  const good = await ScriptedWorker.connect(server);
  await server.run('f');
  good.end(await good.startNext());
  await until('it ran', async () => (await workerOf(server, good)).attempts === 0);
  await good[Symbol.asyncDispose]();

  await using worker = await ScriptedWorker.connect(server);
  const backoff = async () => (await workerOf(server, worker)).backoff;
  assert.equal(await backoff(), null);
  // One that it has from before its failure goes on beside those on trial.
  await server.run('f');
  await worker.startNext();
  clock.advance(10);
  await server.run('f');
  const failing = await worker.next('AttemptAssign');
  worker.accept(failing);
  worker.end(failing, { kind: 'lost', cause: 'sandbox' });
  await until('it is backed off', async () => (await backoff()) !== null);
  assert.deepEqual(await backoff(), { until: new Date(clock.nowMs() + MIN_BACKOFF_MS).toISOString(), failures: 1 });
  assert.match((await server.call<string>('GET', '/metrics')).body, /^cocore_workers_backed_off 1$/m);

  const waiting = [await server.run('f'), await server.run('f')];
  const { waiting: why } = await server.execution(waiting[0]!.id);
  assert.equal(why?.code, 'busy');
  assert.match(why.message, /1 backed off after failures/);
  await pass(server, clock, MIN_BACKOFF_MS + SWEEP_MS);
  const trial = await worker.startNext();
  assert.equal(trial.executionId, waiting[0]!.id);
  assert.deepEqual(await backoff(), { until: null, failures: 1 });
  await pass(server, clock, SWEEP_MS);
  assert.ok(!worker.received.some(({ type }) => type === 'AttemptAssign'));

  worker.end(trial, { kind: 'exited', code: 1 });
  assert.equal((await worker.startNext()).executionId, waiting[1]!.id);
  assert.equal(await backoff(), null);
});

test('an attempt that ran and was lost with its sandbox, told at once, it is not held against its worker', async () => {
  await using server = await TestServer.start();
  await server.deploy('f');
  await using good = await ScriptedWorker.connect(server);
  await server.run('f');
  good.end(await good.startNext());
  await good.next('AttemptEndedAck');
  await good[Symbol.asyncDispose]();

  await using worker = await ScriptedWorker.connect(server);
  for (const hasStarted of [true, false]) {
    await server.run('f');
    const assign = await worker.next('AttemptAssign');
    worker.atOnce(() => {
      worker.accept(assign);
      if (hasStarted) worker.started(assign);
      worker.end(assign, { kind: 'lost', cause: 'sandbox' });
    });
    await worker.next('AttemptEndedAck');
    assert.equal((await workerOf(server, worker)).backoff === null, hasStarted);
  }
});

test('an attempt on trial that has run for a while, its worker is trusted again before it ends', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  await server.deploy('f', { timeoutMs: 600_000 });
  const good = await ScriptedWorker.connect(server);
  await server.run('f');
  good.end(await good.startNext());
  await until('it ran', async () => (await workerOf(server, good)).attempts === 0);
  await good[Symbol.asyncDispose]();

  await using worker = await ScriptedWorker.connect(server);
  await server.run('f');
  const failing = await worker.next('AttemptAssign');
  worker.accept(failing);
  worker.end(failing, { kind: 'lost', cause: 'blob' });
  await worker.next('AttemptEndedAck');
  await server.run('f');
  await server.run('f');
  await pass(server, clock, MIN_BACKOFF_MS + SWEEP_MS);
  await worker.startNext();
  assert.deepEqual((await workerOf(server, worker)).backoff, { until: null, failures: 1 });
  for (let sequence = 1; sequence <= 11; sequence += 1) {
    worker.beat(sequence);
    await worker.next('HeartbeatAck');
    await pass(server, clock, SWEEP_MS);
  }
  assert.equal((await workerOf(server, worker)).backoff, null);
  await worker.startNext();
});

test('trust that is earned, a new worker has little at once and more as they succeed, over the server’s lives', async () => {
  await using server = await TestServer.start({ workerTrust: 'earned' });
  await server.deploy('f');
  const worker = await ScriptedWorker.connect(server);
  const ids = [];
  for (let times = 0; times < 7; times += 1) ids.push((await server.run('f')).id);
  const first = [await worker.startNext(), await worker.startNext()];
  const { allowance, attempts } = await workerOf(server, worker);
  assert.deepEqual([allowance, attempts], [FIRST_ALLOWANCE, FIRST_ALLOWANCE]);
  assert.match(
    (await server.execution(ids[2]!)).waiting?.message ?? '',
    /1 new or on trial, with as many as they may have/,
  );
  for (const one of first) worker.end(one);
  for (let times = 0; times < 4; times += 1) await worker.startNext();
  assert.equal((await workerOf(server, worker)).allowance, 2 * FIRST_ALLOWANCE);
  assert.equal((await server.execution(ids[6]!)).state, 'open');

  await worker[Symbol.asyncDispose]();
  await server.restart();
  assert.equal((await workerOf(server, worker)).allowance, 2 * FIRST_ALLOWANCE);
});
