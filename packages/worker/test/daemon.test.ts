import {
  CocoreError,
  endStatement,
  helloStatement,
  isSharedSignature,
  ofStreams,
  type OutputFrame,
  signedFor,
} from '@cocore/protocol';
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { createHash, createPublicKey, verify, X509Certificate } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { defaultArtifacts, type WorkerConfig } from '../src/config.ts';
import { type Daemon, startDaemon } from '../src/daemon.ts';
import type { HostReport } from '../src/probe.ts';
import { CRUN } from '../src/sandbox/oci/runtimes.ts';
import { ociSkip } from './support/oci-target.ts';
import { silent } from './support/run-program.ts';
import { assignment, type Peer, ScriptedServer, SERVER_ID, WORKER_ID } from './support/scripted-server.ts';
import { eventually, workspace } from './support/workspace.ts';

const BLOB = Buffer.from('an image');
const REF = { digest: `sha256:${createHash('sha256').update(BLOB).digest('hex')}`, bytes: BLOB.length };
const NOTHING = ofStreams(() => 0);
const [ONE, TWO] = ['at_01m8515c5dec3ssmk0fssmppb1', 'at_01m8515c5dec3ssmk0fssmppb2'] as const;
const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url));

const tokenFor = (serverId: string, certificateSha256: string | null = null) =>
  `cj_${Buffer.from(JSON.stringify({ serverId, certificateSha256, secret: 's' })).toString('base64url')}`;

const hasCode = (code: string) => (error: unknown) => error instanceof CocoreError && error.code === code;

describe('the daemon and a scripted server', () => {
  let scope: AsyncDisposableStack;
  let server: ScriptedServer;
  let dataDir: string;
  beforeEach(async () => {
    scope = new AsyncDisposableStack();
    dataDir = join(scope.use(await workspace()).path, 'data');
    server = scope.use(await ScriptedServer.start());
    server.blobs.set(REF.digest, BLOB);
  });
  afterEach(async () => {
    // A daemon that stops waits for its last reports to be taken.
    for (const peer of server.peers) peer.acknowledgeEnds();
    await scope.disposeAsync();
  });

  const config = (of: Partial<WorkerConfig> = {}): WorkerConfig => ({
    server: server.url,
    insecure: false,
    ca: undefined,
    dataDir,
    artifacts: '/nonexistent',
    joinToken: tokenFor(SERVER_ID),
    isolation: 'fake',
    atLeast: 'gvisor',
    pool: true,
    recover: true,
    egress: null,
    lease: { cpus: 2, memoryMiB: 1024, diskMiB: 8192 },
    name: 'test',
    ...of,
  });
  const start = async (of: Partial<WorkerConfig> = {}): Promise<Daemon> =>
    scope.use(await startDaemon(config(of), silent));

  /** A daemon that was welcomed, and its connection. */
  async function welcomed(): Promise<{ daemon: Daemon; peer: Peer }> {
    const daemon = await start();
    const peer = await server.peer(0);
    await peer.welcome();
    await daemon.ready;
    return { daemon, peer };
  }

  const acknowledge = (peer: Peer, frame: OutputFrame) =>
    peer.send({
      type: 'OutputAck',
      channel: frame.channel,
      stream: frame.stream,
      offset: frame.offset + frame.data.length,
    });

  test('a first hello, it carries the token and proves the key that the worker made', async () => {
    const daemon = await start();
    const peer = await server.peer(0);
    const hello = await peer.welcome();
    assert.equal(await daemon.ready, WORKER_ID);
    assert.equal(hello.joinToken, tokenFor(SERVER_ID));
    assert.equal(hello.authority, new URL(server.url).host);
    assert.deepEqual(hello.inventory, []);
    assert.equal(hello.capabilities.driver, 'fake');
    const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x: hello.publicKey }, format: 'jwk' });
    const { authority, publicKey } = hello;
    const statement = helloStatement({ serverId: SERVER_ID, authority, nonce: 'n'.repeat(43), publicKey });
    assert.ok(verify(null, Buffer.from(statement), key, Buffer.from(hello.signature, 'base64url')));
    assert.equal((await stat(join(dataDir, 'identity.json'))).mode & 0o777, 0o600);
  });

  test('a daemon that joined before, it keeps its key and needs no token', async () => {
    const first = await start();
    const peer = await server.peer(0);
    const { publicKey } = await peer.welcome();
    await first.ready;
    await first[Symbol.asyncDispose]();
    const again = await start({ joinToken: null });
    const hello = await (await server.peer(1)).welcome();
    assert.equal(hello.publicKey, publicKey);
    assert.equal(hello.joinToken, undefined);
    assert.equal(await again.ready, WORKER_ID);
  });

  test('another server than the one joined, it is refused for good and gets no hello', async () => {
    const daemon = await start({ joinToken: tokenFor('another') });
    const peer = await server.peer(0);
    peer.send({ type: 'ServerChallenge', serverId: SERVER_ID, nonce: 'n'.repeat(43) });
    await assert.rejects(daemon.ready, hasCode('server_mismatch'));
    assert.deepEqual(peer.messages('WorkerHello'), []);
  });

  test('a refusal that is final, the daemon gives up with its code; another, it tries again', async () => {
    const daemon = await start();
    const refuse = async (index: number, code: string) => {
      const peer = await server.peer(index);
      peer.send({ type: 'ServerRefusal', code, message: 'no' });
    };
    await refuse(0, 'not_ready');
    await refuse(1, 'join_token_invalid');
    await assert.rejects(daemon.ready, hasCode('join_token_invalid'));
    await assert.rejects(daemon.ended, hasCode('join_token_invalid'));
  });

  test('a server that does not know a worker which had joined, the daemon goes on, tries its token, and lives again where it is welcomed', async () => {
    const daemon = await start();
    const first = await server.peer(0);
    await first.welcome();
    await daemon.ready;
    first.send(assignment(ONE, 1, REF, ['sleep:60000']));
    await first.next('AttemptStarted');
    first.socket.terminate();
    const hellos = [];
    for (const [index, code] of (['worker_unknown', 'join_token_invalid', 'worker_unknown'] as const).entries()) {
      const peer = await server.peer(index + 1);
      peer.send({ type: 'ServerChallenge', serverId: SERVER_ID, nonce: 'n'.repeat(43) });
      hellos.push(await peer.next('WorkerHello'));
      peer.send({ type: 'ServerRefusal', code, message: 'no' });
    }
    assert.deepEqual(
      hellos.map(({ joinToken }) => joinToken !== undefined),
      [false, true, true],
    );
    const peer = await server.peer(4);
    const hello = await peer.welcome({ revoke: [ONE] });
    assert.equal(hello.inventory[0]?.attemptId, ONE);
    await eventually('an empty beat', () => peer.messages('WorkerHeartbeat').at(-1)?.attempts.length === 0);
  });

  test('a server of another incarnation, what it does not resume is destroyed, in the daemon’s next life too', async () => {
    const daemon = await start();
    const first = await server.peer(0);
    await first.welcome({ incarnation: 'one' });
    await daemon.ready;
    for (const [attemptId, channel] of [
      [ONE, 1],
      [TWO, 2],
    ] as const) {
      first.send(assignment(attemptId, channel, REF, ['sleep:60000']));
    }
    await eventually('both run', () => first.messages('AttemptStarted').length === 2);
    first.socket.terminate();
    const offsets = { stdout: 0, stderr: 0, result: 0, artifacts: 0 };
    const same = await server.peer(1);
    const both = [ONE, TWO].map((attemptId, index) => ({ attemptId, channel: index + 1, offsets }));
    await same.welcome({ incarnation: 'one', resume: both });
    await eventually('a beat', () => same.messages('WorkerHeartbeat').at(-1)?.attempts.length === 2);
    same.socket.terminate();
    const other = await server.peer(2);
    await other.welcome({ incarnation: 'two', resume: both.slice(0, 1) });
    await eventually('a beat', () => other.messages('WorkerHeartbeat').at(-1)?.attempts.length === 1);
    assert.equal(other.messages('WorkerHeartbeat').at(-1)?.attempts[0]?.attemptId, ONE);
    assert.deepEqual(other.messages('AttemptEnded'), []);
    await daemon[Symbol.asyncDispose]();
    const { joined } = JSON.parse(await readFile(join(dataDir, 'identity.json'), 'utf8')) as {
      joined: { incarnation: string };
    };
    assert.equal(joined.incarnation, 'two');
  });

  test('an assignment, its facts come in order, its output before its end, and the end is signed', async () => {
    const { peer } = await welcomed();
    peer.send(assignment(ONE, 7, REF, ['out:hello', 'err:oops', 'exit:3']));
    const ended = await peer.next('AttemptEnded');
    const order = peer.heard.flatMap((one) =>
      'output' in one ? [one.output.stream] : one.message.type.startsWith('Attempt') ? [one.message.type] : [],
    );
    // Its blob is not here: the server is told that it is fetched, and that it is here.
    const before = ['AttemptAccepted', 'AttemptPreparing', 'AttemptPreparing'];
    assert.deepEqual(order, [...before, 'AttemptStarted', 'stdout', 'stderr', 'AttemptEnded']);
    assert.deepEqual(ended.outcome, { kind: 'exited', code: 3 });
    assert.deepEqual(
      peer.outputs().map(({ channel, data }) => [channel, Buffer.from(data).toString()]),
      [
        [7, 'hello'],
        [7, 'oops'],
      ],
    );
  });

  /** Ends of one turn, told in a session whose server knows shared signatures or does not, and once more in another one. */
  async function endsOfOneTurn(first: boolean, again: boolean) {
    const daemon = await start();
    const peer = await server.peer(0);
    const { publicKey } = await peer.welcome({ sharedSignatures: first });
    await daemon.ready;
    const both = [ONE, TWO].map((attemptId, at) => ({ attemptId, channel: at + 1, offsets: NOTHING }));
    for (const { attemptId, channel } of both) peer.send(assignment(attemptId, channel, REF, ['sleep:60000']));
    await eventually('both run', () => peer.messages('AttemptStarted').length === 2);
    peer.send({ type: 'HeartbeatAck', sequence: 0, cancel: [ONE, TWO] });
    await eventually('both ends', () => peer.messages('AttemptEnded').length === 2);
    peer.socket.terminate();
    const second = await server.peer(1);
    await second.welcome({ sharedSignatures: again, resume: both });
    await eventually('both ends again', () => second.messages('AttemptEnded').length === 2);
    const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x: publicKey }, format: 'jwk' });
    const sha256 = (text: string) => createHash('sha256').update(text).digest('base64url');
    return [peer, second].map((one) => {
      const ends = one.messages('AttemptEnded');
      for (const ended of ends) {
        const { statement, signature } = signedFor(endStatement(ended), ended.signature, sha256)!;
        assert.ok(verify(null, Buffer.from(statement), key, Buffer.from(signature, 'base64url')));
      }
      return ends.map(({ signature }) => signature);
    });
  }

  test('ends of one turn, they share a signature, and are the same in another session', async () => {
    const [first, again] = await endsOfOneTurn(true, true);
    assert.ok(first?.every(isSharedSignature));
    assert.equal(new Set(first?.map((signature) => signature.slice(0, 86))).size, 1);
    assert.deepEqual(again, first);
  });

  test('a server that does not say that it knows shared signatures, it gets none', async () => {
    const [first, again] = await endsOfOneTurn(false, true);
    assert.ok(first?.every((signature) => !isSharedSignature(signature)));
    assert.deepEqual(again, first);
  });

  test('a server of an earlier release after a later one, it is told each end under a signature of its own', async () => {
    const [first, again] = await endsOfOneTurn(true, false);
    assert.ok(first?.every(isSharedSignature));
    assert.ok(again?.every((signature) => !isSharedSignature(signature)));
  });

  test('no room, the assignment is refused; once there is room, the next is taken', async () => {
    const { peer } = await welcomed();
    const big = (attemptId: string, channel: number) => {
      const assign = assignment(attemptId, channel, REF, ['sleep:60000']);
      return { ...assign, task: { ...assign.task, cpus: 2 } };
    };
    peer.send(big(ONE, 1));
    peer.send(big(TWO, 2));
    const refused = await peer.next('AttemptRefused');
    assert.deepEqual(refused, { type: 'AttemptRefused', attemptId: TWO, cause: 'no_capacity' });
    peer.send({ type: 'AttemptCancel', attemptId: ONE });
    assert.deepEqual((await peer.next('AttemptEnded')).outcome, { kind: 'cancelled' });
    peer.send(big(TWO, 3));
    await eventually('the second is taken', () => peer.messages('AttemptAccepted').length === 2);
  });

  test('rule 7: a cancellation that only the answer to a beat tells, the attempt is stopped, once', async () => {
    const { peer } = await welcomed();
    peer.send(assignment(ONE, 1, REF, ['trap:50', 'sleep:60000']));
    await peer.next('AttemptStarted');
    for (const sequence of [0, 1, 2]) peer.send({ type: 'HeartbeatAck', sequence, cancel: [ONE, TWO] });
    assert.deepEqual((await peer.next('AttemptEnded')).outcome, { kind: 'cancelled' });
    peer.send({ type: 'HeartbeatAck', sequence: 3, cancel: [ONE] });
    peer.send({ type: 'AttemptEndedAck', attemptId: ONE });
    await eventually('an empty beat', () => peer.messages('WorkerHeartbeat').at(-1)?.attempts.length === 0);
    assert.equal(peer.messages('AttemptEnded').length, 1);
  });

  test('rule 2: an attempt that the answer to a beat takes back, it is destroyed and not reported', async () => {
    const { peer } = await welcomed();
    peer.send(assignment(ONE, 1, REF, ['sleep:60000']));
    await peer.next('AttemptStarted');
    peer.send({ type: 'HeartbeatAck', sequence: 0, revoke: [ONE, TWO] });
    await eventually('an empty beat', () => peer.messages('WorkerHeartbeat').at(-1)?.attempts.length === 0);
    assert.deepEqual(peer.messages('AttemptEnded'), []);
  });

  test('heartbeats, they name each attempt until its end is acknowledged', async () => {
    const { peer } = await welcomed();
    peer.send(assignment(ONE, 1, REF, ['sleep:100']));
    await eventually('a beat with an age', () =>
      peer.messages('WorkerHeartbeat').some((beat) => beat.attempts.some(({ agentAgeMs }) => agentAgeMs !== null)),
    );
    await peer.next('AttemptEnded');
    const beats = peer.messages('WorkerHeartbeat').length;
    await eventually('another beat', () => peer.messages('WorkerHeartbeat').length > beats);
    assert.equal(peer.messages('WorkerHeartbeat').at(-1)?.attempts[0]?.attemptId, ONE);
    peer.send({ type: 'AttemptEndedAck', attemptId: ONE });
    await eventually('an empty beat', () => peer.messages('WorkerHeartbeat').at(-1)?.attempts.length === 0);
    const sequences = peer.messages('WorkerHeartbeat').map(({ sequence }) => sequence);
    assert.deepEqual(
      sequences,
      sequences.toSorted((one, other) => one - other),
    );
  });

  test('two floods, heartbeats keep coming, both get their turn, and a cancellation acts within a second', async () => {
    const { peer } = await welcomed();
    peer.socket.on('message', (_, isBinary) => {
      if (isBinary) acknowledge(peer, peer.outputs().at(-1)!);
    });
    peer.send(assignment(ONE, 1, REF, ['flood']));
    peer.send(assignment(TWO, 2, REF, ['flood']));
    await eventually(
      'output of both',
      () =>
        new Set(
          peer
            .outputs()
            .slice(-20)
            .map(({ channel }) => channel),
        ).size === 2,
    );
    const beats = peer.messages('WorkerHeartbeat').length;
    await eventually('beats beside the flood', () => peer.messages('WorkerHeartbeat').length >= beats + 5, 2_000);
    const began = performance.now();
    peer.send({ type: 'AttemptCancel', attemptId: ONE });
    await eventually('the end', () => peer.messages('AttemptEnded').some(({ attemptId }) => attemptId === ONE));
    assert.ok(performance.now() - began < 1_000, `${performance.now() - began} ms`);
  });

  test('a server that does not read, a flood waits in bounded memory', async () => {
    const { peer } = await welcomed();
    peer.socket.pause();
    const before = process.memoryUsage().rss;
    peer.send(assignment(ONE, 1, REF, ['flood']));
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.ok(process.memoryUsage().rss - before < 64 * 2 ** 20);
    peer.socket.resume();
    await eventually('a window of output', () => peer.outputs().length > 0);
    const sent = peer.outputs().reduce((sum, { data }) => sum + data.length, 0);
    assert.ok(sent <= 512 * 1024, `${sent} bytes without an acknowledgement`);
  });

  test('a connection that breaks, the run goes on and its output is sent on from where the server says', async () => {
    const { peer } = await welcomed();
    peer.send(assignment(ONE, 1, REF, ['out:0123456789', 'sleep:300', 'out:abcdef', 'exit:0']));
    await eventually('output', () => peer.outputs().length === 1);
    peer.socket.terminate();
    const second = await server.peer(1);
    const resume = [{ attemptId: ONE, channel: 9, offsets: { ...NOTHING, stdout: 4 } }];
    const hello = await second.welcome({ resume });
    assert.deepEqual(hello.inventory, [{ attemptId: ONE, started: true }]);
    const ended = await second.next('AttemptEnded');
    assert.ok((await second.next('AttemptStarted')).agoMs > 0);
    const [first] = second.outputs();
    assert.equal(first?.offset, 4);
    assert.equal(Buffer.concat(second.outputs().map(({ data }) => data)).toString(), '456789abcdef');
    assert.ok(second.outputs().every(({ channel }) => channel === 9));
    assert.equal(ended.stdout.bytes, 16);
  });

  test('a control server that goes away while a blob is fetched, the attempt waits for it and runs', async () => {
    const { peer } = await welcomed();
    server.refuses = true;
    peer.send(assignment(ONE, 1, REF, ['exit:0']));
    await peer.next('AttemptAccepted');
    peer.socket.terminate();
    // Longer than a blob is tried when there is somebody to ask.
    await eventually('the daemon is turned away', () => server.turnedAway >= 4, 60_000);
    server.refuses = false;
    const second = await server.peer(1);
    await second.welcome({ resume: [{ attemptId: ONE, channel: 1, offsets: NOTHING }] });
    assert.deepEqual((await second.next('AttemptEnded')).outcome, { kind: 'exited', code: 0 });
  });

  test('a blob that is not here, the server is told that it is fetched, in each session, and when it is here; then no more', async () => {
    const { peer } = await welcomed();
    const held = Promise.withResolvers<void>();
    server.blobsHeld = held.promise;
    peer.send(assignment(ONE, 1, REF, ['exit:0']));
    const told = { type: 'AttemptPreparing', attemptId: ONE, fetching: REF } as const;
    assert.deepEqual(await peer.next('AttemptPreparing'), told);
    peer.socket.terminate();
    const again = await server.peer(1);
    await again.welcome({ resume: [{ attemptId: ONE, channel: 1, offsets: NOTHING }] });
    assert.deepEqual(await again.next('AttemptPreparing'), told);
    held.resolve();
    await again.next('AttemptEnded');
    again.send(assignment(TWO, 2, REF, ['exit:0']));
    await eventually('both have ended', () => again.messages('AttemptEnded').length === 2);
    assert.deepEqual(again.messages('AttemptPreparing'), [told, { ...told, fetching: null }]);
  });

  test('a large blob that was fetched, the server is told of it, and after each welcome again', async () => {
    const { peer } = await welcomed();
    const large = Buffer.alloc(1024 * 1024, 'large');
    const image = { digest: `sha256:${createHash('sha256').update(large).digest('hex')}`, bytes: large.length };
    server.blobs.set(image.digest, large);
    const assign = assignment(ONE, 1, REF, ['exit 0']);
    peer.send({ ...assign, task: { ...assign.task, image } });
    const told = { type: 'WorkerBlobs', added: [image.digest], removed: [] } as const;
    assert.deepEqual(await peer.next('WorkerBlobs'), told);
    await peer.next('AttemptEnded');
    peer.socket.terminate();
    const again = await server.peer(1);
    await again.welcome();
    assert.deepEqual(await again.next('WorkerBlobs'), told);
  });

  test('an end that was not acknowledged, it is told again, the very same', async () => {
    const { peer } = await welcomed();
    peer.send(assignment(ONE, 1, REF, ['out:x', 'exit:0']));
    const ended = await peer.next('AttemptEnded');
    peer.socket.terminate();
    const second = await server.peer(1);
    const hello = await second.welcome({
      resume: [{ attemptId: ONE, channel: 2, offsets: { ...NOTHING, stdout: 1 } }],
    });
    assert.equal(hello.inventory.length, 1);
    assert.deepEqual(await second.next('AttemptEnded'), ended);
    assert.deepEqual(second.outputs(), []);
  });

  test('a revocation at the welcome, the attempt is destroyed and nothing is reported', async () => {
    const { peer } = await welcomed();
    peer.send(assignment(ONE, 1, REF, ['sleep:60000']));
    await peer.next('AttemptStarted');
    peer.socket.terminate();
    const second = await server.peer(1);
    await second.welcome({ revoke: [ONE] });
    await eventually('empty beats', () => second.messages('WorkerHeartbeat').length > 2);
    assert.ok(second.messages('WorkerHeartbeat').every(({ attempts }) => attempts.length === 0));
    assert.deepEqual(second.messages('AttemptEnded'), []);
  });

  test('rule 13: an attempt that was given up and has ended here, its end is told as it is, until it is acknowledged', async () => {
    const { peer } = await welcomed();
    peer.send(assignment(ONE, 1, REF, ['out:x', 'exit:3']));
    const ended = await peer.next('AttemptEnded');
    peer.socket.terminate();
    for (const life of [1, 2]) {
      const next = await server.peer(life);
      const hello = await next.welcome({ revoke: [ONE], late: [ONE] });
      assert.deepEqual(hello.inventory, [{ attemptId: ONE, started: true, ended: true, heldFrom: NOTHING }]);
      assert.deepEqual(await next.next('AttemptEnded'), ended);
      assert.deepEqual([next.outputs(), next.messages('AttemptAccepted')], [[], []]);
      if (life === 1) next.socket.terminate();
      else next.acknowledgeEnds();
    }
    const last = await server.peer(2);
    await eventually('some beats after that', () => last.messages('WorkerHeartbeat').length > 2);
    last.socket.terminate();
    assert.deepEqual((await (await server.peer(3)).welcome()).inventory, []);
  });

  test('rule 13: an attempt that is given up while it runs, it is destroyed at once and its end is told without its output', async () => {
    const { peer } = await welcomed();
    peer.send(assignment(ONE, 1, REF, ['trap:60000', 'flood']));
    await eventually('output', () => peer.outputs().length > 0);
    peer.send({ type: 'AttemptRevoke', attemptId: ONE, why: 'its deadline passed', report: true });
    const ended = await peer.next('AttemptEnded');
    assert.deepEqual(ended.outcome, { kind: 'lost', cause: 'host_lost' });
    assert.ok(ended.usage.host?.wallMs);
    await eventually('an empty beat', () => peer.messages('WorkerHeartbeat').at(-1)?.attempts.length === 0);
    peer.acknowledgeEnds();
  });

  test('a daemon that stops, its attempts end as reclaimed and are reported', async () => {
    const { daemon, peer } = await welcomed();
    peer.send(assignment(ONE, 1, REF, ['sleep:60000']));
    await peer.next('AttemptStarted');
    const stopping = daemon[Symbol.asyncDispose]();
    const ended = await peer.next('AttemptEnded');
    assert.deepEqual(ended.outcome, { kind: 'lost', cause: 'host_reclaimed' });
    peer.send(assignment(TWO, 2, REF, ['exit:0']));
    assert.equal((await peer.next('AttemptRefused')).cause, 'stopping');
    peer.send({ type: 'AttemptEndedAck', attemptId: ONE });
    await stopping;
  });

  test('a data directory in use, the second daemon is refused', async () => {
    await start();
    await assert.rejects(startDaemon(config(), silent), hasCode('data_dir_in_use'));
  });

  test('--egress where no network can be given, it is refused; where it is to go on without, it says that it gives none', async () => {
    const egress = { proxy: null, isRequired: true };
    await assert.rejects(start({ egress }), (error: CocoreError) => {
      assert.equal(error.code, 'host_unfit');
      assert.match(error.message, /^--egress, and this worker can give functions no network: the driver fake/);
      assert.match(error.remedy, /cocore doctor/);
      return true;
    });
    assert.deepEqual(server.peers, [], 'nobody was told of it');
    await start({ egress: { ...egress, isRequired: false } });
    const peer = await server.peer(0);
    assert.equal((await peer.welcome()).capabilities.egress, false);
  });

  test('plain text to another machine, it is refused without --insecure', async () => {
    await assert.rejects(startDaemon(config({ server: 'http://192.0.2.1:1' }), silent), hasCode('insecure_refused'));
  });

  test('a worker that has not joined and has no token, it is refused', async () => {
    await assert.rejects(startDaemon(config({ joinToken: null }), silent), hasCode('join_token_invalid'));
  });

  describe('a server that made its certificate itself', () => {
    let certificateSha256: string;
    beforeEach(async () => {
      const { path } = scope.use(await workspace());
      const [certPath, keyPath] = [join(path, 'cert.pem'), join(path, 'key.pem')];
      const subject = ['-subj', '/CN=test', '-days', '2', '-keyout', keyPath, '-out', certPath];
      const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
      await promisify(execFile)('openssl', ['req', '-x509', ...kind, ...subject]);
      const [cert, key] = await Promise.all([readFile(certPath), readFile(keyPath)]);
      certificateSha256 = new X509Certificate(cert).fingerprint256.replaceAll(':', '').toLowerCase();
      server = scope.use(await ScriptedServer.start({ cert, key }));
      server.blobs.set(REF.digest, BLOB);
    });

    test('its certificate is in the token, the session and the blobs go by it, also in the next life', async () => {
      const first = await start({ joinToken: tokenFor(SERVER_ID, certificateSha256) });
      const peer = await server.peer(0);
      await peer.welcome();
      peer.send(assignment(ONE, 1, REF, ['exit:0']));
      assert.deepEqual((await peer.next('AttemptEnded')).outcome, { kind: 'exited', code: 0 });
      peer.acknowledgeEnds();
      await first[Symbol.asyncDispose]();
      const again = await start({ joinToken: null });
      await (await server.peer(1)).welcome();
      assert.equal(await again.ready, WORKER_ID);
    });

    test('another certificate is in the token, the server is refused for good and hears nothing', async () => {
      const daemon = await start({ joinToken: tokenFor(SERVER_ID, '0'.repeat(64)) });
      await assert.rejects(daemon.ready, hasCode('server_mismatch'));
      assert.deepEqual(server.peers, []);
    });

    test('no certificate is in the token, authorities are asked and it is not trusted', async () => {
      await start();
      await new Promise((resolve) => setTimeout(resolve, 300));
      assert.deepEqual(server.peers, []);
    });
  });

  describe('as a process', () => {
    const run = (...args: string[]) => runAs([], ...args);
    function runAs(within: readonly string[], ...args: string[]) {
      const [program, ...rest] = [...within, process.execPath, MAIN, ...args];
      const child = spawn(program!, rest, { stdio: ['pipe', 'pipe', 'pipe'] });
      const said = { stdout: '', stderr: '' };
      child.stdout.setEncoding('utf8').on('data', (text: string) => (said.stdout += text));
      child.stderr.setEncoding('utf8').on('data', (text: string) => (said.stderr += text));
      const exited = new Promise<number | null>((resolve) => child.once('close', resolve));
      return { child, said, exited };
    }

    test('a join token on standard input, it prints one line when ready, and stops cleanly on SIGTERM', async () => {
      const args = ['--server', server.url, '--data-dir', dataDir, '--isolation', 'fake', '--join-token-file', '-'];
      const { child, said, exited } = run(...args);
      child.stdin.end(`${tokenFor(SERVER_ID)}\n`);
      const peer = await server.peer(0);
      assert.equal(said.stdout, '');
      await peer.welcome();
      await eventually('ready', () => said.stdout !== '');
      assert.equal(said.stdout, `ready ${WORKER_ID}\n`);
      child.kill('SIGTERM');
      assert.equal(await exited, 0);
      assert.equal(said.stdout, `ready ${WORKER_ID}\n`);
    });

    test('SIGTERM while nobody answers its connection, it exits 0 all the same', async () => {
      const args = ['--server', server.url, '--data-dir', dataDir, '--isolation', 'fake', '--join-token-file', '-'];
      const { child, said, exited } = run(...args);
      child.stdin.end(`${tokenFor(SERVER_ID)}\n`);
      const peer = await server.peer(0);
      await peer.welcome();
      await eventually('ready', () => said.stdout !== '');
      peer.socket.pause();
      const began = performance.now();
      child.kill('SIGTERM');
      assert.equal(await exited, 0);
      assert.ok(performance.now() - began < 15_000, `${performance.now() - began} ms`);
    });

    /** A worker whose process has an attempt that runs. */
    async function busy(steps: readonly string[]) {
      const args = ['--server', server.url, '--data-dir', dataDir, '--isolation', 'fake', '--cpus', '2'];
      const running = run(...args, '--join-token-file', '-');
      running.child.stdin.end(`${tokenFor(SERVER_ID)}\n`);
      const peer = await server.peer(0);
      await peer.welcome();
      peer.send(assignment(ONE, 1, REF, steps));
      await peer.next('AttemptStarted');
      return { ...running, peer };
    }

    test('SIGUSR2, it takes nothing more, finishes what it has, and exits 0 when that is acknowledged', async () => {
      const { child, exited, peer } = await busy(['sleep:1000', 'out:done', 'exit:0']);
      child.kill('SIGUSR2');
      assert.deepEqual(await peer.next('WorkerStopping'), { type: 'WorkerStopping', how: 'drain' });
      peer.send(assignment(TWO, 2, REF, ['exit:0']));
      assert.deepEqual(await peer.next('AttemptRefused'), {
        type: 'AttemptRefused',
        attemptId: TWO,
        cause: 'stopping',
      });
      assert.deepEqual((await peer.next('AttemptEnded')).outcome, { kind: 'exited', code: 0 });
      const beats = peer.messages('WorkerHeartbeat').length;
      await eventually('it waits for the acknowledgement', () => peer.messages('WorkerHeartbeat').length > beats + 3);
      assert.equal(child.exitCode, null);
      peer.send({ type: 'AttemptEndedAck', attemptId: ONE });
      assert.equal(await exited, 0);
    });

    test('a connection that is made anew while it drains, the hello says that it does', async () => {
      const { child, peer, exited } = await busy(['sleep:1500', 'exit:0']);
      child.kill('SIGUSR2');
      await peer.next('WorkerStopping');
      peer.socket.terminate();
      const next = await server.peer(1);
      const resume = [{ attemptId: ONE, channel: 1, offsets: { stdout: 0, stderr: 0, result: 0, artifacts: 0 } }];
      assert.equal((await next.welcome({ resume })).stopping, 'drain');
      next.send({ type: 'DrainNotice', draining: true });
      next.acknowledgeEnds();
      assert.equal(await exited, 0);
    });

    test('SIGUSR2 and nothing to finish, it exits 0 at once', async () => {
      const { child, exited, peer } = await busy(['exit:0']);
      await peer.next('AttemptEnded');
      peer.send({ type: 'AttemptEndedAck', attemptId: ONE });
      await eventually('an empty beat', () => peer.messages('WorkerHeartbeat').at(-1)?.attempts.length === 0);
      child.kill('SIGUSR2');
      assert.equal(await exited, 0);
    });

    test('SIGTERM while it drains, its functions are asked to stop and end as reclaimed', async () => {
      const { child, said, exited, peer } = await busy(['trap:0', 'sleep:60000']);
      child.kill('SIGUSR2');
      await eventually('it drains', () => said.stderr.includes('worker drains'));
      child.kill('SIGTERM');
      await eventually('it says that it is reclaimed', () => peer.messages('WorkerStopping').at(-1)?.how === 'reclaim');
      const ended = await peer.next('AttemptEnded');
      assert.deepEqual(ended.outcome, { kind: 'lost', cause: 'host_reclaimed' });
      assert.equal(ended.stdout.bytes, 'caught 15\n'.length);
      peer.acknowledgeEnds();
      assert.equal(await exited, 0);
    });

    test('a refusal that is final, two lines say so and the exit code is 2', async () => {
      const { child, said, exited } = run(
        '--server',
        server.url,
        '--data-dir',
        dataDir,
        '--isolation',
        'fake',
        '--join-token-file',
        '-',
      );
      child.stdin.end(tokenFor(SERVER_ID));
      const peer = await server.peer(0);
      peer.send({ type: 'ServerRefusal', code: 'join_token_invalid', message: 'used before' });
      assert.equal(await exited, 2);
      assert.match(said.stderr, /^error join_token_invalid: .*used before\n.+\n$/m);
    });

    test('an unknown flag, two lines say so and the exit code is 2', async () => {
      const { said, exited } = run('--nonsense');
      assert.equal(await exited, 2);
      assert.match(said.stderr, /^error usage: .*nonsense.*\n.+\n$/);
    });

    test('--egress on a host without tun, two lines say so, and how to see more', { skip: ociSkip(CRUN) }, async () => {
      const noTun = ['unshare', '--mount', 'sh', '-c', 'mount -t tmpfs none /dev/net && exec "$@"', 'sh'];
      const args = ['--server', server.url, '--data-dir', dataDir, '--isolation', 'crun', '--join-token-file', '-'];
      const artifacts = ['--artifacts', defaultArtifacts(process.env)];
      const { child, said, exited } = runAs(noTun, ...args, ...artifacts, '--egress');
      child.stdin.end(tokenFor(SERVER_ID));
      assert.equal(await exited, 1, said.stderr);
      assert.match(
        said.stderr,
        /^error host_unfit: --egress, .*: tun: \/dev\/net\/tun .*ENOENT.*modprobe tun.*\nSee cocore doctor .*\n$/m,
      );
      assert.deepEqual(server.peers, []);
    });

    test('--probe, it prints what each driver needs as JSON', async () => {
      const { said, exited } = run('--probe');
      assert.equal(await exited, 0);
      const report = JSON.parse(said.stdout) as HostReport;
      assert.deepEqual(
        report.drivers.map(({ driver }) => driver),
        ['firecracker', 'qemu', 'gvisor', 'crun'],
      );
      const checks = [
        ...report.host,
        ...report.network,
        ...report.advice,
        ...report.drivers.flatMap((driver) => driver.checks),
      ];
      for (const check of checks) assert.ok(check.ok || check.remedy !== null, check.name);
    });
  });

  test('the identity file, it holds no token', async () => {
    await welcomed();
    assert.doesNotMatch(await readFile(join(dataDir, 'identity.json'), 'utf8'), /cj_/);
  });
});
