import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { BatchRecord, CancelManyAnswer, ExecutionAnswer } from '@cocore/protocol';
import { Scene } from './support/scene.ts';
import { TestServer } from './support/test-server.ts';

const cancelMany = (server: TestServer, json: object) =>
  server.call<CancelManyAnswer>('POST', '/v1/executions/cancel', { body: { json } });

test('many that are open and one that runs, all are asked to stop, and who waits for them hears it; again changes nothing', async () => {
  await using scene = await Scene.start();
  const { server, worker, assign } = scene;
  // Larger than what the worker has: it waits.
  await server.deploy('large', { isolation: 'microvm' });
  const executions = Array.from({ length: 450 }, () => ({ function: 'large' }));
  const { id } = (await server.call<BatchRecord>('POST', '/v1/batches', { body: { json: { executions } } })).body;
  const ended = server.call<BatchRecord>('GET', `/v1/batches/${id}?wait=30s`);
  const counted = await cancelMany(server, { all: true, dryRun: true });
  assert.deepEqual(counted.body, { matched: 451, cancelled: 0, requested: 0, alreadyRequested: 0 });
  const all = await cancelMany(server, { all: true });
  assert.deepEqual(all.body, { matched: 451, cancelled: 450, requested: 1, alreadyRequested: 0 });
  assert.equal((await worker.next('AttemptCancel')).attemptId, assign.attemptId);
  assert.equal((await ended).body.counts.cancelled, 450);
  const again = await cancelMany(server, { all: true });
  assert.deepEqual(again.body, { matched: 1, cancelled: 0, requested: 0, alreadyRequested: 1 });
  worker.end(assign, { kind: 'cancelled' });
  assert.equal((await scene.execution('10s')).state, 'cancelled');
  assert.equal((await cancelMany(server, { all: true })).body.matched, 0);
});

test('criteria, they are taken together; none, and what is not one, are refused', async () => {
  await using server = await TestServer.start();
  for (const name of ['one', 'two']) await server.deploy(name);
  const [one, two] = [await server.run('one'), await server.run('two')];
  const past = { createdBefore: new Date(Date.parse(one.createdAt) - 1).toISOString() };
  for (const [criteria, matched] of [
    [{ function: 'one', ...past }, 0],
    [{ function: 'one', state: 'running' }, 0],
    [{ function: one.functionId, state: 'open' }, 1],
  ] as const) {
    assert.equal((await cancelMany(server, criteria)).body.matched, matched);
  }
  assert.equal((await server.execution(one.id)).state, 'cancelled');
  assert.equal((await server.execution(two.id)).state, 'open');
  const wrong: [object, string][] = [
    [{}, 'invalid_request'],
    [{ dryRun: true }, 'invalid_request'],
    [{ all: false }, 'invalid_request'],
    [{ state: 'success' }, 'invalid_request'],
    [{ createdBefore: 'yesterday' }, 'invalid_request'],
    [{ function: 'none' }, 'function_not_found'],
    [{ batch: 'ba_00000000000000000000000000' }, 'batch_not_found'],
  ];
  for (const [criteria, code] of wrong) {
    const refused = await server.call('POST', '/v1/executions/cancel', { body: { json: criteria } });
    assert.equal(refused.body.code, code, JSON.stringify(criteria));
  }
  const other = await server.otherProjectKey();
  const theirs = { key: other, body: { json: { all: true } } };
  assert.equal((await server.call<CancelManyAnswer>('POST', '/v1/executions/cancel', theirs)).body.matched, 0);
});

test('what is made and cancelled by one commit, who waits for its end is answered at once', async () => {
  await using server = await TestServer.start();
  await server.deploy('short');
  const began = performance.now();
  for (let times = 0; times < 5; times += 1) {
    const path = '/v1/functions/short/executions?wait=30s';
    const made = server.call<ExecutionAnswer>('POST', path, { body: { json: {} } });
    await cancelMany(server, { all: true });
    // Mostly there is nothing left.
    await cancelMany(server, { all: true });
    assert.equal((await made).body.state, 'cancelled');
  }
  assert.ok(performance.now() - began < 20_000);
});
