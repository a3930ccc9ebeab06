import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MAX_PRIORITY, MAX_QUEUE_TTL_MS } from '@cocore/protocol';
import { DEFAULT_LIMITS } from '../src/admission.ts';
import { SWEEP_MS } from '../src/dispatch/sweeper.ts';
import { ManualClock } from './support/manual-clock.ts';
import { pass } from './support/pass.ts';
import { Identity, ScriptedWorker } from './support/scripted-worker.ts';
import { TestServer } from './support/test-server.ts';
import { until } from './support/until.ts';

/** The names of what is given out, in order, until nothing is under way any more: each name is the execution's one argument. */
async function given(worker: ScriptedWorker, count: number): Promise<string[]> {
  const names: string[] = [];
  while (names.length < count) {
    const assign = await worker.next('AttemptAssign');
    names.push(assign.task.argv.at(-1)!);
    worker.accept(assign);
    worker.started(assign);
    worker.end(assign);
  }
  return names;
}

test('executions of several priorities, a worker that comes gets them in their order', async () => {
  await using server = await TestServer.start();
  await server.deploy('ordered');
  for (const [name, priority] of [
    ['low', -1],
    ['first', 0],
    ['second', 0],
    ['high', MAX_PRIORITY],
  ] as const) {
    await server.run('ordered', { args: [name], priority });
  }
  await using worker = await ScriptedWorker.connect(server, { capabilities: { cpus: 1 } });
  assert.deepEqual(await given(worker, 4), ['high', 'first', 'second', 'low']);
});

test('what is asked for and cannot be, it is refused with the field’s name, and nothing is trimmed', async () => {
  await using server = await TestServer.start();
  await server.deploy('refused');
  const bad: [object, string][] = [
    [{ priority: 11 }, 'priority'],
    [{ priority: -11 }, 'priority'],
    [{ priority: 0.5 }, 'priority'],
    [{ queueTtlMs: 999 }, 'queueTtlMs'],
    [{ queueTtlMs: MAX_QUEUE_TTL_MS + 1 }, 'queueTtlMs'],
    [{ concurrencyKey: '' }, 'concurrencyKey'],
    [{ concurrencyKey: 'ä'.repeat(128) }, 'concurrencyKey'],
    [{ concurrencyLimit: 2 }, 'concurrencyLimit'],
    [{ concurrencyKey: 'k', concurrencyLimit: 0 }, 'concurrencyLimit'],
  ];
  for (const [body, field] of bad) {
    const reply = await server.call('POST', '/v1/functions/refused/executions', { body: { json: body } });
    assert.deepEqual([reply.status, reply.body.code], [400, 'invalid_request'], field);
    assert.match(reply.body.detail ?? '', new RegExp(field));
  }
  const file = { name: 'f.sh', contentBase64: '' };
  const deploy = { name: 'none', runtime: 'bash', file, maxConcurrent: 0 };
  assert.equal((await server.call('POST', '/v1/functions', { body: { json: deploy } })).body.code, 'invalid_request');
});

test('a function’s limit and a key’s, the record says which cap holds it up and where it stands; a batch keeps them too', async () => {
  await using server = await TestServer.start();
  await using worker = await ScriptedWorker.connect(server);
  const deployed = await server.deploy('narrow', { maxConcurrent: 1 });
  assert.equal(deployed.maxConcurrent, 1);
  await server.deploy('wide');
  await server.run('narrow');
  const capped = await server.run('narrow');
  const first = await worker.startNext();
  const waiting = (await server.execution(capped.id)).waiting;
  assert.deepEqual([waiting?.code, waiting?.position], ['cap', 1]);
  assert.match(waiting!.message, /^its function allows one execution at a time/);
  const keyed = { function: 'wide', concurrencyKey: 'k' };
  const executions = [keyed, { ...keyed, priority: 1 }, { function: 'wide' }];
  const batch = await server.call<{ executionIds: string[] }>('POST', '/v1/batches', {
    body: { json: { executions } },
  });
  const [late, early, free] = batch.body.executionIds as [string, string, string];
  const given = [await worker.startNext(), await worker.startNext()];
  assert.deepEqual(given.map(({ executionId }) => executionId).sort(), [early, free].sort());
  const record = await server.execution(late);
  assert.deepEqual([record.waiting?.code, record.waiting?.position], ['cap', 2]);
  assert.match(record.waiting!.message, /the concurrency key "k"/);
  assert.deepEqual([record.concurrencyKey, record.concurrencyLimit, record.priority], ['k', 1, 0]);
  worker.end(first);
  assert.equal((await worker.startNext()).executionId, capped.id);
  worker.end(given.find(({ executionId }) => executionId === early)!);
  assert.equal((await worker.startNext()).executionId, late);
});

test('a function that is deployed with another limit, it holds for what waits', async () => {
  await using server = await TestServer.start();
  await using worker = await ScriptedWorker.connect(server);
  await server.deploy('changed', { maxConcurrent: 1 });
  for (const _ of [1, 2, 3]) await server.run('changed');
  await worker.startNext();
  assert.equal((await server.execution((await server.run('changed')).id)).waiting?.code, 'cap');
  await server.deploy('changed', { maxConcurrent: 3 });
  await worker.startNext();
  await worker.startNext();
  const last = await server.run('changed');
  assert.equal((await server.execution(last.id)).waiting?.code, 'cap');
  await server.deploy('changed');
  await worker.startNext();
  assert.equal((await worker.startNext()).executionId, last.id);
});

test('a server that starts again, caps count what workers have, also those that are away', async () => {
  await using server = await TestServer.start();
  const identity = new Identity();
  const first = await ScriptedWorker.connect(server, { identity, joinToken: await server.joinToken() });
  await server.deploy('one', { maxConcurrent: 1 });
  await server.deploy('keyed');
  const key = { concurrencyKey: 'k' };
  await server.run('one');
  await server.run('keyed', key);
  const running = [await first.startNext(), await first.startNext()];
  for (const { executionId } of running) {
    await until('it runs', async () => (await server.execution(executionId)).phase === 'executing');
  }
  const waits = [await server.run('one'), await server.run('keyed', key)].map(({ id }) => id);
  await server.restart();
  await first.closed;
  await using other = await ScriptedWorker.connect(server);
  for (const id of waits) assert.equal((await server.execution(id)).waiting?.code, 'cap');
  const inventory = running.map(({ attemptId }) => attemptId);
  await using second = await ScriptedWorker.connect(server, { identity, inventory });
  assert.equal(second.welcome.resume.length, 2);
  for (const id of waits) assert.equal((await server.execution(id)).waiting?.code, 'cap');
  for (const attempt of running) second.end(attempt);
  const got = () => [...other.received, ...second.received].filter(({ type }) => type === 'AttemptAssign').length;
  await until('both are given out', () => got() === 2);
});

test('a worker that fetches what an execution needs, the record says what; not once it runs, nor when the worker says it of another’s', async () => {
  await using server = await TestServer.start();
  await using worker = await ScriptedWorker.connect(server);
  await using other = await ScriptedWorker.connect(server, {
    capabilities: { isolation: 'container', memoryMiB: 128 },
  });
  await server.deploy('fetched');
  const { id } = await server.run('fetched');
  const { attemptId, task } = await worker.next('AttemptAssign');
  const waiting = async () => (await server.execution(id)).waiting;
  worker.accept({ attemptId });
  const image = { ...task.image, bytes: 300 * 1024 * 1024 };
  for (const sender of [other, worker]) sender.send({ type: 'AttemptPreparing', attemptId, fetching: image });
  await until('it is said', async () => (await waiting())?.code === 'fetching');
  assert.deepEqual(await waiting(), {
    code: 'fetching',
    message: 'its worker fetches its image, 300.0 MiB',
    position: null,
  });
  await until('it is accepted', async () => (await server.execution(id)).phase === 'preparing');
  worker.send({ type: 'AttemptPreparing', attemptId, fetching: task.code });
  await until('it is another', async () => /its code/.test((await waiting())?.message ?? ''));
  worker.send({ type: 'AttemptPreparing', attemptId, fetching: null });
  await until('all is there', async () => (await waiting()) === null);
  other.send({ type: 'AttemptPreparing', attemptId, fetching: image });
  other.beat(1);
  await other.next('HeartbeatAck');
  assert.equal(await waiting(), null);
  worker.send({ type: 'AttemptPreparing', attemptId, fetching: image });
  worker.started({ attemptId });
  await until('it executes', async () => (await server.execution(id)).phase === 'executing');
  assert.equal(await waiting(), null);
  worker.end({ attemptId });
  assert.equal((await server.execution(id, '10s')).state, 'success');
});

test('a queue time of its own, the execution ends with it', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  await server.deploy('short');
  const { id, queueTtlMs } = await server.run('short', { queueTtlMs: 5_000 });
  assert.equal(queueTtlMs, 5_000);
  await pass(server, clock, 5_000 - SWEEP_MS);
  assert.equal((await server.execution(id)).state, 'open');
  await pass(server, clock, SWEEP_MS);
  const record = await server.execution(id);
  assert.deepEqual([record.state, record.reason], ['timeout', 'queue_ttl']);
});

test('a queue that is full, the answer says which cap, and that it is worth trying later', async () => {
  await using server = await TestServer.start({
    limits: { ...DEFAULT_LIMITS, maxQueuedExecutions: 2, maxQueuedOfFunction: 1 },
  });
  await server.deploy('a');
  await server.deploy('b');
  await server.deploy('c');
  const ask = (name: string) => server.call('POST', `/v1/functions/${name}/executions`, { body: { json: {} } });
  assert.equal((await ask('a')).status, 202);
  const ofFunction = await ask('a');
  assert.deepEqual([ofFunction.status, ofFunction.body.code], [429, 'quota_exceeded']);
  assert.match(ofFunction.body.detail ?? '', /a function may have at most 1 executions that wait for a worker/);
  assert.deepEqual(ofFunction.body.details?.['name'], 'queuedOfFunction');
  assert.equal((await ask('b')).status, 202);
  assert.equal((await ask('c')).body.details?.['name'], 'queuedExecutions');
  await using worker = await ScriptedWorker.connect(server);
  worker.accept(await worker.next('AttemptAssign'));
  await until('there is room', async () => (await ask('c')).status === 202);
});
