import assert from 'node:assert/strict';
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { slowSkip, Stack } from './support/stack.ts';

/** What people write: files and directories of code, programs and handlers, deployed and run as the README says. */
describe('source', () => {
  let stack: Stack;
  before(async () => {
    stack = await Stack.dev();
  });
  after(async () => stack[Symbol.asyncDispose]());

  async function deploy(...args: string[]) {
    const deployed = await stack.cocore(['deploy', ...args]);
    assert.equal(deployed.code, 0, deployed.stderr);
    return deployed.stdout.toString();
  }

  test('examples/word-count.sh, a program in bash, counts what comes in', { skip: slowSkip }, async () => {
    await deploy('examples/word-count.sh', '--name', 'words');
    const ran = await stack.cocore(['run', 'words'], Buffer.from('one two\nthree\n'));
    assert.equal(ran.code, 0, ran.stderr);
    assert.match(ran.stdout.toString(), /\b3\b/);
  });

  test('examples/stock, a program of several files, has the settings of its cocore.json, and its exit code is the command’s', async () => {
    assert.match(await deploy('examples/stock', '--memory', '512'), /^stock version 1 /);
    const record = await stack.client.functions.get('stock');
    assert.deepEqual([record.timeoutMs, record.memoryMiB, record.runtime], [30_000, 512, 'python']);
    const movements = 'item,count\nbolt,10\nnut,3\nbolt,-4\n';
    const ran = await stack.cocore(['run', 'stock', '--below', '5'], Buffer.from(movements));
    assert.deepEqual([ran.stdout.toString(), ran.code], ['nut\t3\n', 0], ran.stderr);
    const short = await stack.cocore(['run', 'stock'], Buffer.from(`${movements}nut,-5\n`));
    assert.deepEqual([short.stderr, short.code], ['nut: 2 more left than came\n', 1]);
  });

  test('examples/quote, a handler in Python, returns a result, and its exception is the end of the execution', async () => {
    await deploy('examples/quote');
    const event = {
      lines: [
        { item: 'bolt', price: 0.2, count: 150 },
        { item: 'nut', price: 0.15, count: 2 },
      ],
    };
    const ran = await stack.cocore(['run', '--event', JSON.stringify(event), '--result', 'quote']);
    assert.equal(ran.code, 0, ran.stderr);
    const lines = [
      { item: 'bolt', total: 27 },
      { item: 'nut', total: 0.3 },
    ];
    assert.deepEqual(JSON.parse(ran.stdout.toString()), { lines, total: 27.3 });
    assert.match(ran.stderr, /^quote 1: 2 lines$/m);

    const wrong = { lines: [{ item: 'bolt', price: 1, count: 0 }] };
    const failed = await stack.cocore(['run', '--event', JSON.stringify(wrong), '--json', 'quote']);
    const record = JSON.parse(failed.stdout.toString()) as { state: string; error: Record<string, string> };
    assert.equal(record.state, 'failure');
    assert.equal(record.error['type'], 'ValueError');
    assert.equal(record.error['message'], 'bolt: a count must be at least 1, and is 0');
    assert.match(record.error['stack']!, /File "\/function\/handler\.py", line \d+, in price/);
  });

  test(
    'examples/readings, a handler in TypeScript of several files, runs without a build',
    { skip: slowSkip },
    async () => {
      await deploy('examples/readings');
      const record = await stack.client.functions.get('readings');
      assert.deepEqual(record.source, { kind: 'archive', entry: 'src/summarize.ts' });
      const event = [
        { sensor: 'roof', celsius: 20 },
        { sensor: 'roof', celsius: 25 },
      ];
      const ran = await stack.cocore(['run', '--event', JSON.stringify(event), '--result', 'readings']);
      assert.equal(ran.code, 0, ran.stderr);
      assert.deepEqual(JSON.parse(ran.stdout.toString()), {
        roof: { readings: 2, lowest: 20, highest: 25, mean: 22.5 },
      });
    },
  );

  test('a directory with an executable that it calls, a link, and a file that is left out, is in the sandbox as it is here', async () => {
    const path = join(stack.home.path, 'tools');
    mkdirSync(join(path, 'bin'), { recursive: true });
    writeFileSync(
      join(path, 'main.sh'),
      'cd /function; bin/tool; ./link; ls -A; find bin/tool main.sh bin -maxdepth 0 -printf "%m %u %TY\\n"',
    );
    writeFileSync(join(path, 'bin', 'tool'), '#!/bin/bash\necho tool\n', { mode: 0o755 });
    cpSync(join(path, 'bin', 'tool'), join(path, 'secret'));
    writeFileSync(join(path, '.cocoreignore'), 'secret\n');
    symlinkSync('bin/tool', join(path, 'link'));
    await deploy(path);
    const ran = await stack.cocore(['run', 'tools']);
    assert.equal(
      ran.stdout.toString(),
      'tool\ntool\nbin\nlink\nmain.sh\n755 root 1970\n644 root 1970\n755 root 1970\n',
      ran.stderr,
    );
  });

  test(
    'a directory that cannot be deployed, is refused with what to mend, and the version that serves stays',
    { skip: slowSkip },
    async () => {
      const path = join(stack.home.path, 'broken');
      cpSync('examples/quote', path, { recursive: true });
      const wrong = readFileSync(join(path, 'cocore.json'), 'utf8').replace('"handler"', '"handlers"');
      writeFileSync(join(path, 'cocore.json'), wrong);
      const result = await stack.cocore(['deploy', path]);
      assert.equal(result.code, 2);
      assert.match(result.stderr, /^error project_invalid: .*cocore\.json:4: handlers: there is no such field/);
      assert.equal((await stack.client.functions.get('quote')).version, 1);
    },
  );
});
