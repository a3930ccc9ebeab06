import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { WorkerList, WorkerRecord } from '@cocore/protocol';
import { Scene } from './support/scene.ts';
import { ScriptedWorker } from './support/scripted-worker.ts';
import { TestServer } from './support/test-server.ts';

const workerOf = async (server: TestServer, id: string): Promise<WorkerRecord> =>
  (await server.call<WorkerList>('GET', '/v1/workers')).body.workers.find((one) => one.id === id)!;
const set = (server: TestServer, verb: 'drain' | 'undrain', id: string) =>
  server.call<WorkerRecord>('POST', `/v1/workers/${id}/${verb}`);

test('a worker that is drained, it finishes what it has, gets nothing more over its sessions and the server’s lives, and gets work again', async () => {
  await using scene = await Scene.start();
  const { server, identity, assign } = scene;
  const { workerId } = scene.worker.welcome;
  const drained = await set(server, 'drain', workerId);
  assert.deepEqual([drained.status, drained.body.drain?.by, drained.body.drain?.state], [200, 'operator', 'draining']);
  assert.equal((await scene.worker.next('DrainNotice')).draining, true);
  const { id } = await server.run('minute');
  scene.worker.end(assign);
  assert.equal((await scene.execution('10s')).state, 'success');
  assert.equal((await workerOf(server, workerId)).drain?.state, 'drained');

  await server.restart();
  await using again = await ScriptedWorker.connect(server, { identity });
  assert.equal((await again.next('DrainNotice')).draining, true);
  const { drain } = await workerOf(server, workerId);
  assert.deepEqual(drain, { ...drained.body.drain, state: 'drained' });
  const waiting = await server.execution(id);
  assert.deepEqual([waiting.state, waiting.waiting?.code], ['open', 'busy']);
  assert.deepEqual(
    again.received.filter(({ type }) => type === 'AttemptAssign'),
    [],
  );

  assert.equal((await set(server, 'undrain', workerId)).body.drain, null);
  assert.equal((await again.next('DrainNotice')).draining, false);
  assert.equal((await again.startNext()).executionId, id);
});

test('drained twice, the second changes nothing; a worker that is away is drained all the same', async () => {
  await using server = await TestServer.start();
  const worker = await ScriptedWorker.connect(server);
  const { workerId } = worker.welcome;
  await worker[Symbol.asyncDispose]();
  const [first, second] = [await set(server, 'drain', workerId), await set(server, 'drain', workerId)];
  assert.deepEqual(second.body.drain, first.body.drain);
  assert.equal(first.body.drain?.state, 'drained');
});

test('a worker whose owner drains or reclaims it, the operator sees it at once and in its next session, and it gets nothing more', async () => {
  await using server = await TestServer.start();
  await server.deploy('f');
  await using worker = await ScriptedWorker.connect(server);
  const { workerId } = worker.welcome;
  worker.send({ type: 'WorkerStopping', how: 'drain' });
  worker.beat(1);
  await worker.next('HeartbeatAck');
  const seen = async () => {
    const { drain } = await workerOf(server, workerId);
    return drain === null ? null : [drain.by, drain.state];
  };
  assert.deepEqual(await seen(), ['owner', 'drained']);
  await server.run('f');
  worker.send({ type: 'WorkerStopping', how: 'reclaim' });
  worker.beat(2);
  await worker.next('HeartbeatAck');
  assert.deepEqual(await seen(), ['owner', 'reclaiming']);
  const { identity } = worker;
  await using again = await ScriptedWorker.connect(server, { identity, change: () => ({ stopping: 'drain' }) });
  assert.deepEqual(await seen(), ['owner', 'drained']);
  await again[Symbol.asyncDispose]();
  await using fresh = await ScriptedWorker.connect(server, { identity });
  assert.equal(await seen(), null);
  assert.ok(await fresh.next('AttemptAssign'));
  for (const one of [worker, again]) assert.ok(!one.received.some(({ type }) => type === 'AttemptAssign'));
});

test('no worker of this id, and a key that is not an operator’s, are refused', async () => {
  await using server = await TestServer.start();
  const refused = await server.call('POST', '/v1/workers/wk_00000000000000000000000000/drain');
  assert.deepEqual([refused.status, refused.body.code], [404, 'worker_not_found']);
  await using worker = await ScriptedWorker.connect(server);
  const path = `/v1/workers/${worker.welcome.workerId}/drain`;
  const key = await server.otherProjectKey();
  assert.equal((await server.call('POST', path, { key })).body.code, 'forbidden');
  assert.equal((await workerOf(server, worker.welcome.workerId)).drain, null);
});
