import assert from 'node:assert/strict';
import { connect, type Socket } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { MAX_BLOB_BYTES } from '@cocore/protocol';
import { TestServer } from './support/test-server.ts';
import { until } from './support/until.ts';

const PIECE = Buffer.alloc(256 * 1024, 'x');

/** A client that reads whatever the server says, from the first byte on. */
class Client implements Disposable {
  readonly socket: Socket;
  heard = '';
  closed = false;

  constructor(url: string) {
    const { hostname, port } = new URL(url);
    this.socket = connect(Number(port), hostname);
    this.socket.on('data', (bytes: Buffer) => (this.heard += bytes.toString('latin1')));
    this.socket.on('error', () => undefined);
    this.socket.on('close', () => (this.closed = true));
  }

  /** Resolves when the bytes are out, or cannot go. */
  send(bytes: Uint8Array | string): Promise<void> {
    return new Promise((resolve) => this.socket.write(bytes, () => resolve()));
  }

  [Symbol.dispose](): void {
    this.socket.destroy();
  }
}

describe('a body that is refused while the client still sends it', () => {
  let server: TestServer;
  before(async () => {
    server = await TestServer.start();
  });
  after(async () => server[Symbol.asyncDispose]());

  const head = (method: string, path: string, bytes: number, key = server.key) =>
    [
      `${method} ${path} HTTP/1.1`,
      `host: ${new URL(server.url).host}`,
      `authorization: Bearer ${key}`,
      ...(bytes === 0 ? [] : ['content-type: application/json', `content-length: ${bytes}`]),
      '',
      '',
    ].join('\r\n');

  for (const [what, key, status] of [
    ['too large', undefined, 413],
    ['without a key', 'nobody', 401],
  ] as const) {
    test(`${what}, the client reads why, may finish, and goes on with the same connection`, async () => {
      using client = new Client(server.url);
      const bytes = 64 * PIECE.length;
      await client.send(head('POST', '/v1/keys', bytes, key));
      await until('it is refused', () => client.heard.includes(`HTTP/1.1 ${status} `));
      assert.doesNotMatch(client.heard, /connection: close/i);
      for (let sent = 0; sent < bytes; sent += PIECE.length) await client.send(PIECE);
      await client.send(head('GET', '/v1/server', 0));
      await until('the next one is answered', () => client.heard.includes('HTTP/1.1 200 '));
    });
  }

  test('without an end, the connection is cut', async () => {
    using client = new Client(server.url);
    const most = 4 * MAX_BLOB_BYTES;
    await client.send(head('POST', '/v1/keys', 2 * most));
    let sent = 0;
    for (; sent < most && !client.closed; sent += PIECE.length) await client.send(PIECE);
    await until('it is cut', () => client.closed);
    assert.match(client.heard, /HTTP\/1.1 413 /);
  });
});
