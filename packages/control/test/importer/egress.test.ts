import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { EgressProxy, type Resolve } from '../../src/importer/egress/egress-proxy.ts';

interface Bench extends AsyncDisposable {
  readonly proxy: EgressProxy;
  /** What was connected to, in order. */
  readonly connected: string[];
  /** The first bytes of the proxy's answer. */
  ask(head: string): Promise<string>;
}

/** A proxy whose connections all lead to a server that says `hello` and then `flood` bytes. */
async function bench(resolve: Resolve, flood = 0, maxBytes = 1_000_000): Promise<Bench> {
  const directory = await mkdtemp(join(tmpdir(), 'cocore-egress-'));
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    socket.write('hello');
    if (flood > 0) socket.write(Buffer.alloc(flood));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  const connected: string[] = [];
  const proxy = new EgressProxy({
    maxBytes,
    resolve,
    connect: (address, to) => {
      connected.push(`${address} ${to}`);
      return connect({ host: '127.0.0.1', port });
    },
  });
  await proxy.listen(join(directory, 'proxy'));
  const clients: Socket[] = [];
  return {
    proxy,
    connected,
    ask: async (head) => {
      const client = connect(join(directory, 'proxy'));
      clients.push(client);
      client.on('error', () => undefined);
      client.write(head);
      let text = '';
      client.setEncoding('latin1');
      for await (const chunk of client as AsyncIterable<string>) {
        text += chunk;
        if (text.endsWith('hello')) break;
      }
      return text;
    },
    [Symbol.asyncDispose]: async () => {
      for (const client of clients) client.destroy();
      await proxy[Symbol.asyncDispose]();
      await new Promise((done) => server.close(done));
      await rm(directory, { recursive: true });
    },
  };
}

const CONNECT = (target: string) => `CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\n`;

test('a tunnel, leads to the address that was checked', async () => {
  await using at = await bench(async () => ['10.0.0.1', '1.1.1.1']);
  assert.match(await at.ask(CONNECT('registry.example:8443')), /^HTTP\/1\.1 200 [^]*hello$/);
  assert.deepEqual(at.connected, ['1.1.1.1 8443']);
  assert.equal(at.proxy.refusal, null);
});

test('a name that resolves otherwise the next time, is checked each time and resolved once for each', async () => {
  const answers = [['1.1.1.1'], ['127.0.0.1'], ['169.254.169.254'], ['::ffff:10.0.0.1']];
  let asked = 0;
  await using at = await bench(async () => answers[asked++]!);
  assert.match(await at.ask(CONNECT('rebind.example:443')), /^HTTP\/1\.1 200/);
  for (let time = 0; time < 3; time += 1) {
    assert.match(await at.ask(CONNECT('rebind.example:443')), /^HTTP\/1\.1 403/);
  }
  assert.deepEqual([asked, at.connected], [4, ['1.1.1.1 443']]);
  assert.equal(at.proxy.refusal?.kind, 'address');
});

test('addresses given as such, are checked as names are', async () => {
  await using at = await bench(async () => assert.fail('an address was resolved'));
  for (const target of ['127.0.0.1:443', '[::1]:443', '[::ffff:127.0.0.1]:443', '169.254.169.254:443']) {
    assert.match(await at.ask(CONNECT(target)), /^HTTP\/1\.1 403/, target);
  }
  assert.deepEqual(at.connected, []);
});

test('what is no tunnel, is refused', async () => {
  await using at = await bench(async () => ['1.1.1.1']);
  assert.match(await at.ask('GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n'), /^HTTP\/1\.1 403/);
  assert.equal(at.proxy.refusal?.kind, 'plain');
  for (const target of ['example.org', 'example.org:0', 'example.org:65536', ':443', '[zz]:443']) {
    assert.match(await at.ask(CONNECT(target)), /^HTTP\/1\.1 400/, target);
  }
  assert.deepEqual(at.connected, []);
});

test('a name that nobody knows, is said to be that', async () => {
  await using at = await bench(async () => Promise.reject(new Error('ENOTFOUND')));
  assert.match(await at.ask(CONNECT('nowhere.example:443')), /^HTTP\/1\.1 502/);
  assert.deepEqual(at.proxy.refusal, { kind: 'unresolved', message: 'there is no host nowhere.example' });
});

test('more bytes than allowed, end the connection', async () => {
  await using at = await bench(async () => ['1.1.1.1'], 4_000_000, 100_000);
  const answer = await at.ask(CONNECT('flood.example:443'));
  assert.ok(answer.length < 500_000, `${answer.length} bytes came through`);
  assert.equal(at.proxy.refusal?.kind, 'bytes');
});
