import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LEASE_MS, type Network } from '@cocore/protocol';
import { SWEEP_MS, UNPLACEABLE_GRACE_MS } from '../src/dispatch/sweeper.ts';
import { ManualClock } from './support/manual-clock.ts';
import { executing, pass } from './support/pass.ts';
import { Identity, ScriptedWorker } from './support/scripted-worker.ts';
import { TestServer } from './support/test-server.ts';

const NETWORK: Network = { mode: 'egress', allow: ['example.org:443', '*.example.org'], maxBytes: 5000 };
const OPEN = { capabilities: { egress: true } } as const;

test('a function with a network, it goes only to a worker that gives one, which is told what it may reach', async () => {
  await using server = await TestServer.start();
  const deployed = await server.deploy('fetch', { network: NETWORK });
  assert.deepEqual([deployed.network, deployed.idempotent], [NETWORK, false]);
  await server.deploy('quiet');
  await using closed = await ScriptedWorker.connect(server);
  const { id } = await server.run('fetch');
  const other = await server.run('quiet');
  const quiet = await closed.next('AttemptAssign');
  assert.deepEqual([quiet.executionId, quiet.task.network], [other.id, { mode: 'none' }]);
  const { waiting } = await server.execution(id);
  assert.equal(waiting?.code, 'network');
  assert.match(waiting.message, /has a network, which no worker gives of the 1 that are online with isolation/);
  await using open = await ScriptedWorker.connect(server, OPEN);
  const assigned = await open.next('AttemptAssign');
  assert.deepEqual([assigned.executionId, assigned.task.network], [id, NETWORK]);
});

test('nobody gives a network, the execution ends as unplaceable after its grace and says so', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  await server.deploy('fetch', { network: NETWORK });
  await using worker = await ScriptedWorker.connect(server);
  const { id } = await server.run('fetch');
  for (let second = 0; second < UNPLACEABLE_GRACE_MS / 1000 + 4; second += 10) {
    worker.beat(second);
    await worker.next('HeartbeatAck');
    await pass(server, clock, 10 * SWEEP_MS);
  }
  const record = await server.execution(id);
  assert.deepEqual([record.state, record.reason], ['failure', 'unplaceable']);
  assert.match(record.message!, /has a network/);
});

test('rule 6: an acceptance with a network, it is acknowledged once it is committed, and again in another session; others are not', async () => {
  await using server = await TestServer.start();
  const identity = new Identity();
  await server.deploy('fetch', { network: NETWORK });
  await server.deploy('quiet');
  const joinToken = await server.joinToken();
  await using worker = await ScriptedWorker.connect(server, { identity, joinToken, ...OPEN });
  await server.run('quiet');
  worker.accept(await worker.next('AttemptAssign'));
  const { id } = await server.run('fetch');
  const assigned = await worker.next('AttemptAssign');
  assert.deepEqual(
    worker.received.filter(({ type }) => type === 'AttemptAcceptedAck'),
    [],
  );
  worker.accept(assigned);
  await worker.next('AttemptAcceptedAck', ({ attemptId }) => attemptId === assigned.attemptId);
  assert.equal((await server.execution(id)).phase, 'preparing');
  await using again = await ScriptedWorker.connect(server, { identity, inventory: [assigned.attemptId], ...OPEN });
  again.accept(assigned);
  await again.next('AttemptAcceptedAck', ({ attemptId }) => attemptId === assigned.attemptId);
});

for (const { what, idempotent, causes } of [
  { what: 'it is not run again', idempotent: false, causes: ['first'] },
  { what: 'and running it twice does no harm, it runs again', idempotent: true, causes: ['first', 'redelivery'] },
]) {
  test(`an execution with a network whose worker is lost, ${what}`, async () => {
    const clock = new ManualClock();
    await using server = await TestServer.start({ clock });
    await server.deploy('fetch', { network: NETWORK, idempotent });
    const worker = await ScriptedWorker.connect(server, OPEN);
    const { id } = await server.run('fetch');
    await worker.startNext();
    await executing(server, id);
    await worker[Symbol.asyncDispose]();
    await pass(server, clock, LEASE_MS + 2 * SWEEP_MS);
    const record = await server.execution(id);
    assert.deepEqual(
      record.attempts.map(({ cause }) => cause),
      causes,
    );
    assert.deepEqual(record.reason, idempotent ? null : 'host_lost');
  });
}

test('what was sent and received, it is signed, kept, and shown', async () => {
  await using server = await TestServer.start();
  await server.deploy('fetch', { network: NETWORK });
  await using worker = await ScriptedWorker.connect(server, OPEN);
  const { id } = await server.run('fetch');
  const egress = { sentBytes: 10, receivedBytes: 20, connections: 1, refused: 2, limited: false };
  worker.end(await worker.startNext(), { kind: 'exited', code: 0 }, {}, { usage: { host: null, guest: null, egress } });
  const record = await server.execution(id, '10s');
  assert.deepEqual([record.state, record.attempts[0]?.usage.egress], ['success', egress]);
});

test('a worker that comes back without a network, what it was given and has not begun goes to another', async () => {
  await using server = await TestServer.start();
  const identity = new Identity();
  await server.deploy('fetch', { network: NETWORK });
  const joinToken = await server.joinToken();
  await using worker = await ScriptedWorker.connect(server, { identity, joinToken, ...OPEN });
  const { id } = await server.run('fetch');
  const assigned = await worker.next('AttemptAssign');
  await using again = await ScriptedWorker.connect(server, { identity, inventory: [assigned.attemptId] });
  assert.deepEqual([again.welcome.resume, again.welcome.revoke], [[], [assigned.attemptId]]);
  assert.equal((await server.execution(id)).waiting?.code, 'network');
});
