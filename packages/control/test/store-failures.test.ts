import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { LEASE_MS } from '@cocore/protocol';
import { SWEEP_MS } from '../src/dispatch/sweeper.ts';
import { breakStore, EVERY_WRITE } from './support/broken-store.ts';
import { ManualClock } from './support/manual-clock.ts';
import { executing, pass } from './support/pass.ts';
import { Scene } from './support/scene.ts';
import { ScriptedWorker } from './support/scripted-worker.ts';
import { temporaryDirectory } from './support/temporary.ts';
import { TestServer } from './support/test-server.ts';

/** Where the file of its standard output is to be is a directory, until it is disposed. */
function breakOutput({ server, assign }: Scene): Disposable {
  const path = join(server.directory.path, 'data/output', assign.attemptId.slice(-2), `${assign.attemptId}.stdout`);
  mkdirSync(path, { recursive: true });
  return { [Symbol.dispose]: () => rmdirSync(path) };
}

test('a store that refused an assignment, the attempt is placed once it can be, though nothing else happens', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  await using worker = await ScriptedWorker.connect(server);
  await server.deploy('waits');
  const broken = breakStore(server, ['UPDATE OF state ON attempts']);
  const { id } = await server.run('waits');
  await pass(server, clock, 3 * SWEEP_MS);
  broken[Symbol.dispose]();
  await pass(server, clock, SWEEP_MS);
  assert.equal((await worker.next('AttemptAssign')).executionId, id);
});

test('a store that refuses every write for ten minutes, what runs goes on in its session and its reports count afterwards', async () => {
  await using scene = await Scene.start();
  const { server, worker, assign, clock } = scene;
  await server.deploy('second');
  const { id } = await server.run('second', {});
  const second = await worker.next('AttemptAssign');
  const broken = breakStore(server, EVERY_WRITE);
  worker.output(assign.channel, 'stdout', 0, 'hello');
  worker.output(assign.channel, 'stdout', 5, ' world');
  worker.accept(second);
  worker.started(second);
  worker.output(second.channel, 'stderr', 0, 'oops');
  worker.end(second, { kind: 'exited', code: 0 }, { stderr: 'oops' });
  worker.end(assign, { kind: 'exited', code: 0 }, { stdout: 'hello world' });
  await pass(server, clock, 10 * 60_000);
  assert.equal((await scene.execution()).state, 'running');
  broken[Symbol.dispose]();
  for (const executionId of [assign.executionId, id]) {
    assert.equal((await server.execution(executionId, '30s')).state, 'success');
  }
  assert.deepEqual(
    new Set([await worker.next('AttemptEndedAck'), await worker.next('AttemptEndedAck')].map((ack) => ack.attemptId)),
    new Set([assign.attemptId, second.attemptId]),
  );
  assert.equal(worker.socket.readyState, worker.socket.OPEN);
});

test('one attempt that the store cannot end, it keeps nothing else from its end', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  await using worker = await ScriptedWorker.connect(server);
  await server.deploy('pair', { timeoutMs: 1_000 });
  const ids = [(await server.run('pair')).id, (await server.run('pair', {})).id];
  const assigns = [await worker.startNext(), await worker.startNext()];
  for (const id of ids) await executing(server, id);
  using _broken = breakStore(server, ['UPDATE OF ended_at ON attempts'], `OLD.attempt_id = '${assigns[0]!.attemptId}'`);
  await worker[Symbol.asyncDispose]();
  const [waiting] = [await server.run('pair', {})];
  await pass(server, clock, LEASE_MS + 3 * SWEEP_MS);
  const states = await Promise.all(
    assigns.map(async ({ executionId }) => (await server.execution(executionId)).attempts[0]?.state),
  );
  assert.deepEqual(states, ['started', 'ended']);
  // The rest of the sweep comes too: this one has waited for as long as may be.
  clock.advance(24 * 3_600_000);
  await server.server.sweeper.sweep();
  assert.equal((await server.execution(waiting.id)).reason, 'queue_ttl');
});

test('output that the disk cannot take, the session and its lease go on, and it is taken once it can be', async () => {
  await using scene = await Scene.start();
  const { server, worker, assign, clock } = scene;
  const broken = breakOutput(scene);
  const piece = Buffer.alloc(65_536, 'x');
  // More than the server reads ahead: beats would wait behind it.
  const bytes = 128 * piece.length;
  for (let at = 0; at < bytes; at += piece.length) worker.output(assign.channel, 'stdout', at, piece);
  await pass(server, clock, LEASE_MS + 5 * SWEEP_MS);
  assert.equal(worker.socket.readyState, worker.socket.OPEN);
  assert.equal((await scene.execution()).state, 'running');
  broken[Symbol.dispose]();
  await worker.next('OutputAck', ({ offset }) => offset === bytes, 30_000);
});

test('a worker whose beats wait behind its output, each message of it counts as its life', async () => {
  await using scene = await Scene.start();
  const { server, worker, assign, clock } = scene;
  for (let at = 0; at < LEASE_MS / 1000 + 5; at += 1) {
    worker.output(assign.channel, 'stdout', at, 'x');
    await worker.next('OutputAck');
    await pass(server, clock, SWEEP_MS);
  }
  assert.equal(worker.socket.readyState, worker.socket.OPEN);
});

test(
  'a disk that is full, requests are answered 503 until it is not, and what was there stays',
  { skip: process.geteuid?.() === 0 ? false : 'a disk is mounted by root' },
  async () => {
    using place = temporaryDirectory();
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', place.path]);
    using _mount = { [Symbol.dispose]: () => void execFileSync('umount', ['--lazy', place.path]) };
    await using server = await TestServer.start({ dataDir: join(place.path, 'data') });
    await server.deploy('before');
    const filler = join(place.path, 'filler');
    assert.throws(() => writeFileSync(filler, Buffer.alloc(16 * 1024 * 1024)), { code: 'ENOSPC' });
    const refused = await server.call('POST', '/v1/functions/before/executions', {
      body: { json: { args: ['x'.repeat(100_000)] } },
    });
    assert.deepEqual([refused.status, refused.body.code, refused.body.retryable], [503, 'not_ready', true]);
    const blob = { raw: Buffer.alloc(100_000), type: 'application/octet-stream' };
    assert.equal((await server.call('POST', '/v1/blobs', { body: blob })).body.code, 'not_ready');
    rmSync(filler);
    const { id } = await server.run('before');
    assert.equal((await server.execution(id)).state, 'open');
  },
);
