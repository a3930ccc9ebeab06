import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { temporaryDirectory } from './support/temporary.ts';

const BOOTSTRAPS = fileURLToPath(new URL('../src/runtimes/recipes', import.meta.url));

interface Ran {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  /** Undefined where none was written. */
  readonly result: unknown;
}

/** Runs the first of these files as its bootstrap does in a sandbox, with an event as it is on standard input. */
async function run(
  files: Record<string, string>,
  {
    event = '',
    handler = 'handler',
    env = {},
    args = [],
  }: { event?: string; handler?: string; env?: Record<string, string>; args?: readonly string[] } = {},
): Promise<Ran> {
  using directory = temporaryDirectory();
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(directory.path, name)), { recursive: true });
    writeFileSync(join(directory.path, name), content);
  }
  const entry = join(directory.path, Object.keys(files)[0]!);
  const [program, bootstrap] = entry.endsWith('.py') ? ['python3', 'handler.py'] : [process.execPath, 'handler.mjs'];
  const resultPath = join(directory.path, 'result.json');
  const child = spawn(program, [join(BOOTSTRAPS, bootstrap), entry, handler, ...args], {
    env: { PATH: process.env['PATH']!, COCORE_RESULT: resultPath, PYTHONDONTWRITEBYTECODE: '1', ...env },
  });
  child.stdin.on('error', () => undefined);
  child.stdin.end(event);
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  const [stdout, stderr, code] = await Promise.all([text(child.stdout), text(child.stderr), ended]);
  const result: unknown = existsSync(resultPath) ? JSON.parse(readFileSync(resultPath, 'utf8')) : undefined;
  return { code, stdout, stderr: stderr.replaceAll(directory.path, ''), result };
}

const errorOf = ({ result }: Ran) =>
  (result as { $cocoreError: { type: string; message: string; stack: string } } | undefined)?.$cocoreError;

const CONTEXT = {
  COCORE_EXECUTION_ID: 'ex_1',
  COCORE_FUNCTION_NAME: 'add',
  COCORE_FUNCTION_VERSION: '3',
  COCORE_MEMORY_MIB: '256',
  COCORE_TIMEOUT_MS: '60000',
};

describe('Python handlers', () => {
  test('an event, its answer is the result, and what is printed stays standard output', async () => {
    const source =
      'def handler(event, context):\n    print("adding")\n    return {"sum": event["a"] + event["b"], "name": "größe"}\n';
    const ran = await run({ 'add.py': source }, { event: '{"a":4,"b":9}' });
    assert.deepEqual(ran, { code: 0, stdout: 'adding\n', stderr: '', result: { sum: 13, name: 'größe' } });
  });

  test('an async handler, is awaited', async () => {
    const source = 'import asyncio\nasync def handler(event, context):\n    await asyncio.sleep(0)\n    return event\n';
    assert.deepEqual((await run({ 'a.py': source }, { event: '[1]' })).result, [1]);
  });

  test('arguments of the execution, are those of the program', async () => {
    const source = 'import sys\ndef handler(event, context):\n    return sys.argv[1:]\n';
    assert.deepEqual((await run({ 'a.py': source }, { args: ['--x', 'y'] })).result, ['--x', 'y']);
  });

  test('no event, is None, and None is null', async () => {
    const source = 'def handler(event, context):\n    assert event is None\n';
    const ran = await run({ 'a.py': source });
    assert.deepEqual([ran.code, ran.result], [0, null], ran.stderr);
  });

  test('the context, says which execution of which function it is, and how long it may run', async () => {
    const source = `def handler(event, c):
    return [c.execution_id, c.function_name, c.function_version, c.memory_mib, 0 < c.remaining_ms() <= 60000]\n`;
    assert.deepEqual((await run({ 'a.py': source }, { env: CONTEXT })).result, ['ex_1', 'add', 3, 256, true]);
    const bare = 'def handler(event, c):\n    return [c.execution_id, c.memory_mib, c.remaining_ms()]\n';
    assert.deepEqual((await run({ 'a.py': bare })).result, [null, null, null]);
  });

  test('modules beside it, are imported as when it runs by itself', async () => {
    const files = {
      'src/a.py': 'from lib.b import value\ndef main(event, context): return value\n',
      'src/lib/b.py': 'value = 7\n',
    };
    assert.deepEqual((await run(files, { handler: 'main' })).result, 7);
  });

  test('an exception, is printed as Python does and is the result, without the frames of the bootstrap', async () => {
    const source = 'def inner():\n    raise KeyError("no such")\n\ndef handler(event, context):\n    inner()\n';
    const ran = await run({ 'a.py': source });
    assert.equal(ran.code, 1);
    assert.equal(
      ran.stderr,
      'Traceback (most recent call last):\n  File "/a.py", line 5, in handler\n    inner()\n  File "/a.py", line 2, in inner\n    raise KeyError("no such")\nKeyError: \'no such\'\n',
    );
    const { type, message, stack } = errorOf(ran)!;
    assert.deepEqual([type, message], ['KeyError', "'no such'"]);
    assert.match(stack, /line 5, in handler[^]*KeyError: 'no such'/);
  });

  const failures: [string, string, string, RegExp][] = [
    ['a module that does not load', 'import nothing_of_this_name\n', 'ModuleNotFoundError', /nothing_of_this_name/],
    ['a syntax error', 'def handler(event context):\n', 'SyntaxError', /./],
    ['a handler that is missing', 'def other(): pass\n', 'TypeError', /a\.py has no function handler/],
    ['a value that JSON does not have', 'def handler(e, c): return {1, 2}\n', 'TypeError', /is not JSON: .*set/],
    ['a number that JSON does not have', 'def handler(e, c): return float("nan")\n', 'TypeError', /is not JSON/],
    ['half a character', 'def handler(e, c): return "\\ud800"\n', 'TypeError', /is not JSON/],
    [
      'what contains itself',
      'def handler(e, c):\n    a = []\n    a.append(a)\n    return a\n',
      'TypeError',
      /is not JSON/,
    ],
    [
      'an exception of an async handler',
      'async def handler(e, c): raise RuntimeError("late \\ud800")\n',
      'RuntimeError',
      /^late \?$/,
    ],
  ];
  for (const [what, source, type, message] of failures) {
    test(`${what}, fails and says so`, async () => {
      const ran = await run({ 'a.py': source });
      assert.equal(ran.code, 1, ran.stderr);
      assert.equal(errorOf(ran)?.type, type);
      assert.match(errorOf(ran)!.message, message);
      assert.match(ran.stderr, new RegExp(type));
    });
  }

  test('an event that is not JSON, fails and says so', async () => {
    const ran = await run({ 'a.py': 'def handler(e, c): return e\n' }, { event: '{"a":' });
    assert.equal(ran.code, 1);
    assert.match(errorOf(ran)!.message, /the event on standard input is not JSON/);
  });

  test('an exit that the handler asks for, is the process’s', async () => {
    const ran = await run({ 'a.py': 'import sys\ndef handler(e, c): sys.exit(7)\n' });
    assert.deepEqual([ran.code, ran.result], [7, undefined]);
  });
});

describe('Node handlers', () => {
  const shapes: [string, string, string, string][] = [
    ['the default export of a module', 'a.mjs', 'export default async (event, context) => event.a + 1', 'handler'],
    ['a named export of a module', 'a.mjs', 'export const add = (event) => event.a + 1', 'add'],
    ['CommonJS', 'a.cjs', 'module.exports = async (event) => event.a + 1', 'handler'],
    ['a named export of CommonJS', 'a.cjs', 'exports.add = (event) => event.a + 1', 'add'],
    [
      'a name made at run time in CommonJS',
      'a.cjs',
      "module.exports = { ['a' + 'dd']: (event) => event.a + 1 }",
      'add',
    ],
    ['TypeScript', 'a.ts', 'export default async (event: { a: number }): Promise<number> => event.a + 1', 'default'],
    ['JavaScript whose kind is told by its text', 'a.js', 'export default (event) => event.a + 1', 'handler'],
    [
      'the default of what was compiled to CommonJS',
      'a.cjs',
      'exports.__esModule = true; exports.default = (event) => event.a + 1',
      'handler',
    ],
  ];
  for (const [what, name, source, handler] of shapes) {
    test(`${what}, is run`, async () => {
      const ran = await run({ [name]: source }, { event: '{"a":4}', handler });
      assert.deepEqual(ran, { code: 0, stdout: '', stderr: '', result: 5 });
    });
  }

  test('what is printed, stays standard output, and what still waits does not keep the process', async () => {
    const source =
      "setInterval(() => {}, 1000); export default (event) => { console.log('x'.repeat(100_000)); return event; }";
    const ran = await run({ 'a.mjs': source });
    assert.deepEqual([ran.code, ran.stdout.length, ran.result], [0, 100_001, null]);
  });

  test('the context, says which execution of which function it is, and how long it may run', async () => {
    const source = `export default (_, c) =>
      [c.executionId, c.functionName, c.functionVersion, c.memoryMiB, 0 < c.remainingMs() && c.remainingMs() <= 60_000]`;
    assert.deepEqual((await run({ 'a.mjs': source }, { env: CONTEXT })).result, ['ex_1', 'add', 3, 256, true]);
    const bare = 'export default (_, c) => [c.executionId, c.memoryMiB, c.remainingMs()]';
    assert.deepEqual((await run({ 'a.mjs': bare })).result, [null, null, null]);
  });

  test('arguments of the execution, are those of the program', async () => {
    const source = 'export default () => process.argv.slice(2)';
    assert.deepEqual((await run({ 'a.mjs': source }, { args: ['--x', 'y'] })).result, ['--x', 'y']);
  });

  test('modules beside it, are imported', async () => {
    const files = {
      'src/a.ts': "import { value } from './lib/b.ts'; export default () => value;",
      'src/lib/b.ts': 'export const value: number = 7;',
    };
    assert.equal((await run(files)).result, 7);
  });

  const failures: [string, string, string, RegExp][] = [
    [
      'an exception',
      'class Odd extends Error {} export default () => { throw new Odd("no such") }',
      'Odd',
      /^no such$/,
    ],
    ['a rejection', 'export default async () => { throw new RangeError("late") }', 'RangeError', /^late$/],
    ['what is thrown and is no error', 'export default () => { throw "text" }', 'string', /^text$/],
    [
      'an exception outside of the handler’s promise',
      'export default () => { setTimeout(() => { throw new RangeError("timer") }); return new Promise(() => {}) }',
      'RangeError',
      /^timer$/,
    ],
    ['a handler that nothing will wake', 'export default () => new Promise(() => {})', 'Error', /cannot come any more/],
    ['a module that does not load', "import './nothing.mjs'", 'Error', /nothing\.mjs/],
    ['a handler that is missing', 'export const other = 1', 'TypeError', /a\.mjs exports no function handler/],
    [
      'a bigint',
      'export default () => ({ a: 1n })',
      'TypeError',
      /^"a" in what the handler returned is not JSON: a bigint$/,
    ],
    ['a function', 'export default () => () => 1', 'TypeError', /^what the handler returned is not JSON: a function$/],
    ['a number that JSON does not have', 'export default () => [NaN]', 'TypeError', /is not JSON: NaN/],
    ['a map', 'export default () => new Map()', 'TypeError', /is not JSON: a Map/],
    [
      'what contains itself',
      'export default () => { const a = []; a.push(a); return a; }',
      'TypeError',
      /is not JSON: .*circular/,
    ],
    ['half a character', "export default () => '\\ud800'", 'TypeError', /half a character/],
  ];
  for (const [what, source, type, message] of failures) {
    test(`${what}, fails and says so`, async () => {
      const ran = await run({ 'a.mjs': source });
      assert.equal(ran.code, 1, ran.stderr);
      assert.equal(errorOf(ran)?.type, type);
      assert.match(errorOf(ran)!.message, message);
      assert.notEqual(ran.stderr, '');
    });
  }

  test('a stack, names the file of the function', async () => {
    const ran = await run({ 'a.mjs': 'export default () => { throw new Error("here") }' });
    assert.match(errorOf(ran)!.stack, /a\.mjs:1:30/);
    assert.match(ran.stderr, /a\.mjs:1:30/);
  });

  test('an event that is not JSON, fails and says so', async () => {
    const ran = await run({ 'a.mjs': 'export default (event) => event' }, { event: '{"a":' });
    assert.equal(ran.code, 1);
    assert.match(errorOf(ran)!.message, /the event on standard input is not JSON/);
  });

  test('an exit that the handler asks for, is the process’s', async () => {
    const ran = await run({ 'a.mjs': 'export default () => process.exit(7)' });
    assert.deepEqual([ran.code, ran.result], [7, undefined]);
  });
});
