import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Stack } from './support/stack.ts';
import { until } from './support/wait.ts';

const ms = (time: string | null) => Date.parse(time!);

describe('timeouts and cancellation', () => {
  let stack: Stack;
  before(async () => {
    stack = await Stack.dev();
    await stack.deploy('forever', 'bash', 'echo up; sleep 600');
    await stack.deploy('polite', 'bash', "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done");
    await stack.deploy('deaf', 'bash', "trap '' TERM; echo up; while :; do sleep 0.1; done");
    await stack.deploy('flood', 'bash', 'exec cat /dev/zero', { outputLimitBytes: 2 ** 30 });
  });
  after(async () => stack[Symbol.asyncDispose]());

  const started = async (id: string) =>
    until('the function runs', async () => (await stack.client.executions.get(id)).phase === 'executing');

  test('a function over its timeout, ends within 1 s of it and its sandbox is gone', async () => {
    const ended = await stack.client.executions.create('forever', { timeoutMs: 2_000 }, { waitMs: 60_000 });
    assert.deepEqual([ended.state, ended.reason], ['timeout', 'run_timeout']);
    const lateMs = ms(ended.endedAt) - ms(ended.startedAt) - 2_000;
    assert.ok(lateMs >= -250 && lateMs <= 1_000, `ended ${lateMs} ms after its limit`);
    await until('its sandbox is gone', () => stack.sandboxes().length === 0, 1_000);
  });

  test('cancelled while it runs, it ends cancelled and a second cancel is a clear answer', async () => {
    const { id } = await stack.client.executions.create('forever', {});
    await started(id);
    assert.equal(stack.sandboxes().length, 1);
    const cancelled = await stack.cocore(['cancel', id]);
    assert.equal(cancelled.code, 0, cancelled.stderr);
    const ended = await stack.client.executions.get(id, { waitMs: 20_000 });
    assert.deepEqual([ended.state, ended.reason, ended.fault], ['cancelled', 'user_cancel', 'user']);
    await until('its sandbox is gone', () => stack.sandboxes().length === 0, 5_000);
    assert.equal((await stack.client.executions.cancel(id)).result, 'already_ended');
    assert.equal((await stack.cocore(['cancel', id])).code, 0);
  });

  test('cancelled while it heeds the signal, what it writes then is kept and the end is the cancellation', async () => {
    const { id } = await stack.client.executions.create('polite', {});
    await until('it is up', async () => (await stack.output(id, 'stdout')).length > 0);
    await stack.client.executions.cancel(id);
    const ended = await stack.client.executions.get(id, { waitMs: 20_000 });
    assert.deepEqual([ended.state, ended.reason], ['cancelled', 'user_cancel']);
    assert.equal((await stack.output(id, 'stdout')).toString(), 'up\nbye\n');
  });

  test('cancelled and deaf to the signal, it is killed after 10 s', async () => {
    const { id } = await stack.client.executions.create('deaf', {});
    await until('it is up', async () => (await stack.output(id, 'stdout')).length > 0);
    const beganMs = performance.now();
    await stack.client.executions.cancel(id);
    await until('its sandbox is gone', () => stack.sandboxes().length === 0, 20_000);
    const tookMs = performance.now() - beganMs;
    assert.ok(tookMs >= 9_500 && tookMs <= 13_000, `gone after ${tookMs} ms`);
    assert.equal((await stack.client.executions.get(id, { waitMs: 20_000 })).state, 'cancelled');
  });

  test('cancelled beside a flood of output, its sandbox is gone within 1 s', async () => {
    const { id } = await stack.client.executions.create('flood', {});
    await started(id);
    await until('it floods', async () => (await stack.client.executions.get(id)).output.stdout.bytes > 2 ** 20);
    const beganMs = performance.now();
    await stack.client.executions.cancel(id);
    await until('its sandbox is gone', () => stack.sandboxes().length === 0, 5_000);
    const tookMs = performance.now() - beganMs;
    assert.ok(tookMs <= 1_000, `gone after ${tookMs} ms`);
    assert.equal((await stack.client.executions.get(id, { waitMs: 20_000 })).state, 'cancelled');
  });

  test('Ctrl-C on cocore run, cancels the execution', async () => {
    const command = stack.start(['run', 'forever']);
    await command.waitFor('stdout', /up/);
    command.child.kill('SIGINT');
    assert.equal((await command.ended).code, 130);
    const { executions } = await stack.client.executions.list({ function: 'forever', limit: 1 });
    assert.equal(executions[0]!.state, 'cancelled');
  });

  test('cancelled while open, it never runs', async () => {
    // A shape that no worker of this machine has room for stays open.
    await stack.deploy('huge', 'bash', 'echo ran', { memoryMiB: 16_384, cpus: 8 });
    const { id, state } = await stack.client.executions.create('huge', {});
    assert.equal(state, 'open');
    assert.equal((await stack.client.executions.cancel(id)).result, 'cancelled');
    const ended = await stack.client.executions.get(id);
    assert.deepEqual([ended.state, ended.startedAt, ended.output.stdout.bytes], ['cancelled', null, 0]);
  });
});
