import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'node:test';
import { until } from '../e2e/support/wait.ts';
import { Wire } from './wire.ts';

/** A server that gives back what it is sent, behind a wire, and a connection through it. */
async function connected() {
  await using scope = new AsyncDisposableStack();
  const peers = new Set<Socket>();
  const server = createServer((peer) => {
    peers.add(peer);
    peer.on('close', () => peers.delete(peer)).on('error', () => undefined);
    peer.pipe(peer);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  scope.defer(async () => {
    for (const peer of peers) peer.destroy();
    await new Promise((resolve) => server.close(resolve));
  });
  const wire = scope.use(await Wire.to((server.address() as AddressInfo).port));
  const socket = connect(wire.port, '127.0.0.1').on('error', () => undefined);
  scope.defer(() => void socket.destroy());
  let text = '';
  socket.setEncoding('latin1').on('data', (data: string) => (text += data));
  await once(socket, 'connect');
  const comesBack = async (sent: string) => {
    socket.write(sent);
    await until(`${sent} comes back`, () => text.endsWith(sent), 10_000);
  };
  await comesBack('hello');
  const owned = scope.move();
  return { wire, socket, peers, comesBack, text: () => text, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** Long enough for bytes on loopback. */
const A_WHILE_MS = 200;

for (const directions of [['up'], ['down'], ['up', 'down']] as const) {
  test(`silent ${directions.join(' and ')}, nothing passes, and all of it once it is healed`, async () => {
    await using it = await connected();
    it.wire.stall(...directions);
    it.socket.write('late');
    await sleep(A_WHILE_MS);
    assert.equal(it.text(), 'hello');
    it.wire.heal();
    await until('it comes', () => it.text() === 'hellolate', 10_000);
  });
}

test('cut, every connection ends and none is taken until it is healed', async () => {
  await using it = await connected();
  it.wire.cut();
  await until('both ends know', () => it.socket.destroyed && it.peers.size === 0, 10_000);
  const refused = connect(it.wire.port, '127.0.0.1').on('error', () => undefined);
  await once(refused, 'close');
  it.wire.heal();
  const taken = connect(it.wire.port, '127.0.0.1');
  taken.write('again');
  assert.equal(String((await once(taken, 'data'))[0]), 'again');
  taken.destroy();
});

test('torn, a part of what is sent passes, and the connection ends', async () => {
  await using it = await connected();
  it.wire.tear(0.5);
  it.socket.write('a frame of twenty byt');
  await until('both ends know', () => it.socket.destroyed && it.peers.size === 0, 10_000);
  assert.ok(it.text().length < 'helloa frame of twenty byt'.length);
});

test('half open, one end knows and the other does not', async () => {
  for (const end of ['control', 'worker'] as const) {
    await using it = await connected();
    it.wire.halfOpen(end);
    await until('one end knows', () => (end === 'control' ? it.peers.size === 0 : it.socket.destroyed), 10_000);
    await sleep(A_WHILE_MS);
    assert.ok(end === 'control' ? !it.socket.destroyed : it.peers.size === 1);
  }
});

test('slow, bytes take the time that they would take', async () => {
  await using it = await connected();
  it.wire.slow(10_000);
  const beganMs = performance.now();
  await it.comesBack('x'.repeat(5_000));
  assert.ok(performance.now() - beganMs > 800);
  it.wire.heal();
});
