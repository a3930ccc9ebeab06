import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { get, type IncomingMessage } from 'node:http';
import { join } from 'node:path';
import { test } from 'node:test';
import { EVENT_FRAMES_TYPE, type ExecutionRecord } from '@cocore/protocol';
import fastify from 'fastify';
import { EventHub } from '../src/events.ts';
import { follow } from '../src/http/follow.ts';
import type { OutputStore } from '../src/output/output-store.ts';
import { EventStream, FORMS } from './support/event-stream.ts';
import { Identity, ScriptedWorker } from './support/scripted-worker.ts';
import { TestServer } from './support/test-server.ts';
import { until } from './support/until.ts';

/** An attempt that wrote `same` before its worker lost it and came back, and who follows its execution. */
async function lostAfterOutput(form: (typeof FORMS)[number]) {
  await using scope = new AsyncDisposableStack();
  const server = scope.use(await TestServer.start());
  const identity = new Identity();
  const joinToken = await server.joinToken();
  const first = scope.use(await ScriptedWorker.connect(server, { identity, joinToken }));
  await server.deploy('twice');
  const { id } = await server.run('twice');
  const lost = await first.startNext();
  const events = scope.use(await EventStream.open(server, id, undefined, form));
  first.output(lost.channel, 'stdout', 0, 'same');
  const before = await events.nextOf('output');
  const again = scope.use(await ScriptedWorker.connect(server, { identity }));
  const owned = scope.move();
  return { server, id, events, before, again, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

for (const form of FORMS) {
  test(`${form}: output while it runs, the follower has each piece before the next is written, and the end comes last`, async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('live');
    const { id } = await server.run('live');
    await using events = await EventStream.open(server, id, undefined, form);
    assert.equal((await events.next())?.event, 'execution');
    const assign = await worker.startNext();
    const seen: string[] = [];
    for (const [stream, offset, text] of [
      ['stdout', 0, 'one'],
      ['stderr', 0, 'two'],
      ['stdout', 3, 'three'],
    ] as const) {
      worker.output(assign.channel, stream, offset, text);
      const { data } = await events.nextOf('output');
      assert.deepEqual([data.stream, data.offset], [stream, offset]);
      seen.push(Buffer.from(data.base64, 'base64').toString());
    }
    assert.deepEqual(seen, ['one', 'two', 'three']);
    worker.end(assign, { kind: 'exited', code: 0 }, { stdout: 'onethree', stderr: 'two' });
    const rest = await events.rest();
    assert.equal(rest.at(-1)?.event, 'end');
    assert.equal(rest.filter(({ event }) => event === 'output').length, 0);
  });

  test(`${form}: a follower that comes back with the last id, it gets what it has not had`, async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('again');
    const { id } = await server.run('again');
    const assign = await worker.startNext();
    worker.output(assign.channel, 'stdout', 0, 'first ');
    let lastId: string;
    {
      await using events = await EventStream.open(server, id, undefined, form);
      lastId = (await events.nextOf('output')).id;
    }
    worker.output(assign.channel, 'stdout', 6, 'second');
    worker.end(assign, { kind: 'exited', code: 0 }, { stdout: 'first second' });
    await server.execution(id, '10s');
    await using events = await EventStream.open(server, id, lastId, form);
    const pieces = (await events.rest()).flatMap((one) => (one.event === 'output' ? [one.data] : []));
    assert.deepEqual(
      pieces.map(({ offset, base64 }) => [offset, Buffer.from(base64, 'base64').toString()]),
      [[6, 'second']],
    );
  });

  test(`${form}: rule 11: a follower over a redelivery, it goes on where the new output begins as the old one did, else it restarts`, async () => {
    for (const [second, expected] of [
      ['same and more', ['output 0 same', 'output 4  and more', 'end']],
      ['other', ['output 0 same', 'restart', 'output 0 other', 'end']],
      ['sam', ['output 0 same', 'restart', 'output 0 sam', 'end']],
    ] as const) {
      await using scene = await lostAfterOutput(form);
      const { events, before, again } = scene;
      const assign = await again.startNext();
      again.output(assign.channel, 'stdout', 0, second);
      again.end(assign, { kind: 'exited', code: 0 }, { stdout: second });
      const seen = [before, ...(await events.rest())].flatMap((one) => {
        if (one.event === 'execution') return [];
        if (one.event !== 'output') return [one.event];
        return [`output ${one.data.offset} ${Buffer.from(one.data.base64, 'base64').toString()}`];
      });
      assert.deepEqual(seen, expected);
    }
  });

  test(`${form}: cancelled while nobody has accepted it again, what was written before stays`, async () => {
    await using scene = await lostAfterOutput(form);
    const { server, id, events, again } = scene;
    await again.next('AttemptAssign');
    await server.call('POST', `/v1/executions/${id}/cancel`, { body: { json: {} } });
    const kinds = (await events.rest()).map(({ event }) => event).filter((event) => event !== 'execution');
    assert.deepEqual(kinds, ['end']);
    const { state, output, stdout } = await server.execution(id, '1s');
    assert.deepEqual([state, output.stdout.bytes, stdout?.data], ['cancelled', 4, 'same']);
  });

  test(`${form}: both streams, one of bytes that are no text, in many pieces and in none, they come as they are`, async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('bytes');
    const stdout = Buffer.from(Array.from({ length: 700_000 }, (_, at) => (at * 7919) >> 3));
    for (const [name, out, err] of [
      ['much', stdout, Buffer.from([0xff, 0x0a, 0x0a, 0xc3, 0x28])],
      ['none', Buffer.alloc(0), Buffer.alloc(0)],
    ] as const) {
      const { id } = await server.run('bytes', { args: [name] });
      const assign = await worker.startNext();
      for (let at = 0; at < out.length; at += 65_536) {
        worker.output(assign.channel, 'stdout', at, out.subarray(at, at + 65_536));
      }
      if (err.length > 0) worker.output(assign.channel, 'stderr', 0, err);
      await using events = await EventStream.open(server, id, undefined, form);
      assert.equal(events.mediaType, form === 'text' ? 'text/event-stream' : EVENT_FRAMES_TYPE);
      worker.end(assign, { kind: 'exited', code: 0 }, { stdout: out, stderr: err });
      const all = await events.rest();
      for (const [stream, wanted] of [
        ['stdout', out],
        ['stderr', err],
      ] as const) {
        let bytes = Buffer.alloc(0);
        for (const one of all) {
          if (one.event !== 'output' || one.data.stream !== stream) continue;
          assert.equal(one.data.offset, bytes.length);
          bytes = Buffer.concat([bytes, Buffer.from(one.data.base64, 'base64')]);
        }
        assert.ok(bytes.equals(wanted), `${name} ${stream}`);
      }
      assert.equal(all.at(-1)?.event, 'end');
    }
  });
}

test('a client that does not ask for frames, it is sent server-sent events', async () => {
  await using server = await TestServer.start();
  await server.deploy('plain');
  const { id } = await server.run('plain');
  await using events = await EventStream.open(server, id);
  assert.equal(events.mediaType, 'text/event-stream');
});

test('a Last-Event-ID that is not of this execution, it is refused', async () => {
  await using server = await TestServer.start();
  await server.deploy('odd');
  const { id } = await server.run('odd');
  for (const wrong of ['nonsense', 'at_01m7zzzzzzzzzzzzzzzzzzzzzz.0.0', '..']) {
    await using events = await EventStream.open(server, id, wrong);
    assert.equal(events.status, 400);
  }
});

test('an ended execution, the follower gets its record, all output and the end', async () => {
  await using server = await TestServer.start();
  await using worker = await ScriptedWorker.connect(server);
  worker.echoAll();
  await server.deploy('done');
  const { id } = await server.run('done', { args: ['hello'] }, '10s');
  await using events = await EventStream.open(server, id);
  assert.deepEqual(
    (await events.rest()).map(({ event }) => event),
    ['execution', 'output', 'end'],
  );
});

test('20 MB of output and a follower that reads late, they are committed without it, and all bytes arrive', async () => {
  await using server = await TestServer.start();
  await using worker = await ScriptedWorker.connect(server);
  await server.deploy('much', { outputLimitBytes: 64 * 1024 * 1024 });
  const { id } = await server.run('much');
  const assign = await worker.startNext();
  const response = await new Promise<IncomingMessage>((resolve) => {
    get(`${server.url}/v1/executions/${id}/events`, { headers: { authorization: `Bearer ${server.key}` } }, resolve);
  });
  const total = 20 * 1024 * 1024;
  const bytes = Buffer.alloc(total);
  for (let at = 0; at < total; at += 4) bytes.writeUInt32LE(at, at);
  const beganMs = performance.now();
  for (let at = 0; at < total; at += 65_536)
    worker.output(assign.channel, 'stdout', at, bytes.subarray(at, at + 65_536));
  worker.end(assign, { kind: 'exited', code: 0 }, { stdout: bytes });
  await worker.next('AttemptEndedAck', () => true, 30_000);
  const seconds = (performance.now() - beganMs) / 1000;
  assert.ok(seconds < 10, `20 MB took ${seconds} s to commit`);
  let text = '';
  response.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  await once(response, 'end');
  const hash = createHash('sha256');
  for (const [, data] of text.matchAll(/^event: output\nid: .*\ndata: (.*)$/gm)) {
    hash.update(Buffer.from((JSON.parse(data!) as { base64: string }).base64, 'base64'));
  }
  assert.equal(hash.digest('hex'), createHash('sha256').update(bytes).digest('hex'));
  assert.match(text, /event: end\n/);
});

test(
  'output that cannot be read, the follower is cut off instead of waiting for ever',
  { timeout: 30_000 },
  async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('gone');
    const { id } = await server.run('gone');
    const { channel } = await worker.startNext();
    worker.output(channel, 'stdout', 0, 'x'.repeat(40_000));
    await worker.next('OutputAck', (ack) => ack.offset === 40_000);
    // A server that has just begun has none of it in memory.
    await server.restart(() => rmSync(join(server.directory.path, 'data', 'output'), { recursive: true }));
    await using events = await EventStream.open(server, id);
    await assert.rejects(events.rest());
  },
);

test('a follower that does not read, no more is read for it than its connection takes; one that is idle hears a comment', async () => {
  await using server = await TestServer.start();
  await server.deploy('stuck');
  const { id } = await server.run('stuck');
  const open = await server.execution(id);
  const total = 256 * 1024 * 1024;
  const record: ExecutionRecord = {
    ...open,
    output: { ...open.output, stdout: { bytes: total, truncated: false, sha256: null } },
  };
  let readBytes = 0;
  const output = {
    async *read(_attempt: unknown, _stream: string, offset: number, end: number) {
      for (let at = offset; at < end; at += 65_536) {
        readBytes += 65_536;
        yield Buffer.alloc(Math.min(65_536, end - at));
      }
    },
  } as unknown as OutputStore;
  const app = fastify({ forceCloseConnections: true });
  let over = false;
  app.get('/:what', async (request, reply) => {
    const controller = new AbortController();
    reply.raw.once('close', () => controller.abort());
    const what = (request.params as { what: string }).what;
    const first = what === 'idle' ? open : record;
    const parts = {
      hub: new EventHub(),
      output,
      projectId: 'p',
      accept: '',
      lastEventId: null,
      reply,
      signal: controller.signal,
    };
    await follow({ ...parts, first, read: async () => first, keepAliveMs: 20 });
    over = true;
    return reply;
  });
  const url = await app.listen({ port: 0 });
  const connected = (what: string) => new Promise<IncomingMessage>((resolve) => get(`${url}/${what}`, resolve));

  const stuck = await connected('stuck');
  let before = -1;
  await until('nothing more is read', async () => {
    const isStill = readBytes === before;
    before = readBytes;
    await new Promise((resolve) => setTimeout(resolve, 100));
    return isStill;
  });
  assert.ok(readBytes > 0 && readBytes < 32 * 1024 * 1024, `${readBytes} bytes were read`);
  stuck.destroy();
  await until('its follower has ended', () => over);

  const idle = await connected('idle');
  let text = '';
  idle.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  await until('two comments came', () => text.split(': still here').length > 2);
  idle.destroy();
  await app.close();
});
