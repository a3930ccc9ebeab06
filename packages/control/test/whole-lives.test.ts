import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { MAX_FAULTS } from '../src/gateway/attempt-reports.ts';
import { breakStore } from './support/broken-store.ts';
import { type Message, ScriptedWorker } from './support/scripted-worker.ts';
import { TestServer } from './support/test-server.ts';

const EXITED = { kind: 'exited', code: 0 } as const;

async function assigned(
  server: TestServer,
  change: object = {},
): Promise<{ worker: ScriptedWorker; id: string; assign: Message<'AttemptAssign'> }> {
  const worker = await ScriptedWorker.connect(server);
  await server.deploy('short', change);
  const { id } = await server.run('short');
  return { worker, id, assign: await worker.next('AttemptAssign') };
}

describe('an attempt whose worker tells all of it at once', () => {
  test('its output, result and end are there with one commit: nothing but its end is acknowledged', async () => {
    await using server = await TestServer.start();
    const { worker, id, assign } = await assigned(server);
    await using _worker = worker;
    worker.atOnce(() => {
      worker.accept(assign);
      worker.output(assign.channel, 'stdout', 0, 'hel');
      worker.started(assign);
      worker.output(assign.channel, 'stdout', 3, 'lo');
      worker.output(assign.channel, 'result', 0, '[1]');
      worker.end(assign, EXITED, { stdout: 'hello', result: '[1]' });
    });
    const { state, stdout, result, attempts } = await server.execution(id, '10s');
    assert.deepEqual([state, stdout?.data, result], ['success', 'hello', { value: [1] }]);
    assert.ok(attempts[0]?.acceptedAt !== null && attempts[0]?.startedAt !== null);
    await worker.next('AttemptEndedAck');
    assert.ok(worker.received.every(({ type }) => type !== 'OutputAck'));
  });

  test('somebody waits for it, the answer is the record as it is from then on', async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('short');
    for (const tell of [(told: () => void) => worker.atOnce(told), (told: () => void) => told()]) {
      const waiting = server.run('short', {}, '30s');
      const assign = await worker.next('AttemptAssign');
      tell(() => {
        worker.accept(assign);
        worker.started(assign);
        worker.output(assign.channel, 'stdout', 0, 'hello');
        worker.end(assign, EXITED, { stdout: 'hello' });
      });
      const { stdout, stderr, ...record } = await waiting;
      assert.deepEqual([record.state, stdout?.data, stderr?.data], ['success', 'hello', '']);
      assert.deepEqual(record, await server.execution(record.id));
    }
  });

  test('a failure with a retry, it is tried again', async () => {
    await using server = await TestServer.start();
    const { worker, id, assign } = await assigned(server, { retries: { max: 1, backoffMs: 1 } });
    await using _worker = worker;
    const end = (of: Message<'AttemptAssign'>, code: number) =>
      worker.atOnce(() => {
        worker.accept(of);
        worker.started(of);
        worker.end(of, { kind: 'exited', code });
      });
    end(assign, 3);
    end(await worker.next('AttemptAssign'), 0);
    const { state, attempts } = await server.execution(id, '10s');
    assert.deepEqual([state, attempts.length], ['success', 2]);
  });

  test('the store does not take it so, it is recorded piece by piece', async () => {
    await using server = await TestServer.start();
    const { worker, id, assign } = await assigned(server);
    await using _worker = worker;
    using _broken = breakStore(server, ['UPDATE ON attempts'], "OLD.state = 'assigned' AND NEW.state = 'ended'");
    worker.atOnce(() => {
      worker.accept(assign);
      worker.started(assign);
      worker.output(assign.channel, 'stdout', 0, 'hello');
      worker.end(assign, EXITED, { stdout: 'hello' });
    });
    const { state, stdout } = await server.execution(id, '20s');
    assert.deepEqual([state, stdout?.data], ['success', 'hello']);
  });

  test('an end of which not all output came, its worker is asked for it in a new session', async () => {
    await using server = await TestServer.start();
    const { worker, assign } = await assigned(server);
    await using _worker = worker;
    worker.atOnce(() => {
      worker.accept(assign);
      worker.started(assign);
      worker.output(assign.channel, 'stdout', 0, 'hel');
      worker.end(assign, EXITED, { stdout: 'hello' });
    });
    assert.equal((await worker.closed).code, 4003);
  });

  test('a signature that is not its own, the session is closed and nothing is recorded', async () => {
    await using server = await TestServer.start();
    const { worker, id, assign } = await assigned(server);
    await using _worker = worker;
    worker.atOnce(() => {
      worker.accept(assign);
      worker.started(assign);
      worker.end(assign, EXITED, {}, { signature: 'A'.repeat(86) });
    });
    assert.match((await worker.closed).reason, /signature_invalid/);
    assert.notEqual((await server.execution(id)).state, 'success');
  });

  for (const [what, offset, bytes] of [
    ['a gap in its output', 7, 1],
    ['more output than it may have', 0, 2000],
  ] as const) {
    test(`${what}, again and again, it ends as protocol and costs its worker no more sessions`, async () => {
      await using server = await TestServer.start();
      const { worker, id, assign } = await assigned(server, { outputLimitBytes: 1024 });
      await using scope = new AsyncDisposableStack();
      scope.use(worker);
      const { identity } = worker;
      const inventory = [assign.attemptId];
      let told = worker;
      let { channel } = assign;
      for (let fault = 1; ; fault += 1) {
        const of = told;
        of.atOnce(() => {
          of.accept(assign);
          of.started(assign);
          of.output(channel, 'stdout', offset, 'x'.repeat(bytes));
          of.end(assign, EXITED);
        });
        assert.equal((await of.closed).code, 1008);
        if (fault === MAX_FAULTS) break;
        told = scope.use(await ScriptedWorker.connect(server, { identity, inventory }));
        channel = told.welcome.resume[0]!.channel;
      }
      const { state, reason } = await server.execution(id, '10s');
      assert.deepEqual([state, reason], ['failure', 'protocol']);
    });
  }

  test('output before its acceptance, again and again, another worker has it', async () => {
    await using server = await TestServer.start();
    const { worker, id, assign } = await assigned(server);
    await using scope = new AsyncDisposableStack();
    scope.use(worker);
    const { identity } = worker;
    let told = worker;
    let { channel } = assign;
    for (let fault = 1; ; fault += 1) {
      told.output(channel, 'stdout', 0, 'hello');
      assert.equal((await told.closed).code, 1008);
      if (fault === MAX_FAULTS) break;
      told = scope.use(await ScriptedWorker.connect(server, { identity, inventory: [assign.attemptId] }));
      channel = told.welcome.resume[0]!.channel;
    }
    const other = scope.use(await ScriptedWorker.connect(server));
    const again = await other.startNext();
    assert.equal(again.attemptId, assign.attemptId);
    other.end(again, EXITED);
    assert.equal((await server.execution(id, '10s')).state, 'success');
  });

  test('a part of its result twice, it is the result once', async () => {
    await using server = await TestServer.start();
    const { worker, id, assign } = await assigned(server);
    await using _worker = worker;
    worker.atOnce(() => {
      worker.accept(assign);
      worker.output(assign.channel, 'result', 0, '[1');
      worker.output(assign.channel, 'result', 0, '[1]');
      worker.end(assign, EXITED, { result: '[1]' });
    });
    const { state, result } = await server.execution(id, '10s');
    assert.deepEqual([state, result], ['success', { value: [1] }]);
  });
});
