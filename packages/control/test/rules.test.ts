import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { CONTROL_GRACE_MS, LEASE_MS, MAX_REDELIVERIES } from '@cocore/protocol';
import { MAX_UNANSWERED } from '../src/dispatch/dispatcher.ts';
import { CLAIM_DEADLINE_MS, SWEEP_MS } from '../src/dispatch/sweeper.ts';
import { MAX_FAULTS } from '../src/gateway/attempt-reports.ts';
import { INLINE_OUTPUT_BYTES } from '../src/store/store.ts';
import { breakStore, EVERY_WRITE, holdStore } from './support/broken-store.ts';
import { EventStream } from './support/event-stream.ts';
import { ManualClock } from './support/manual-clock.ts';
import { pass } from './support/pass.ts';
import { Scene } from './support/scene.ts';
import { Identity, ScriptedWorker } from './support/scripted-worker.ts';
import { TestServer } from './support/test-server.ts';

const HOUR_MS = 3_600_000;

test('rule 2: an assignment that is not answered, it is revoked, a late acceptance does not count, and a lease later it is given out again', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  await using mute = await ScriptedWorker.connect(server, { capabilities: { memoryMiB: 512 } });
  await server.deploy('claim');
  const { id } = await server.run('claim');
  const assign = await mute.next('AttemptAssign');
  await using other = await ScriptedWorker.connect(server);
  await pass(server, clock, CLAIM_DEADLINE_MS + SWEEP_MS);
  mute.beat(0);
  await mute.next('HeartbeatAck');
  await pass(server, clock, SWEEP_MS);
  await mute.next('AttemptRevoke');
  // All that it says late is dropped, and costs nothing else that it has.
  mute.accept(assign);
  mute.started(assign);
  mute.output(assign.channel, 'stdout', 0, 'late');
  mute.end(assign, { kind: 'exited', code: 0 }, { stdout: 'late' });
  await mute.next('AttemptRevoke');
  assert.equal((await server.execution(id)).state, 'open');
  for (let second = 0; second < LEASE_MS / 1000 + 2; second += 2) {
    for (const worker of [mute, other]) {
      worker.beat(second);
      await worker.next('HeartbeatAck');
    }
    await pass(server, clock, 2 * SWEEP_MS);
  }
  const moved = await Promise.race([other.next('AttemptAssign'), mute.next('AttemptAssign')]);
  assert.equal(moved.attemptId, assign.attemptId);
});

test('rule 2: a worker that was not heard for longer than an answer may take, what it did meanwhile counts', async () => {
  const clock = new ManualClock();
  await using server = await TestServer.start({ clock });
  await using worker = await ScriptedWorker.connect(server);
  await server.deploy('unheard');
  const { id } = await server.run('unheard');
  const assign = await worker.next('AttemptAssign');
  await pass(server, clock, CLAIM_DEADLINE_MS + 2 * SWEEP_MS);
  worker.accept(assign);
  worker.started(assign);
  worker.end(assign);
  const record = await server.execution(id, '10s');
  assert.deepEqual([record.state, record.attempts.length], ['success', 1]);
});

test('rule 2: an assignment that every worker falls silent over, it is given to five and its execution ends', async () => {
  await using server = await TestServer.start();
  await server.deploy('poison');
  const identity = new Identity();
  let joinToken: { joinToken?: string } = { joinToken: await server.joinToken() };
  const { id } = await server.run('poison');
  for (let times = 0; times < MAX_UNANSWERED; times += 1) {
    await using worker = await ScriptedWorker.connect(server, { identity, ...joinToken });
    joinToken = {};
    assert.equal((await worker.next('AttemptAssign')).executionId, id);
  }
  await using worker = await ScriptedWorker.connect(server, { identity });
  const record = await server.execution(id, '10s');
  assert.deepEqual([record.state, record.reason, record.fault], ['failure', 'unplaceable', 'platform']);
  assert.match(record.message!, /no worker answered when it was given it, 5 times/);
  // The next one goes on.
  await server.run('poison', {});
  await worker.startNext();
});

test('rule 8: an attempt whose worker breaks the contract again and again, it ends as protocol and costs the worker no more sessions', async () => {
  await using scene = await Scene.start();
  for (let fault = 0; fault < MAX_FAULTS; fault += 1) {
    assert.equal((await scene.execution()).state, 'running');
    const { channel } = scene.worker.welcome.resume[0] ?? scene.assign;
    scene.worker.output(channel, 'stdout', 7, 'a gap is before it');
    assert.equal((await scene.worker.closed).code, 1008);
    if (fault < MAX_FAULTS - 1) await scene.comeBack();
  }
  const record = await scene.execution('10s');
  assert.deepEqual([record.state, record.reason], ['failure', 'protocol']);
  await scene.comeBack();
  assert.deepEqual(scene.worker.welcome.revoke, [scene.assign.attemptId]);
});

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

  const OUTPUT_LOST = { kind: 'lost', cause: 'output_lost' };

  test('rule 9: an end whose output never comes, or is other output, its attempt is lost and the next one runs', async () => {
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
      const next = await scene.worker.startNext();
      assert.equal(next.executionId, scene.assign.executionId);
      scene.worker.output(next.channel, 'stdout', 0, 'whole');
      scene.worker.end(next, { kind: 'exited', code: 0 }, { stdout: 'whole' });
      const { state, decidingAttempt, attempts } = await scene.execution('10s');
      assert.deepEqual([state, decidingAttempt], ['success', next.attemptId]);
      assert.deepEqual(
        attempts.map(({ cause, outcome }) => [cause, outcome]),
        [
          ['first', OUTPUT_LOST],
          ['redelivery', { kind: 'exited', code: 0 }],
        ],
      );
    }
  });

  test('rule 9: an end whose worker has no more output, it is run again at once, twice, and then ends as output_lost', async () => {
    await using scene = await Scene.start();
    let { assign } = scene;
    for (let attempt = 0; attempt <= MAX_REDELIVERIES; attempt += 1) {
      if (attempt > 0) assign = await scene.worker.startNext();
      scene.worker.end(assign, { kind: 'exited', code: 0 }, { stdout: 'gone' }, { final: true });
      await scene.worker.next('AttemptEndedAck');
    }
    const { state, reason, fault, attempts } = await scene.execution('10s');
    assert.deepEqual([state, reason, fault], ['failure', 'output_lost', 'platform']);
    assert.deepEqual(
      attempts.map(({ outcome }) => outcome),
      [OUTPUT_LOST, OUTPUT_LOST, OUTPUT_LOST],
    );
  });

  test('rule 9: a success whose output was lost, told once more, is taken for known, and the next attempt alone decides', async () => {
    await using scene = await Scene.start();
    const end = () => scene.worker.end(scene.assign, { kind: 'exited', code: 0 }, { stdout: 'gone' }, { final: true });
    end();
    await scene.worker.next('AttemptEndedAck');
    const next = await scene.worker.startNext();
    // Its worker had not heard that it was taken.
    end();
    await scene.worker.next('AttemptEndedAck');
    assert.equal((await scene.execution()).state, 'running');
    scene.worker.end(next, { kind: 'exited', code: 3 });
    const { state, reason, decidingAttempt } = await scene.execution('10s');
    assert.deepEqual([state, reason, decidingAttempt], ['failure', 'exit_code', next.attemptId]);
  });

  test('rule 7: an execution that is being cancelled when its output is lost, it is cancelled and not run again', async () => {
    await using scene = await Scene.start();
    await scene.server.call('POST', `/v1/executions/${scene.assign.executionId}/cancel`);
    await scene.worker.next('AttemptCancel');
    scene.worker.end(scene.assign, { kind: 'exited', code: 0 }, { stdout: 'gone' }, { final: true });
    const { state, reason, attempts } = await scene.execution('10s');
    assert.deepEqual([state, reason], ['cancelled', 'user_cancel']);
    assert.deepEqual(
      attempts.map(({ outcome }) => outcome),
      [OUTPUT_LOST],
    );
  });

  test('rule 9: a worker that said that it ended, and says no more, its attempt is lost as output_lost, not as timeout', async () => {
    await using scene = await Scene.start();
    scene.worker.end(scene.assign, { kind: 'exited', code: 0 }, { stdout: 'never sent' });
    await scene.worker.closed;
    await scene.comeBack();
    await scene.live(60_000 + CONTROL_GRACE_MS + SWEEP_MS);
    const { attempts } = await scene.execution();
    assert.deepEqual([attempts[0]?.outcome, attempts[1]?.cause], [OUTPUT_LOST, 'redelivery']);
  });
});

describe('rule 13: a worker that comes back before anybody took the next attempt', () => {
  test('rule 13: a worker that is away for longer than its lease and comes back first, its attempt goes on and its followers notice nothing', async () => {
    await using scene = await Scene.start();
    const { assign, server, clock } = scene;
    scene.worker.output(assign.channel, 'stdout', 0, 'before ');
    await scene.worker.next('OutputAck');
    await using events = await EventStream.open(server, assign.executionId);
    const pieces = [await events.nextOf('output')];
    await scene.worker[Symbol.asyncDispose]();
    await pass(server, clock, LEASE_MS + 2 * SWEEP_MS);
    assert.equal((await scene.execution()).phase, 'requeued');
    await scene.comeBack();
    assert.deepEqual([scene.worker.welcome.revoke, scene.worker.welcome.resume.length], [[], 1]);
    const { channel, offsets } = scene.worker.welcome.resume[0]!;
    assert.equal(offsets.stdout, 7);
    scene.worker.output(channel, 'stdout', 7, 'after');
    scene.worker.end(assign, { kind: 'exited', code: 0 }, { stdout: 'before after' });
    const rest = await events.rest();
    pieces.push(...rest.filter((one) => one.event === 'output'));
    assert.equal(pieces.map(({ data }) => Buffer.from(data.base64, 'base64').toString()).join(''), 'before after');
    assert.deepEqual([rest.some(({ event }) => event === 'restart'), rest.at(-1)?.event], [false, 'end']);
    const record = await scene.execution();
    assert.deepEqual([record.state, record.decidingAttempt], ['success', assign.attemptId]);
    assert.deepEqual(
      record.attempts.map(({ outcome }) => outcome?.kind),
      ['exited', 'superseded'],
    );
    // What took its place and nobody had is nobody's.
    const { id } = await server.run('minute');
    assert.equal((await scene.worker.startNext()).executionId, id);
  });

  test('rule 13: a server restarted while the next attempt is queued, the worker that comes back first goes on', async () => {
    await using scene = await Scene.start();
    await scene.worker[Symbol.asyncDispose]();
    await pass(scene.server, scene.clock, LEASE_MS + 2 * SWEEP_MS);
    await scene.server.restart();
    await scene.comeBack();
    assert.equal((await scene.execution()).phase, 'executing');
    scene.worker.end(scene.assign);
    assert.equal((await scene.execution('10s')).state, 'success');
    assert.equal(scene.worker.received.filter(({ type }) => type === 'AttemptAssign').length, 0);
  });

  test('rule 13: an attempt that went on and is lost again, the next one is run as its number says', async () => {
    await using scene = await Scene.start();
    for (const _ of [1, 2]) {
      await scene.worker[Symbol.asyncDispose]();
      await pass(scene.server, scene.clock, LEASE_MS + 2 * SWEEP_MS);
      await scene.comeBack();
    }
    await scene.worker[Symbol.asyncDispose]();
    await pass(scene.server, scene.clock, LEASE_MS + 2 * SWEEP_MS);
    await using other = await ScriptedWorker.connect(scene.server);
    const assign = await other.startNext();
    other.end(assign, { kind: 'exited', code: 0 }, {});
    const { attempts, state } = await scene.execution('10s');
    assert.equal(state, 'success');
    assert.deepEqual(
      attempts.map(({ number, cause, outcome }) => [number, cause, outcome?.kind]),
      [
        [1, 'first', 'lost'],
        [2, 'redelivery', 'superseded'],
        [3, 'redelivery', 'superseded'],
        [4, 'redelivery', 'exited'],
      ],
    );
  });
});

test('rule 10: an end of a daemon that began anew, its digest is held against what came from there on, and the record has that of the whole', async () => {
  const sha256 = (text: string) => `sha256:${createHash('sha256').update(text).digest('hex')}`;
  for (const [last, state] of [
    ['after', 'success'],
    ['other', 'running'],
  ] as const) {
    await using scene = await Scene.start();
    scene.worker.output(scene.assign.channel, 'stdout', 0, 'before ');
    await scene.worker.next('OutputAck');
    await scene.server.restart();
    await scene.comeBack();
    const { channel } = scene.worker.welcome.resume[0]!;
    scene.worker.output(channel, 'stdout', 7, 'after');
    const stdout = { bytes: 12, sha256: sha256(last), truncated: false, hashFrom: 7 };
    scene.worker.end(scene.assign, { kind: 'exited', code: 0 }, {}, { stdout });
    await scene.worker.next('AttemptEndedAck');
    const { state: reached, output, attempts } = await scene.execution();
    const outcome = attempts[0]?.outcome;
    if (state === 'success') assert.deepEqual([reached, output.stdout.sha256], [state, sha256('before after')]);
    else assert.deepEqual([reached, outcome], [state, { kind: 'lost', cause: 'output_lost' }]);
  }
});
