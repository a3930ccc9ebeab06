import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { isErrorCode, makeId, Problem } from '@cocore/protocol';
import { cocore } from '../support/command.ts';
import { freePort } from '../support/relay.ts';
import { Stack } from '../support/stack.ts';

const b64 = (text: string) => Buffer.from(text).toString('base64');
const unknownId = (kind: 'execution' | 'function') => makeId(kind, 1, new Uint8Array(10));

describe('bad input', () => {
  let stack: Stack;
  let otherKey: string;
  before(async () => {
    stack = await Stack.dev('--isolation', 'fake');
    await stack.deploy('fine', 'bash', 'exit 0');
    otherKey = (await stack.client.keys.create({ project: 'other' })).secret;
  });
  after(async () => stack[Symbol.asyncDispose]());

  const send = async (
    method: string,
    path: string,
    body?: string | Uint8Array<ArrayBuffer>,
    headers: Record<string, string> = {},
  ) =>
    fetch(`${stack.url}${path}`, {
      method,
      ...(body === undefined ? {} : { body }),
      headers: {
        authorization: `Bearer ${stack.apiKey}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
    });

  /** The one problem document that an answer must be, with a code of the table and a line that says what to do. */
  const problemOf = async (response: Response) => {
    assert.match(response.headers.get('content-type') ?? '', /^application\/problem\+json/);
    const problem = Problem.parse(await response.json());
    assert.ok(isErrorCode(problem.code), problem.code);
    assert.equal(problem.status, response.status);
    assert.match(problem.remedy, /^\S.*\.$/);
    return problem;
  };

  const file = { name: 'a.sh', contentBase64: b64('echo hi') };
  const deploy = (fields: object) => JSON.stringify({ name: 'made', runtime: 'bash', file, ...fields });
  const executions = '/v1/functions/fine/executions';
  const notUtf8 = Uint8Array.from([...Buffer.from('{"args":["'), 0xff, ...Buffer.from('"]}')]);

  const cases: [string, string, string, string | Uint8Array<ArrayBuffer> | undefined, number, string][] = [
    ['broken JSON', 'POST', '/v1/functions', '{"name":', 400, 'invalid_json'],
    ['no body', 'POST', '/v1/functions', '', 400, 'invalid_request'],
    ['an unknown field', 'POST', '/v1/functions', deploy({ colour: 'red' }), 400, 'invalid_request'],
    ['a wrong type', 'POST', '/v1/functions', deploy({ memoryMiB: '256' }), 400, 'invalid_request'],
    ['a name like an id', 'POST', '/v1/functions', deploy({ name: unknownId('function') }), 400, 'invalid_request'],
    ['an unknown runtime', 'POST', '/v1/functions', deploy({ runtime: 'cobol' }), 400, 'runtime_unknown'],
    ['a shape between two', 'POST', '/v1/functions', deploy({ memoryMiB: 300 }), 400, 'shape_not_offered'],
    ['a shape above all', 'POST', '/v1/functions', deploy({ cpus: 64 }), 400, 'shape_not_offered'],
    [
      'a path as file name',
      'POST',
      '/v1/functions',
      deploy({ file: { ...file, name: '../a' } }),
      400,
      'invalid_request',
    ],
    ['an unknown function', 'POST', '/v1/functions/none/executions', '{}', 404, 'function_not_found'],
    ['an unknown function id', 'GET', `/v1/functions/${unknownId('function')}`, undefined, 404, 'function_not_found'],
    ['NUL in an argument', 'POST', executions, JSON.stringify({ args: ['a\0b'] }), 400, 'invalid_text'],
    ['half a surrogate pair', 'POST', executions, '{"args":["\\ud800"]}', 400, 'invalid_text'],
    ['bytes that are not UTF-8', 'POST', executions, notUtf8, 400, 'invalid_text'],
    [
      'an argument too long',
      'POST',
      executions,
      JSON.stringify({ args: ['x'.repeat(131_072)] }),
      413,
      'input_too_large',
    ],
    [
      'arguments too long together',
      'POST',
      executions,
      JSON.stringify({ args: Array.from({ length: 9 }, () => 'x'.repeat(131_000)) }),
      413,
      'input_too_large',
    ],
    ['a body too large', 'POST', executions, `{"args":["${'x'.repeat(20 << 20)}"]}`, 413, 'payload_too_large'],
    ['an args that is no list', 'POST', executions, '{"args":"x"}', 400, 'invalid_request'],
    ['a timeout over the limit', 'POST', executions, '{"timeoutMs":86400001}', 400, 'invalid_request'],
    [
      'input that was not uploaded',
      'POST',
      executions,
      JSON.stringify({ stdin: { blob: `sha256:${'0'.repeat(64)}` } }),
      404,
      'blob_not_found',
    ],
    ['a wait that is no duration', 'POST', `${executions}?wait=soon`, '{}', 400, 'invalid_request'],
    ['an unknown query', 'GET', '/v1/executions?colour=red', undefined, 400, 'invalid_request'],
    ['an unknown execution', 'GET', `/v1/executions/${unknownId('execution')}`, undefined, 404, 'execution_not_found'],
    ['an id that is none', 'GET', '/v1/executions/7', undefined, 404, 'execution_not_found'],
    [
      'a cancel of nothing',
      'POST',
      `/v1/executions/${unknownId('execution')}/cancel`,
      undefined,
      404,
      'execution_not_found',
    ],
    ['an unknown path', 'GET', '/v1/nothing', undefined, 404, 'route_not_found'],
    ['a wrong method', 'DELETE', '/v1/functions', undefined, 405, 'method_not_allowed'],
  ];
  for (const [what, method, path, body, status, code] of cases) {
    test(`${what}, is ${status} ${code}`, async () => {
      const problem = await problemOf(await send(method, path, body));
      assert.deepEqual([problem.status, problem.code], [status, code], problem.detail);
    });
  }

  test('what is promised, is taken to the last byte and not beyond', async () => {
    const runs = async (fields: object) => {
      const response = await send('POST', executions, JSON.stringify(fields));
      await response.body?.cancel();
      return response.status;
    };
    const stdin = (bytes: number) => ({ stdin: { base64: Buffer.alloc(bytes).toString('base64') } });
    const together = (bytes: number) =>
      Array.from({ length: 9 }, (_, at) => 'x'.repeat(at < 8 ? 131_000 : bytes - 8 * 131_000));
    const answers = [
      await runs({ args: ['x'.repeat(131_071)] }),
      await runs({ args: ['x'.repeat(131_072)] }),
      await runs({ args: together(1_048_576) }),
      await runs({ args: together(1_048_577) }),
      await runs(stdin(262_144)),
      await runs(stdin(262_145)),
      await runs({ outputLimitBytes: 1_073_741_824 }),
      await runs({ outputLimitBytes: 1_073_741_825 }),
    ];
    assert.deepEqual(answers, [202, 413, 202, 413, 202, 413, 202, 400]);
  });

  test('shapes and defaults, are those of the list', async () => {
    const shapes = [128, 256, 512, 1024, 2048, 4096, 8192, 16_384];
    for (const memoryMiB of shapes) {
      const body = deploy({ name: `shape-${memoryMiB}`, memoryMiB });
      assert.equal((await send('POST', '/v1/functions', body)).status, 201, String(memoryMiB));
    }
    const next = (shape: number) => shapes.find((one) => one > shape);
    for (const shape of [1, ...shapes]) {
      const problem = await problemOf(await send('POST', '/v1/functions', deploy({ memoryMiB: shape + 1 })));
      assert.equal(problem.code, 'shape_not_offered');
      assert.match(problem.detail, new RegExp(String(next(shape) ?? 'largest')));
    }
    const fine = (await stack.client.functions.list()).find(({ name }) => name === 'fine')!;
    assert.deepEqual([fine.memoryMiB, fine.cpus, fine.timeoutMs], [256, 1, 60_000]);
    assert.equal(fine.outputLimitBytes, 10_485_760);
  });

  test('a shape that is not offered, the answer names the next', async () => {
    const problem = await problemOf(await send('POST', '/v1/functions', deploy({ memoryMiB: 300 })));
    assert.match(problem.detail, /512/);
  });

  test('no key, another scheme, a wrong key, or a key in the address, is 401', async () => {
    for (const authorization of ['', 'Basic eDp5', 'Bearer nothing', `Bearer ${stack.apiKey.slice(0, -8)}notright`]) {
      assert.equal(
        (await problemOf(await send('GET', '/v1/functions', undefined, { authorization }))).code,
        'unauthenticated',
      );
    }
    const inAddress = await send('GET', `/v1/functions?key=${stack.apiKey}`, undefined, { authorization: '' });
    assert.equal(inAddress.status, 401);
  });

  test('another project, its key finds nothing of this one', async () => {
    const mine = await stack.client.executions.create('fine', {}, { waitMs: 30_000 });
    const authorization = `Bearer ${otherKey}`;
    for (const path of [
      `/v1/executions/${mine.id}`,
      `/v1/executions/${mine.id}/output/stdout`,
      `/v1/executions/${mine.id}/events`,
    ]) {
      assert.equal(
        (await problemOf(await send('GET', path, undefined, { authorization }))).code,
        'execution_not_found',
        path,
      );
    }
    const cancel = await send('POST', `/v1/executions/${mine.id}/cancel`, undefined, { authorization });
    assert.equal((await problemOf(cancel)).code, 'execution_not_found');
    const run = await send('POST', executions, '{}', { authorization });
    assert.equal((await problemOf(run)).code, 'function_not_found');
    const minted = await send('POST', '/v1/join-tokens', '{}', { authorization });
    assert.equal((await problemOf(minted)).code, 'forbidden');
  });

  test('bad requests, leave nothing behind', async () => {
    const names = async () => (await stack.client.functions.list()).map(({ name }) => name);
    const functions = await names();
    const before = await stack.client.executions.list({});
    for (const [, method, path, body] of cases) await send(method, path, body).then((response) => response.text());
    assert.deepEqual(await names(), functions);
    assert.equal((await stack.client.executions.list({})).executions.length, before.executions.length);
  });

  test('the same idempotency key, gives the same execution; with other input it is refused', async () => {
    const [one, two] = await Promise.all(
      [1, 2].map(() => stack.client.executions.create('fine', { args: ['a'], idempotencyKey: 'k1' })),
    );
    assert.equal(one!.id, two!.id);
    const other = await send('POST', executions, JSON.stringify({ args: ['b'], idempotencyKey: 'k1' }));
    assert.equal((await problemOf(other)).code, 'idempotency_conflict');
  });

  const commands: [string, string[], RegExp][] = [
    ['an unknown command', ['frobnicate'], /^error usage: /],
    ['no arguments', ['deploy'], /^error usage: /],
    ['a file that is not there', ['deploy', 'nothing.py', '--name', 'x'], /^error file_unreadable: /],
    ['a runtime that cannot be guessed', ['deploy', 'package.json', '--name', 'x'], /^error runtime_unknown: /],
    [
      'a shape that is not offered',
      ['deploy', 'examples/add.py', '--name', 'x', '--memory', '300'],
      /^error shape_not_offered: .*512/,
    ],
    ['a function that is not there', ['run', 'nothing'], /^error function_not_found: /],
    ['an id that is none', ['get', 'nothing'], /^error execution_not_found: /],
    ['logs of nothing', ['logs', unknownId('execution')], /^error execution_not_found: /],
    ['a bad duration', ['deploy', 'examples/add.py', '--name', 'x', '--timeout', 'soon'], /^error usage: /],
  ];
  for (const [what, args, line] of commands) {
    test(`${what}, the command says what to do and exits 2`, async () => {
      const result = await stack.cocore(args);
      assert.equal(result.code, 2, result.stderr);
      assert.match(result.stderr, line);
      assert.ok(result.stderr.trim().split('\n').length >= 2, 'a line says what to do');
      assert.equal(result.stdout.length, 0);
    });
  }

  test('a server that is not there, is said so', async () => {
    const url = `http://127.0.0.1:${await freePort()}`;
    const result = await cocore(['ps'], { ...stack.home.env, COCORE_URL: url, COCORE_API_KEY: 'x' });
    assert.equal(result.code, 2);
    assert.match(result.stderr, /^error server_unreachable: /);
  });
});
