import assert from 'node:assert/strict';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { suite, test } from 'node:test';
import {
  type BatchRecord,
  CocoreError,
  encodeEventHead,
  EVENT_FRAMES_TYPE,
  type ExecutionRecord,
  IDLE_FRAME,
  makeId,
  toBase64,
} from '@cocore/protocol';
import { type ClientOptions, CocoreClient } from '../src/index.ts';

const id = (kind: 'execution' | 'function' | 'attempt') => makeId(kind, 1, new Uint8Array(10));
const sha256 = `sha256:${'0'.repeat(64)}`;
const stream = { bytes: 0, truncated: false, sha256: null };
const record: ExecutionRecord = {
  id: id('execution'),
  functionId: id('function'),
  functionName: 'f',
  version: 1,
  state: 'success',
  phase: null,
  reason: null,
  fault: 'none',
  message: null,
  exitCode: 0,
  signal: null,
  args: [],
  memoryMiB: 256,
  cpus: 1,
  timeoutMs: 1000,
  outputLimitBytes: 1000,
  isolation: 'gvisor',
  retries: null,
  priority: 0,
  concurrencyKey: null,
  concurrencyLimit: null,
  queueTtlMs: 86_400_000,
  waiting: null,
  inputDigest: sha256,
  batchId: null,
  batchIndex: null,
  createdAt: '2026-01-01T00:00:00.000Z',
  acceptedAt: null,
  startedAt: null,
  endedAt: null,
  deadlineAt: null,
  cancelRequestedAt: null,
  output: { stdout: stream, stderr: stream },
  result: null,
  error: null,
  artifacts: null,
  expired: false,
  decidingAttempt: null,
  attempts: [],
};

/** A server that does what networks do: each test scripts its answers. */
async function serve(
  options: Partial<ClientOptions>,
  answer: (request: IncomingMessage, response: ServerResponse, body: string) => void,
) {
  const server = createServer((request, response) => {
    let body = '';
    request.setEncoding('utf8').on('data', (text: string) => (body += text));
    request.on('end', () => answer(request, response, body));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    client: new CocoreClient({ url, apiKey: 'secret', ...options }),
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

for (const [transport, options] of [
  ['node:http', {}],
  ['fetch', { fetch: globalThis.fetch }],
] as const) {
  suite(`over ${transport}`, () => {
    test('an answer that is lost, the request goes again with the same idempotency key', async () => {
      const keys: unknown[] = [];
      await using server = await serve(options, (request, response, body) => {
        keys.push((JSON.parse(body) as { idempotencyKey: unknown }).idempotencyKey);
        assert.equal(request.headers.authorization, 'Bearer secret');
        if (keys.length < 3) response.destroy();
        else response.end(JSON.stringify(record));
      });
      assert.equal((await server.client.executions.create('f', {})).id, record.id);
      assert.equal(keys.length, 3);
      assert.equal(new Set(keys).size, 1);
      assert.equal(typeof keys[0], 'string');
    });

    test('a problem document, is thrown with its code and never sent again', async () => {
      let requests = 0;
      await using server = await serve(options, (_, response) => {
        requests += 1;
        const problem = {
          type: 'x',
          title: 'x',
          status: 404,
          code: 'function_not_found',
          detail: 'no f',
          remedy: 'r',
          retryable: false,
        };
        response.writeHead(404, { 'content-type': 'application/problem+json' }).end(JSON.stringify(problem));
      });
      await assert.rejects(
        server.client.executions.create('f', {}),
        (error) => error instanceof CocoreError && error.code === 'function_not_found' && error.message === 'no f',
      );
      assert.equal(requests, 1);
    });

    test('a redirect, is not followed with the key', async () => {
      let followed = false;
      await using server = await serve(options, (request, response) => {
        if (request.url === '/elsewhere') followed = true;
        response.writeHead(307, { location: '/elsewhere' }).end();
      });
      await assert.rejects(server.client.functions.list());
      assert.equal(followed, false);
    });

    test('a follower that is cut off in mid-event, goes on where it was, without a byte lost or doubled', async () => {
      const text = 'abcdefghij';
      const seen: (string | undefined)[] = [];
      await using server = await serve(options, (request, response) => {
        const lastId = request.headers['last-event-id'] as string | undefined;
        seen.push(lastId);
        response.writeHead(200, { 'content-type': 'text/event-stream' });
        const from = lastId === undefined ? 0 : Number(lastId);
        const event = (offset: number) => {
          const base64 = toBase64(new TextEncoder().encode(text[offset]));
          const data = { attemptId: id('attempt'), stream: 'stdout', offset, base64 };
          return `event: output\nid: ${offset + 1}\ndata: ${JSON.stringify(data)}\n\n`;
        };
        for (let offset = from; offset < Math.min(from + 3, text.length); offset += 1) response.write(event(offset));
        if (from + 3 >= text.length)
          response.end(`event: end\nid: ${text.length}\ndata: ${JSON.stringify(record)}\n\n`);
        // A piece of an event, then the wire is cut.
        else response.write(event(from + 3).slice(0, 30), () => response.destroy());
      });
      let received = '';
      for await (const event of server.client.executions.follow(record.id)) {
        if (event.event === 'output') received += new TextDecoder().decode(event.data.bytes);
      }
      assert.equal(received, text);
      assert.deepEqual(seen, [undefined, '3', '6', '9']);
    });

    test('a follower of frames that is cut off in mid-frame, goes on where it was, without a byte lost or doubled', async () => {
      const text = 'abcdefghij';
      const seen: (string | undefined)[] = [];
      const accepted = new Set<string | undefined>();
      await using server = await serve(options, (request, response) => {
        const lastId = request.headers['last-event-id'] as string | undefined;
        seen.push(lastId);
        accepted.add(request.headers.accept);
        response.writeHead(200, { 'content-type': EVENT_FRAMES_TYPE });
        const from = lastId === undefined ? 0 : Number(lastId);
        const frame = (offset: number) => {
          const data = { attemptId: id('attempt'), stream: 'stdout', offset };
          const bytes = Buffer.from(text.slice(offset, offset + 2));
          const head = encodeEventHead({ event: 'output', id: String(offset + bytes.length), data }, bytes.length);
          return Buffer.concat([IDLE_FRAME, head, bytes]);
        };
        response.write(frame(from));
        if (from + 2 >= text.length) response.end(encodeEventHead({ event: 'end', id: '10', data: record }, 0));
        // All but the last byte of a frame, then the wire is cut.
        else response.write(frame(from + 2).subarray(0, -1), () => response.destroy());
      });
      let received = '';
      for await (const event of server.client.executions.follow(record.id)) {
        if (event.event === 'output') received += new TextDecoder().decode(event.data.bytes);
      }
      assert.equal(received, text);
      assert.deepEqual(seen, [undefined, '2', '4', '6', '8']);
      // An older server takes the one that it knows.
      assert.deepEqual([...accepted], [`${EVENT_FRAMES_TYPE}, text/event-stream`]);
    });

    test('a frame that no server sends, the follower says so', async () => {
      await using server = await serve(options, (_request, response) => {
        response.writeHead(200, { 'content-type': EVENT_FRAMES_TYPE }).end(Buffer.alloc(64, 0xff));
      });
      await assert.rejects(server.client.executions.follow(record.id).next(), {
        code: 'internal',
        message: /the head of an event is 4294967295 bytes long/,
      });
    });

    test('nobody listens, the error names the address', async () => {
      const client = new CocoreClient({ url: 'http://127.0.0.1:1', apiKey: 'x', ...options });
      await assert.rejects(
        client.functions.list(),
        (error) =>
          error instanceof CocoreError && error.code === 'server_unreachable' && /127\.0\.0\.1:1/.test(error.message),
      );
    });

    test('a name of dots, or none, it is refused before it could lead to another path', async () => {
      const paths: (string | undefined)[] = [];
      await using server = await serve(options, (request, response) => {
        paths.push(request.url);
        response.writeHead(500).end();
      });
      for (const name of ['', '.', '..']) {
        await assert.rejects(server.client.executions.get(name), { code: 'invalid_request' });
        await assert.rejects(server.client.keys.revoke(name), { code: 'invalid_request' });
      }
      assert.deepEqual(paths, []);
    });

    test('a batch, it is asked for once however often, and waited for over a server that is away', async () => {
      const batch: BatchRecord = {
        id: makeId('batch', 1, new Uint8Array(10)),
        createdAt: record.createdAt,
        endedAt: null,
        counts: { open: 1, running: 0, success: 0, failure: 0, timeout: 0, cancelled: 0 },
        executionIds: [record.id],
      };
      const asked: string[] = [];
      const keys = new Set<unknown>();
      await using server = await serve(options, (request, response, body) => {
        asked.push(`${request.method} ${request.url}`);
        if (request.method === 'POST') keys.add((JSON.parse(body) as { idempotencyKey: unknown }).idempotencyKey);
        if (asked.length === 1 || asked.length === 4) response.destroy();
        else response.end(JSON.stringify({ ...batch, endedAt: asked.length < 5 ? null : record.createdAt }));
      });
      const { id } = await server.client.batches.create([{ function: 'f' }]);
      assert.equal((await server.client.batches.end(id)).endedAt, record.createdAt);
      assert.equal(keys.size, 1);
      const waited = `GET /v1/batches/${id}?wait=60000ms`;
      assert.deepEqual(asked, ['POST /v1/batches', 'POST /v1/batches', waited, waited, waited]);
    });
  });
}
