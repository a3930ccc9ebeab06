import { type AttemptEnded, ofStreams } from '@cocore/protocol';
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { BlobCache } from '../src/blobs/blob-cache.ts';
import { CapacityLedger } from '../src/capacity/ledger.ts';
import { Attempts } from '../src/execution/attempts.ts';
import { EndJournal } from '../src/execution/end-journal.ts';
import { FakeDriver } from '../src/sandbox/fake/fake-driver.ts';
import type { SandboxDriver } from '../src/sandbox/driver.ts';
import { endRecord, endsOnDisk, SigningKey } from './support/ends.ts';
import { runAttempt } from './support/run-attempt.ts';
import { silent } from './support/run-program.ts';
import { assignment, type Peer, ScriptedServer, SERVER_ID } from './support/scripted-server.ts';
import { eventually, workspace } from './support/workspace.ts';

const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url));
const BLOB = Buffer.from('an image');
const REF = { digest: `sha256:${createHash('sha256').update(BLOB).digest('hex')}`, bytes: BLOB.length };
const [ONE, TWO] = ['at_01m8515c5dec3ssmk0fssmppb1', 'at_01m8515c5dec3ssmk0fssmppb2'] as const;
const TOKEN = `cj_${Buffer.from(JSON.stringify({ serverId: SERVER_ID, certificateSha256: null, secret: 's' })).toString('base64url')}`;
const SUCCESS: AttemptEnded['outcome'] = { kind: 'exited', code: 0 };

/** The worker's part of the rules in `docs/design.md`, each by its number. */
describe('the rules, at the worker', () => {
  let scope: AsyncDisposableStack;
  let server: ScriptedServer;
  let dataDir: string;
  beforeEach(async () => {
    scope = new AsyncDisposableStack();
    dataDir = join(scope.use(await workspace()).path, 'data');
    server = scope.use(await ScriptedServer.start());
    server.blobs.set(REF.digest, BLOB);
  });
  afterEach(() => scope.disposeAsync());

  /** A life of the daemon as a process. Disposing it kills the process. */
  function live() {
    const args = ['--server', server.url, '--data-dir', dataDir, '--isolation', 'fake', '--join-token-file', '-'];
    const env = { ...process.env, COCORE_LOG_LEVEL: 'error' };
    const child = spawn(process.execPath, [MAIN, ...args], { env, stdio: ['pipe', 'ignore', 'inherit'] });
    child.stdin.end(`${TOKEN}\n`);
    const exited = new Promise<number | string | null>((resolve) =>
      child.once('close', (code, signal) => resolve(signal ?? code)),
    );
    const kill = async (signal: NodeJS.Signals) => {
      child.kill(signal);
      return exited;
    };
    scope.defer(() => kill('SIGKILL').then(() => undefined));
    return { kill, exited };
  }

  const journaled = () => endsOnDisk(join(dataDir, 'ends'));
  const resumeAt = (stdout: number) => ({
    resume: [{ attemptId: ONE, channel: 5, offsets: { ...ofStreams(() => 0), stdout } }],
  });

  /** Killed after the control server has heard of the end, before it acknowledged it. */
  async function killedBeforeTheAcknowledgement(steps: readonly string[]): Promise<AttemptEnded> {
    const first = live();
    const peer = await server.peer(0);
    await peer.welcome();
    peer.send(assignment(ONE, 1, REF, steps));
    const ended = await peer.next('AttemptEnded');
    assert.equal(await first.kill('SIGKILL'), 'SIGKILL');
    return ended;
  }

  /** The next life, as far as the welcome. */
  async function nextLife(welcome: Parameters<Peer['welcome']>[0]) {
    const life = live();
    const peer = await server.peer(server.peers.length);
    const hello = await peer.welcome(welcome);
    return { ...life, peer, hello };
  }

  test('rule 10: an end is on the disk while its sandbox is still there', async () => {
    const { path } = scope.use(await workspace());
    const ends = join(path, 'ends');
    const seen: boolean[] = [];
    const inner = scope.use(new FakeDriver());
    const driver: SandboxDriver = {
      capabilities: inner.capabilities,
      probe: () => inner.probe(),
      prepare: () => inner.prepare(),
      recover: (handle) => inner.recover(handle),
      start: async (spec, signal) => {
        const sandbox = await inner.start(spec, signal);
        const dispose = sandbox[Symbol.asyncDispose].bind(sandbox);
        sandbox[Symbol.asyncDispose] = () => {
          seen.push(endsOnDisk(ends).includes(spec.name));
          return dispose();
        };
        return sandbox;
      },
      [Symbol.asyncDispose]: () => Promise.resolve(),
    };
    const { ended } = await runAttempt({ driver, imagePath: MAIN, codePath: MAIN, endsPath: ends });
    assert.deepEqual(ended.outcome, SUCCESS);
    assert.deepEqual(seen, [true]);
  });

  test('rule 10: a daemon that is killed before its success is acknowledged, its next life delivers it', async () => {
    const ended = await killedBeforeTheAcknowledgement(['out:hello', 'exit:0']);
    assert.deepEqual(ended.outcome, SUCCESS);
    const { peer, hello } = await nextLife(resumeAt(5));
    // It has none of the output any more.
    const heldFrom = { stdout: 5, stderr: 0, result: 0, artifacts: 0 };
    assert.deepEqual(hello.inventory, [{ attemptId: ONE, started: true, ended: true, heldFrom }]);
    assert.deepEqual(await peer.next('AttemptEnded'), ended);
    assert.deepEqual(
      peer.messages('AttemptAccepted').map(({ attemptId, driver, isolation }) => [attemptId, driver, isolation]),
      [[ONE, 'fake', 'container']],
    );
    const started = await peer.next('AttemptStarted');
    assert.ok(started.agoMs >= 0 && started.agoMs < 600_000, `${started.agoMs} ms ago`);
    assert.deepEqual(peer.outputs(), []);
    peer.send({ type: 'AttemptEndedAck', attemptId: ONE });
    await eventually('the entry is removed', () => journaled().length === 0);
    await eventually('an empty beat', () => peer.messages('WorkerHeartbeat').at(-1)?.attempts.length === 0);
  });

  test('rule 10: ends that nobody acknowledges, they are bounded: what is new is refused until one is', async () => {
    const { path } = scope.use(await workspace());
    const key = new SigningKey();
    const { journal } = await EndJournal.open({ directory: join(path, 'ends'), isOurs: () => true, log: silent });
    scope.use(journal);
    const blobs = scope.use(
      await BlobCache.open({
        directory: join(path, 'blobs'),
        budgetBytes: 1e6,
        source: async () => Readable.from([BLOB]),
      }),
    );
    const driver = scope.use(new FakeDriver());
    const news = { journal, blobs, driver, log: silent, onNews: () => undefined, onBootRetry: () => undefined };
    const ledger = new CapacityLedger({ cpus: 8, memoryMiB: 8192, diskMiB: 8192 });
    const ids = Array.from({ length: 10_000 }, (_, at) => `at_${String(at).padStart(26, '0')}`);
    const parts = { ...news, sign: () => 'A'.repeat(86) };
    const attempts = new Attempts(
      ledger,
      parts,
      ids.map((id) => endRecord(id, key)),
    );
    const assign = assignment(ONE, 1, REF, ['exit:0']);
    assert.equal(attempts.assign(assign), 'no_capacity');
    attempts.forget(ids[0]!);
    assert.equal(attempts.assign(assign), null);
    await eventually('the new one ends', () => attempts.get(ONE)?.ended?.outcome.kind === 'exited');
  });

  test('rule 10: a daemon that is killed while the control server is away, its next life delivers the success', async () => {
    const first = live();
    const peer = await server.peer(0);
    await peer.welcome();
    peer.send(assignment(ONE, 1, REF, ['sleep:200', 'exit:0']));
    await peer.next('AttemptStarted');
    server.refuses = true;
    peer.socket.terminate();
    await eventually('the end is written down', () => journaled().includes(ONE));
    await first.kill('SIGKILL');
    server.refuses = false;
    const { peer: second } = await nextLife(resumeAt(0));
    assert.deepEqual((await second.next('AttemptEnded')).outcome, SUCCESS);
  });

  test('rule 7: a function that succeeds before the cancellation reaches it, the success stays; after it, the cancellation', async () => {
    live();
    const peer = await server.peer(0);
    await peer.welcome();
    peer.send(assignment(ONE, 1, REF, ['exit:0']));
    const success = await peer.next('AttemptEnded');
    peer.send({ type: 'AttemptCancel', attemptId: ONE });
    peer.send(assignment(TWO, 2, REF, ['trap:0', 'sleep:60000']));
    await eventually('the second runs', () => peer.messages('AttemptStarted').length === 2);
    peer.send({ type: 'AttemptCancel', attemptId: TWO });
    peer.send({ type: 'AttemptCancel', attemptId: TWO });
    await eventually('the second ends', () => peer.messages('AttemptEnded').length === 2);
    const [first, second] = peer.messages('AttemptEnded');
    assert.deepEqual(first, success);
    assert.deepEqual(second?.outcome, { kind: 'cancelled' });
    assert.equal(Buffer.concat(peer.outputs().map(({ data }) => data)).toString(), 'caught 15\n');
  });

  test('rule 9: a daemon that was killed with output in memory, its next life says that no more of it will come', async () => {
    const ended = await killedBeforeTheAcknowledgement(['out:hello', 'exit:0']);
    const { peer } = await nextLife(resumeAt(2));
    assert.deepEqual(await peer.next('AttemptEnded'), { ...ended, final: true });
    assert.deepEqual(peer.outputs(), []);
  });

  test('rule 9: a control server that lost what it had acknowledged, the end comes at once, says so, and no output before', async () => {
    live();
    const first = await server.peer(0);
    await first.welcome();
    first.send(assignment(ONE, 1, REF, ['out:0123456789', 'sleep:60000']));
    await eventually('output', () => first.outputs().length === 1);
    first.send({ type: 'OutputAck', channel: 1, stream: 'stdout', offset: 10 });
    // What comes after the acknowledgement is answered after it.
    first.send(assignment(TWO, 2, REF, ['exit:0']));
    await eventually(
      'an answer',
      () => first.messages('AttemptEnded').length + first.messages('AttemptRefused').length > 0,
    );
    first.socket.terminate();
    const second = await server.peer(1);
    await second.welcome({ ...resumeAt(4), revoke: [TWO] });
    const ended = await second.next('AttemptEnded');
    assert.deepEqual(ended.outcome, { kind: 'lost', cause: 'output_lost' });
    assert.equal(ended.final, true);
    assert.equal(ended.stdout.bytes, 10);
    assert.deepEqual(second.outputs(), []);
    second.socket.terminate();
    const third = await server.peer(2);
    await third.welcome(resumeAt(4));
    assert.deepEqual(await third.next('AttemptEnded'), ended);
    assert.deepEqual(third.outputs(), []);
  });

  test('rule 10: an end that the control server takes back, it is removed and never told', async () => {
    await killedBeforeTheAcknowledgement(['exit:0']);
    const { peer } = await nextLife({ revoke: [ONE] });
    await eventually('the entry is removed', () => journaled().length === 0);
    await eventually('empty beats', () => peer.messages('WorkerHeartbeat').length > 2);
    assert.deepEqual(peer.messages('AttemptEnded'), []);
    assert.ok(peer.messages('WorkerHeartbeat').every(({ attempts }) => attempts.length === 0));
  });
});
