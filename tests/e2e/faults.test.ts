import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { start } from './support/command.ts';
import { descendants, isAlive, isSandboxAlive, killSandbox, monitorOf } from './support/processes.ts';
import { Apart, longSkip, machineSkip, outlivingSkip, Stack } from './support/stack.ts';
import { until } from './support/wait.ts';

const STEPS = 'for i in $(seq 1 12); do echo "line $i"; sleep 0.5; done';
const ALL_LINES = Array.from({ length: 12 }, (_, at) => `line ${at + 1}\n`).join('');

describe('heartbeats', { skip: machineSkip }, () => {
  let stack: Stack;
  before(async () => {
    stack = await Stack.dev();
    await stack.deploy('forever', 'bash', 'echo up; sleep 600');
  });
  after(async () => stack[Symbol.asyncDispose]());

  test('a stopped machine monitor, its agent grows old in the record, and it ends agent_lost after 30 s', async () => {
    const { id } = await stack.client.executions.create('forever', { timeoutMs: 300_000 });
    const agentAgeMs = async () => (await stack.client.executions.get(id)).attempts[0]!.agentAgeMs;
    await until('a heartbeat names it', async () => (await agentAgeMs()) !== null);
    assert.ok((await agentAgeMs())! < 10_000);
    const [sandbox] = stack.sandboxes();
    process.kill(monitorOf(sandbox!).pid, 'SIGSTOP');
    const stoppedMs = performance.now();
    await until('its age grows', async () => ((await agentAgeMs()) ?? 0) > 10_000);
    const shown = await stack.cocore(['get', id]);
    assert.match(shown.stdout.toString(), /agent/i);
    const ended = await until('it ends', async () => {
      const record = await stack.client.executions.get(id);
      return record.state !== 'running' && record;
    });
    const afterMs = performance.now() - stoppedMs;
    assert.deepEqual([ended.state, ended.reason, ended.fault], ['failure', 'agent_lost', 'platform']);
    // Its last word came up to one interval of heartbeats before it was stopped.
    assert.ok(afterMs > 24_000 && afterMs < 60_000, `ended after ${afterMs} ms`);
    assert.ok(!isSandboxAlive(sandbox!), 'the machine is gone');
  });
});

describe('server and worker apart, over TLS', () => {
  let apart: Apart;
  before(async () => {
    apart = await Apart.start();
    await apart.deploy('steps', STEPS);
    await apart.deploy('forever', 'echo up; sleep 600');
  });
  after(async () => apart[Symbol.asyncDispose]());

  const firstLine = async (id: string) =>
    until('its first output is kept', async () => (await apart.client.executions.get(id)).output.stdout.bytes > 0);
  const ended = async (id: string) =>
    until('it ends', async () => {
      const record = await apart.client.executions.get(id);
      return record.state !== 'running' && record.state !== 'open' && record;
    });

  test('the control server restarted during a run, the run goes on and its output is whole', async () => {
    const { id } = await apart.client.executions.create('steps', {});
    await firstLine(id);
    await apart.restartServer();
    const record = await ended(id);
    assert.deepEqual([record.state, record.attempts.length], ['success', 1]);
    assert.equal(await apart.stdout(id), ALL_LINES);
  });

  test('the worker cut off for less than its lease, the run goes on and its output is whole', async () => {
    const { id } = await apart.client.executions.create('steps', {});
    await firstLine(id);
    const cut = apart.cutConnection();
    await until('the server sees it offline', async () => (await apart.client.workers.list())[0]!.state === 'offline');
    cut.heal();
    const record = await ended(id);
    assert.deepEqual([record.state, record.attempts.length], ['success', 1]);
    assert.equal(await apart.stdout(id), ALL_LINES);
  });

  const killedAtWork = async () => {
    const { id } = await apart.client.executions.create('steps', {});
    await firstLine(id);
    const [sandbox, ...others] = apart.sandboxes();
    assert.ok(sandbox !== undefined && others.length === 0);
    apart.killWorker();
    return { id, sandbox };
  };
  const wasDeliveredAgain = async (id: string) => {
    const record = await ended(id);
    assert.equal(record.state, 'success');
    assert.deepEqual(
      record.attempts.map(({ cause, outcome }) => [cause, outcome]),
      [
        ['first', { kind: 'lost', cause: 'host_lost' }],
        ['redelivery', { kind: 'exited', code: 0 }],
      ],
    );
    assert.equal(await apart.stdout(id), ALL_LINES);
  };

  test(
    'the daemon killed during a run, its sandbox dies with it, and the next daemon runs it again',
    { skip: outlivingSkip === false ? 'its sandboxes outlive their daemon' : false },
    async () => {
      const { id, sandbox } = await killedAtWork();
      await until('its sandbox is gone', () => !isSandboxAlive(sandbox), 5_000);
      await apart.startWorker();
      await wasDeliveredAgain(id);
    },
  );

  test(
    'the daemon killed during a run, the next one goes on with it: each line is there once, in one attempt',
    { skip: outlivingSkip },
    async () => {
      const { id, sandbox } = await killedAtWork();
      await apart.startWorker();
      assert.ok(isSandboxAlive(sandbox), 'it has lived on');
      const record = await ended(id);
      assert.equal(await apart.stdout(id), ALL_LINES);
      assert.deepEqual([record.state, record.exitCode, record.attempts.length], ['success', 0, 1]);
      const wallMs = record.attempts[0]!.usage.host?.wallMs;
      assert.ok(wallMs! > 5_000, `it is measured from its start: ${wallMs} ms`);
      await until('its sandbox is gone', () => !isSandboxAlive(sandbox), 5_000);
    },
  );

  test(
    'the daemon killed during a run, and its sandbox ends before the next one comes: it runs again',
    { skip: outlivingSkip },
    async () => {
      const { id, sandbox } = await killedAtWork();
      killSandbox(sandbox);
      await apart.startWorker();
      await wasDeliveredAgain(id);
    },
  );

  test(
    'the daemon killed during a run, and nobody comes for 20 s: the machine powers itself off, and it runs again',
    { skip: outlivingSkip === false ? longSkip : outlivingSkip },
    async () => {
      const { id, sandbox } = await killedAtWork();
      await sleep(12_000);
      assert.ok(isSandboxAlive(sandbox), 'until then a daemon may come');
      await until('its agent has given up', () => !isSandboxAlive(sandbox), 20_000);
      await apart.startWorker();
      await wasDeliveredAgain(id);
    },
  );

  const EXITED = { kind: 'exited', code: 0 };
  for (const [what, source, outcomes, stdout] of [
    ['its output was acknowledged, the next daemon delivers the success', 'echo up; sleep 4', [EXITED], 'up\n'],
    [
      'its last output was not acknowledged, the next daemon says that it is lost and runs it again',
      'echo up; sleep 4; echo last',
      [{ kind: 'lost', cause: 'output_lost' }, EXITED],
      'up\nlast\n',
    ],
  ] as const) {
    test(`the daemon killed after a success that nobody heard of, and ${what}`, async () => {
      await apart.deploy('unheard', source);
      const { id } = await apart.client.executions.create('unheard', {});
      await firstLine(id);
      const cut = apart.cutConnection();
      await until('the end is written down', () => apart.endsOnDisk().length === 1);
      apart.killWorker();
      cut.heal();
      await apart.startWorker();
      const record = await ended(id);
      assert.equal(record.state, 'success');
      assert.deepEqual(
        record.attempts.map(({ outcome }) => outcome),
        outcomes,
      );
      assert.equal(await apart.stdout(id), stdout);
      await until('the entry is removed', () => apart.endsOnDisk().length === 0);
    });
  }

  test('a worker that is drained, it finishes its run and exits 0, and the next worker does the rest', async () => {
    const first = await apart.client.executions.create('steps', {});
    await firstLine(first.id);
    const drained = apart.drainWorker();
    const second = await apart.client.executions.create('steps', {});
    assert.equal(await drained, 0);
    assert.equal((await apart.client.executions.get(first.id)).state, 'success');
    assert.equal(await apart.stdout(first.id), ALL_LINES);
    assert.equal((await apart.client.executions.get(second.id)).state, 'open');
    await apart.startWorker();
    const record = await ended(second.id);
    assert.deepEqual([record.state, record.attempts.length], ['success', 1]);
  });

  test('plain http off loopback, is refused without --insecure', async () => {
    const args = ['worker', '--server', 'http://192.0.2.1:7733', '--data-dir', `${apart.home.path}/other`];
    const refused = await start(args, apart.home.env).ended;
    assert.equal(refused.code, 2);
    assert.match(refused.stderr, /error insecure_refused: /);
    const server = await start(
      ['server', '--host', '0.0.0.0', '--port', '0', '--data-dir', `${apart.home.path}/third`],
      apart.home.env,
    ).ended;
    assert.equal(server.code, 2);
    assert.match(server.stderr, /error insecure_refused: /);
  });

  test('a join token used once, does not let a second worker in', async () => {
    const refused = await apart.joinAgain();
    assert.equal(refused.code, 2);
    assert.match(refused.stderr, /error join_token_invalid: /);
  });
});

describe('cocore dev', () => {
  test('Ctrl-C during a run, nothing that it started is left and its key is gone', async () => {
    await using stack = await Stack.dev();
    await stack.deploy('forever', 'bash', 'echo up; sleep 600');
    const { id } = await stack.client.executions.create('forever', {});
    await until('it runs', async () => (await stack.client.executions.get(id)).phase === 'executing');
    const started = descendants(stack.command.child.pid!);
    assert.ok(started.length >= 3);
    const { code } = await stack.stop();
    assert.equal(code, 0);
    assert.deepEqual(
      started.filter(({ pid }) => isAlive(pid)),
      [],
    );
    assert.deepEqual(stack.credentialFiles(), []);
  });

  test('killed with SIGKILL, nothing that it started lives on', async () => {
    await using stack = await Stack.dev();
    await stack.deploy('forever', 'bash', 'echo up; sleep 600');
    const { id } = await stack.client.executions.create('forever', {});
    await until('it runs', async () => (await stack.client.executions.get(id)).phase === 'executing');
    const started = descendants(stack.command.child.pid!);
    stack.command.child.kill('SIGKILL');
    await stack.command.ended;
    await until('all of it is gone', () => started.every(({ pid }) => !isAlive(pid)), 20_000);
  });
});
