import assert from 'node:assert/strict';
import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { test } from 'node:test';
import { SourceAway } from '../src/blobs/download.ts';
import { Endpoint } from '../src/session/endpoint.ts';

const DIGEST = `sha256:${'a'.repeat(64)}`;
const BYTES = Buffer.from('the bytes of a blob');
const never = new AbortController().signal;

/** An HTTP server on loopback that notes what it is asked. */
async function serve(listener: RequestListener) {
  const asked: IncomingMessage[] = [];
  const server: Server = createServer((request, response) => {
    asked.push(request);
    listener(request, response);
  });
  server.listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  return {
    asked,
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Gives the bytes, from any on. */
const store: RequestListener = (request, response) => {
  const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0);
  if (from > 0) response.writeHead(206, { 'content-range': `bytes ${from}-${BYTES.length - 1}/${BYTES.length}` });
  response.end(BYTES.subarray(from));
};

const sendTo =
  (location: () => string): RequestListener =>
  (_request, response) =>
    void response.writeHead(307, { location: location() }).end();

const blob = (url: string, from = 0) => new Endpoint({ url, insecure: true }).blob(DIGEST, 'secret', never, from);

test('a server that has the blob, its bytes come from any on', async () => {
  await using server = await serve(store);
  assert.ok((await buffer(await blob(server.url))).equals(BYTES));
  assert.ok((await buffer(await blob(server.url, 4))).equals(BYTES.subarray(4)));
  assert.deepEqual(
    server.asked.map(({ url, headers }) => [url, headers.authorization, headers.range]),
    [
      [`/v1/worker/blobs/${DIGEST}`, 'Bearer secret', undefined],
      [`/v1/worker/blobs/${DIGEST}`, 'Bearer secret', 'bytes=4-'],
    ],
  );
});

test('a server that sends to another place, that is asked from the same byte on and never sees the token', async () => {
  await using other = await serve(store);
  await using server = await serve(sendTo(() => `${other.url}/bucket/key?signature=x`));
  assert.ok((await buffer(await blob(server.url, 4))).equals(BYTES.subarray(4)));
  const [{ url, headers }] = other.asked as [IncomingMessage];
  assert.equal(url, '/bucket/key?signature=x');
  assert.equal(headers.range, 'bytes=4-');
  assert.equal(headers.authorization, undefined);
  assert.ok(!JSON.stringify(headers).includes('secret'));
});

test('a place that sends on, it is not followed again', async () => {
  await using third = await serve(store);
  await using other = await serve(sendTo(() => third.url));
  await using server = await serve(sendTo(() => other.url));
  await assert.rejects(blob(server.url), /answered 307/);
  assert.equal(third.asked.length, 0);
});

test('places that are not https, they are not asked', async () => {
  for (const place of ['http://192.0.2.1/x', 'ftp://127.0.0.1/x', 'file:///etc/passwd', '//127.0.0.1/x', '/x', '']) {
    await using server = await serve(sendTo(() => place));
    await assert.rejects(blob(server.url), /which is not https/, place);
    assert.equal(server.asked.length, 1);
  }
});

test('plain text on this machine, a server on another may not send there', async () => {
  await using other = await serve(store);
  await using server = await serve(sendTo(() => other.url));
  // Loopback too, but by a name that does not say so.
  const { port } = new URL(server.url);
  await assert.rejects(blob(`http://[::ffff:127.0.0.1]:${port}`), /which is not https/);
  assert.equal(other.asked.length, 0);
});

test('an answer that does not go on where it was asked to, it is refused', async () => {
  const wrong: RequestListener[] = [
    (_request, response) => void response.end(BYTES),
    (_request, response) => void response.writeHead(206, { 'content-range': 'bytes 3-18/19' }).end(BYTES.subarray(3)),
    (_request, response) => void response.writeHead(206).end(BYTES.subarray(4)),
    (_request, response) => void response.writeHead(416).end(),
    (_request, response) => void response.writeHead(302, { location: '/x' }).end(),
  ];
  for (const listener of wrong) {
    await using server = await serve(listener);
    await assert.rejects(blob(server.url, 4), /the server answered (?:200|206|416|302)/);
  }
});

test('a server that cannot be asked now, it is away; another answer is an answer', async () => {
  const answerOf = async (status: number): Promise<unknown> => {
    await using server = await serve((_request, response) => void response.writeHead(status).end());
    return await blob(server.url).then(
      () => null,
      (error: unknown) => error,
    );
  };
  for (const status of [401, 502, 503, 504]) assert.ok((await answerOf(status)) instanceof SourceAway, `${status}`);
  for (const status of [404, 500]) {
    const error = await answerOf(status);
    assert.ok(error instanceof Error && !(error instanceof SourceAway), `${status}`);
  }
  const { url } = await (async () => {
    await using server = await serve(store);
    return server;
  })();
  await assert.rejects(blob(url), SourceAway);
});
