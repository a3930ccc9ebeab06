import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { request } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import {
  ERRORS,
  ExecutionRecord,
  FunctionRecord,
  MAX_BLOB_BYTES,
  MAX_CODE_BYTES,
  MAX_EVENT_BYTES,
  MAX_INLINE_STDIN_BYTES,
  Problem,
  ServerRecord,
  WorkerList,
} from '@cocore/protocol';
import { DEFAULT_LIMITS } from '../src/admission.ts';
import { ScriptedWorker } from './support/scripted-worker.ts';
import { type Body, TestServer } from './support/test-server.ts';
import { until } from './support/until.ts';

const FILE = { name: 'a.sh', contentBase64: Buffer.from('echo hello').toString('base64') };
const FUNCTION = { name: 'fine', runtime: 'bash', file: FILE };
const UNKNOWN_ID = 'ex_01m7zzzzzzzzzzzzzzzzzzzzzz';
const json = (value: unknown): Body => ({ json: value });
const raw = (text: string | Uint8Array, type = 'application/json'): Body => ({ raw: text, type });

interface BadCase {
  readonly what: string;
  readonly call: readonly [method: string, path: string, body?: Body];
  readonly code: keyof typeof ERRORS;
  readonly detail?: RegExp;
}

const deploy = (change: object): BadCase['call'] => [
  'POST',
  '/v1/functions',
  json({ ...FUNCTION, name: 'bad', ...change }),
];
const run = (body: unknown): BadCase['call'] => ['POST', '/v1/functions/fine/executions', json(body)];

const BAD: BadCase[] = [
  { what: 'broken JSON', call: ['POST', '/v1/functions', raw('{"name":')], code: 'invalid_json' },
  {
    what: 'bytes that are not UTF-8',
    call: ['POST', '/v1/functions/fine/executions', raw(Buffer.from([0x7b, 0xff, 0x7d]))],
    code: 'invalid_text',
  },
  {
    what: 'a body of another type',
    call: ['POST', '/v1/functions', raw('x', 'text/plain')],
    code: 'unsupported_media_type',
  },
  {
    what: 'bytes instead of JSON',
    call: ['POST', '/v1/functions', raw('x', 'application/octet-stream')],
    code: 'unsupported_media_type',
  },
  { what: 'JSON instead of bytes', call: ['POST', '/v1/blobs', raw('{}')], code: 'unsupported_media_type' },
  { what: 'a body that is no object', call: ['POST', '/v1/functions', json([1])], code: 'invalid_request' },
  { what: 'an unknown field', call: deploy({ colour: 'red' }), code: 'invalid_request', detail: /colour/ },
  {
    what: 'a field of the wrong type',
    call: deploy({ memoryMiB: '256' }),
    code: 'invalid_request',
    detail: /memoryMiB/,
  },
  {
    what: 'a field named __proto__',
    call: ['POST', '/v1/functions/fine/executions', raw('{"env":{"__proto__":"x"}}')],
    code: 'invalid_request',
  },
  {
    what: 'a field named __proto__, in disguise',
    call: ['POST', '/v1/functions/fine/executions', raw('{"env":{"__\\u0070roto__":"x"}}')],
    code: 'invalid_request',
  },
  {
    what: 'a missing field',
    call: ['POST', '/v1/functions', json({ name: 'bad' })],
    code: 'invalid_request',
    detail: /runtime/,
  },
  { what: 'a name that looks like an id', call: deploy({ name: 'Fn_1' }), code: 'invalid_request' },
  { what: 'a file name with a path', call: deploy({ file: { ...FILE, name: '../x' } }), code: 'invalid_request' },
  { what: 'an empty file', call: deploy({ file: { ...FILE, contentBase64: '' } }), code: 'code_invalid' },
  {
    what: 'code over its limit',
    call: deploy({ file: { ...FILE, contentBase64: Buffer.alloc(MAX_CODE_BYTES + 1).toString('base64') } }),
    code: 'input_too_large',
  },
  { what: 'a shape between two', call: deploy({ memoryMiB: 300 }), code: 'shape_not_offered', detail: /next is 512/ },
  { what: 'a shape over the largest', call: deploy({ cpus: 64 }), code: 'shape_not_offered', detail: /largest is 8/ },
  {
    what: 'an isolation class that is none',
    call: deploy({ isolation: 'firecracker' }),
    code: 'invalid_request',
    detail: /isolation: .*microvm.*gvisor.*emulated.*container/,
  },
  { what: 'a timeout over the limit', call: deploy({ timeoutMs: 1e12 }), code: 'invalid_request' },
  {
    what: 'a body that is too large',
    call: ['POST', '/v1/keys', json({ project: 'x'.repeat(100_000) })],
    code: 'payload_too_large',
  },
  { what: 'an argument with NUL', call: run({ args: ['a\0b'] }), code: 'invalid_text' },
  {
    what: 'an argument with a lone surrogate',
    call: ['POST', '/v1/functions/fine/executions', raw('{"args":["\\ud800"]}')],
    code: 'invalid_text',
  },
  { what: 'a variable with NUL', call: run({ env: { A: '\0' } }), code: 'invalid_text' },
  {
    what: 'a variable that is too long with its name',
    call: run({ env: { ['A'.repeat(100)]: 'x'.repeat(128 * 1024 - 101) } }),
    code: 'input_too_large',
  },
  {
    what: 'too many variables',
    call: run({ env: Object.fromEntries(Array.from({ length: 513 }, (_, at) => [`A${at}`, ''])) }),
    code: 'invalid_request',
    detail: /env: must have at most 512 names/,
  },
  {
    what: 'half a million variables, none with a name',
    call: run({ env: Object.fromEntries(Array.from({ length: 500_000 }, (_, at) => [`${at}-`, 1])) }),
    code: 'invalid_request',
    detail: /^.{0,1000}$/,
  },
  {
    what: 'ten thousand unknown fields',
    call: run(Object.fromEntries(Array.from({ length: 10_000 }, (_, at) => [`field${at}`, 1]))),
    code: 'invalid_request',
    detail: /^.{0,1000}$/,
  },
  { what: 'an argument that is too long', call: run({ args: ['x'.repeat(128 * 1024)] }), code: 'input_too_large' },
  {
    what: 'arguments that are too long together',
    call: run({ args: Array.from({ length: 9 }, () => 'x'.repeat(127 * 1024)) }),
    code: 'input_too_large',
  },
  { what: 'too many arguments', call: run({ args: Array.from({ length: 4097 }, () => '') }), code: 'invalid_request' },
  {
    what: 'standard input over its limit',
    call: run({ stdin: { base64: Buffer.alloc(MAX_INLINE_STDIN_BYTES + 1).toString('base64') } }),
    code: 'input_too_large',
  },
  {
    what: 'an event together with standard input',
    call: run({ event: 1, stdin: { base64: '' } }),
    code: 'invalid_request',
    detail: /must not be given together with stdin/,
  },
  {
    what: 'two files of one name',
    call: run({ files: ['', ''].map((base64) => ({ name: 'a', base64 })) }),
    code: 'invalid_request',
    detail: /files: must have different names/,
  },
  { what: 'a file of a path', call: run({ files: [{ name: '../a', base64: '' }] }), code: 'invalid_request' },
  {
    what: 'more files than are taken',
    call: run({ files: Array.from({ length: 17 }, (_, at) => ({ name: `f${at}`, base64: '' })) }),
    code: 'invalid_request',
  },
  {
    what: 'a file of a blob that is not there',
    call: run({ files: [{ name: 'a', blob: `sha256:${'0'.repeat(64)}` }] }),
    code: 'blob_not_found',
  },
  {
    what: 'files over their limit',
    call: run({ files: ['a', 'b'].map((name) => ({ name, base64: Buffer.alloc(140_000).toString('base64') })) }),
    code: 'input_too_large',
  },
  { what: 'an event over its limit', call: run({ event: 'x'.repeat(MAX_EVENT_BYTES - 1) }), code: 'input_too_large' },
  {
    what: 'an event of a hundred thousand levels',
    call: ['POST', '/v1/functions/fine/executions', raw(`{"event":${'['.repeat(1e5)}${']'.repeat(1e5)}}`)],
    code: 'invalid_request',
    detail: /must have at most 256 levels/,
  },
  { what: 'standard input that is not base64', call: run({ stdin: { base64: '***' } }), code: 'invalid_request' },
  {
    what: 'a blob that is not there',
    call: run({ stdin: { blob: `sha256:${'0'.repeat(64)}` } }),
    code: 'blob_not_found',
  },
  { what: 'a variable whose name is none', call: run({ env: { 'A B': 'x' } }), code: 'invalid_request' },
  {
    what: 'a wait that is none',
    call: ['POST', '/v1/functions/fine/executions?wait=soon', json({})],
    code: 'invalid_request',
  },
  {
    what: 'a wait over the limit',
    call: ['POST', '/v1/functions/fine/executions?wait=61s', json({})],
    code: 'invalid_request',
  },
  {
    what: 'an unknown query field',
    call: ['POST', '/v1/functions/fine/executions?quick=1', json({})],
    code: 'invalid_request',
  },
  { what: 'an unknown query field where none is taken', call: ['GET', '/v1/functions?x=1'], code: 'invalid_request' },
  { what: 'a key in the query', call: ['GET', '/v1/functions?api_key=1'], code: 'unauthenticated' },
  { what: 'a function that is not there', call: ['GET', '/v1/functions/nothing'], code: 'function_not_found' },
  {
    what: 'running a function that is not there',
    call: ['POST', '/v1/functions/nothing/executions', json({})],
    code: 'function_not_found',
  },
  {
    what: 'an execution that is not there',
    call: ['GET', `/v1/executions/${UNKNOWN_ID}`],
    code: 'execution_not_found',
  },
  { what: 'an id that is none', call: ['GET', '/v1/executions/x'], code: 'execution_not_found' },
  {
    what: 'cancelling what is not there',
    call: ['POST', `/v1/executions/${UNKNOWN_ID}/cancel`],
    code: 'execution_not_found',
  },
  {
    what: 'output of what is not there',
    call: ['GET', `/v1/executions/${UNKNOWN_ID}/output/stdout`],
    code: 'execution_not_found',
  },
  {
    what: 'following what is not there',
    call: ['GET', `/v1/executions/${UNKNOWN_ID}/events`],
    code: 'execution_not_found',
  },
  {
    what: 'a stream that is not there',
    call: ['GET', `/v1/executions/${UNKNOWN_ID}/output/stdlog`],
    code: 'route_not_found',
  },
  { what: 'a list by an unknown state', call: ['GET', '/v1/executions?state=sleeping'], code: 'invalid_request' },
  {
    what: 'a list by a function that is not there',
    call: ['GET', '/v1/executions?function=nothing'],
    code: 'function_not_found',
  },
  { what: 'a list that is too long', call: ['GET', '/v1/executions?limit=201'], code: 'invalid_request' },
  { what: 'a length that is not in digits', call: ['GET', '/v1/executions?limit=0x10'], code: 'invalid_request' },
  {
    what: 'an empty offset',
    call: ['GET', `/v1/executions/${UNKNOWN_ID}/output/stdout?offset=`],
    code: 'invalid_request',
  },
  { what: 'a cursor that is none', call: ['GET', '/v1/executions?cursor=x'], code: 'invalid_request' },
  {
    what: 'a join token for too long',
    call: ['POST', '/v1/join-tokens', json({ ttlMs: 1e12 })],
    code: 'invalid_request',
  },
  { what: 'a key of an unknown role', call: ['POST', '/v1/keys', json({ role: 'king' })], code: 'invalid_request' },
  { what: 'deleting a key that is not there', call: ['DELETE', '/v1/keys/ky_x'], code: 'key_not_found' },
  { what: 'a path that is not there', call: ['GET', '/v2/functions'], code: 'route_not_found' },
  { what: 'a path that cannot be decoded', call: ['GET', '/v1/functions/%zz'], code: 'invalid_request' },
  { what: 'a method that is not possible', call: ['PUT', '/v1/functions'], code: 'method_not_allowed' },
  {
    what: 'a worker’s blob without a session',
    call: ['GET', `/v1/worker/blobs/sha256:${'0'.repeat(64)}`],
    code: 'unauthenticated',
  },
];

describe('bad requests', () => {
  let server: TestServer;
  before(async () => {
    server = await TestServer.start();
    await server.deploy('fine');
  });
  after(() => server[Symbol.asyncDispose]());

  for (const { what, call, code, detail } of BAD) {
    test(`${what}, the answer is the problem ${code}`, async () => {
      const [method, path, body] = call;
      const reply = await server.call(method, path, body === undefined ? {} : { body });
      const problem = Problem.parse(reply.body);
      assert.equal(problem.code, code, problem.detail);
      assert.equal(reply.status, ERRORS[code].status);
      assert.match(reply.headers.get('content-type')!, /^application\/problem\+json/);
      assert.equal(problem.remedy, ERRORS[code].remedy);
      assert.ok(!problem.detail.includes('\n'));
      if (detail !== undefined) assert.match(problem.detail, detail);
    });
  }

  test('all of them, nothing was half-made', async () => {
    const functions = (await server.call<{ functions: unknown[] }>('GET', '/v1/functions')).body.functions;
    assert.equal(functions.length, 1);
    const executions = (await server.call<{ executions: unknown[] }>('GET', '/v1/executions')).body.executions;
    assert.deepEqual(executions, []);
  });

  test('a method that is not possible, Allow names those that are', async () => {
    const reply = await server.call('DELETE', '/v1/functions');
    assert.equal(reply.headers.get('allow'), 'POST, GET');
  });

  for (const [what, text] of Object.entries({
    'not HTTP at all': 'hello\r\n\r\n',
    'a Content-Length that is no number': 'POST /v1/keys HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n',
    'two different Content-Lengths':
      'POST /v1/keys HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n',
  })) {
    test(`${what}, the answer is a problem`, async () => {
      const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
      socket.end(text);
      let answer = '';
      for await (const chunk of socket) answer += String(chunk);
      assert.match(answer, /^HTTP\/1\.1 400 /);
      Problem.parse(JSON.parse(answer.slice(answer.indexOf('\r\n\r\n'))));
    });
  }

  test('a Host that is not the server’s, or none, it is refused also for public paths', async () => {
    for (const host of ['evil.example', '127.0.0.1', '127.0.0.1:1', '']) {
      const outgoing = request(`${server.url}/healthz`, { headers: { host }, setHost: false });
      outgoing.end();
      const [response] = (await once(outgoing, 'response')) as [{ statusCode: number; resume(): void }];
      response.resume();
      assert.equal(response.statusCode, 421, host);
    }
    const port = new URL(server.url).port;
    const outgoing = request(`${server.url}/healthz`, { headers: { host: `localhost:${port}` } });
    outgoing.end();
    const [response] = (await once(outgoing, 'response')) as [{ statusCode: number; resume(): void }];
    response.resume();
    assert.equal(response.statusCode, 200);
  });

  test('a blob over the limit, it is refused whether or not it says its length', async () => {
    const size = MAX_BLOB_BYTES + 1;
    for (const headers of [{ 'content-length': size }, { 'transfer-encoding': 'chunked' }]) {
      const outgoing = request(`${server.url}/v1/blobs`, {
        method: 'POST',
        headers: { authorization: `Bearer ${server.key}`, 'content-type': 'application/octet-stream', ...headers },
      });
      outgoing.on('error', () => undefined);
      const answered = once(outgoing, 'response') as Promise<[{ statusCode: number; resume(): void }]>;
      const piece = Buffer.alloc(1024 * 1024);
      const pump = (left: number): void => {
        if (left <= 0 || outgoing.destroyed) outgoing.end();
        else outgoing.write(piece.subarray(0, left), () => pump(left - piece.length));
      };
      pump(size);
      const [response] = await answered;
      response.resume();
      assert.equal(response.statusCode, 413);
      outgoing.destroy();
    }
  });
});

describe('keys', () => {
  test('no key, a wrong one, a changed one or a deleted one, the request is refused', async () => {
    await using server = await TestServer.start();
    const made = await server.call<{ id: string; secret: string }>('POST', '/v1/keys', { body: json({}) });
    const key = made.body.secret;
    assert.equal((await server.call('GET', '/v1/functions', { key })).status, 200);
    const changed = key.slice(0, -1) + (key.endsWith('A') ? 'B' : 'A');
    for (const wrong of [null, 'nonsense', changed, `${made.body.id}.`]) {
      const reply = await server.call('GET', '/v1/functions', { key: wrong });
      assert.deepEqual([reply.status, reply.body.code], [401, 'unauthenticated']);
      assert.equal(reply.headers.get('www-authenticate'), 'Bearer');
    }
    assert.equal((await server.call('DELETE', `/v1/keys/${made.body.id}`)).status, 204);
    assert.equal((await server.call('GET', '/v1/functions', { key })).status, 401);
    const { keys } = (await server.call<{ keys: object[] }>('GET', '/v1/keys')).body;
    assert.equal(keys.length, 1);
    assert.ok(!JSON.stringify(keys).includes('secret'));
  });

  test('a developer’s key, what is the operator’s is forbidden', async () => {
    await using server = await TestServer.start();
    const key = (await server.call<{ secret: string }>('POST', '/v1/keys', { body: json({}) })).body.secret;
    for (const [method, path] of [
      ['GET', '/v1/workers'],
      ['POST', '/v1/join-tokens'],
      ['POST', '/v1/keys'],
      ['GET', '/v1/keys'],
      ['DELETE', '/v1/keys/x'],
    ] as const) {
      assert.equal((await server.call(method, path, { key })).body.code, 'forbidden', path);
    }
  });

  test('another project, what it has is as if it were not there', async () => {
    await using server = await TestServer.start();
    const { id: functionId } = await server.deploy('mine');
    const { id } = await server.run('mine');
    const blob = await server.call<{ digest: string }>('POST', '/v1/blobs', {
      body: raw('bytes', 'application/octet-stream'),
    });
    const key = await server.otherProjectKey();
    await server.deploy('theirs', {}, key);
    const same = async (path: string, unknown: string, method = 'GET') => {
      const [real, none] = [await server.call(method, path, { key }), await server.call(method, unknown, { key })];
      assert.deepEqual([real.status, real.body.code], [none.status, none.body.code]);
      assert.equal(real.status, 404);
    };
    await same(`/v1/executions/${id}`, `/v1/executions/${UNKNOWN_ID}`);
    await same(`/v1/executions/${id}/output/stdout`, `/v1/executions/${UNKNOWN_ID}/output/stdout`);
    await same(`/v1/executions/${id}/events`, `/v1/executions/${UNKNOWN_ID}/events`);
    await same(`/v1/executions/${id}/cancel`, `/v1/executions/${UNKNOWN_ID}/cancel`, 'POST');
    await same(`/v1/functions/${functionId}`, '/v1/functions/nothing');
    const stdin = await server.call('POST', '/v1/functions/theirs/executions', {
      key,
      body: json({ stdin: { blob: blob.body.digest } }),
    });
    assert.equal(stdin.body.code, 'blob_not_found');
    const list = await server.call<{ executions: unknown[] }>('GET', '/v1/executions', { key });
    assert.deepEqual(list.body.executions, []);
  });
});

describe('the API', () => {
  test('a function is deployed twice, the second version runs and the code has the same digest', async () => {
    await using server = await TestServer.start();
    const first = await server.deploy('twice');
    const second = await server.deploy('twice', { memoryMiB: 512 });
    assert.deepEqual([second.id, second.version, second.memoryMiB], [first.id, 2, 512]);
    assert.equal(second.codeDigest, first.codeDigest);
    assert.deepEqual((await server.call<{ functions: unknown[] }>('GET', '/v1/functions')).body.functions, [second]);
    const byId = await server.call('GET', `/v1/functions/${first.id}`);
    assert.deepEqual(FunctionRecord.parse(byId.body), second);
    assert.equal((await server.run('twice')).version, 2);
  });

  test('a function deployed without a class, it requires the server’s default; with one, its own', async () => {
    await using server = await TestServer.start({ defaultIsolation: 'emulated' });
    assert.equal((await server.deploy('plain')).isolation, 'emulated');
    assert.equal((await server.run('plain')).isolation, 'emulated');
    assert.equal((await server.deploy('plain', { isolation: 'microvm' })).isolation, 'microvm');
    assert.equal((await server.run('plain')).isolation, 'microvm');
  });

  test('code of 4 MiB and arguments of 1 MiB that grow sixfold in JSON, they are taken', async () => {
    await using server = await TestServer.start();
    const contentBase64 = Buffer.alloc(MAX_CODE_BYTES, '#').toString('base64');
    await server.deploy('large', { file: { name: 'l.sh', contentBase64 } });
    const argument = '\u0001'.repeat(127 * 1024);
    const { args } = await server.run('large', { args: Array.from({ length: 8 }, () => argument) });
    assert.equal(args.length, 8);
    assert.equal(args[7], argument);
  });

  test('an execution waited for, the answer carries its output; one that takes longer, its record so far', async () => {
    await using server = await TestServer.start();
    await server.deploy('echo');
    const waited = await server.call<ExecutionRecord>('POST', '/v1/functions/echo/executions?wait=50ms', {
      body: json({}),
    });
    assert.deepEqual([waited.status, waited.body.state], [202, 'open']);
    await using worker = await ScriptedWorker.connect(server);
    worker.echoAll();
    const answer = await server.run('echo', { args: ['grüße', 'x'] }, '30s');
    assert.equal(answer.state, 'success');
    assert.deepEqual(answer.stdout, { encoding: 'utf8', data: 'grüße x', complete: true });
    assert.equal((await server.execution(waited.body.id, '30s')).state, 'success');
    ExecutionRecord.parse(answer);
  });

  test('the same idempotency key, the same execution; with other input it is refused', async () => {
    await using server = await TestServer.start();
    await server.deploy('once');
    const body = { args: ['a'], idempotencyKey: 'k' };
    const [one, two] = [await server.run('once', body), await server.run('once', body)];
    assert.equal(one.id, two.id);
    const other = await server.call('POST', '/v1/functions/once/executions', { body: json({ ...body, args: ['b'] }) });
    assert.deepEqual([other.status, other.body.code], [409, 'idempotency_conflict']);
  });

  test('more live executions than the limit, it is refused and the limit is named', async () => {
    await using server = await TestServer.start({
      limits: { ...DEFAULT_LIMITS, maxLiveExecutions: 1, maxFunctions: 1, maxBlobBytes: 100_000 },
    });
    await server.deploy('only');
    await server.run('only');
    const refused = await server.call('POST', '/v1/functions/only/executions', { body: json({}) });
    assert.deepEqual([refused.status, refused.body.code, refused.body.details?.['cap']], [429, 'quota_exceeded', 1]);
    const second = await server.call('POST', '/v1/functions', { body: json({ ...FUNCTION, name: 'second' }) });
    assert.equal(second.body.code, 'quota_exceeded');
    const blob = await server.call('POST', '/v1/blobs', {
      body: raw(Buffer.alloc(100_001), 'application/octet-stream'),
    });
    assert.equal(blob.body.code, 'quota_exceeded');
  });

  test('bytes over the project’s quota, uploaded or deployed, none of them stay on the disk', async () => {
    await using server = await TestServer.start({ limits: { ...DEFAULT_LIMITS, maxBlobBytes: 1 } });
    const kept = () =>
      readdirSync(join(server.directory.path, 'data', 'blobs'), { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => entry.name)
        .sort();
    const before = kept();
    const uploaded = await server.call('POST', '/v1/blobs', { body: raw('bytes', 'application/octet-stream') });
    const deployed = await server.call('POST', '/v1/functions', { body: json(FUNCTION) });
    assert.deepEqual([uploaded.body.code, deployed.body.code], ['quota_exceeded', 'quota_exceeded']);
    assert.deepEqual(kept(), before);
  });

  test('an event, whatever its value, it is the standard input; another is another input', async () => {
    await using server = await TestServer.start();
    await server.deploy('event');
    await using worker = await ScriptedWorker.connect(server);
    for (const event of [null, false, 0, '', 'é"', [1, { a: null }], 'x'.repeat(MAX_EVENT_BYTES - 2)]) {
      await server.run('event', { event });
      const { task } = await worker.next('AttemptAssign');
      assert.ok(task.stdin !== null && 'base64' in task.stdin);
      assert.equal(Buffer.from(task.stdin.base64, 'base64').toString(), JSON.stringify(event));
    }
    const first = await server.run('event', { event: 1, idempotencyKey: 'k' });
    assert.equal((await server.run('event', { event: 1, idempotencyKey: 'k' })).id, first.id);
    const other = json({ event: 2, idempotencyKey: 'k' });
    const refused = await server.call('POST', '/v1/functions/event/executions', { body: other });
    assert.equal(refused.body.code, 'idempotency_conflict');
  });

  test('input files, the worker is told them and may fetch them; other files are another input', async () => {
    await using server = await TestServer.start();
    await server.deploy('files');
    await using worker = await ScriptedWorker.connect(server);
    const blob = (
      await server.call<{ digest: string }>('POST', '/v1/blobs', { body: raw('bytes', 'application/octet-stream') })
    ).body;
    const files = [
      { name: 'b', blob: blob.digest },
      { name: 'a', base64: 'YQ==' },
    ];
    const body = { files, idempotencyKey: 'k' };
    const { id } = await server.run('files', body);
    const { task } = await worker.next('AttemptAssign');
    assert.deepEqual(task.files, [{ name: 'b', digest: blob.digest, bytes: 5 }, files[1]]);
    assert.equal((await server.run('files', { ...body, files: files.toReversed() })).id, id);
    const other = json({ ...body, files: files.slice(1) });
    const refused = await server.call('POST', '/v1/functions/files/executions', { body: other });
    assert.equal(refused.body.code, 'idempotency_conflict');
  });

  test('artifacts, they are an archive with its digest that no browser renders; without any, that is said', async () => {
    await using server = await TestServer.start();
    await server.deploy('made');
    await using worker = await ScriptedWorker.connect(server);
    const { id } = await server.run('made');
    const path = `/v1/executions/${id}/artifacts`;
    assert.deepEqual((await server.call('GET', path)).body.code, 'artifacts_not_found');
    const assign = await worker.startNext();
    const archive = Buffer.alloc(100_000, 'archive');
    worker.output(assign.channel, 'artifacts', 0, archive.subarray(0, 60_000));
    worker.output(assign.channel, 'artifacts', 60_000, archive.subarray(60_000));
    worker.end(assign, { kind: 'exited', code: 0 }, { artifacts: archive });
    const record = await server.execution(id, '30s');
    const sha256 = createHash('sha256').update(archive);
    assert.deepEqual(record.artifacts, { bytes: 100_000, sha256: `sha256:${sha256.copy().digest('hex')}`, files: 1 });
    const answer = await fetch(`${server.url}${path}`, { headers: { authorization: `Bearer ${server.key}` } });
    assert.ok(Buffer.from(await answer.arrayBuffer()).equals(archive));
    const headers = Object.fromEntries(answer.headers);
    assert.equal(headers['content-type'], 'application/x-tar');
    assert.equal(headers['content-disposition'], `attachment; filename="${id}.tar"`);
    assert.equal(headers['repr-digest'], `sha-256=:${sha256.digest('base64')}:`);
    assert.match(headers['content-security-policy'] ?? '', /sandbox/);
  });

  test('output, it is an attachment that no browser renders, from any offset', async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('bytes');
    const { id } = await server.run('bytes');
    const assign = await worker.startNext();
    const all = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
    worker.output(assign.channel, 'stdout', 0, all);
    worker.end(assign, { kind: 'exited', code: 0 }, { stdout: all });
    await server.execution(id, '10s');
    const get = (query: string) =>
      fetch(`${server.url}/v1/executions/${id}/output/stdout${query}`, {
        headers: { authorization: `Bearer ${server.key}` },
      });
    const response = await get('');
    assert.deepEqual(Buffer.from(await response.arrayBuffer()), all);
    assert.equal(response.headers.get('content-type'), 'application/octet-stream');
    assert.match(response.headers.get('content-disposition')!, /^attachment/);
    assert.equal(response.headers.get('x-content-type-options'), 'nosniff');
    assert.match(response.headers.get('content-security-policy')!, /sandbox/);
    assert.equal(response.headers.get('content-length'), '256');
    assert.equal(response.headers.get('access-control-allow-origin'), null);
    assert.deepEqual(Buffer.from(await (await get('?offset=250')).arrayBuffer()), all.subarray(250));
    assert.equal((await (await get('?offset=256')).arrayBuffer()).byteLength, 0);
    assert.equal((await get('?offset=257')).status, 400);
    const answer = await server.execution(id, '0s');
    assert.equal(answer.stdout?.encoding, 'base64');
  });

  test('a blob as standard input, the worker is told its digest and may fetch it', async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('stdin');
    const bytes = Buffer.alloc(1_000_000, 'x');
    const { digest } = (
      await server.call<{ digest: string }>('POST', '/v1/blobs', { body: raw(bytes, 'application/octet-stream') })
    ).body;
    await server.run('stdin', { stdin: { blob: digest } });
    const assign = await worker.next('AttemptAssign');
    assert.deepEqual(assign.task.stdin, { digest, bytes: bytes.length });
    const fetched = await fetch(`${server.url}/v1/worker/blobs/${digest}`, {
      headers: { authorization: `Bearer ${worker.welcome.blobToken}` },
    });
    assert.deepEqual(Buffer.from(await fetched.arrayBuffer()), bytes);
  });

  test('cancelling, an open one ends at once, a running one’s worker is told, a second time says so', async () => {
    await using server = await TestServer.start();
    await server.deploy('stop');
    const cancel = async (id: string) =>
      (await server.call<{ result: string; execution: ExecutionRecord }>('POST', `/v1/executions/${id}/cancel`)).body;
    const open = await server.run('stop');
    assert.equal((await cancel(open.id)).execution.state, 'cancelled');
    assert.equal((await cancel(open.id)).result, 'already_ended');
    await using worker = await ScriptedWorker.connect(server);
    const { id } = await server.run('stop');
    const assign = await worker.startNext();
    await until('it executes', async () => (await server.execution(id)).phase === 'executing');
    assert.equal((await cancel(id)).result, 'requested');
    const again = await cancel(id);
    assert.deepEqual([again.result, again.execution.phase], ['already_requested', 'stopping']);
    await worker.next('AttemptCancel', (message) => message.attemptId === assign.attemptId);
    worker.end(assign, { kind: 'cancelled' });
    assert.equal((await server.execution(id, '10s')).state, 'cancelled');
  });

  test('who answers and who works, the records are those of the schemas', async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    const { body } = await server.call('GET', '/v1/server');
    assert.deepEqual([ServerRecord.parse(body).role, ServerRecord.parse(body).workersOnline], ['operator', 1]);
    const { workers } = WorkerList.parse((await server.call('GET', '/v1/workers')).body);
    assert.equal(workers[0]?.id, worker.welcome.workerId);
    const metrics = await server.call<string>('GET', '/metrics', { key: null });
    assert.match(metrics.body, /^cocore_workers_online 1$/m);
    assert.deepEqual((await server.call<object>('GET', '/healthz', { key: null })).body, { status: 'ok' });
  });
});

test('the OpenAPI document, it describes every route with parameters that resolve', async () => {
  await using server = await TestServer.start();
  interface Operation {
    operationId: string;
    parameters: { name: string; in: string }[];
    responses: Record<string, unknown>;
    security: Record<string, unknown>[];
  }
  interface Document {
    openapi: string;
    paths: Record<string, Record<string, Operation>>;
    components: { schemas: Record<string, unknown>; securitySchemes: Record<string, unknown> };
  }
  const { body } = await server.call<Document>('GET', '/openapi.json', { key: null });
  assert.match(body.openapi, /^3\.1\./);
  const operations = Object.entries(body.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  );
  assert.equal(new Set(operations.map(({ operation }) => operation.operationId)).size, operations.length);
  for (const { path, method, operation } of operations) {
    const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
    assert.deepEqual(
      operation.parameters.filter((one) => one.in === 'path').map(({ name }) => name),
      inPath,
    );
    for (const one of operation.security) {
      for (const scheme of Object.keys(one)) assert.ok(scheme in body.components.securitySchemes);
    }
    // The route is there: whatever it answers, it is not that the path or method is unknown.
    const reply = await server.call(method.toUpperCase(), path.replaceAll(/\{\w+\}/g, 'x'), { key: null });
    assert.ok(!['route_not_found', 'method_not_allowed'].includes(reply.body.code), `${method} ${path}`);
  }
  const expected = [
    '/v1/functions',
    '/v1/functions/{function}',
    '/v1/functions/{function}/executions',
    '/v1/executions',
    '/v1/executions/cancel',
    '/v1/executions/{execution}',
    '/v1/executions/{execution}/artifacts',
    '/v1/executions/{execution}/cancel',
    '/v1/executions/{execution}/events',
    '/v1/executions/{execution}/output/{stream}',
    '/v1/batches',
    '/v1/batches/{batch}',
    '/v1/blobs',
    '/v1/workers',
    '/v1/workers/{worker}/drain',
    '/v1/workers/{worker}/undrain',
    '/v1/join-tokens',
    '/v1/keys',
    '/v1/keys/{key}',
    '/v1/runtimes',
    '/v1/server',
    '/v1/worker/blobs/{digest}',
    '/openapi.json',
    '/healthz',
    '/metrics',
  ];
  assert.deepEqual(Object.keys(body.paths).sort(), expected.sort());
  for (const [, reference] of JSON.stringify(body).matchAll(/"\$ref":"([^"]+)"/g)) {
    const [, section, kind, name] = reference!.split('/');
    if (section === 'components') assert.ok(name! in body.components[kind as 'schemas'], reference);
  }
});
