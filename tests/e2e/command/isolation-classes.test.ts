import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Stack } from '../support/stack.ts';

/** What the one worker of these tests cannot give: the scripted driver is of the weakest class. */
const REASON = 'no worker that is online gives isolation gvisor or better; there is: container (1)';

describe('isolation classes, from the command', () => {
  let stack: Stack;
  let file: string;
  before(async () => {
    stack = await Stack.dev('--isolation', 'fake');
    file = join(stack.home.path, 'f.sh');
    writeFileSync(file, 'exit 0\n');
  });
  after(async () => stack[Symbol.asyncDispose]());

  const cocore = async (...args: string[]) => {
    const result = await stack.cocore(args);
    assert.equal(result.code, 0, result.stderr);
    return result.stdout.toString();
  };

  test('dev on a weak driver, it says at its start what the class is not', async () => {
    await stack.command.waitFor('stderr', /isolation class container: .*not a wall against strangers/);
  });

  test('a function deployed without a class, it requires what dev’s driver gives, and runs', async () => {
    await cocore('deploy', file, '--name', 'plain');
    assert.match(await cocore('functions'), /^plain .* container or better /m);
    const record = JSON.parse(await cocore('run', '--json', 'plain')) as Record<string, unknown>;
    assert.deepEqual([record['state'], record['isolation']], ['success', 'container']);
  });

  test('a function that nothing here isolates well enough, it waits, and run, get and ps say why', async () => {
    await cocore('deploy', file, '--name', 'walled', '--isolation', 'gvisor');
    const run = stack.start(['run', 'walled']);
    const [, said] = await run.waitFor('stderr', /^cocore: it waits: (.*)$/m);
    assert.equal(said, `${REASON} (number 1 of its project’s queue)`);
    const { executions } = await stack.client.executions.list({ state: 'open' });
    const { id, waiting, attempts } = executions[0]!;
    assert.deepEqual([waiting, attempts[0]?.state], [{ code: 'isolation', message: REASON, position: 1 }, 'queued']);
    const shown = await cocore('get', id);
    assert.match(shown, /^isolation +gvisor or better$/m);
    assert.ok(shown.includes(REASON), shown);
    const listed = await cocore('ps', '--state', 'open');
    assert.ok(listed.includes(`${id}  walled`) && listed.includes(REASON), listed);
    assert.match(await cocore('workers'), /fake \(container\)/);
    await cocore('cancel', id);
    assert.equal((await run.ended).code, 130);
    assert.equal(run.text('stderr').match(/it waits/g)?.length, 1);
  });

  test('a class that is none, one line names those that are, and the code is 2', async () => {
    const commands = [
      ['deploy', file, '--name', 'wrong', '--isolation', 'firecracker'],
      ['server', '--data-dir', join(stack.home.path, 'other'), '--default-isolation', 'firecracker'],
    ];
    for (const args of commands) {
      const { code, stderr } = await stack.cocore(args);
      assert.equal(code, 2, stderr);
      assert.match(stderr, /^error usage: .*microvm, gvisor, emulated, container.*\n.*\n$/);
    }
  });

  test('the flags of a worker that dev does not take, they reach the worker', async () => {
    const base = ['worker', '--server', 'http://127.0.0.1:1', '--data-dir', join(stack.home.path, 'w')];
    for (const [flag, words] of [
      ['--at-least', /--at-least must be one of microvm, gvisor, emulated, container/],
      ['--pool', /--pool must be auto or off/],
      ['--isolation', /--isolation must be one of auto, firecracker, qemu, gvisor, crun, fake/],
    ] as const) {
      const { code, stderr } = await stack.cocore([...base, flag, 'nonsense']);
      assert.equal(code, 2, stderr);
      assert.match(stderr, words);
    }
  });
});
