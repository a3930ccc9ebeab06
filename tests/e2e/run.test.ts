import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Stack } from './support/stack.ts';

/** The main job: what a user deploys and runs, in a real sandbox. */
describe('run', () => {
  let stack: Stack;
  before(async () => {
    stack = await Stack.dev();
  });
  after(async () => stack[Symbol.asyncDispose]());

  test('examples/add.py with 4 9, the command prints 13 and the record is a success', async () => {
    const deployed = await stack.cocore(['deploy', 'examples/add.py', '--name', 'add']);
    assert.equal(deployed.code, 0, deployed.stderr);
    const ran = await stack.cocore(['run', 'add', '4', '9']);
    assert.equal(ran.stdout.toString(), '13\n', ran.stderr);
    assert.equal(ran.code, 0);

    const { executions } = await stack.client.executions.list({ function: 'add' });
    const [record] = executions;
    assert.ok(record !== undefined);
    assert.equal(record.state, 'success');
    assert.equal(record.exitCode, 0);
    assert.equal(record.fault, 'none');
    const [attempt] = record.attempts;
    assert.equal(record.decidingAttempt, attempt!.id);
    assert.equal(attempt!.outcome!.kind, 'exited');
    for (const time of ['createdAt', 'acceptedAt', 'startedAt', 'endedAt'] as const) assert.ok(record[time] !== null);
    assert.ok(attempt!.usage.host!.cpuMs! > 0, 'the host metered it');
    assert.ok(attempt!.usage.guest!.memoryPeakBytes! > 0, 'the guest reported it');
    assert.ok(attempt!.usage.control!.wallMs! > 0);
  });

  test('a bash function, its output and success come back', async () => {
    await stack.deploy('hello', 'bash', 'echo "hello $1"');
    const ran = await stack.cocore(['run', 'hello', 'world']);
    assert.deepEqual([ran.stdout.toString(), ran.code], ['hello world\n', 0]);
  });

  test('deploying again, the next version runs', async () => {
    const first = await stack.deploy('twice', 'bash', 'echo one');
    const second = await stack.deploy('twice', 'bash', 'echo two');
    assert.equal(second.id, first.id);
    assert.equal(second.version, first.version + 1);
    assert.equal((await stack.cocore(['run', 'twice'])).stdout.toString(), 'two\n');
  });

  test('exit code 3, the execution is a failure by exit_code and the command exits 3', async () => {
    await stack.deploy('three', 'bash', 'exit 3');
    const ran = await stack.cocore(['run', '--json', 'three']);
    assert.equal(ran.code, 3);
    const record = JSON.parse(ran.stdout.toString()) as Record<string, unknown>;
    assert.deepEqual(
      [record['state'], record['reason'], record['exitCode'], record['fault']],
      ['failure', 'exit_code', 3, 'user'],
    );
  });

  test('killed by a signal, the record has its number', async () => {
    await stack.deploy('suicide', 'bash', 'kill -SEGV $$');
    const ran = await stack.cocore(['run', '--json', 'suicide']);
    const record = JSON.parse(ran.stdout.toString()) as Record<string, unknown>;
    assert.deepEqual([record['state'], record['reason'], record['signal']], ['failure', 'signal', 11]);
    assert.equal(ran.code, 139);
  });

  test('more memory than it has, the reason is oom', async () => {
    await stack.deploy('hungry', 'python', 'x = []\nwhile True: x.append(bytearray(8 << 20))\n', { memoryMiB: 128 });
    const ran = await stack.cocore(['run', '--json', 'hungry']);
    const record = JSON.parse(ran.stdout.toString()) as Record<string, unknown>;
    assert.deepEqual([record['state'], record['reason'], record['fault']], ['failure', 'oom', 'user'], ran.stderr);
  });

  test('a function of 128 MiB, can use most of it', async () => {
    await stack.deploy('filling', 'python', 'x = bytearray(96 << 20)\nprint(len(x))\n', { memoryMiB: 128 });
    const ran = await stack.cocore(['run', 'filling']);
    assert.equal(ran.stdout.toString(), `${96 * 2 ** 20}\n`, ran.stderr);
  });

  test('a line printed before a sleep, is at the user before the next is written', async () => {
    const source = 'import time\nprint("first")\ntime.sleep(3)\nprint("second")\n';
    await stack.deploy('slow', 'python', source);
    const command = stack.start(['run', 'slow']);
    const { code } = await command.ended;
    assert.equal(code, 0);
    const atMs = (text: string) => command.chunks.find(({ data }) => data.toString().includes(text))!.atMs;
    assert.ok(atMs('second') - atMs('first') > 2_000, 'the first line came while the function slept');
  });

  const awkward = [
    'two words',
    '"quoted" \'both\'',
    'line\nbreak',
    '$(id) `id` ${HOME}',
    '',
    'Grüße 🎉',
    '--help',
    '*',
  ];
  test('arguments with spaces, quotes, newlines, $() and Unicode, arrive exactly', async () => {
    await stack.deploy('args', 'python', 'import json, sys\nprint(json.dumps(sys.argv[1:]))\n');
    const ran = await stack.cocore(['run', 'args', ...awkward]);
    assert.deepEqual(JSON.parse(ran.stdout.toString()), awkward, ran.stderr);
  });

  test('standard input of 1 MB of all byte values, arrives exactly', async () => {
    await stack.deploy('mirror', 'bash', 'cat');
    const input = Buffer.from(Uint8Array.from({ length: 1_000_000 }, (_, at) => (at * 7 + (at >> 8)) % 256));
    const ran = await stack.cocore(['run', 'mirror'], input);
    assert.equal(ran.code, 0, ran.stderr);
    assert.ok(ran.stdout.equals(input));
  });

  test('--detach, prints only the id; logs -f follows it to its end', async () => {
    await stack.deploy('later', 'bash', 'echo started; sleep 1; echo done');
    const detached = await stack.cocore(['run', '--detach', 'later']);
    const id = detached.stdout.toString().trim();
    assert.match(id, /^ex_[0-9a-z]{26}$/);
    const logs = await stack.cocore(['logs', id, '-f']);
    assert.equal(logs.stdout.toString(), 'started\ndone\n', logs.stderr);
    assert.equal((await stack.client.executions.get(id)).state, 'success');
  });

  test('every listing command, answers with --json', async () => {
    for (const args of [['ps'], ['functions'], ['workers'], ['doctor']]) {
      const listed = await stack.cocore([...args, '--json']);
      assert.equal(listed.code, 0, `${args[0]}: ${listed.stderr}`);
      assert.doesNotThrow(() => JSON.parse(listed.stdout.toString()), args[0]);
    }
  });
});
