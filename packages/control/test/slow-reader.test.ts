import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LEASE_MS, MAX_GATEWAY_TEXT_BYTES } from '@cocore/protocol';
import { ASSIGNMENT_WINDOW_BYTES } from '../src/dispatch/assignment-window.ts';
import { SWEEP_MS } from '../src/dispatch/sweeper.ts';
import { MAX_UNSENT_BYTES } from '../src/gateway/session.ts';
import { ManualClock } from './support/manual-clock.ts';
import { pass } from './support/pass.ts';
import { ScriptedWorker } from './support/scripted-worker.ts';
import { TestServer } from './support/test-server.ts';
import { until } from './support/until.ts';

const MiB = 1024 * 1024;
/** Six MiB in JSON. */
const LARGE = { args: Array.from({ length: 8 }, () => '\u0001'.repeat(127 * 1024)) };
/** More than a kernel keeps of one connection. */
const MANY = 6;

async function gauge(server: TestServer, name: string): Promise<number> {
  const { body } = await server.call<string>('GET', '/metrics');
  return Number(new RegExp(`^${name} (.*)$`, 'm').exec(body)![1]);
}

/** Until two looks in a row see the same. */
async function settled(read: () => Promise<number>): Promise<number> {
  let last = -1;
  await until('it stands still', async () => {
    const now = await read();
    const isSame = now === last && now > 0;
    last = now;
    return isSame;
  });
  return last;
}

test('a worker that reads slowly, assignments wait in the queue and what is unsent stays small; what it is told goes before them', async () => {
  await using server = await TestServer.start();
  await using worker = await ScriptedWorker.connect(server);
  await server.deploy('large');
  worker.socket.pause();
  const ids: string[] = [];
  for (let index = 0; index < MANY; index += 1) ids.push((await server.run('large', LARGE)).id);
  const unsent = await settled(() => gauge(server, 'cocore_workers_unsent_bytes'));
  assert.ok(unsent <= ASSIGNMENT_WINDOW_BYTES + MAX_GATEWAY_TEXT_BYTES, `${unsent} bytes`);
  const given = await gauge(server, 'cocore_attempts_live');
  assert.ok(given < MANY, `${given} are given to it`);
  const { waiting } = await server.execution(ids.at(-1)!);
  assert.match(waiting!.message, /1 still being sent what they were given/);
  worker.beat(1);
  await until('it is heard', async () => (await gauge(server, 'cocore_workers_unsent_bytes')) > unsent);
  // Another takes what this one cannot be given.
  await using other = await ScriptedWorker.connect(server, { capabilities: { memoryMiB: 256 } });
  const taken = await other.startNext();
  const order: string[] = [];
  worker.socket.on('message', (data) => order.push(/"type":"(\w+)"/.exec((data as Buffer).toString())![1]!));
  worker.socket.resume();
  for (let index = 0; index < MANY - 1; index += 1) worker.end(await worker.startNext());
  other.end(taken);
  for (const id of ids) assert.equal((await server.execution(id, '20s')).state, 'success');
  const heard = order.indexOf('HeartbeatAck');
  const before = order.slice(0, heard).filter((type) => type === 'AttemptAssign').length;
  assert.ok(heard !== -1 && before <= given, `${before} assignments before the answer`);
});

test('a worker that says much and reads nothing, it is not heard beyond a bound, and cut off after a lease', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  await using worker = await ScriptedWorker.connect(server);
  worker.socket.pause();
  const strays = Array.from({ length: 10_000 }, (_, index) => ({
    attemptId: `at_${String(index).padStart(26, '0')}`,
    agentAgeMs: null,
  }));
  for (let beat = 0; beat < 100; beat += 1) worker.beat(beat, strays);
  const unsent = await settled(() => gauge(server, 'cocore_workers_unsent_bytes'));
  assert.ok(unsent > MAX_UNSENT_BYTES && unsent < MAX_UNSENT_BYTES + 5 * MiB, `${unsent} bytes`);
  assert.equal(await gauge(server, 'cocore_workers_online'), 1);
  await pass(server, clock, LEASE_MS);
  assert.equal(await gauge(server, 'cocore_workers_online'), 1);
  await pass(server, clock, 3 * SWEEP_MS);
  assert.equal(await gauge(server, 'cocore_workers_online'), 0);
});
