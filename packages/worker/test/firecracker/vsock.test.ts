import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, test } from 'node:test';
import { hybridVsock, type HybridVsockOptions } from '../../src/sandbox/firecracker/vsock.ts';
import type { GuestStream } from '../../src/sandbox/microvm/guest-stream.ts';
import { workspace } from '../support/workspace.ts';

/** A stream to a server whose every connection goes to `accept`, with its number; it has been given `says` to say. */
async function connect(
  accept: (socket: Socket, count: number) => void,
  options: Partial<HybridVsockOptions> = {},
  says = 'hi',
): Promise<AsyncDisposable & { stream: GuestStream; abort: AbortController }> {
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
  const stream = hybridVsock({ open, port: 1024, deadlineMs: 2_000, signal: abort.signal, ...options });
  scope.defer(() => void stream.on('error', () => undefined).destroy());
  stream.write(says);
  const owned = scope.move();
  return { stream, abort, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

describe('a stream to the guest', () => {
  test('what is written before it is connected, it arrives after the request and in order', async () => {
    const heard = Promise.withResolvers<string>();
    await using guest = await connect(
      (socket) => {
        socket.once('data', () => socket.write('OK 1073741824\n'));
        void text(socket).then(heard.resolve);
      },
      {},
      'one ',
    );
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

  test('a restored guest that resets its first connections, each is told the same until one is answered', async () => {
    const told: string[] = [];
    await using guest = await connect((socket, count) => {
      let heard = '';
      socket.on('data', (bytes: Buffer) => {
        heard += bytes.toString();
        if (heard === 'CONNECT 1024\n') socket.write('OK 1\n');
        if (!heard.endsWith('hi')) return;
        told.push(heard);
        if (count < 3) socket.destroy();
        else socket.end('hello');
      });
    });
    assert.equal(await text(guest.stream), 'hello');
    assert.deepEqual(
      told,
      Array.from({ length: 3 }, () => 'CONNECT 1024\nhi'),
    );
    assert.equal(guest.stream.bytesRead, 5);
  });

  test('a guest that closes after its first word, it is not connected to again', async () => {
    let connections = 0;
    await using guest = await connect((socket) => {
      connections += 1;
      socket.end('OK 1\nbye');
    });
    assert.equal(await text(guest.stream), 'bye');
    if (!guest.stream.closed) await once(guest.stream, 'close');
    assert.equal(connections, 1);
  });

  test('a guest that closes every connection until the deadline, the stream breaks and says so', async () => {
    await using guest = await connect((socket) => socket.end('OK 1\n'), { deadlineMs: 60 });
    const [error] = (await once(guest.stream, 'error')) as [Error];
    assert.match(error.message, /the agent closes every connection until 60 ms/);
  });

  test('a guest that says nothing, no more than a greeting is taken to be said to it', async () => {
    await using guest = await connect((socket) => socket.write('OK 1\n'));
    assert.equal(guest.stream.write(Buffer.alloc(100_000)), false);
    let written = false;
    guest.stream.write('more', () => (written = true));
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(written, false);
  });
});
