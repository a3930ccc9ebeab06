import assert from 'node:assert/strict';
import { getEventListeners, once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { afterEach, beforeEach, suite, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Readers } from '../src/http/readers.ts';

suite('the reader of an answer', () => {
  let stopping: AbortController;
  let readers: Readers;
  const server = createServer();
  beforeEach(async () => {
    stopping = new AbortController();
    readers = new Readers(stopping.signal);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
  });
  afterEach(async () => {
    server.closeAllConnections();
    server.close();
    await once(server, 'close');
  });

  async function ask() {
    const socket = connect((server.address() as AddressInfo).port, '127.0.0.1');
    socket.on('error', () => undefined).resume();
    socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
    const [, answer] = (await once(server, 'request')) as [unknown, ServerResponse];
    return { socket, answer };
  }

  test('it goes before the answer, or in its middle, the signal aborts', async () => {
    for (const part of ['', 'some']) {
      const { socket, answer } = await ask();
      if (part !== '') answer.write(part);
      const signal = readers.signalOf(answer);
      socket.destroy();
      await once(signal, 'abort');
      assert.match(String(signal.reason), /the client has gone/);
    }
  });

  test('it has gone already, or the server stops already, the signal is aborted', async () => {
    const { socket, answer } = await ask();
    socket.destroy();
    await once(answer, 'close');
    assert.ok(readers.signalOf(answer).aborted);
    const other = await ask();
    stopping.abort();
    assert.ok(readers.signalOf(other.answer).aborted);
  });

  test('the server stops, every signal aborts whose answer is not sent', async () => {
    const [one, other, done] = [await ask(), await ask(), await ask()];
    const signals = [one, other, done].map(({ answer }) => readers.signalOf(answer));
    done.answer.end('all');
    await once(done.answer, 'close');
    stopping.abort();
    assert.deepEqual(
      signals.map(({ aborted }) => aborted),
      [true, true, false],
    );
  });

  test('it has the whole answer, nothing is kept of it and nobody is told', async () => {
    const { socket, answer } = await ask();
    const signal = readers.signalOf(answer);
    answer.end('all');
    await once(answer, 'close');
    socket.destroy();
    await sleep(20);
    assert.equal(signal.aborted, false);
    assert.equal(getEventListeners(stopping.signal, 'abort').length, 1);
  });
});
