import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Scene } from './support/scene.ts';
import { ScriptedWorker } from './support/scripted-worker.ts';
import { TestServer } from './support/test-server.ts';
import { until } from './support/until.ts';

describe('rule 2: what beats name', () => {
  const other = 'at_00000000000000000000000000';
  const named = (...ids: string[]) => ids.map((attemptId) => ({ attemptId, agentAgeMs: null }));

  test('rule 7: a cancellation whose message was lost, each beat’s answer tells it again until it is carried out', async () => {
    await using scene = await Scene.start();
    const { server, worker, assign } = scene;
    await server.call('POST', `/v1/executions/${assign.executionId}/cancel`);
    await worker.next('AttemptCancel');
    for (const sequence of [1, 2]) {
      worker.beat(sequence);
      assert.deepEqual((await worker.next('HeartbeatAck')).cancel, [assign.attemptId]);
    }
    worker.end(assign, { kind: 'cancelled' });
    await worker.next('AttemptEndedAck');
    worker.beat(3);
    assert.deepEqual(await worker.next('HeartbeatAck'), { type: 'HeartbeatAck', sequence: 3 });
    assert.equal((await scene.execution()).state, 'cancelled');
  });

  test('rule 2: an attempt that is not the worker’s, the answer to the second beat takes it back', async () => {
    await using scene = await Scene.start();
    const { server, worker, assign } = scene;
    await using thief = await ScriptedWorker.connect(server);
    for (const sequence of [1, 2]) thief.beat(sequence, named(assign.attemptId, other));
    assert.equal((await thief.next('HeartbeatAck')).revoke, undefined);
    assert.deepEqual((await thief.next('HeartbeatAck')).revoke, [assign.attemptId, other]);
    worker.beat(1);
    assert.deepEqual(await worker.next('HeartbeatAck'), { type: 'HeartbeatAck', sequence: 1 });
    worker.end(assign);
    assert.equal((await scene.execution('10s')).state, 'success');
  });

  test('rule 2: an attempt that two beats in a row do not name, it is lost; after one of them it is not', async () => {
    await using scene = await Scene.start();
    const { server, worker, assign } = scene;
    for (const [sequence, attempts] of [[], named(assign.attemptId), []].entries()) worker.beat(sequence, attempts);
    await worker.next('HeartbeatAck', ({ sequence }) => sequence === 2);
    assert.equal((await scene.execution()).phase, 'executing');
    worker.beat(3, []);
    await worker.next('AttemptRevoke');
    const again = await worker.next('AttemptAssign');
    const { attempts } = await scene.execution();
    assert.deepEqual(
      attempts.map(({ id, outcome }) => [id, outcome]),
      [
        [assign.attemptId, { kind: 'lost', cause: 'host_lost' }],
        [again.attemptId, null],
      ],
    );
    worker.accept(again);
    worker.end(again);
    await until('it ends', async () => (await server.execution(assign.executionId)).state === 'success');
  });

  test('rule 2: an assignment that is not answered yet, beats that do not name it change nothing', async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('claim');
    const { id } = await server.run('claim');
    const assign = await worker.next('AttemptAssign');
    for (const sequence of [1, 2, 3]) worker.beat(sequence, []);
    await worker.next('HeartbeatAck', ({ sequence }) => sequence === 3);
    worker.accept(assign);
    worker.end(assign);
    const record = await server.execution(id, '10s');
    assert.deepEqual([record.state, record.attempts.length], ['success', 1]);
  });
});
