import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { ERRORS, EVENT_FRAMES_TYPE, isErrorCode, Problem } from '@cocore/protocol';
import { ScriptedWorker } from '../../packages/control/test/support/scripted-worker.ts';
import { TestServer } from '../../packages/control/test/support/test-server.ts';
import type { Random } from '../faults/random.ts';
import { ARCHIVES } from './archives.ts';
import { bytesOf, jsonBytes, mutateBytes, mutateText, spell } from './mutate.ts';
import { ErrorLog } from './error-log.ts';
import type { LiveTarget } from './target.ts';

const FILE = { name: 'a.sh', contentBase64: 'ZWNobw==' };
const TEXT = 'well';

/** What a path, a query or a body may name; a test's server says what each stands for. */
type Names = Record<'function' | 'execution' | 'batch' | 'key' | 'worker' | 'digest' | 'blob', string>;

/** Of each route with a body; a route that is not here gets bodies all the same. */
const BODIES: Readonly<Record<string, readonly unknown[]>> = {
  '/v1/functions': [
    {
      name: 'made',
      runtime: 'bash',
      file: FILE,
      env: { A: 'b' },
      retries: { max: 1, on: ['exit_code'], backoffMs: 1 },
    },
    { name: 'unpacked', runtime: 'bash', archive: { blob: '{blob}', entry: 'd/a.sh' }, memoryMiB: 256, cpus: 1 },
    { name: 'both', runtime: 'python', handler: 'handle', file: { ...FILE, name: 'a.py' }, isolation: 'container' },
  ],
  '/v1/functions/{function}/executions': [
    { args: ['a'], env: { A: 'b' }, stdin: { base64: 'aGk=' }, timeoutMs: 1000, idempotencyKey: 'k' },
    {
      event: { deep: [[{}]] },
      files: [
        { name: 'a.txt', base64: 'aGk=' },
        { name: 'b.txt', blob: '{blob}' },
      ],
    },
    { stdin: { blob: '{blob}' }, outputLimitBytes: 10, retries: null },
  ],
  '/v1/batches': [{ executions: [{ function: '{function}', args: ['a'] }, { function: 'well' }], idempotencyKey: 'k' }],
  '/v1/executions/cancel': [
    { function: '{function}', batch: '{batch}', state: 'open', createdBefore: '2026-01-01T00:00:00Z', dryRun: true },
    { all: true },
  ],
  '/v1/keys': [{ project: 'other', role: 'developer' }],
  '/v1/join-tokens': [{ ttlMs: 1000 }],
};
const QUERIES: Readonly<Record<string, readonly string[]>> = {
  '/v1/functions/{function}/executions': ['wait=1ms', 'wait=0s'],
  '/v1/executions/{execution}': ['wait=1ms'],
  '/v1/batches/{batch}': ['wait=1ms'],
  '/v1/executions': ['state=open&limit=5&cursor={execution}', 'function=well', 'batch={batch}', 'limit=1'],
  '/v1/executions/{execution}/output/{stream}': ['offset=1', 'offset=999999999999999'],
};
/** That an answer may be without being the server's fault: what was asked for is not there, or not now. */
const ACCEPTED_FAILURES = ['importer_unavailable', 'not_ready'];
const ANSWER_MS = 2000;

interface Request {
  readonly method: string;
  readonly path: string;
  readonly query: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly type: string | null;
  readonly body: Uint8Array | null;
}

interface Operation {
  readonly method: string;
  readonly path: string;
}

/** Requests of the routes that the server says it has, to a server at work. */
export async function httpTarget(): Promise<LiveTarget<Request>> {
  await using scope = new AsyncDisposableStack();
  const log = new ErrorLog();
  const server = scope.use(await TestServer.start({ log: log.logger }));
  const worker = scope.use(await ScriptedWorker.connect(server));
  worker.echoAll();
  const beats = setInterval(() => worker.beat(1), 5000);
  scope.defer(() => clearInterval(beats));
  const names = await makeNames(server);
  const operations = await operationsOf(server);
  const held = scope.move();
  return {
    name: 'http',
    corpus: [],
    make: (random) => makeRequest(random, random.pick(operations)),
    check: async (request) => {
      await answered(server, names, request);
      // Whether it may be taken again what others ask for.
      if (request.path.endsWith('/drain'))
        await server.call('POST', `/v1/workers/${names.worker}/undrain`, { body: { json: {} } });
      log.check();
    },
    finish: async () => {
      const { state, output } = await server.run('well', { args: [TEXT] }, '10s');
      assert.deepEqual([state, output.stdout.bytes], ['success', TEXT.length]);
    },
    [Symbol.asyncDispose]: () => held.disposeAsync(),
  };
}

async function operationsOf(server: TestServer): Promise<Operation[]> {
  const { body } = await server.call<{ paths: Record<string, Record<string, object>> }>('GET', '/openapi.json');
  const operations = Object.entries(body.paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => ({ method: method.toUpperCase(), path })),
  );
  // Those that read a body are worth more.
  return [...operations, ...operations.filter(({ path }) => Object.hasOwn(BODIES, path)), { method: 'POST', path: '/v1/blobs' }]; // prettier-ignore
}

async function makeNames(server: TestServer): Promise<Names> {
  const { id: functionId } = await server.deploy('well');
  const { id: execution } = await server.run('well', { args: ['first'] }, '10s');
  const create = async <T>(path: string, json: object) => (await server.call<T>('POST', path, { body: { json } })).body;
  const batch = await create<{ id: string }>('/v1/batches', { executions: [{ function: 'well' }] });
  const key = await create<{ id: string }>('/v1/keys', { project: 'fuzz' });
  const workers = await server.call<{ workers: { id: string }[] }>('GET', '/v1/workers');
  const blob = await server.call<{ digest: string }>('POST', '/v1/blobs', {
    body: { raw: ARCHIVES[0]!, type: 'application/octet-stream' },
  });
  return {
    function: functionId,
    execution,
    batch: batch.id,
    key: key.id,
    worker: workers.body.workers[0]!.id,
    digest: blob.body.digest,
    blob: blob.body.digest,
  };
}

function makeRequest(random: Random, { method, path }: Operation): Request {
  const damaged = (text: string, share: number) => (random.chance(share) ? mutateText(random, text) : text);
  const isOctets = path === '/v1/blobs';
  const hasBody = method === 'POST' || random.chance(0.05);
  const made = isOctets ? mutateBytes(random, random.pick(ARCHIVES)) : jsonBody(random, BODIES[path] ?? [{}]);
  const type = random.weighted([
    [12, isOctets ? 'application/octet-stream' : 'application/json'],
    [1, null],
    [1, random.pick(['application/octet-stream', 'application/json; charset=utf-16', 'text/plain', 'x', ';'])],
  ] as const);
  return {
    method: random.chance(0.04) ? random.pick(['GET', 'POST', 'DELETE', 'PUT', 'PATCH', 'OPTIONS', 'HEAD']) : method,
    path: damaged(path.replaceAll('{stream}', 'stdout'), 0.15),
    query: random.chance(0.4) ? damaged(random.pick(QUERIES[path] ?? ['', 'x=1']), 0.4) : '',
    headers: {
      ...(random.chance(0.1) ? { 'last-event-id': random.pick(['1', '-1', '{}', 'x'.repeat(300)]) } : {}),
      ...(random.chance(0.1) ? { accept: random.pick(['text/event-stream', EVENT_FRAMES_TYPE]) } : {}),
      ...(random.chance(0.05) ? { authorization: random.pick(['', 'Bearer', 'Bearer x', 'Basic eDp4']) } : {}),
      ...(random.chance(0.05) ? { range: random.pick(['bytes=0-', 'bytes=-1', 'bytes=5-2', 'x']) } : {}),
    },
    type,
    body: hasBody ? made : null,
  };
}

/** Some are as they should be: else nothing would come further than the schemas. */
function jsonBody(random: Random, examples: readonly unknown[]): Uint8Array {
  return random.chance(0.35) ? bytesOf(spell(random, random.pick(examples))) : jsonBytes(random, examples);
}

/** Sends it, and judges the answer. */
async function answered(server: TestServer, names: Names, request: Request): Promise<void> {
  const filled = (text: string) =>
    text.replaceAll(/\{(\w+)\}/g, (all, name: string) => names[name as keyof Names] ?? all);
  const { method, path, query, headers, type, body } = request;
  const url = `${server.url}${filled(path)}${query === '' ? '' : `?${filled(query)}`}`;
  if (!URL.canParse(url) || new URL(url).host !== server.authority) return;
  const bytes = body === null ? null : Buffer.from(body.length > 100_000 ? body : filledBytes(body, filled));
  const signal = AbortSignal.timeout(ANSWER_MS);
  const mayLast = /events|wait/.test(url) || headers['accept'] !== undefined;
  let response: Response;
  try {
    response = await fetch(url, {
      method,
      headers: {
        authorization: `Bearer ${server.key}`,
        ...headers,
        ...(type === null ? {} : { 'content-type': type }),
      },
      ...(bytes === null || method === 'GET' || method === 'HEAD' ? {} : { body: bytes }),
      signal,
    });
  } catch (error) {
    if (mayLast && signal.aborted) return;
    throw error;
  }
  // An answer that goes on is read up to its first bytes.
  const isStream = ['text/event-stream', EVENT_FRAMES_TYPE].includes(response.headers.get('content-type') ?? '');
  const text = isStream ? '' : await response.text();
  if (isStream) await response.body?.cancel();
  judgeAnswer(response.status, response.headers.get('content-type') ?? '', method === 'HEAD' ? '' : text);
}

function filledBytes(body: Uint8Array, filled: (text: string) => string): Uint8Array {
  const text = Buffer.from(body).toString('latin1');
  return Buffer.from(filled(text), 'latin1');
}

function judgeAnswer(status: number, type: string, text: string): void {
  assert.ok(status >= 200 && status < 600 && status !== 500, `${status} ${text.slice(0, 300)}`);
  if (status < 400 || text === '') return;
  assert.match(type, /^application\/problem\+json/);
  const problem = Problem.parse(JSON.parse(text));
  assert.ok(isErrorCode(problem.code) && ERRORS[problem.code].status === status, `${status} with ${problem.code}`);
  assert.ok(status < 500 || ACCEPTED_FAILURES.includes(problem.code), `${status} ${problem.code}`);
  assert.ok(text.length < 40_000, `a problem of ${text.length} characters`);
}

const HEADS = [
  'GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n',
  'POST /v1/functions/well/executions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}',
  'POST /v1/blobs HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nab\r\n0\r\n\r\n',
  'GET /v1/worker/session HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: cocore.worker.v1\r\n\r\n',
].map(bytesOf);

/** Bytes that are hardly HTTP, each on a connection of its own whose client has said all that it says. */
export async function rawHttpTarget(): Promise<LiveTarget<Uint8Array>> {
  await using scope = new AsyncDisposableStack();
  const log = new ErrorLog();
  const server = scope.use(await TestServer.start({ log: log.logger }));
  await server.deploy('well');
  const held = scope.move();
  return {
    name: 'raw-http',
    corpus: [
      bytesOf('\r\n\r\n'),
      bytesOf('GET'),
      HEADS[2]!.subarray(0, -10),
      bytesOf(`GET / HTTP/1.1\r\n${'a: b\r\n'.repeat(5000)}`),
    ],
    make: (random) => mutateBytes(random, random.pick(HEADS)),
    check: async (input) => {
      const text = Buffer.from(input).toString('latin1');
      const filled = text.replaceAll('{host}', server.authority).replaceAll('{key}', server.key);
      const answer = await answerTo(server, Buffer.from(filled, 'latin1'));
      const status = /^HTTP\/1\.1 (\d{3}) /.exec(answer)?.[1];
      assert.ok(answer === '' || status !== undefined, answer.slice(0, 200));
      assert.ok(status === undefined || Number(status) < 500, answer.slice(0, 300));
      log.check();
    },
    finish: async () => assert.equal((await server.call('GET', '/healthz')).status, 200),
    [Symbol.asyncDispose]: () => held.disposeAsync(),
  };
}

/** What comes until the server closes, or has said enough. */
async function answerTo(server: TestServer, bytes: Uint8Array): Promise<string> {
  const { hostname, port } = new URL(server.url);
  const socket = connect({ host: hostname, port: Number(port), allowHalfOpen: true });
  socket.on('error', () => socket.destroy());
  let answer = '';
  socket.setEncoding('latin1').on('data', (text: string) => {
    answer += text;
    // An upgraded connection stays.
    if (answer.startsWith('HTTP/1.1 101')) socket.destroy();
  });
  socket.end(bytes);
  const timer = setTimeout(() => socket.destroy(new Error('late')), ANSWER_MS);
  const closed = once(socket, 'close');
  try {
    await closed;
  } finally {
    clearTimeout(timer);
  }
  return answer;
}
