import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { type AttemptAssign, CUT_OFF_MS, LEASE_MS, type Network, NO_NETWORK } from '@cocore/protocol';
import { BlobCache } from '../src/blobs/blob-cache.ts';
import { CapacityLedger } from '../src/capacity/ledger.ts';
import { Attempts } from '../src/execution/attempts.ts';
import { EndJournal } from '../src/execution/end-journal.ts';
import { Identity } from '../src/identity.ts';
import { FakeDriver } from '../src/sandbox/fake/fake-driver.ts';
import { Contact } from '../src/session/contact.ts';
import { Endpoint } from '../src/session/endpoint.ts';
import { Session } from '../src/session/session.ts';
import { LOOSE_NETWORKS } from './support/loose-networks.ts';
import { silent } from './support/run-program.ts';
import { assignment, type Peer, ScriptedServer } from './support/scripted-server.ts';
import { eventually, workspace } from './support/workspace.ts';

const BLOB = Buffer.from('an image');
const REF = { digest: `sha256:${createHash('sha256').update(BLOB).digest('hex')}`, bytes: BLOB.length };
const [ONE, TWO] = ['at_01m8515c5dec3ssmk0fssmppb1', 'at_01m8515c5dec3ssmk0fssmppb2'] as const;

const EGRESS: Network = { mode: 'egress', allow: ['*'], maxBytes: 1 };

describe('a worker that the control server may not hear', () => {
  let scope: AsyncDisposableStack;
  let attempts: Attempts;
  let path: string;
  beforeEach(async () => {
    scope = new AsyncDisposableStack();
    path = scope.use(await workspace()).path;
    const { journal } = await EndJournal.open({ directory: join(path, 'ends'), isOurs: () => true, log: silent });
    scope.use(journal);
    const source = async () => Readable.from([BLOB]);
    const blobs = scope.use(await BlobCache.open({ directory: join(path, 'blobs'), budgetBytes: 1e6, source }));
    const driver = scope.use(new FakeDriver({ network: true }));
    const nothing = () => undefined;
    const parts = {
      driver,
      networks: LOOSE_NETWORKS,
      blobs,
      journal,
      log: silent,
      sign: () => 'signed',
      onNews: nothing,
      onBootRetry: nothing,
    };
    attempts = new Attempts(new CapacityLedger({ cpus: 4, memoryMiB: 4096, diskMiB: 4096 }), parts);
    scope.defer(() => attempts.reclaim());
  });
  afterEach(() => scope.disposeAsync());

  const assign = (attemptId: string, network: AttemptAssign['task']['network']) => {
    // What has a network would not heed a signal.
    const steps = [...(network.mode === 'none' ? [] : ['trap:60000']), 'sleep:60000'];
    const whole = assignment(attemptId, 1, REF, steps);
    assert.equal(attempts.assign({ ...whole, task: { ...whole.task, network } }), null);
    attempts.acceptanceCommitted(attemptId);
    return eventually('it runs', () => attempts.get(attemptId)?.startedAtMs !== null);
  };

  test('rule 6: no answer for 20 s, what has a network ends at once and what has none goes on', async () => {
    let nowMs = 1_000;
    using contact = new Contact({ onCutOff: () => attempts.cutOff(), uptime: () => nowMs });
    await assign(ONE, EGRESS);
    await assign(TWO, NO_NETWORK);
    // Answered late: what counts is when it was sent.
    nowMs += 15_000;
    contact.answered(6_000);
    contact.answered(2_000);
    nowMs = 6_000 + CUT_OFF_MS;
    contact.look();
    assert.equal(attempts.get(ONE)?.ended, null);
    nowMs += 1;
    contact.look();
    await eventually('it ends', () => attempts.get(ONE)?.ended !== null);
    assert.deepEqual(attempts.get(ONE)?.ended?.outcome, { kind: 'lost', cause: 'host_lost' });
    assert.equal(attempts.get(TWO)?.ended, null);
    // Ended, and gone, before the control server may give it to another.
    assert.ok(CUT_OFF_MS + 5_000 < LEASE_MS);
  });

  test('rule 6: a function with a network, it begins once its acceptance is committed', async () => {
    const server = scope.use(await ScriptedServer.start());
    const { peer } = await session(server, () => 0);
    const take = (attemptId: string, network: Network) => {
      const whole = assignment(attemptId, 1, REF, ['sleep:60000']);
      assert.equal(attempts.assign({ ...whole, task: { ...whole.task, network } }), null);
    };
    const isRunning = (attemptId: string) => attempts.get(attemptId)?.startedAtMs !== null;
    take(ONE, EGRESS);
    take(TWO, NO_NETWORK);
    await eventually('what has none runs', () => isRunning(TWO));
    await eventually('later beats', () => peer.messages('WorkerHeartbeat').length > 2);
    assert.equal(isRunning(ONE), false);
    peer.send({ type: 'AttemptAcceptedAck', attemptId: ONE });
    await eventually('it runs', () => isRunning(ONE));
  });

  test('rule 6: heartbeats, an answer proves what was sent before it; one that nobody sent proves nothing', async () => {
    const server = scope.use(await ScriptedServer.start());
    let nowMs = 0;
    const answered: number[] = [];
    const { peer } = await session(
      server,
      () => nowMs,
      (sentMs) => answered.push(sentMs),
    );
    await eventually('three beats', () => peer.messages('WorkerHeartbeat').length > 2);
    // Less than the session bears without hearing anything.
    nowMs = 10_000;
    peer.send({ type: 'HeartbeatAck', sequence: 1 });
    peer.send({ type: 'HeartbeatAck', sequence: 0 });
    peer.send({ type: 'HeartbeatAck', sequence: 999 });
    await eventually('the answer is heard', () => answered.length > 0);
    nowMs = 0;
    await eventually('later beats', () => peer.messages('WorkerHeartbeat').length > 4);
    assert.deepEqual(answered, [0]);
  });

  test('a server that answers no heartbeat and says other things, it is heard; one that says nothing is given up', async () => {
    const server = scope.use(await ScriptedServer.start());
    let nowMs = 0;
    const { peer, closed } = await session(server, () => nowMs);
    for (let times = 0; times < 5; times += 1) {
      nowMs += 10_000;
      const beats = peer.messages('WorkerHeartbeat').length;
      peer.send({ type: 'DrainNotice', draining: false });
      await eventually('a beat', () => peer.messages('WorkerHeartbeat').length > beats + 1);
    }
    nowMs += 15_001;
    assert.match((await closed).message, /said nothing for 15000 ms/);
  });

  test('a server that sends one long message for longer than that, with pings between its pieces, it is heard', async () => {
    const server = scope.use(await ScriptedServer.start());
    let nowMs = 0;
    const { peer, closed } = await session(server, () => nowMs);
    let heardPings = 0;
    peer.socket.on('pong', () => (heardPings += 1));
    for (let piece = 0; piece < 5; piece += 1) {
      nowMs += 10_000;
      const beats = peer.messages('WorkerHeartbeat').length;
      peer.socket.send(Buffer.from(' '), { binary: false, fin: false });
      peer.socket.ping();
      await eventually('a ping is heard', () => heardPings > piece);
      await eventually('a beat', () => peer.messages('WorkerHeartbeat').length > beats + 1);
    }
    nowMs += 15_001;
    assert.match((await closed).message, /said nothing for 15000 ms/);
  });

  /** A session that was welcomed; its clock is the test's. */
  async function session(
    server: ScriptedServer,
    uptime: () => number,
    onAnswered: (sentMs: number) => void = () => undefined,
  ): Promise<{ peer: Peer; closed: Promise<Error> }> {
    const one = new Session({
      endpoint: new Endpoint({ url: server.url, insecure: false, ca: undefined }),
      identity: Identity.open(path),
      joinToken: null,
      isUnknown: false,
      instance: 'instance',
      attempts,
      capabilities: {
        driver: 'fake',
        isolation: 'container',
        cpus: 4,
        memoryMiB: 4096,
        diskMiB: 4096,
        sandboxOverheadMiB: 0,
        egress: false,
      },
      name: 'test',
      daemonVersion: '0.1.0',
      platform: 'test',
      largeBlobs: () => [],
      onAnswered,
      log: silent,
      uptime,
    });
    scope.defer(() => one.close());
    const peer = await server.peer(0);
    await peer.welcome();
    await one.workerId;
    return { peer, closed: one.closed };
  }
});
