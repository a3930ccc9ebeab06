import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import type { BatchRecord } from '@cocore/protocol';
import { pino } from 'pino';
import { OutputStore } from '../src/output/output-store.ts';
import { INLINE_OUTPUT_BYTES } from '../src/store/store.ts';
import { RecordSweeper } from '../src/record-sweeper.ts';
import { openSqliteStore } from '../src/store/sqlite/sqlite-store.ts';
import { ManualClock } from './support/manual-clock.ts';
import { ScriptedWorker } from './support/scripted-worker.ts';
import { StoreScene } from './store/store-scene.ts';
import { temporaryDatabase } from './support/temporary.ts';
import { TestServer } from './support/test-server.ts';
import { until } from './support/until.ts';

test('an execution that is kept no more, its id answers, its output is 410, its batch counts it, and its files are gone', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock, retention: { maxAgeMs: 60_000 } });
  await server.deploy('f');
  await using worker = await ScriptedWorker.connect(server);
  const executions = [{ function: 'f', args: ['a'] }];
  const batch = (await server.call<BatchRecord>('POST', '/v1/batches', { body: { json: { executions } } })).body;
  const assign = await worker.startNext();
  const id = assign.executionId;
  const text = 'x'.repeat(INLINE_OUTPUT_BYTES + 1);
  worker.output(assign.channel, 'stdout', 0, text);
  worker.end(assign, { kind: 'exited', code: 3 }, { stdout: text });
  const whole = await server.execution(id, '10s');
  assert.equal(whole.state, 'failure');
  const files = () =>
    readdirSync(join(server.directory.path, 'data', 'output'), { recursive: true }).filter((name) =>
      String(name).includes(assign.attemptId),
    );
  assert.equal(files().length, 1);

  clock.advance(60_001);
  // A sweep is what it begins with.
  await server.restart();
  await until('it is expired', async () => (await server.execution(id)).expired);
  const record = await server.execution(id, '1s');
  const { state, reason, exitCode, createdAt, startedAt, endedAt, functionName } = whole;
  assert.deepEqual(record, {
    ...record,
    ...{ state, reason, exitCode, createdAt, startedAt, endedAt, functionName },
    ...{ args: [], attempts: [], stdout: null, stderr: null },
  });
  await until('its file is gone', () => files().length === 0);
  for (const path of ['output/stdout', 'output/stderr', 'artifacts', 'events']) {
    const reply = await server.call('GET', `/v1/executions/${id}/${path}`);
    assert.deepEqual([reply.status, reply.body.code], [410, 'output_expired'], path);
  }
  const counted = await server.call<BatchRecord>('GET', `/v1/batches/${batch.id}?wait=1s`);
  assert.deepEqual([counted.body.counts.failure, counted.body.endedAt], [1, endedAt]);
});

test('a server that ended between a removal and its files, the next sweep removes them', async () => {
  const scene = new StoreScene((path, now) => openSqliteStore({ path, now }), temporaryDatabase);
  await scene.begin();
  using directory = temporaryDatabase();
  const output = new OutputStore(directory.path, scene.store);
  const { attempt, workerId } = await scene.running();
  await scene.store.requestCancel(scene.projectId, attempt.executionId);
  await scene.store.recordLost(attempt, workerId, null);
  const path = output.segmentPath(attempt, 'artifacts');
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, 'of an attempt that is over');
  const retention = { maxAgeMs: 0, maxOutputBytes: 0 };
  assert.equal(await scene.store.expireExecutions(retention, 10), 1);
  await scene.reopen();
  const log = pino({ level: 'silent' });
  const swept = new RecordSweeper({ store: scene.store, output, retention, log });
  await swept.sweep(new AbortController().signal);
  assert.equal(existsSync(path), false);
  assert.deepEqual(await scene.store.listRemovedOutputs('', 1), []);
  await scene.end();
});
