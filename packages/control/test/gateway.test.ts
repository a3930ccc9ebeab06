import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { request } from 'node:http';
import { connect } from 'node:net';
import { describe, test } from 'node:test';
import {
  type AttemptEnded,
  endStatement,
  type ExecutionRecord,
  GATEWAY_PATH,
  GATEWAY_SUBPROTOCOL,
  helloStatement,
  MAX_RESULT_BYTES,
  type ServerRefusal,
  signEnds,
} from '@cocore/protocol';
import type { z } from 'zod';
import { MAX_UNPROVEN } from '../src/gateway/gateway.ts';
import { holdStore } from './support/broken-store.ts';
import { ManualClock } from './support/manual-clock.ts';
import { type ConnectOptions, Identity, type Message, ScriptedWorker } from './support/scripted-worker.ts';
import { TestServer } from './support/test-server.ts';
import { until } from './support/until.ts';

async function refusal(server: TestServer, options: ConnectOptions): Promise<z.infer<typeof ServerRefusal>> {
  await using worker = await ScriptedWorker.dial(server, options);
  const refused = await worker.next('ServerRefusal');
  assert.equal((await worker.closed).code, 1008);
  return refused;
}

/** The status with which an upgrade is refused. */
async function upgradeStatus(
  server: TestServer,
  headers: Record<string, string>,
  path = GATEWAY_PATH,
): Promise<number> {
  const outgoing = request(server.url + path, {
    headers: {
      connection: 'Upgrade',
      upgrade: 'websocket',
      'sec-websocket-version': '13',
      'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
      'sec-websocket-protocol': GATEWAY_SUBPROTOCOL,
      ...headers,
    },
  });
  outgoing.end();
  const event = await Promise.race([once(outgoing, 'response'), once(outgoing, 'upgrade')]);
  const [response] = event as [{ statusCode: number; destroy(): void }];
  response.destroy();
  return response.statusCode;
}

describe('the worker handshake', () => {
  test('a join token and a signature that fit, the worker is welcome, and known from then on without a token', async () => {
    await using server = await TestServer.start();
    const identity = new Identity();
    const joinToken = await server.joinToken();
    await using first = await ScriptedWorker.connect(server, { identity, joinToken });
    await using second = await ScriptedWorker.connect(server, { identity });
    assert.equal(first.welcome.heartbeatMs, 5_000, 'a beat every 5 s is asked for');
    assert.equal(second.welcome.workerId, first.welcome.workerId);
    assert.notEqual(second.welcome.sessionId, first.welcome.sessionId);
    assert.equal((await first.closed).reason, 'session_replaced');
    const { workers } = (await server.call<{ workers: { state: string }[] }>('GET', '/v1/workers')).body;
    assert.deepEqual(
      workers.map((worker) => worker.state),
      ['online'],
    );
  });

  test('a join token that was used, the second worker is refused', async () => {
    await using server = await TestServer.start();
    const joinToken = await server.joinToken();
    await using _first = await ScriptedWorker.connect(server, { joinToken });
    assert.equal((await refusal(server, { joinToken })).code, 'join_token_invalid');
  });

  test('a worker that nobody knows and that has no token, it is refused', async () => {
    await using server = await TestServer.start();
    assert.equal((await refusal(server, {})).code, 'worker_unknown');
    assert.equal((await refusal(server, { joinToken: 'cj_bm90IGpzb24' })).code, 'join_token_invalid');
  });

  test('a token of another server, it is refused', async () => {
    await using server = await TestServer.start();
    await using other = await TestServer.start();
    assert.equal((await refusal(server, { joinToken: await other.joinToken() })).code, 'join_token_invalid');
  });

  test('a signature over another nonce, another server or another address, it is refused', async () => {
    await using server = await TestServer.start();
    for (const wrong of [{ nonce: 'A'.repeat(43) }, { serverId: 'another' }, { authority: 'elsewhere:1' }]) {
      const joinToken = await server.joinToken();
      const refused = await refusal(server, { joinToken, statement: (of) => helloStatement({ ...of, ...wrong }) });
      assert.equal(refused.code, 'signature_invalid', JSON.stringify(wrong));
      // The token is not used up by it.
      await using _worker = await ScriptedWorker.connect(server, { identity: new Identity(), joinToken });
    }
  });

  test('an authority that is not one of the server’s names, it is refused', async () => {
    await using server = await TestServer.start();
    const joinToken = await server.joinToken();
    const refused = await refusal(server, { joinToken, change: () => ({ authority: 'evil.example:80' }) });
    assert.equal(refused.code, 'server_mismatch');
  });

  test('versions that do not overlap, it is refused', async () => {
    await using server = await TestServer.start();
    const change = () => ({ protocol: { min: 2, max: 3 } });
    assert.equal((await refusal(server, { joinToken: await server.joinToken(), change })).code, 'protocol_version');
  });

  test('no hello in time, the connection is closed', async () => {
    await using server = await TestServer.start({ handshakeTimeoutMs: 50 });
    const { default: WebSocket } = await import('ws');
    await using worker = new ScriptedWorker(
      new WebSocket(server.url.replace('http', 'ws') + GATEWAY_PATH, GATEWAY_SUBPROTOCOL),
      new Identity(),
    );
    assert.equal((await worker.next('ServerRefusal')).code, 'protocol_violation');
  });

  test('more connections that say nothing than there are places, a worker that proves itself gets in', async () => {
    await using server = await TestServer.start();
    const { hostname: host, port, host: authority } = new URL(server.url);
    const joinToken = await server.joinToken();
    const headers = `Host: ${authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==`;
    await using scope = new AsyncDisposableStack();
    const silent = Array.from({ length: 2 * MAX_UNPROVEN }, () => {
      // One address has them all, and it is not the worker's.
      const socket = connect({ host, port: Number(port), localAddress: '127.0.0.2' });
      socket.on('error', () => undefined);
      socket.write(
        `GET ${GATEWAY_PATH} HTTP/1.1\r\n${headers}\r\nSec-WebSocket-Protocol: ${GATEWAY_SUBPROTOCOL}\r\n\r\n`,
      );
      return scope.adopt(socket, () => void socket.destroy());
    });
    await Promise.all(silent.map((socket) => once(socket, 'data')));
    const waiting = await ScriptedWorker.dial(server, { identity: new Identity(), joinToken });
    assert.ok(await waiting.next('ServerWelcome'));
    await waiting[Symbol.asyncDispose]();
    // The oldest were turned away.
    await until(
      'places are bounded',
      () => silent.filter((socket) => socket.closed || socket.readableEnded).length >= MAX_UNPROVEN,
    );
  });

  test('an upgrade with Origin, another Host, another path or another subprotocol, it is refused', async () => {
    await using server = await TestServer.start();
    assert.equal(await upgradeStatus(server, {}), 101);
    assert.equal(await upgradeStatus(server, { origin: server.url }), 403);
    assert.equal(await upgradeStatus(server, { host: 'evil.example' }), 421);
    assert.equal(await upgradeStatus(server, {}, `${GATEWAY_PATH}?x=1`), 404);
    assert.equal(await upgradeStatus(server, { 'sec-websocket-protocol': 'other' }), 400);
  });

  test('a refused upgrade whose client does not hang up, the server does', { timeout: 10_000 }, async () => {
    await using server = await TestServer.start();
    const { hostname: host, port, host: authority } = new URL(server.url);
    const socket = connect({ host, port: Number(port), allowHalfOpen: true });
    socket.on('error', () => undefined);
    const headers = `Host: ${authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n`;
    socket.write(`GET /elsewhere HTTP/1.1\r\n${headers}\r\n`);
    let answer = '';
    socket.on('data', (chunk) => (answer += String(chunk)));
    await once(socket, 'end');
    assert.match(answer, /^HTTP\/1\.1 404 .*route_not_found/s);
    // A server that still held the connection would never have stopped.
    await server.restart();
    socket.destroy();
  });
});

describe('an attempt over the gateway', () => {
  test('accepted, started, output and end, the record shows each, and the end is acknowledged again', async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('greet', { env: { GREETING: 'hallo' } });
    const { id } = await server.run('greet', { args: ['a b', ''], env: { X: '1' }, stdin: { base64: 'AAE=' } });
    const assign = await worker.next('AttemptAssign');
    assert.deepEqual(assign.task.argv, ['/bin/bash', '/function/greet.sh', 'a b', '']);
    assert.deepEqual(assign.task.stdin, { base64: 'AAE=' });
    assert.equal(assign.task.env['GREETING'], 'hallo');
    assert.equal(assign.task.env['COCORE_EXECUTION_ID'], id);
    assert.equal((await server.execution(id)).state, 'open');
    worker.accept(assign);
    await until('it is running', async () => (await server.execution(id)).phase === 'preparing');
    worker.started(assign, 5);
    await until('it executes', async () => (await server.execution(id)).phase === 'executing');
    worker.output(assign.channel, 'stdout', 0, 'hel');
    worker.output(assign.channel, 'stderr', 0, 'oops');
    worker.output(assign.channel, 'stdout', 3, 'lo');
    await worker.next('OutputAck', (ack) => ack.stream === 'stdout' && ack.offset === 5);
    worker.beat(7, [{ attemptId: assign.attemptId, agentAgeMs: 120 }]);
    assert.equal((await worker.next('HeartbeatAck')).sequence, 7);
    const during = await server.execution(id);
    assert.equal(during.attempts[0]?.agentAgeMs, 120);
    assert.equal(during.output.stdout.bytes, 5);
    const streams = { stdout: 'hello', stderr: 'oops' };
    worker.end(assign, { kind: 'exited', code: 3 }, streams);
    await worker.next('AttemptEndedAck');
    worker.end(assign, { kind: 'exited', code: 3 }, streams);
    await worker.next('AttemptEndedAck');
    const ended = await server.execution(id, '1s');
    assert.deepEqual([ended.state, ended.reason, ended.exitCode], ['failure', 'exit_code', 3]);
    assert.deepEqual(ended.stdout, { encoding: 'utf8', data: 'hello', complete: true });
    assert.equal(ended.stderr?.data, 'oops');
    assert.equal(ended.attempts[0]?.usage.host?.cpuMs, 1.5);
    assert.equal(typeof ended.attempts[0]?.usage.control?.wallMs, 'number');
  });

  test('a contradicting second end, the first stays and the session is closed', async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('once');
    const { id } = await server.run('once');
    const assign = await worker.startNext();
    worker.end(assign);
    await worker.next('AttemptEndedAck');
    worker.end(assign, { kind: 'exited', code: 9 });
    assert.equal((await worker.closed).code, 1008);
    assert.equal((await server.execution(id)).state, 'success');
  });

  test('output that is sent again with the same bytes, it is acknowledged again; with other bytes, the session is closed', async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('repeat');
    await server.run('repeat');
    const { channel } = await worker.startNext();
    worker.output(channel, 'stdout', 0, 'abcdef');
    await worker.next('OutputAck', (ack) => ack.offset === 6);
    worker.output(channel, 'stdout', 2, 'cdefgh');
    await worker.next('OutputAck', (ack) => ack.offset === 8);
    worker.output(channel, 'stdout', 0, 'abc');
    await worker.next('OutputAck', (ack) => ack.offset === 8);
    worker.output(channel, 'stdout', 0, 'abX');
    assert.match((await worker.closed).reason, /protocol_violation/);
  });

  test('a second daemon with the key of one that is heard, it is refused and takes nothing; once that is gone it is welcome', async () => {
    const clock = new ManualClock();
    await using server = await TestServer.start({ clock });
    const identity = new Identity();
    const joinToken = await server.joinToken();
    const change = (instance: string) => () => ({ instance });
    const first = await ScriptedWorker.connect(server, { identity, joinToken, change: change('first') });
    await server.deploy('mine');
    const { id } = await server.run('mine');
    const assigned = await first.startNext();
    await using second = await ScriptedWorker.dial(server, { identity, change: change('second') });
    assert.equal((await second.next('ServerRefusal')).code, 'worker_duplicate');
    // Its own next session is another matter.
    const inventory = [assigned.attemptId];
    await using again = await ScriptedWorker.connect(server, { identity, inventory, change: change('first') });
    assert.equal(again.welcome.resume.length, 1);
    again.end(assigned);
    assert.equal((await server.execution(id, '10s')).state, 'success');
    clock.advance(15_001);
    await using late = await ScriptedWorker.connect(server, { identity, change: change('second') });
    assert.equal(late.welcome.workerId, first.welcome.workerId);
    assert.equal((await again.closed).code, 4001);
  });

  test('a worker of a later release, what it says beyond this one’s words is ignored', async () => {
    await using server = await TestServer.start();
    const later = { protocol: { min: 1, max: 2 }, mood: 'good' };
    await using worker = await ScriptedWorker.connect(server, { change: () => later });
    await server.deploy('later');
    const { id } = await server.run('later');
    const assigned = await worker.startNext();
    worker.socket.send(JSON.stringify({ type: 'AttemptPondered', attemptId: assigned.attemptId, depth: 3 }));
    worker.end(assigned, { kind: 'exited', code: 0 }, {}, { mood: 'better' } as object);
    assert.equal((await server.execution(id, '10s')).state, 'success');
  });

  const FAULTS: Record<string, (worker: ScriptedWorker, channel: number) => void> = {
    'a gap in the output': (worker, channel) => worker.output(channel, 'stdout', 1, 'x'),
    'output past the limit': (worker, channel) => worker.output(channel, 'stdout', 0, 'x'.repeat(101)),
    'a channel that was never given': (worker) => worker.output(99, 'stdout', 0, 'x'),
    'text that is not JSON': (worker) => worker.socket.send('{'),
    'a message with a field of another kind': (worker) =>
      worker.socket.send('{"type":"WorkerHeartbeat","sequence":"1","attempts":[]}'),
    'a second hello': (worker) => worker.socket.send('{"type":"WorkerHello"}'),
    'a server’s message': (worker) => worker.socket.send('{"type":"HeartbeatAck","sequence":1}'),
    'a binary frame that is too short': (worker) => worker.socket.send(Buffer.alloc(3)),
    'a server’s message with a long text in another script': (worker) =>
      worker.socket.send(`{"type":"HeartbeatAck","sequence":"${'é'.repeat(200)}"}`),
    'a binary frame of unknown type': (worker) => worker.socket.send(Buffer.alloc(32, 9)),
  };
  for (const [what, misbehave] of Object.entries(FAULTS)) {
    test(`${what}, the session is closed and the execution goes on`, async () => {
      await using server = await TestServer.start();
      await using worker = await ScriptedWorker.connect(server);
      await server.deploy('small', { outputLimitBytes: 100 });
      const { id } = await server.run('small');
      const { channel } = await worker.startNext();
      await until('it executes', async () => (await server.execution(id)).phase === 'executing');
      misbehave(worker, channel);
      assert.equal((await worker.closed).code, 1008);
      assert.equal((await server.execution(id)).state, 'running');
      const metrics = (await server.call<string>('GET', '/metrics')).body;
      assert.match(metrics, /^cocore_worker_protocol_faults_total 1$/m);
    });
  }

  test('output and the acceptance right behind it, the session is closed for the output', async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('early');
    await server.run('early');
    const assign = await worker.next('AttemptAssign');
    worker.output(assign.channel, 'stdout', 0, 'early');
    worker.accept(assign);
    worker.started(assign);
    assert.match((await worker.closed).reason, /output came before the attempt was accepted/);
  });

  test('a message of 3 MiB, the connection is closed unread', async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    worker.socket.send('x'.repeat(3 * 1024 * 1024));
    assert.equal((await worker.closed).code, 1009);
  });

  test('a result, the server reads it as JSON and holds the end against it', async () => {
    await using server = await TestServer.start();
    await server.deploy('results');
    await using worker = await ScriptedWorker.connect(server);
    const ended = async (result: string, code = 0) => {
      const { id } = await server.run('results');
      const assign = await worker.startNext();
      if (result !== '') worker.output(assign.channel, 'result', 0, result);
      worker.end(assign, { kind: 'exited', code }, { result });
      const record = await server.execution(id, '30s');
      return [record.reason, record.result, record.error?.type ?? null, record.message];
    };
    const exception = JSON.stringify({ $cocoreError: { type: 'E', message: 'm', stack: null } });
    assert.deepEqual(await ended(' {"a":1} '), [null, { value: { a: 1 } }, null, null]);
    assert.deepEqual(await ended(''), [null, null, null, null]);
    assert.deepEqual(await ended('2', 3), ['exit_code', { value: 2 }, null, null]);
    assert.deepEqual(await ended(exception, 1), ['exception', null, 'E', 'E: m']);
    assert.deepEqual(await ended(exception), [null, { value: JSON.parse(exception) as unknown }, null, null]);
    const broken = '{"$cocoreError":{"type":1}}';
    assert.deepEqual(await ended(broken, 1), ['exit_code', { value: JSON.parse(broken) as unknown }, null, null]);
    assert.equal((await ended('{"a":'))[0], 'result_invalid');
    const [reason, result, , message] = await ended('{"a":', 4);
    assert.deepEqual([reason, result], ['exit_code', null]);
    assert.match(message as string, /the result is not JSON/);
  });

  test('a worker that says itself what a result says, or sends more than may be, the session is closed', async () => {
    await using server = await TestServer.start();
    await server.deploy('results');
    const acts: ((worker: ScriptedWorker, assign: Message<'AttemptAssign'>) => void)[] = [
      (worker, assign) => worker.end(assign, { kind: 'raised', code: 1 }),
      (worker, { channel }) => {
        for (let at = 0; at <= MAX_RESULT_BYTES; at += 65_536)
          worker.output(channel, 'result', at, Buffer.alloc(65_536));
      },
      (worker, { channel }) => worker.output(channel, 'artifacts', 1, 'x'),
    ];
    for (const act of acts) {
      await using worker = await ScriptedWorker.connect(server);
      await server.run('results');
      act(worker, await worker.startNext());
      assert.match((await worker.closed).reason, /^protocol_violation/);
    }
  });

  test('an end with a wrong signature, the session is closed and nothing ends', async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('forged');
    const { id } = await server.run('forged');
    const assign = await worker.startNext();
    worker.end(assign, { kind: 'exited', code: 0 }, {}, { signature: 'A'.repeat(86) });
    assert.match((await worker.closed).reason, /signature_invalid/);
    await until('it is running', async () => (await server.execution(id)).state === 'running');
  });

  /** A worker to which so many executions are assigned and have begun. */
  async function begun(server: TestServer, count: number) {
    const worker = await ScriptedWorker.connect(server);
    await server.deploy('together');
    const ids = [];
    const assigns = [];
    for (let at = 0; at < count; at += 1) {
      ids.push((await server.run('together')).id);
      assigns.push(await worker.startNext());
    }
    return { worker, ids, assigns };
  }

  test('ends that share a signature, the worker may send them, each counts, and each is acknowledged again', async () => {
    await using server = await TestServer.start();
    const { worker, ids, assigns } = await begun(server, 3);
    await using _worker = worker;
    assert.equal(worker.welcome.sharedSignatures, true);
    for (const _time of ['first', 'again']) {
      worker.endTogether(assigns);
      for (const { attemptId } of assigns) {
        await worker.next('AttemptEndedAck', (ack) => ack.attemptId === attemptId);
      }
    }
    for (const id of ids) assert.equal((await server.execution(id, '20s')).state, 'success');
  });

  const forged: [string, (ended: AttemptEnded) => object][] = [
    ['another fact', () => ({ artifactFiles: 7 })],
    [
      'another index',
      ({ signature }) => ({ signature: signature.replace(/\.(\d)\./, (_, at) => `.${1 - Number(at)}.`) }),
    ],
    ['another path', ({ signature }) => ({ signature: signature.slice(0, -43) + 'A'.repeat(43) })],
    ['a signature that is none', ({ signature }) => ({ signature: 'A'.repeat(86) + signature.slice(86) })],
    [
      'another worker’s signature of it',
      (ended) => {
        const sha256 = (text: string) => createHash('sha256').update(text).digest('base64url');
        const statements = [endStatement(ended), 'another'];
        return { signature: signEnds(statements, sha256, (statement) => new Identity().sign(statement))[0] };
      },
    ],
  ];
  for (const [name, change] of forged) {
    test(`${name} under a shared signature, the session is closed and nothing ends`, async () => {
      await using server = await TestServer.start();
      const { worker, ids, assigns } = await begun(server, 2);
      await using _worker = worker;
      worker.endTogether(assigns, (ended) => (ended.attemptId === assigns[1]!.attemptId ? change(ended) : {}));
      assert.match((await worker.closed).reason, /signature_invalid/);
      assert.notEqual((await server.execution(ids[1]!)).state, 'success');
    });
  }

  test('a worker that reports about another’s attempt, nothing changes and it is told to drop it', async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('mine');
    const { id } = await server.run('mine');
    const assign = await worker.startNext();
    await using thief = await ScriptedWorker.connect(server);
    thief.accept(assign);
    assert.equal((await thief.next('AttemptRevoke')).attemptId, assign.attemptId);
    thief.end(assign);
    assert.equal((await thief.next('AttemptRevoke')).attemptId, assign.attemptId);
    thief.beat(1, [{ attemptId: assign.attemptId, agentAgeMs: 5 }]);
    await thief.next('HeartbeatAck');
    const record = await server.execution(id);
    assert.equal(record.state, 'running');
    assert.equal(record.attempts[0]?.lastBeatAt, null);
    worker.end(assign);
    assert.equal((await server.execution(id, '5s')).state, 'success');
  });

  test('a refusal, the attempt goes to another worker', async () => {
    await using server = await TestServer.start();
    await using full = await ScriptedWorker.connect(server, { capabilities: { memoryMiB: 1024 } });
    await server.deploy('moved');
    const { id } = await server.run('moved', {});
    const refused = await full.next('AttemptAssign');
    await using other = await ScriptedWorker.connect(server);
    full.send({ type: 'AttemptRefused', attemptId: refused.attemptId, cause: 'stopping' });
    const assign = await other.next('AttemptAssign');
    assert.equal(assign.attemptId, refused.attemptId);
    other.accept(assign);
    other.end(assign);
    assert.equal((await server.execution(id, '5s')).state, 'success');
  });

  test('a function that requires gvisor, an emulated worker never gets it and the record says why; a gvisor worker runs it', async () => {
    await using server = await TestServer.start();
    await server.deploy('walled', { isolation: 'gvisor' });
    await server.deploy('plain', { isolation: 'emulated' });
    const alone = await server.run('walled');
    assert.deepEqual([alone.state, alone.isolation, alone.waiting?.code], ['open', 'gvisor', 'no_worker']);
    await using weak = await ScriptedWorker.connect(server, { capabilities: { isolation: 'emulated' } });
    // What the weak worker may have passes what it may not.
    const { id } = await server.run('plain');
    assert.equal((await weak.startNext()).executionId, id);
    const records = [await server.execution(alone.id), await server.run('walled')];
    for (const [at, record] of records.entries()) {
      assert.deepEqual(
        [record.state, record.waiting],
        [
          'open',
          {
            code: 'isolation',
            message: 'no worker that is online gives isolation gvisor or better; there is: emulated (1)',
            position: at + 1,
          },
        ],
      );
    }
    const list = await server.call<{ executions: ExecutionRecord[] }>('GET', '/v1/executions?state=open');
    assert.deepEqual(
      list.body.executions.map(({ waiting }) => waiting?.code),
      ['isolation', 'isolation'],
    );
    await using strong = await ScriptedWorker.connect(server, { capabilities: { isolation: 'gvisor' } });
    const assign = await strong.next('AttemptAssign', ({ executionId }) => executionId === alone.id);
    strong.accept(assign);
    strong.started(assign);
    strong.end(assign);
    const record = await server.execution(alone.id, '5s');
    assert.deepEqual(
      [record.state, record.waiting, record.attempts.map(({ workerId, isolation }) => [workerId, isolation])],
      ['success', null, [[strong.welcome.workerId, 'gvisor']]],
    );
    assert.deepEqual(
      weak.received.filter(({ type }) => type === 'AttemptAssign'),
      [],
    );
  });

  test('a worker that comes back with a weaker driver, it gets no more of what requires the stronger', async () => {
    await using server = await TestServer.start();
    await server.deploy('walled', { isolation: 'gvisor' });
    const identity = new Identity();
    const joinToken = await server.joinToken();
    const before = await ScriptedWorker.connect(server, {
      identity,
      joinToken,
      capabilities: { isolation: 'gvisor', cpus: 1 },
    });
    const [one, two] = [await server.run('walled'), await server.run('walled')];
    const assign = await before.next('AttemptAssign', ({ executionId }) => executionId === one.id);
    assert.equal((await server.execution(two.id)).waiting?.code, 'busy');
    const { attemptId } = assign;
    await using after = await ScriptedWorker.connect(server, {
      identity,
      inventory: [attemptId],
      capabilities: { isolation: 'emulated' },
    });
    assert.deepEqual([after.welcome.resume, after.welcome.revoke], [[], [attemptId]]);
    for (const { id } of [one, two]) assert.equal((await server.execution(id)).waiting?.code, 'isolation');
    await before[Symbol.asyncDispose]();
    after.beat(1);
    await after.next('HeartbeatAck');
    assert.deepEqual(
      after.received.filter(({ type }) => type === 'AttemptAssign'),
      [],
    );
  });

  test('an acceptance in a weaker class than is required, it does not count and the attempt goes to another worker', async () => {
    await using server = await TestServer.start();
    await using liar = await ScriptedWorker.connect(server, { capabilities: { isolation: 'gvisor', memoryMiB: 1024 } });
    await server.deploy('walled', { isolation: 'gvisor' });
    const { id } = await server.run('walled', {});
    const assign = await liar.next('AttemptAssign');
    liar.accept(assign, 'container');
    assert.match((await liar.next('AttemptRevoke')).why, /container is too weak: gvisor is required/);
    assert.equal((await server.execution(id)).state, 'open');
    await using other = await ScriptedWorker.connect(server, { capabilities: { isolation: 'microvm' } });
    const again = await other.startNext();
    other.end(again);
    const record = await server.execution(id, '5s');
    assert.deepEqual([record.state, record.attempts[0]?.isolation], ['success', 'microvm']);
    assert.deepEqual(
      liar.received.filter(({ type }) => type === 'AttemptAssign'),
      [],
    );
  });

  test('a worker that refuses because it stops, and then ends what it had, it is given nothing more', async () => {
    await using server = await TestServer.start();
    await using leaving = await ScriptedWorker.connect(server);
    await server.deploy('leave');
    await server.run('leave');
    const last = await leaving.startNext();
    const { id } = await server.run('leave', {});
    const refused = await leaving.next('AttemptAssign');
    leaving.send({ type: 'AttemptRefused', attemptId: refused.attemptId, cause: 'stopping' });
    leaving.end(last);
    await leaving.next('AttemptEndedAck');
    await using other = await ScriptedWorker.connect(server);
    assert.equal((await other.next('AttemptAssign')).executionId, id);
    assert.deepEqual(
      leaving.received.filter(({ type }) => type === 'AttemptAssign'),
      [],
    );
  });

  test('a flood of output from one worker, another’s heartbeats are answered at once', async () => {
    await using server = await TestServer.start();
    await using flooder = await ScriptedWorker.connect(server);
    await server.deploy('flood', { outputLimitBytes: 256 * 1024 * 1024 });
    await server.run('flood');
    const { channel } = await flooder.startNext();
    await using other = await ScriptedWorker.connect(server);
    const piece = Buffer.alloc(65_536, 'x');
    for (let at = 0; at < 64 * 1024 * 1024; at += piece.length) flooder.output(channel, 'stdout', at, piece);
    let worstMs = 0;
    for (let sequence = 0; sequence < 20; sequence += 1) {
      const sentMs = performance.now();
      other.beat(sequence);
      await other.next('HeartbeatAck', (ack) => ack.sequence === sequence);
      worstMs = Math.max(worstMs, performance.now() - sentMs);
    }
    assert.ok(worstMs < 1_000, `a beat took ${worstMs} ms`);
    await flooder.next('OutputAck', (ack) => ack.offset === 64 * 1024 * 1024, 30_000);
  });

  test('a blob token, it fetches the blobs of live assignments and no other', async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('blobs');
    await server.run('blobs');
    const assign = await worker.startNext();
    const other = await server.call<{ digest: string }>('POST', '/v1/blobs', {
      body: { raw: 'secret', type: 'application/octet-stream' },
    });
    const get = (digest: string, key: string | null) => server.call('GET', `/v1/worker/blobs/${digest}`, { key });
    const { blobToken } = worker.welcome;
    const image = await fetch(`${server.url}/v1/worker/blobs/${assign.task.image.digest}`, {
      headers: { authorization: `Bearer ${blobToken}` },
    });
    assert.equal(await image.text(), 'base: not read by the control server');
    assert.equal((await get(assign.task.code.digest, blobToken)).status, 200);
    assert.equal((await get(other.body.digest, blobToken)).body.code, 'blob_not_found');
    assert.equal((await get(assign.task.code.digest, server.key)).body.code, 'unauthenticated');
    assert.equal((await get(assign.task.code.digest, null)).body.code, 'unauthenticated');
    worker.end(assign);
    await worker.next('AttemptEndedAck');
    assert.equal((await get(assign.task.code.digest, blobToken)).body.code, 'blob_not_found');
  });
});

describe('a server that stops while its store is slow', () => {
  test('a worker that dials then, it is turned away, and the server ends', async () => {
    await using server = await TestServer.start();
    const identity = new Identity();
    const joinToken = await server.joinToken();
    await using worker = await ScriptedWorker.connect(server, { identity, joinToken });
    const held = holdStore(server);
    // It cannot write down yet that the session has ended.
    const restarted = server.restart();
    await worker.closed;
    assert.equal(await upgradeStatus(server, {}), 503);
    held[Symbol.dispose]();
    await restarted;
    await using _again = await ScriptedWorker.connect(server, { identity });
  });

  test('a worker whose hello is being worked off, its session is given back, and the server ends', async () => {
    await using server = await TestServer.start();
    const identity = new Identity();
    const joinToken = await server.joinToken();
    await using known = await ScriptedWorker.connect(server, { identity, joinToken });
    await known[Symbol.asyncDispose]();
    const held = holdStore(server);
    await using dialling = await ScriptedWorker.dial(server, { identity });
    const restarted = server.restart();
    await dialling.closed;
    held[Symbol.dispose]();
    await restarted;
    const { workers } = (await server.call<{ workers: { state: string }[] }>('GET', '/v1/workers')).body;
    assert.deepEqual(
      workers.map(({ state }) => state),
      ['offline'],
    );
  });
});
