import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { type Result } from '../support/command.ts';
import { Stack } from '../support/stack.ts';
import { until } from '../support/wait.ts';

describe('cocore cancel', () => {
  let stack: Stack;
  before(async () => {
    stack = await Stack.dev('--isolation', 'fake');
    for (const name of ['play', 'other']) await stack.deploy(name, 'bash', ':');
  });
  after(() => stack[Symbol.asyncDispose]());

  const started = async (fn: string) => {
    const { id } = await stack.client.executions.create(fn, { args: ['sleep:600000'], timeoutMs: 700_000 });
    await until('it runs', async () => (await stack.client.executions.get(id)).startedAt !== null);
    return id;
  };
  const end = async (id: string) => (await stack.client.executions.get(id, { waitMs: 30_000 })).state;
  /** At a terminal, on which somebody types. */
  const typing = (answer: string, args: readonly string[]): Promise<Result> => {
    const command = [process.execPath, 'packages/cli/bin/cocore.js', 'cancel', ...args].join(' ');
    return stack.shell(`printf '${answer}\\n' | script --quiet --return --echo never --command '${command}' /dev/null`);
  };

  test('many, where nobody can be asked, it needs --yes', async () => {
    const play = await started('play');
    const { id: other } = await stack.client.executions.create('other', { args: ['sleep:600000'], timeoutMs: 700_000 });
    const refused = await stack.cocore(['cancel', '--function', 'play']);
    assert.equal(refused.code, 2);
    assert.match(refused.stderr, /^error usage: 1 execution would be cancelled; say --yes/);
    const done = await stack.cocore(['cancel', '--function', 'play', '--yes']);
    assert.deepEqual([done.code, done.stdout.toString()], [0, '0 cancelled before they ran, 1 being cancelled\n']);
    assert.equal(await end(play), 'cancelled');
    assert.notEqual((await stack.client.executions.get(other)).state, 'cancelled');
    const all = await stack.cocore(['cancel', '--all', '-y', '--json']);
    assert.equal((JSON.parse(all.stdout.toString()) as { matched: number }).matched, 1);
    assert.equal(await end(other), 'cancelled');
  });

  test('at a terminal, it says how many and asks; only yes is yes', async () => {
    const id = await started('play');
    const no = await typing('n', ['--all']);
    assert.equal(no.code, 1);
    assert.match(no.stdout.toString(), /Cancel 1 execution\? \[y\/N\][^]*nothing is cancelled/);
    assert.equal((await stack.client.executions.get(id)).state, 'running');
    const yes = await typing('y', ['--older-than', '1ms']);
    assert.match(yes.stdout.toString(), /1 being cancelled/);
    assert.equal(yes.code, 0);
    assert.equal(await end(id), 'cancelled');
  });

  for (const args of [[], ['ex_1', '--all'], ['--all', '--function', 'play'], ['--state', 'success', '--yes']]) {
    test(`cancel ${args.join(' ')}, the command is refused`, async () => {
      const result = await stack.cocore(['cancel', ...args]);
      assert.equal(result.code, 2);
      assert.match(result.stderr, /^error usage: /);
    });
  }
});
