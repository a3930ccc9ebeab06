import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { slowSkip, Stack } from './support/stack.ts';

/** A wheel of one module, as anybody builds one. */
function makeWheel(directory: string, name: string, source: string): void {
  const script = `
import sys, zipfile
directory, name, source = sys.argv[1:]
with zipfile.ZipFile(f'{directory}/{name}-1.0-py3-none-any.whl', 'w') as wheel:
    wheel.writestr(f'{name}.py', source)
    info = f'{name}-1.0.dist-info'
    wheel.writestr(f'{info}/METADATA', f'Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n')
    wheel.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(f'{info}/RECORD', f'{name}.py,,\\n{info}/METADATA,,\\n{info}/WHEEL,,\\n{info}/RECORD,,\\n')
`;
  mkdirSync(directory, { recursive: true });
  execFileSync('python3', ['-c', script, directory, name, source]);
}

/** What functions depend on, installed when they are deployed. */
describe('builds', () => {
  let stack: Stack;
  before(async () => {
    stack = await Stack.dev();
  });
  after(async () => stack[Symbol.asyncDispose]());

  function write(directory: string, files: Readonly<Record<string, string>>): string {
    const path = join(stack.home.path, directory);
    for (const [name, content] of Object.entries(files)) {
      mkdirSync(dirname(join(path, name)), { recursive: true });
      writeFileSync(join(path, name), content);
    }
    return path;
  }
  const run = async (...args: string[]) => {
    const ran = await stack.cocore(['run', ...args]);
    assert.equal(ran.code, 0, ran.stderr);
    return ran.stdout.toString();
  };

  const main = (what: string) => `import greeting\nprint(greeting.greet("${what}"))\n`;

  /** A function that greets `what`, with what it depends on beside it. */
  function greeter(name: string, what: string): string {
    const path = write(name, { 'main.py': main(what), 'requirements.txt': 'greeting==1.0\n' });
    makeWheel(join(path, 'vendor'), 'greeting', 'def greet(whom): return f"hello {whom}"\n');
    return path;
  }

  test('a directory with requirements.txt, they are installed once', async () => {
    const path = greeter('greeter', 'world');
    const first = await stack.cocore(['deploy', path]);
    assert.equal(first.code, 0, first.stderr);
    assert.match(first.stderr, /^building$/m);
    assert.match(first.stderr, /^Successfully installed greeting-1\.0$/m);
    assert.equal(await run('greeter'), 'hello world\n');

    write('greeter', { 'main.py': main('again') });
    const second = await stack.cocore(['deploy', path]);
    assert.equal(second.stdout.toString().split(' (')[0], 'greeter version 2');
    assert.doesNotMatch(second.stderr, /installed/, 'only the code has changed');
    assert.equal(await run('greeter'), 'hello again\n');
  });

  test('a build that fails, its output says why and the version before serves', { skip: slowSkip }, async () => {
    const path = greeter('steady', 'all');
    assert.equal((await stack.cocore(['deploy', path])).code, 0);
    write('steady', { 'requirements.txt': 'greeting==2.0\n', 'main.py': main('never') });
    const failed = await stack.cocore(['deploy', path]);
    assert.equal(failed.code, 2);
    assert.match(failed.stderr, /No matching distribution found for greeting==2\.0/);
    assert.match(failed.stderr, /^error build_failed: the build exited with 1; it is ex_\w+/m);
    assert.equal(await run('steady'), 'hello all\n');
    const id = /it is (ex_\w+)/.exec(failed.stderr)![1]!;
    const logs = await stack.cocore(['logs', id]);
    assert.match(logs.stderr, /No matching distribution/);
  });

  test('a directory with package.json, its lock file is what is installed', { skip: slowSkip }, async () => {
    const path = write('shouter', {
      'index.js': 'import { shout } from "loud";\nexport default async ({ text }) => shout(text);\n',
      'vendor/loud/package.json': '{ "name": "loud", "version": "1.0.0", "type": "module", "exports": "./loud.js" }\n',
      'vendor/loud/loud.js': 'export const shout = (text) => `${text.toUpperCase()}!`;\n',
    });
    execFileSync('tar', [
      '-C',
      join(path, 'vendor'),
      '--transform',
      's/^loud/package/',
      '-czf',
      join(path, 'loud-1.0.0.tgz'),
      'loud',
    ]);
    execFileSync('sh', ['-c', 'rm -r vendor/loud && mv loud-1.0.0.tgz vendor/'], { cwd: path });
    const integrity = `sha512-${createHash('sha512')
      .update(readFileSync(join(path, 'vendor', 'loud-1.0.0.tgz')))
      .digest('base64')}`;
    const manifest = {
      name: 'shouter',
      version: '1.0.0',
      type: 'module',
      dependencies: { loud: 'file:vendor/loud-1.0.0.tgz' },
    };
    const packages = {
      '': { name: 'shouter', version: '1.0.0', dependencies: manifest.dependencies },
      'node_modules/loud': { version: '1.0.0', resolved: 'file:vendor/loud-1.0.0.tgz', integrity },
    };
    write('shouter', {
      'package.json': JSON.stringify(manifest),
      'package-lock.json': JSON.stringify({
        name: 'shouter',
        version: '1.0.0',
        lockfileVersion: 3,
        requires: true,
        packages,
      }),
    });
    const deployed = await stack.cocore(['deploy', path, '--handler', 'default']);
    assert.equal(deployed.code, 0, deployed.stderr);
    assert.match(deployed.stderr, /^added 1 package in /m);
    assert.equal(await run('--event', '{"text":"hey"}', '--result', 'shouter'), '"HEY!"\n');
  });

  test('Ctrl-C while it builds, the build is cancelled and nothing is deployed', { skip: slowSkip }, async () => {
    const path = write('endless', { 'main.py': '', 'requirements.txt': './vendor/endless\n' });
    write('endless', { 'main.py': 'print(1)\n', 'vendor/endless/setup.py': 'import time\ntime.sleep(600)\n' });
    const deploying = stack.start(['deploy', path]);
    await deploying.waitFor('stderr', /Processing \.\/vendor\/endless/);
    deploying.child.kill('SIGINT');
    const { code } = await deploying.ended;
    assert.notEqual(code, 0);
    const { executions } = await stack.client.executions.list({ limit: 1 });
    assert.equal(executions[0]!.functionName, 'endless:build');
    assert.equal((await stack.client.executions.get(executions[0]!.id, { waitMs: 60_000 })).state, 'cancelled');
    const { stdout } = await stack.cocore(['functions']);
    assert.doesNotMatch(stdout.toString(), /endless/);
  });
});
