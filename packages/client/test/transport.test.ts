import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { getEventListeners, once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import tls from 'node:tls';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { CocoreError } from '@cocore/protocol';
import { type ClientOptions, CocoreClient } from '../src/index.ts';
import { platformTransport } from '../src/node/transport.ts';

const EMPTY = JSON.stringify({ functions: [] });
const PROBLEM = JSON.stringify({
  type: 'x',
  title: 'x',
  status: 413,
  code: 'payload_too_large',
  detail: 'too much',
  remedy: 'r',
  retryable: false,
});

const isUnreachable = (error: unknown) => error instanceof CocoreError && error.code === 'server_unreachable';
const isOf = (reason: RegExp) => (error: unknown) => isUnreachable(error) && reason.test((error as Error).message);

type Scripted = (request: IncomingMessage, response: ServerResponse) => unknown;

async function serve(answer: Scripted, options: Partial<ClientOptions> = {}) {
  const server = createServer((request, response) => void answer(request, response));
  let connections = 0;
  server.on('connection', () => (connections += 1));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    url,
    client: new CocoreClient({ url, apiKey: 'secret', ...options }),
    connections: () => connections,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function bytesOf(request: IncomingMessage): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of request as AsyncIterable<Buffer>) pieces.push(piece);
  return Buffer.concat(pieces);
}

/** What a program that uses the client says, once it has ended by itself. */
async function runProgram(text: string, env: NodeJS.ProcessEnv): Promise<string> {
  const client = fileURLToPath(import.meta.resolve('../src/index.ts'));
  const program = `import { CocoreClient } from ${JSON.stringify(client)};\n${text}`;
  const args = ['--input-type=module', '--eval', program];
  const options = { env: { ...process.env, ...env }, timeout: 20_000 };
  return (await promisify(execFile)(process.execPath, args, options)).stdout;
}

for (const [transport, options] of [
  ['node:http', {}],
  ['fetch', { fetch: globalThis.fetch }],
] as const) {
  suite(`over ${transport}`, () => {
    test('a connection that the server closed meanwhile, the next call makes another', async () => {
      await using server = await serve((request, response) => {
        response.end(EMPTY);
        setTimeout(() => request.socket.destroy(), 20);
      }, options);
      await server.client.functions.list();
      await sleep(100);
      await server.client.functions.list();
      assert.equal(server.connections(), 2);
    });

    test('an answer that breaks off, the call fails', async () => {
      await using server = await serve((_, response) => {
        response.writeHead(200, { 'content-length': 100 });
        response.write('{"functions":', () => response.destroy());
      }, options);
      await assert.rejects(server.client.functions.list(), isUnreachable);
    });

    test('output that breaks off, its reader is told, and nobody else', async () => {
      await using server = await serve((_, response) => {
        response.write('some');
        setTimeout(() => response.destroy(), 50);
      }, options);
      const unread = await server.client.executions.output('x', 'stdout');
      await assert.rejects(server.client.executions.outputBytes('x', 'stdout'));
      await sleep(100);
      await assert.rejects(new Response(unread).text());
    });

    test('output that nobody reads to its end, its connection is closed', async () => {
      let closed: Promise<unknown> = Promise.resolve();
      await using server = await serve((_, response) => {
        closed = once(response, 'close');
        response.write('some');
      }, options);
      for await (const bytes of await server.client.executions.output('x', 'stdout')) {
        assert.equal(Buffer.from(bytes).toString(), 'some');
        break;
      }
      await closed;
      await (await server.client.executions.output('x', 'stdout')).cancel();
      await closed;
    });

    test('a reason to give up, it is thrown before the request, before the answer and within it', async () => {
      let requests = 0;
      await using server = await serve((request, response) => {
        requests += 1;
        if (request.url!.endsWith('/events')) response.write(': beat\n\n');
      }, options);
      const reason = new Error('enough');
      const batch = (signal: AbortSignal) => server.client.batches.end('b', signal);
      await assert.rejects(batch(AbortSignal.abort(reason)), (error) => error === reason);
      assert.equal(requests, 0);
      for (const wait of [batch, async (signal: AbortSignal) => server.client.executions.follow('x', signal).next()]) {
        const controller = new AbortController();
        setTimeout(() => controller.abort(reason), 50);
        await assert.rejects(wait(controller.signal), (error) => error === reason);
      }
      assert.equal(requests, 2);
    });

    test('a large upload, it comes whole and with its length', async () => {
      const bytes = Uint8Array.from(randomBytes(20_000_000));
      let received: Buffer = Buffer.alloc(0);
      await using server = await serve(async (request, response) => {
        assert.equal(request.headers['content-length'], '20000000');
        assert.equal(request.headers['transfer-encoding'], undefined);
        received = await bytesOf(request);
        response.end(JSON.stringify({ digest: `sha256:${'0'.repeat(64)}`, bytes: received.length }));
      }, options);
      assert.equal((await server.client.blobs.upload(bytes)).bytes, bytes.length);
      assert.ok(received.equals(bytes));
    });

    test('an upload that is refused before all of it has come, the server’s reason is thrown', async () => {
      await using server = await serve((request, response) => {
        response.writeHead(413, { 'content-type': 'application/problem+json' }).end(PROBLEM);
        request.resume();
      }, options);
      const bytes = new Uint8Array(20_000_000);
      await assert.rejects(server.client.blobs.upload(bytes), { code: 'payload_too_large', message: 'too much' });
    });

    test('a request without a body, or with text of several bytes a letter, its length is right', async () => {
      const seen: (string | undefined)[] = [];
      await using server = await serve(async (request, response) => {
        seen.push(request.headers['content-length'], (await bytesOf(request)).toString());
        response.writeHead(413).end(PROBLEM);
      }, options);
      await assert.rejects(server.client.executions.cancel('x'));
      await assert.rejects(server.client.executions.cancelMany({ function: 'ü€' }));
      await assert.rejects(server.client.functions.list());
      const body = JSON.stringify({ function: 'ü€' });
      assert.deepEqual(seen, ['0', '', String(Buffer.byteLength(body)), body, undefined, '']);
    });

    test('an answer in pieces that cut letters apart, it is read as it was written', async () => {
      const answer = Buffer.from(JSON.stringify({ functions: [], note: 'ü€' }));
      await using server = await serve(async (_, response) => {
        for (const byte of answer) {
          response.write(Uint8Array.of(byte));
          await sleep(1);
        }
        response.end();
      }, options);
      assert.deepEqual(await server.client.functions.list(), []);
    });

    test('each redirect, it is an error', async () => {
      const followed: unknown[] = [];
      let status = 0;
      await using server = await serve((request, response) => {
        if (request.url === '/elsewhere') followed.push(status);
        response.writeHead(status, { location: '/elsewhere' }).end();
      }, options);
      for (status of [301, 302, 303, 307, 308]) {
        await assert.rejects(server.client.functions.list(), isOf(/unexpected redirect/));
      }
      assert.deepEqual(followed, []);
    });

    test('a server that does not speak HTTP, or a name that nobody has, the error says so', async () => {
      const server = createTcpServer((socket) => socket.end('SSH-2.0-OpenSSH\r\n'));
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      const { port } = server.address() as AddressInfo;
      const list = (url: string) => new CocoreClient({ url, apiKey: 'x', ...options }).functions.list();
      await assert.rejects(list(`http://127.0.0.1:${port}`), isOf(/HTTP|Parse Error/));
      await assert.rejects(list('http://nobody.invalid'), isOf(/nobody\.invalid/));
      await assert.rejects(list('http://localhost:1'), isOf(transport === 'fetch' ? /bad port/ : /ECONNREFUSED/));
      server.close();
    });

    test('a program that has called, it ends while the connection is kept', async () => {
      await using server = await serve((_, response) => response.end(EMPTY), options);
      const given = transport === 'fetch' ? ', fetch' : '';
      const text = `
        const client = new CocoreClient({ url: ${JSON.stringify(server.url)}, apiKey: 'x'${given} });
        console.log((await client.functions.list()).length);`;
      const began = performance.now();
      assert.equal(await runProgram(text, {}), '0\n');
      assert.ok(performance.now() - began < 15_000);
      assert.equal(server.connections(), 1);
    });
  });
}

test('a server that says how long it keeps a connection, it is closed here before', async () => {
  let closed: Promise<unknown> = Promise.resolve();
  await using server = await serve((request, response) => {
    closed = once(request.socket, 'close');
    response.writeHead(200, { 'keep-alive': 'timeout=2' }).end(EMPTY);
  });
  await server.client.functions.list();
  const began = performance.now();
  await closed;
  const tookMs = performance.now() - began;
  assert.ok(tookMs > 500 && tookMs < 1_900, `${tookMs} ms`);
});

test('calls one after the other, they share a connection', async () => {
  await using server = await serve((_, response) => response.end(EMPTY));
  for (let call = 0; call < 3; call += 1) await server.client.functions.list();
  assert.equal(server.connections(), 1);
});

test('a kept connection that breaks under a request which may not be sent twice, it is sent once', async () => {
  let posts = 0;
  await using server = await serve((request, response) => {
    if (request.method === 'GET') response.end(EMPTY);
    else {
      posts += 1;
      request.socket.resetAndDestroy();
    }
  });
  await server.client.functions.list();
  await assert.rejects(server.client.joinTokens.create(), isUnreachable);
  await sleep(50);
  assert.equal(posts, 1);
  assert.equal(server.connections(), 1);
});

test('output that its reader leaves for longer than a server may be silent, it is all there; a server that is silent is given up', async () => {
  const bytes = randomBytes(4_000_000);
  await using server = await serve((request, response) => {
    if (request.url === '/silent') response.write('some');
    else response.end(request.url === '/short' ? 'short' : bytes);
  });
  const transport = platformTransport(server.url, 200);
  const send = (path: string) => transport.send({ method: 'GET', path, headers: {} });
  for (const [path, whole] of [
    ['/long', bytes],
    ['/short', Buffer.from('short')],
  ] as const) {
    const [body, stream] = [(await send(path)).body, (await send(path)).stream()];
    await sleep(1_000);
    const pieces: Uint8Array[] = [];
    for await (const piece of body) {
      if (pieces.length === 0) await sleep(1_000);
      pieces.push(piece);
    }
    assert.ok(Buffer.concat(pieces).equals(whole));
    assert.ok(Buffer.from(await new Response(stream).arrayBuffer()).equals(whole));
  }
  await assert.rejects((await send('/silent')).text(), /not a word for 0\.2 s/);
});

test('an upgrade that nobody asked for, the call fails', async () => {
  const server = createTcpServer((socket) => {
    socket.on('error', () => undefined);
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n');
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const client = new CocoreClient({ url: `http://127.0.0.1:${port}`, apiKey: 'x' });
  await assert.rejects(client.functions.list(), isUnreachable);
  server.close();
});

test('a signal that outlives its requests, nothing of them is left on it', async () => {
  const end = JSON.stringify({
    id: 'ba_00000000000000000000000000',
    createdAt: '2026-01-01T00:00:00Z',
    endedAt: '2026-01-01T00:00:00Z',
    counts: { open: 0, running: 0, success: 0, failure: 0, timeout: 0, cancelled: 0 },
    executionIds: [],
  });
  await using server = await serve((_, response) => response.end(end));
  const { signal } = new AbortController();
  for (let call = 0; call < 3; call += 1) await server.client.batches.end('b', signal);
  await sleep(20);
  assert.deepEqual(getEventListeners(signal, 'abort'), []);
});

test('a proxy in the environment, it is used where Node is told to use it', async () => {
  const asked: string[] = [];
  await using proxy = await serve((request, response) => {
    asked.push(request.url!);
    response.end(EMPTY);
  });
  await using server = await serve((_, response) => response.end(EMPTY));
  const text = `
    const client = new CocoreClient({ url: ${JSON.stringify(server.url)}, apiKey: 'x' });
    console.log((await client.functions.list()).length);`;
  const env = { HTTP_PROXY: proxy.url, http_proxy: proxy.url, NO_PROXY: '', no_proxy: '' };
  assert.equal(await runProgram(text, { ...env, NODE_USE_ENV_PROXY: undefined }), '0\n');
  assert.deepEqual([server.connections(), proxy.connections()], [1, 0]);
  assert.equal(await runProgram(text, { ...env, NODE_USE_ENV_PROXY: '1' }), '0\n');
  assert.deepEqual([server.connections(), proxy.connections()], [1, 1]);
  assert.deepEqual(asked, [`${server.url}/v1/functions`]);
});

test('a server with TLS, it is spoken with when its certificate is trusted', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'cocore-tls-'));
  const [cert, key] = ['cert', 'key'].map((name) => join(directory, name)) as [string, string];
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', key, '-out', cert];
  const subject = ['-subj', '/CN=test', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'];
  await promisify(execFile)('openssl', ['req', '-x509', ...kind, ...subject]);
  const pem = readFileSync(cert, 'utf8');
  const server = createTlsServer({ cert: pem, key: readFileSync(key) }, (_, response) => response.end(EMPTY));
  rmSync(directory, { recursive: true });
  await new Promise<void>((resolve) => server.listen(0, resolve));
  const { port } = server.address() as AddressInfo;
  const list = (host: string) => new CocoreClient({ url: `https://${host}:${port}`, apiKey: 'x' }).functions.list();
  await assert.rejects(list('127.0.0.1'), isOf(/certificate/));
  tls.setDefaultCACertificates([...tls.getCACertificates('default'), pem]);
  assert.deepEqual(await list('127.0.0.1'), []);
  assert.deepEqual(await list('localhost'), []);
  await assert.rejects(list('127.0.0.2'), isOf(/altnames/));
  server.closeAllConnections();
  server.close();
});
