import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { HybridVsock, type HybridVsockOptions } from '../../src/sandbox/firecracker/vsock.ts';
import { workspace } from '../support/workspace.ts';

/** A stream to a server whose every connection goes to `accept`, with its number. */
async function connect(
  accept: (socket: Socket, count: number) => void,
  options: Partial<HybridVsockOptions> = {},
): Promise<AsyncDisposable & { stream: HybridVsock; abort: AbortController }> {
  await using scope = new AsyncDisposableStack();
  const { path } = scope.use(await workspace());
  const sockets = new Set<Socket>();
  let count = 0;
  const server = createServer((socket) => {
    sockets.add(socket.on('error', () => undefined));
    count += 1;
    accept(socket, count);
  });
  const socketPath = join(path, 'v.sock');
  await new Promise<void>((resolve) => server.listen(socketPath, () => resolve()));
  scope.defer(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const abort = new AbortController();
  const open = () => Promise.resolve({ path: socketPath, [Symbol.asyncDispose]: () => Promise.resolve() });
  const stream = new HybridVsock({ open, port: 1024, deadlineMs: 2_000, signal: abort.signal, ...options });
  scope.defer(() => void stream.on('error', () => undefined).destroy());
  const owned = scope.move();
  return { stream, abort, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

describe('a stream to the guest', () => {
  test('what is written before it is connected, it arrives after the request and in order', async () => {
    const heard = Promise.withResolvers<string>();
    await using guest = await connect((socket) => {
      socket.once('data', () => socket.write('OK 1073741824\n'));
      void text(socket).then(heard.resolve);
    });
    guest.stream.write('one ');
    guest.stream.end('two');
    assert.equal(await heard.promise, 'CONNECT 1024\none two');
  });

  test('an answer and data in one piece, the data is read', async () => {
    await using guest = await connect((socket) => socket.end('OK 1\nhello'));
    assert.equal(await text(guest.stream), 'hello');
  });

  test('an answer in two pieces, it is one answer', async () => {
    await using guest = await connect((socket) => {
      socket.write('O');
      socket.once('data', () => socket.end('K 7\nyes'));
    });
    assert.equal(await text(guest.stream), 'yes');
  });

  test('nobody who listens in the guest at first, it tries until somebody does', async () => {
    await using guest = await connect((socket, count) => {
      if (count < 4) socket.destroy();
      else socket.end(`OK 1\n${count}`);
    });
    assert.equal(await text(guest.stream), '4');
  });

  const wrong: [string, string][] = [
    ['another word', 'NO 1\n'],
    ['no number', 'OK one\n'],
    ['no end', `OK ${'1'.repeat(64)}`],
    ['an end too late', `OK ${'1'.repeat(64)}\n`],
  ];
  for (const [what, answer] of wrong) {
    test(`an answer with ${what}, it is no connection`, async () => {
      await using guest = await connect((socket) => socket.write(answer), { deadlineMs: 30 });
      const [error] = (await once(guest.stream, 'error')) as [Error];
      assert.match(
        error.message,
        /does not listen on port 1024 after 30 ms: an answer (?:that is not OK|without an end)/,
      );
    });
  }

  test('nobody until the deadline, the stream breaks and says so', async () => {
    await using guest = await connect((socket) => socket.destroy(), { deadlineMs: 30 });
    const [error] = (await once(guest.stream, 'error')) as [Error];
    assert.match(error.message, /does not listen on port 1024 after 30 ms/);
  });

  test('the monitor’s end while it tries, the stream breaks with the reason', async () => {
    await using guest = await connect((socket, count) => {
      socket.destroy();
      if (count === 2) guest.abort.abort(new Error('the monitor ended'));
    });
    const [error] = (await once(guest.stream, 'error')) as [Error];
    assert.equal(error.message, 'the monitor ended');
  });

  test('a guest that sends more than is read, it is held back, and nothing is lost', async () => {
    const length = 4 * 2 ** 20;
    let held = false;
    await using guest = await connect((socket) => {
      socket.write('OK 1\n');
      held = !socket.write(Buffer.alloc(length, 7));
      socket.end();
    });
    let received = 0;
    for await (const bytes of guest.stream as AsyncIterable<Buffer>) received += bytes.length;
    assert.equal(received, length);
    assert.ok(held);
  });
});
