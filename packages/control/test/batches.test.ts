import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { type BatchRecord, type ExecutionList, MAX_BATCH_EXECUTIONS, MAX_INLINE_STDIN_BYTES } from '@cocore/protocol';
import { pino } from 'pino';
import { DEFAULT_LIMITS } from '../src/admission.ts';
import { OutputStore } from '../src/output/output-store.ts';
import { RecordSweeper } from '../src/record-sweeper.ts';
import { openSqliteStore } from '../src/store/sqlite/sqlite-store.ts';
import { StoreScene } from './store/store-scene.ts';
import { ScriptedWorker } from './support/scripted-worker.ts';
import { temporaryDatabase } from './support/temporary.ts';
import { TestServer } from './support/test-server.ts';

const json = (value: unknown) => ({ json: value });

describe('POST /v1/batches', () => {
  const post = <T = BatchRecord>(server: TestServer, body: unknown) =>
    server.call<T>('POST', '/v1/batches', { body: json(body) });

  test('executions of several functions, all are accepted, run, and counted by state', async () => {
    await using server = await TestServer.start();
    for (const name of ['one', 'two']) await server.deploy(name);
    const executions = ['one', 'two', 'one'].map((name, at) => ({ function: name, args: [String(at)] }));
    const made = await post(server, { executions });
    assert.equal(made.status, 202);
    const { id, counts, endedAt, executionIds } = made.body;
    assert.deepEqual([counts.open, endedAt, executionIds.length], [3, null, 3]);
    const early = await server.call<BatchRecord>('GET', `/v1/batches/${id}?wait=10ms`);
    assert.equal(early.body.counts.open, 3);

    const waiting = server.call<BatchRecord>('GET', `/v1/batches/${id}?wait=30s`);
    await using worker = await ScriptedWorker.connect(server);
    worker.echoAll();
    const { body } = await waiting;
    assert.deepEqual([body.counts.success, body.counts.open, body.counts.running], [3, 0, 0]);
    assert.deepEqual(body.executionIds, executionIds);
    const records = await Promise.all(executionIds.map((execution) => server.execution(execution)));
    assert.deepEqual(
      records.map(({ functionName, batchId, batchIndex }) => [functionName, batchId, batchIndex]),
      executions.map((execution, index) => [execution.function, id, index]),
    );
    assert.equal(
      body.endedAt,
      records
        .map((record) => record.endedAt!)
        .toSorted()
        .at(-1),
    );
    const list = await server.call<ExecutionList>('GET', `/v1/executions?batch=${id}&limit=2`);
    assert.equal(list.body.executions.length, 2);
    assert.notEqual(list.body.next, null);
  });

  const large = { base64: Buffer.alloc(MAX_INLINE_STDIN_BYTES + 1).toString('base64') };
  const fine = { function: 'one' };
  const wrong: [string, object, number, string, RegExp][] = [
    ['an entry that is not valid', { args: 1 }, 400, 'invalid_request', /executions\.1\.args/],
    [
      'an entry with a key of its own',
      { idempotencyKey: 'k' },
      400,
      'invalid_request',
      /executions\.1: .*idempotencyKey/,
    ],
    ['an entry of no function', { function: 'none' }, 404, 'function_not_found', /^executions\.1: /],
    ['an entry with too much input', { stdin: large }, 413, 'input_too_large', /^executions\.1: /],
    ['an entry with text that is none', { args: ['\0'] }, 400, 'invalid_text', /executions\.1\.args\.0/],
  ];
  test('anything that is wrong, the refusal names its place and nothing is made', async () => {
    await using server = await TestServer.start();
    await server.deploy('one');
    for (const [what, entry, status, code, message] of wrong) {
      const refused = await post<{ code: string; detail: string }>(server, {
        executions: [fine, { ...fine, ...entry }],
      });
      assert.deepEqual([refused.status, refused.body.code], [status, code], what);
      assert.match(refused.body.detail, message);
    }
    const bounds: [unknown[], RegExp][] = [
      [[], /executions/],
      [Array.from({ length: MAX_BATCH_EXECUTIONS + 1 }, () => fine), /at most 1000 executions/],
    ];
    for (const [executions, message] of bounds) {
      const refused = await post<{ code: string; detail: string }>(server, { executions });
      assert.equal(refused.body.code, 'invalid_request');
      assert.match(refused.body.detail, message);
    }
    const padding = { raw: ' '.repeat(16 * 1024 * 1024 + 1), type: 'application/json' };
    const tooLarge = await server.call('POST', '/v1/batches', { body: padding });
    assert.equal(tooLarge.body.code, 'payload_too_large');
    assert.deepEqual((await server.call<ExecutionList>('GET', '/v1/executions')).body.executions, []);
  });

  test('as many as a batch may have, all are accepted', async () => {
    await using server = await TestServer.start();
    await server.deploy('one');
    const executions = Array.from({ length: MAX_BATCH_EXECUTIONS }, (_, at) => ({ ...fine, args: [String(at)] }));
    const made = await post(server, { executions });
    assert.deepEqual([made.status, made.body.counts.open], [202, MAX_BATCH_EXECUTIONS]);
    const last = await server.execution(made.body.executionIds.at(-1)!);
    assert.deepEqual([last.batchIndex, last.args], [MAX_BATCH_EXECUTIONS - 1, ['999']]);
  });

  test('rule 14: the same key and list, the same batch; another list is refused and names it', async () => {
    await using server = await TestServer.start();
    await server.deploy('one');
    const body = { executions: [fine, fine], idempotencyKey: 'k' };
    const [first, again] = [await post(server, body), await post(server, body)];
    assert.deepEqual(again, { ...again, status: 202, body: first.body });
    const other = await server.call('POST', '/v1/batches', { body: json({ ...body, executions: [fine] }) });
    assert.deepEqual([other.status, other.body.code], [409, 'idempotency_conflict']);
    assert.equal(other.body.details?.['batchId'], first.body.id);
  });

  test('rule 14: the time that the operator gives keys, then they are new', async () => {
    await using server = await TestServer.start({ idempotencyTtlMs: 1 });
    await server.deploy('one');
    const first = await server.run('one', { idempotencyKey: 'k' });
    await new Promise((resolve) => setTimeout(resolve, 5));
    assert.notEqual((await server.run('one', { idempotencyKey: 'k', args: ['other'] })).id, first.id);
  });

  test('another project’s batch, it is not found', async () => {
    await using server = await TestServer.start();
    await server.deploy('one');
    const { id } = (await post(server, { executions: [fine] })).body;
    const key = await server.otherProjectKey();
    for (const path of [`/v1/batches/${id}`, `/v1/batches/${id}?wait=10ms`, `/v1/executions?batch=${id}`]) {
      const reply = await server.call('GET', path, { key });
      assert.deepEqual([reply.status, reply.body.code], [404, 'batch_not_found']);
    }
  });
});

test('a sweep of records, it goes on until nothing is left', async () => {
  const scene = new StoreScene((path, now) => openSqliteStore({ path, now }), temporaryDatabase);
  await scene.begin();
  const keyed = Array.from({ length: 501 }, (_, at) => scene.request({ idempotencyKey: String(at) }));
  await scene.store.createExecutions(keyed, DEFAULT_LIMITS);
  scene.clock.advance(DEFAULT_LIMITS.idempotencyTtlMs);
  const [last] = await scene.store.createExecutions([scene.request({ idempotencyKey: 'last' })], DEFAULT_LIMITS);
  const output = new OutputStore('/nowhere', scene.store);
  const retention = { maxAgeMs: Infinity, maxOutputBytes: Infinity };
  const sweeper = new RecordSweeper({ store: scene.store, output, retention, log: pino({ level: 'silent' }) });
  await sweeper.sweep(new AbortController().signal);
  assert.equal(await scene.store.forgetIdempotencyKeys(1), 0);
  const [again] = await scene.store.createExecutions([scene.request({ idempotencyKey: 'last' })], DEFAULT_LIMITS);
  assert.equal(again?.executionId, last?.executionId);
  await scene.end();
});
