import assert from 'node:assert/strict';
import { mkdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { CONTROL_GRACE_MS, LEASE_MS } from '@cocore/protocol';
import { SWEEP_MS } from '../src/dispatch/sweeper.ts';
import { INLINE_OUTPUT_BYTES } from '../src/output/output-store.ts';
import { breakStore, EVERY_WRITE, holdStore } from './support/broken-store.ts';
import { pass } from './support/pass.ts';
import { Scene } from './support/scene.ts';

const HOUR_MS = 3_600_000;

describe('rule 5: what this server did not hear counts against nobody', () => {
  test('rule 5: a worker that is cut off over the deadline, the success that it brings back within the lease counts', async () => {
    await using scene = await Scene.start();
    await scene.live(50_000);
    await scene.worker[Symbol.asyncDispose]();
    await pass(scene.server, scene.clock, 25_000);
    assert.equal((await scene.execution()).state, 'running');
    await scene.comeBack();
    await pass(scene.server, scene.clock, CONTROL_GRACE_MS - 2 * SWEEP_MS);
    scene.worker.end(scene.assign);
    assert.equal((await scene.execution('10s')).state, 'success');
  });

  test('rule 5: a server that is down over the deadline, it gives the worker its lease to come back with the success', async () => {
    await using scene = await Scene.start();
    await scene.live(50_000);
    await scene.server.restart(() => scene.clock.advance(10 * 60_000));
    await pass(scene.server, scene.clock, LEASE_MS - SWEEP_MS);
    assert.equal((await scene.execution()).state, 'running');
    await scene.comeBack();
    await pass(scene.server, scene.clock, CONTROL_GRACE_MS - 2 * SWEEP_MS);
    scene.worker.end(scene.assign);
    assert.equal((await scene.execution('10s')).state, 'success');
  });

  test('rule 5: a server that stood still over the deadline, it hears what was sent to it before it ends anything', async () => {
    await using scene = await Scene.start();
    await scene.live(50_000);
    scene.worker.end(scene.assign);
    scene.clock.advance(10 * 60_000);
    await scene.server.server.sweeper.sweep();
    assert.equal((await scene.execution('10s')).state, 'success');
  });

  test('rule 5: a store that cannot be written to for longer than the lease, who waits for it is given a lease from its end on', async () => {
    await using scene = await Scene.start();
    await scene.live(10_000);
    await scene.worker[Symbol.asyncDispose]();
    await pass(scene.server, scene.clock, 20_000);
    const broken = breakStore(scene.server, EVERY_WRITE);
    await assert.rejects(scene.comeBack());
    await pass(scene.server, scene.clock, 10 * 60_000);
    broken[Symbol.dispose]();
    await pass(scene.server, scene.clock, LEASE_MS - SWEEP_MS);
    assert.equal((await scene.execution()).state, 'running');
    await scene.comeBack();
    scene.worker.end(scene.assign);
    assert.equal((await scene.execution('10s')).state, 'success');
  });

  test('rule 5: a time of day that is set otherwise, deadlines stay where they were', async () => {
    for (const jumpMs of [HOUR_MS, -HOUR_MS]) {
      await using scene = await Scene.start();
      scene.clock.jump(jumpMs);
      await scene.live(60_000 + CONTROL_GRACE_MS - SWEEP_MS);
      assert.equal((await scene.execution()).state, 'running', `${jumpMs} ms`);
      await scene.live(2 * SWEEP_MS);
      assert.equal((await scene.execution()).state, 'timeout', `${jumpMs} ms`);
    }
  });

  test('rule 5: a worker that comes and goes over the deadline and never says the end, it gains no more than a lease', async () => {
    await using scene = await Scene.start();
    for (let passedMs = 0; passedMs <= 60_000 + LEASE_MS + CONTROL_GRACE_MS; passedMs += 5_000) {
      assert.equal((await scene.execution()).state, 'running', `after ${passedMs} ms`);
      await scene.worker[Symbol.asyncDispose]();
      await scene.comeBack();
      await pass(scene.server, scene.clock, 5_000);
    }
    assert.equal((await scene.execution()).state, 'timeout');
  });
});

describe('rule 9: an end stands when all of its output is committed', () => {
  const text = 'x'.repeat(INLINE_OUTPUT_BYTES + 10);

  test('rule 9: output that the store could not commit once, its end waits for it and the success counts', async () => {
    await using scene = await Scene.start();
    const broken = breakStore(scene.server, ['UPDATE OF stdout_bytes ON attempts']);
    const held = holdStore(scene.server);
    scene.worker.output(scene.assign.channel, 'stdout', 0, text);
    scene.worker.end(scene.assign, { kind: 'exited', code: 0 }, { stdout: text });
    // The end is asked for before the store has answered about the output.
    for (let beat = 0; beat < 20; beat += 1) {
      scene.worker.beat(beat);
      await scene.worker.next('HeartbeatAck');
    }
    held[Symbol.dispose]();
    await pass(scene.server, scene.clock, 2 * SWEEP_MS);
    assert.equal((await scene.execution()).state, 'running');
    broken[Symbol.dispose]();
    const record = await scene.execution('10s');
    assert.deepEqual([record.state, record.output.stdout.bytes], ['success', text.length]);
  });

  test('rule 9: output that the disk could not take before the connection broke, the worker sends it again and the success counts', async () => {
    await using scene = await Scene.start();
    const { attemptId } = scene.assign;
    // Where the file is to be is a directory.
    const path = join(scene.server.directory.path, 'data/output', attemptId.slice(-2), `${attemptId}.stdout`);
    mkdirSync(path, { recursive: true });
    scene.worker.output(scene.assign.channel, 'stdout', 0, text);
    scene.worker.end(scene.assign, { kind: 'exited', code: 0 }, { stdout: text });
    scene.worker.beat(1);
    await scene.worker.next('HeartbeatAck');
    await scene.worker[Symbol.asyncDispose]();
    rmdirSync(path);
    await scene.comeBack();
    const { channel, offsets } = scene.worker.welcome.resume[0]!;
    assert.deepEqual(offsets, { stdout: 0, stderr: 0, result: 0, artifacts: 0 });
    scene.worker.output(channel, 'stdout', 0, text);
    scene.worker.end(scene.assign, { kind: 'exited', code: 0 }, { stdout: text });
    const record = await scene.execution('10s');
    assert.deepEqual([record.state, record.output.stdout.bytes], ['success', text.length]);
  });

  test('rule 9: an end that came before its output, the worker begins again once and the success counts', async () => {
    await using scene = await Scene.start();
    scene.worker.end(scene.assign, { kind: 'exited', code: 0 }, { stdout: 'late' });
    assert.equal((await scene.worker.closed).code, 4003);
    assert.equal((await scene.execution()).state, 'running');
    await scene.comeBack();
    scene.worker.output(scene.worker.welcome.resume[0]!.channel, 'stdout', 0, 'late');
    scene.worker.end(scene.assign, { kind: 'exited', code: 0 }, { stdout: 'late' });
    assert.equal((await scene.execution('10s')).state, 'success');
  });

  test('rule 9: an end whose output never comes, or is other output, the execution ends as output_lost', async () => {
    for (const claimed of ['longer than it is', 'hellO', 'hell']) {
      await using scene = await Scene.start();
      const end = () => scene.worker.end(scene.assign, { kind: 'exited', code: 0 }, { stdout: claimed });
      scene.worker.output(scene.assign.channel, 'stdout', 0, 'hello');
      end();
      if (claimed.length > 'hello'.length) {
        await scene.worker.closed;
        await scene.comeBack();
        end();
      }
      await scene.worker.next('AttemptEndedAck');
      const { state, reason, fault } = await scene.execution();
      assert.deepEqual([state, reason, fault], ['failure', 'output_lost', 'platform']);
    }
  });

  test('rule 9: an end whose worker has no more output, the execution ends as output_lost at once', async () => {
    await using scene = await Scene.start();
    scene.worker.end(scene.assign, { kind: 'exited', code: 0 }, { stdout: 'gone' }, { final: true });
    await scene.worker.next('AttemptEndedAck');
    assert.equal((await scene.execution()).reason, 'output_lost');
  });

  test('rule 9: a worker that said that it ended, and says no more, the execution ends as output_lost, not as timeout', async () => {
    await using scene = await Scene.start();
    scene.worker.end(scene.assign, { kind: 'exited', code: 0 }, { stdout: 'never sent' });
    await scene.worker.closed;
    await scene.comeBack();
    await scene.live(60_000 + CONTROL_GRACE_MS + SWEEP_MS);
    assert.equal((await scene.execution()).reason, 'output_lost');
  });
});
