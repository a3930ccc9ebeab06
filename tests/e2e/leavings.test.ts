import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type ExecutionAnswer, MAX_RESULT_BYTES } from '@cocore/protocol';
import { Stack } from './support/stack.ts';

/** What goes in by `--event`, and what a function leaves: its result and its artifacts. */
describe('event, result and artifacts', () => {
  let stack: Stack;
  before(async () => {
    stack = await Stack.dev();
  });
  after(async () => stack[Symbol.asyncDispose]());

  const run = async (name: string, source: string, args: string[] = []): Promise<ExecutionAnswer> => {
    await stack.deploy(name, 'bash', source);
    return stack.client.executions.create(name, { args }, { waitMs: 60_000 });
  };
  const ended = ({ state, reason, fault, exitCode }: ExecutionAnswer) => [state, reason, fault, exitCode];

  test('an event in and a result out, the command prints the result alone', async () => {
    const source = `import json, os, sys
event = json.load(sys.stdin)
print("adding", event)
json.dump({"sum": event["a"] + event["b"]}, open(os.environ["COCORE_RESULT"], "w"))
`;
    await stack.deploy('sum', 'python', source);
    const ran = await stack.cocore(['run', '--result', '--event', '{"a":4,"b":9}', 'sum']);
    assert.deepEqual(JSON.parse(ran.stdout.toString()), { sum: 13 }, ran.stderr);
    assert.match(ran.stderr, /^adding/);
    const plain = await stack.cocore(['run', '--event', '@-', 'sum'], Buffer.from('{"a":1,"b":2}'));
    assert.match(plain.stdout.toString(), /^adding .*\n$/, 'without --result, it is the program’s own output');
    const [record] = (await stack.client.executions.list({ function: 'sum', limit: 1 })).executions;
    const got = await stack.cocore(['get', '--json', record!.id]);
    assert.deepEqual((JSON.parse(got.stdout.toString()) as ExecutionAnswer).result, { value: { sum: 3 } });
  });

  test('examples/report.py, its result and its report come back', async () => {
    await stack.cocore(['deploy', 'examples/report.py', '--name', 'report']);
    const ran = await stack.cocore(['run', '--json', '--event', '{"numbers":[2,3]}', 'report']);
    const record = JSON.parse(ran.stdout.toString()) as ExecutionAnswer;
    assert.deepEqual(record.result, { value: { count: 2, sum: 5 } }, ran.stderr);
    const output = join(stack.home.path, 'report');
    await stack.cocore(['artifacts', record.id, '--output', output]);
    assert.equal(readFileSync(join(output, 'report.txt'), 'utf8'), '2 **\n3 ***\n');
  });

  test('files in the request and uploaded, under their own and other names, they are in the working directory', async () => {
    await stack.deploy('files', 'bash', 'printf "%s\\n" *; cat in.csv other; sha256sum large | cut -c 1-64');
    const [small, large] = [join(stack.home.path, 'in.csv'), join(stack.home.path, 'big')];
    writeFileSync(small, 'a,b\n');
    writeFileSync(large, randomBytes(400_000));
    const files = ['--file', small, '--file', `other=${small}`, '--file', `large=${large}`];
    const ran = await stack.cocore(['run', ...files, 'files']);
    const sha256 = createHash('sha256').update(readFileSync(large)).digest('hex');
    assert.equal(ran.stdout.toString(), `in.csv\nlarge\nother\na,b\na,b\n${sha256}\n`, ran.stderr);
    const missing = await stack.cocore(['run', '--file', `${small}.not`, 'files']);
    assert.match(missing.stderr, /^error file_unreadable: /);
  });

  test('a result of null and none at all, they are told apart', async () => {
    const results = [await run('null', 'echo null > "$COCORE_RESULT"'), await run('none', 'true')];
    assert.deepEqual(
      results.map(({ state, result }) => [state, result]),
      [
        ['success', { value: null }],
        ['success', null],
      ],
    );
  });

  const INVALID: readonly (readonly [string, string, RegExp])[] = [
    ['that is no JSON', `printf '{"a": oops}' > "$COCORE_RESULT"`, /the result is not JSON: .*oops/],
    ['that is not UTF-8', `printf '"\\377"' > "$COCORE_RESULT"`, /the result is not UTF-8/],
    ['that is too long', `head -c ${MAX_RESULT_BYTES + 1} /dev/zero > "$COCORE_RESULT"`, /262145 bytes long/],
    ['that is a link', `ln -s /etc/passwd "$COCORE_RESULT"`, /the result is not a regular file/],
    [
      'that is nested too deep',
      `printf '[%.0s' {1..300} > "$COCORE_RESULT"; printf ']%.0s' {1..300} >> "$COCORE_RESULT"`,
      /256 levels/,
    ],
  ];
  for (const [index, [what, source, message]] of INVALID.entries()) {
    test(`a result ${what}, the execution fails and says so`, async () => {
      const record = await run(`invalid${index}`, source);
      assert.deepEqual(ended(record), ['failure', 'result_invalid', 'user', null]);
      assert.match(record.message ?? '', message);
      assert.equal(record.result, null);
    });
  }

  test('an exception that a bootstrap reports, the record has it', async () => {
    const error = { type: 'ValueError', message: 'no such thing', stack: 'Traceback:\n  line 1' };
    const source = `printf '%s' "$1" > "$COCORE_RESULT"; exit 1`;
    const record = await run('raises', source, [JSON.stringify({ $cocoreError: error })]);
    assert.deepEqual(ended(record), ['failure', 'exception', 'user', 1]);
    assert.deepEqual(record.error, error);
    assert.equal(record.result, null);
    const ran = await stack.cocore(['run', 'raises', JSON.stringify({ $cocoreError: error })]);
    assert.equal(ran.code, 1);
    assert.match(ran.stderr, /Traceback:\n {2}line 1\ncocore: failure \(exception\): ValueError: no such thing\n/);
  });

  test('artifacts, they are listed, unpacked, and never written over', async () => {
    const source = `cd "$COCORE_OUT"; mkdir -p sub; echo report > sub/report.txt; head -c 3000000 /dev/urandom > big
echo 'echo hi' > run.sh; chmod +x run.sh; ln -s /etc/passwd link; sha256sum big | cut -c 1-64`;
    const record = await run('makes', source);
    assert.equal(record.state, 'success', JSON.stringify(record));
    assert.equal(record.artifacts?.files, 3);
    const archive = Buffer.from(await new Response(await stack.client.executions.artifacts(record.id)).arrayBuffer());
    assert.equal(archive.length, record.artifacts.bytes);
    assert.equal(`sha256:${createHash('sha256').update(archive).digest('hex')}`, record.artifacts.sha256);

    const listed = await stack.cocore(['artifacts', record.id]);
    assert.match(listed.stdout.toString(), /^BYTES +PATH\n3000000 +big\n\d+ +run.sh\n– +sub\/\n7 +sub\/report.txt\n$/);
    const output = join(stack.home.path, 'made');
    const unpacked = await stack.cocore(['artifacts', record.id, '--output', output]);
    assert.equal(unpacked.stdout.toString(), `3 files in ${output}\n`, unpacked.stderr);
    assert.deepEqual(readdirSync(output).sort(), ['big', 'run.sh', 'sub']);
    const big = createHash('sha256')
      .update(readFileSync(join(output, 'big')))
      .digest('hex');
    assert.equal(`${big}\n`, record.stdout?.data);
    assert.equal(readFileSync(join(output, 'sub', 'report.txt'), 'utf8'), 'report\n');
    assert.equal((statSync(join(output, 'run.sh')).mode & 0o100) !== 0, true);
    assert.equal((statSync(join(output, 'big')).mode & 0o100) !== 0, false);

    writeFileSync(join(output, 'big'), 'mine');
    const again = await stack.cocore(['artifacts', record.id, '--output', output]);
    assert.match(again.stderr, /^error file_exists: /);
    assert.equal(readFileSync(join(output, 'big'), 'utf8'), 'mine');
    const forced = await stack.cocore(['artifacts', record.id, '--output', output, '--force']);
    assert.equal(forced.code, 0, forced.stderr);
    assert.equal(statSync(join(output, 'big')).size, 3_000_000);
  });

  test('unpacking where a link lies, nothing is written through it', async () => {
    const record = await run('nested', 'mkdir -p "$COCORE_OUT/sub"; echo hi > "$COCORE_OUT/sub/file"');
    const [output, elsewhere] = [join(stack.home.path, 'linked'), join(stack.home.path, 'elsewhere')];
    mkdirSync(output);
    mkdirSync(elsewhere);
    symlinkSync(elsewhere, join(output, 'sub'));
    for (const force of [[], ['--force']]) {
      const unpacked = await stack.cocore(['artifacts', record.id, '--output', output, ...force]);
      assert.match(unpacked.stderr, /^error file_exists: /);
    }
    assert.deepEqual(readdirSync(elsewhere), []);
    assert.ok(lstatSync(join(output, 'sub')).isSymbolicLink() && !existsSync(join(elsewhere, 'file')));
  });

  test('more artifacts than are taken, the execution fails and says how many are', async () => {
    const [many, large] = [
      await run('many', 'cd "$COCORE_OUT"; touch $(seq 1001)'),
      await run('large', 'fallocate -l 65M "$COCORE_OUT/file"'),
    ];
    for (const record of [many, large])
      assert.deepEqual(ended(record), ['failure', 'artifacts_too_large', 'user', null]);
    assert.match(many.message ?? '', /more than 1000 files and directories/);
    assert.match(large.message ?? '', /67108864/);
    const none = await stack.cocore(['artifacts', large.id]);
    assert.match(none.stderr, /^error artifacts_not_found: /);
    const ran = await stack.cocore(['run', 'large']);
    assert.equal(ran.code, 1);
    assert.match(ran.stderr, /^cocore: failure \(artifacts_too_large\): the artifacts: /);
  });

  test('another project, it gets none of what was left', async () => {
    const record = await run('private', 'echo 1 > "$COCORE_OUT/file"');
    const { secret } = await stack.client.keys.create({ project: 'other' });
    const response = await fetch(`${stack.url}/v1/executions/${record.id}/artifacts`, {
      headers: { authorization: `Bearer ${secret}` },
    });
    assert.equal(response.status, 404);
    assert.equal(((await response.json()) as { code: string }).code, 'execution_not_found');
  });
});
