import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CONTROL_GRACE_MS, LEASE_MS, PREPARE_TIMEOUT_MS } from '@cocore/protocol';
import { CANCEL_DEADLINE_MS, SWEEP_MS, UNPLACEABLE_GRACE_MS } from '../src/dispatch/sweeper.ts';
import { ManualClock } from './support/manual-clock.ts';
import { executing, pass } from './support/pass.ts';
import { Identity, ScriptedWorker } from './support/scripted-worker.ts';
import { TestServer } from './support/test-server.ts';
import { until } from './support/until.ts';

test('the server restarted during a run, the worker comes back, its output is whole and it ends as success', async () => {
  await using server = await TestServer.start();
  const identity = new Identity();
  const first = await ScriptedWorker.connect(server, { identity, joinToken: await server.joinToken() });
  await server.deploy('survive');
  const { id } = await server.run('survive');
  const queued = await server.run('survive', {});
  const assign = await first.startNext();
  await first.next('AttemptAssign');
  const text = 'x'.repeat(40_000);
  first.output(assign.channel, 'stdout', 0, text);
  await first.next('OutputAck', (ack) => ack.offset === text.length);
  await server.restart();
  await first.closed;
  assert.equal((await server.execution(id)).phase, 'executing');

  await using second = await ScriptedWorker.connect(server, { identity, inventory: [assign.attemptId] });
  assert.equal(second.welcome.workerId, first.welcome.workerId);
  const [resumed] = second.welcome.resume;
  assert.deepEqual([resumed?.attemptId, resumed?.offsets.stdout], [assign.attemptId, text.length]);
  second.output(resumed!.channel, 'stdout', text.length, 'tail');
  second.end(assign, { kind: 'exited', code: 0 }, { stdout: `${text}tail` });
  const record = await server.execution(id, '10s');
  assert.deepEqual([record.state, record.output.stdout.bytes], ['success', text.length + 4]);
  // What was assigned and not accepted is given out again.
  const again = await second.next('AttemptAssign');
  assert.equal(again.executionId, queued.id);
});

test('a worker that comes back without an attempt it had accepted, the attempt ends as host_lost and the next one runs', async () => {
  await using server = await TestServer.start();
  const identity = new Identity();
  await using first = await ScriptedWorker.connect(server, { identity, joinToken: await server.joinToken() });
  await server.deploy('forgotten');
  const { id } = await server.run('forgotten');
  await first.startNext();
  await executing(server, id);
  await using second = await ScriptedWorker.connect(server, { identity });
  second.end(await second.startNext());
  const record = await server.execution(id, '10s');
  assert.equal(record.state, 'success');
  assert.deepEqual(
    record.attempts.map(({ cause, outcome }) => [cause, outcome?.kind]),
    [
      ['first', 'lost'],
      ['redelivery', 'exited'],
    ],
  );
});

test('rule 13: a worker that is lost, another one runs its execution, and what the first says late is only evidence', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  const identity = new Identity();
  const first = await ScriptedWorker.connect(server, { identity, joinToken: await server.joinToken() });
  await server.deploy('moved');
  const { id } = await server.run('moved');
  const lost = await first.startNext();
  first.output(lost.channel, 'stdout', 0, 'first');
  await first.next('OutputAck', (ack) => ack.offset === 5);
  await first[Symbol.asyncDispose]();
  await pass(server, clock, LEASE_MS + 2 * SWEEP_MS);
  await using second = await ScriptedWorker.connect(server);
  const assign = await second.startNext();
  assert.equal(assign.executionId, id);
  await using back = await ScriptedWorker.connect(server, { identity, inventory: [lost.attemptId] });
  assert.deepEqual([back.welcome.revoke, back.welcome.late], [[lost.attemptId], [lost.attemptId]]);
  back.end(lost, { kind: 'exited', code: 0 }, { stdout: 'first' });
  await back.next('AttemptEndedAck');
  second.output(assign.channel, 'stdout', 0, 'second');
  second.end(assign, { kind: 'exited', code: 0 }, { stdout: 'second' });
  const record = await server.execution(id, '10s');
  assert.deepEqual([record.state, record.stdout?.data], ['success', 'second']);
  const [evidence] = record.attempts;
  assert.deepEqual([evidence?.outcome, evidence?.usage.host], [{ kind: 'lost', cause: 'host_lost' }, null]);
  assert.deepEqual([evidence?.lateEnd?.outcome.kind, evidence?.lateEnd?.usage.host?.cpuMs], ['exited', 1.5]);
  // The same again is acknowledged again; another one is a fault.
  back.end(lost, { kind: 'exited', code: 0 }, { stdout: 'first' });
  await back.next('AttemptEndedAck');
  back.end(lost, { kind: 'oom' });
  assert.equal((await back.closed).code, 1008);
});

test('retries, the next attempt waits its time also over a restart of the server, and can be cancelled meanwhile', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  const identity = new Identity();
  const first = await ScriptedWorker.connect(server, { identity, joinToken: await server.joinToken() });
  await server.deploy('tried', { retries: { max: 1, on: ['exit_code'], backoffMs: 60_000 } });
  const ids = [];
  for (const _ of [1, 2]) {
    ids.push((await server.run('tried')).id);
    first.end(await first.startNext(), { kind: 'exited', code: 1 });
  }
  const [tried, cancelled] = ids as [string, string];
  for (const id of ids) await until('it waits', async () => (await server.execution(id)).waiting?.code === 'backoff');
  await server.call('POST', `/v1/executions/${cancelled}/cancel`, { body: { json: {} } });
  assert.equal((await server.execution(cancelled)).state, 'cancelled');
  await server.restart();
  await first.closed;
  await using second = await ScriptedWorker.connect(server, { identity });
  assert.equal((await server.execution(tried)).phase, 'requeued');
  assert.deepEqual(second.received, [], 'nothing is given out yet');
  clock.advance(60_000);
  await server.restart();
  await second.closed;
  await using third = await ScriptedWorker.connect(server, { identity });
  third.end(await third.startNext());
  const record = await server.execution(tried, '10s');
  assert.deepEqual([record.state, record.attempts.at(-1)?.cause], ['success', 'retry']);
});

test('an attempt in the inventory that has ended, it is revoked', async () => {
  await using server = await TestServer.start();
  const identity = new Identity();
  await using first = await ScriptedWorker.connect(server, { identity, joinToken: await server.joinToken() });
  await server.deploy('ended');
  const { id } = await server.run('ended');
  const assign = await first.startNext();
  first.end(assign);
  await server.execution(id, '10s');
  await using second = await ScriptedWorker.connect(server, { identity, inventory: [assign.attemptId] });
  assert.deepEqual(second.welcome.revoke, [assign.attemptId]);
});

test('rule 5: a socket cut for less than the lease, the run goes on; longer, it waits for another worker', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  const identity = new Identity();
  const first = await ScriptedWorker.connect(server, { identity, joinToken: await server.joinToken() });
  await server.deploy('cut');
  const { id } = await server.run('cut');
  const assign = await first.startNext();
  await executing(server, id);
  await first[Symbol.asyncDispose]();
  await pass(server, clock, LEASE_MS - 2 * SWEEP_MS);
  const second = await ScriptedWorker.connect(server, { identity, inventory: [assign.attemptId] });
  assert.equal(second.welcome.resume.length, 1);
  await second[Symbol.asyncDispose]();
  await pass(server, clock, LEASE_MS - 2 * SWEEP_MS);
  assert.equal((await server.execution(id)).state, 'running');
  await pass(server, clock, 4 * SWEEP_MS);
  const record = await server.execution(id);
  assert.deepEqual([record.state, record.phase], ['running', 'requeued']);
  assert.deepEqual(record.attempts[0]?.outcome, { kind: 'lost', cause: 'host_lost' });
});

test('a connected worker that does not beat, its session is closed at the end of its lease', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  await using silent = await ScriptedWorker.connect(server);
  await using beating = await ScriptedWorker.connect(server);
  for (let second = 0; second <= LEASE_MS / 1000 + 2; second += 1) {
    beating.beat(second);
    await beating.next('HeartbeatAck', (ack) => ack.sequence === second);
    await pass(server, clock, SWEEP_MS);
  }
  assert.equal((await silent.closed).reason, 'lease expired');
  assert.equal(beating.socket.readyState, beating.socket.OPEN);
});

test('rule 5: a sweep that comes a minute late, leases are extended by that minute', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  await using worker = await ScriptedWorker.connect(server);
  clock.advance(60_000);
  await server.server.sweeper.sweep();
  assert.equal(worker.socket.readyState, worker.socket.OPEN);
  await pass(server, clock, LEASE_MS + 2 * SWEEP_MS);
  await worker.closed;
});

test('a worker that says nothing at the deadline, the control server ends the execution as timeout and revokes it', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  await using worker = await ScriptedWorker.connect(server);
  await server.deploy('late', { timeoutMs: 5_000 });
  const { id } = await server.run('late');
  const assign = await worker.startNext();
  await executing(server, id);
  await pass(server, clock, 5_000 + CONTROL_GRACE_MS);
  assert.equal((await server.execution(id)).state, 'running');
  await pass(server, clock, SWEEP_MS);
  const record = await server.execution(id);
  assert.deepEqual([record.state, record.reason], ['timeout', 'run_timeout']);
  const revoke = await worker.next('AttemptRevoke');
  assert.deepEqual([revoke.attemptId, revoke.report], [assign.attemptId, true]);
  // Its late word is kept and changes nothing, and it may forget the attempt.
  worker.end(assign);
  await worker.next('AttemptEndedAck');
  const after = await server.execution(id);
  assert.deepEqual({ ...after, attempts: [] }, { ...record, attempts: [] });
  assert.deepEqual(after.attempts[0]?.lateEnd?.outcome, { kind: 'exited', code: 0 });
});

test('a worker that never starts what it accepted, it ends as prepare_timeout', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  await using worker = await ScriptedWorker.connect(server);
  await server.deploy('slow');
  const { id } = await server.run('slow');
  worker.accept(await worker.next('AttemptAssign'));
  await until('it is accepted', async () => (await server.execution(id)).state === 'running');
  for (let second = 0; second < (PREPARE_TIMEOUT_MS + CONTROL_GRACE_MS) / 1000 + 1; second += 10) {
    worker.beat(second);
    await worker.next('HeartbeatAck');
    await pass(server, clock, 10 * SWEEP_MS);
  }
  const record = await server.execution(id);
  assert.deepEqual([record.state, record.reason, record.fault], ['failure', 'prepare_timeout', 'platform']);
});

test('a cancellation that the worker does not carry out, the control server does', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  await using worker = await ScriptedWorker.connect(server);
  await server.deploy('deaf', { timeoutMs: 3_600_000 });
  const { id } = await server.run('deaf');
  const assign = await worker.startNext();
  await executing(server, id);
  await server.call('POST', `/v1/executions/${id}/cancel`);
  await pass(server, clock, CANCEL_DEADLINE_MS / 2);
  worker.beat(1);
  await worker.next('HeartbeatAck');
  await pass(server, clock, CANCEL_DEADLINE_MS / 2 + 2 * SWEEP_MS);
  assert.equal((await server.execution(id)).state, 'cancelled');
  worker.end(assign, { kind: 'cancelled' });
  await worker.next('AttemptEndedAck');
  const { lateEnd } = (await server.execution(id)).attempts[0]!;
  assert.deepEqual(lateEnd?.outcome, { kind: 'cancelled' });
});

test('a late end whose signature is not its worker’s, it is a fault and not kept', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  await using worker = await ScriptedWorker.connect(server);
  await server.deploy('forged', { timeoutMs: 5_000 });
  const { id } = await server.run('forged');
  const assign = await worker.startNext();
  await executing(server, id);
  await pass(server, clock, 5_000 + CONTROL_GRACE_MS + SWEEP_MS);
  worker.end(assign, { kind: 'exited', code: 0 }, {}, { signature: 'A'.repeat(86) });
  assert.match((await worker.closed).reason, /signature_invalid/);
  assert.equal((await server.execution(id)).attempts[0]?.lateEnd, null);
});

test('an execution that no online worker could run, it ends as unplaceable after its grace; while no worker is online, it waits', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  await server.deploy('huge', { memoryMiB: 16_384 });
  const { id } = await server.run('huge');
  await pass(server, clock, UNPLACEABLE_GRACE_MS + 2 * SWEEP_MS);
  assert.equal((await server.execution(id)).state, 'open');
  await using worker = await ScriptedWorker.connect(server, { capabilities: { memoryMiB: 1024 } });
  for (let second = 0; second < UNPLACEABLE_GRACE_MS / 1000 + 4; second += 10) {
    worker.beat(second);
    await worker.next('HeartbeatAck');
    await pass(server, clock, 10 * SWEEP_MS);
  }
  const record = await server.execution(id);
  assert.deepEqual([record.state, record.reason, record.waiting], ['failure', 'unplaceable', null]);
  assert.match(record.message!, /large enough for 16384 MiB of memory, .*; the largest has 1024 MiB of memory/);
});

test('an execution that no online worker isolates well enough, it ends as unplaceable after its grace and says so', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  await server.deploy('walled', { isolation: 'gvisor' });
  await using worker = await ScriptedWorker.connect(server, { capabilities: { isolation: 'emulated' } });
  const { id } = await server.run('walled');
  for (let second = 0; second < UNPLACEABLE_GRACE_MS / 1000 + 4; second += 10) {
    assert.equal((await server.execution(id)).waiting?.code, 'isolation');
    worker.beat(second);
    await worker.next('HeartbeatAck');
    await pass(server, clock, 10 * SWEEP_MS);
  }
  const record = await server.execution(id);
  assert.deepEqual([record.state, record.reason], ['failure', 'unplaceable']);
  assert.match(record.message!, /isolation gvisor or better; there is: emulated \(1\)/);
  assert.deepEqual(
    worker.received.filter(({ type }) => type === 'AttemptAssign'),
    [],
  );
});
