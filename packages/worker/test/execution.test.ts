import { type AttemptEnded, endStatement, ofStreams, type Outcome, ROOT_USER, type TaskSpec } from '@cocore/protocol';
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { type Duplex, Readable } from 'node:stream';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { BlobCache } from '../src/blobs/blob-cache.ts';
import type { BlobSource } from '../src/blobs/download.ts';
import { EndJournal } from '../src/execution/end-journal.ts';
import { Execution, type ExecutionParts } from '../src/execution/execution.ts';
import { FakeDriver, type FakeDriverOptions, type GuestDouble } from '../src/sandbox/fake/fake-driver.ts';
import { FakeGuest } from '../src/sandbox/fake/fake-guest.ts';
import { silent } from './support/run-program.ts';
import { eventually, workspace } from './support/workspace.ts';

const sha256 = (bytes: Uint8Array) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
const FILE = Buffer.from('an image');
const REF = { digest: sha256(FILE), bytes: FILE.length };
const ATTEMPT = 'at_01m8515c5dec3ssmk0fssmppbt';

/** A guest that never says a word. */
const mute = (stream: Duplex): GuestDouble => {
  stream.resume();
  const ended = Promise.withResolvers<void>();
  return { ended: ended.promise, [Symbol.dispose]: () => ended.resolve() };
};

describe('one attempt', () => {
  let scope: AsyncDisposableStack;
  beforeEach(() => {
    scope = new AsyncDisposableStack();
  });
  afterEach(() => scope.disposeAsync());

  interface Setup {
    readonly steps?: readonly string[];
    readonly task?: Partial<TaskSpec>;
    readonly driver?: FakeDriverOptions;
    readonly parts?: Partial<ExecutionParts>;
    readonly source?: BlobSource;
    /** Acknowledge output as it comes, as a control server does. */
    readonly acknowledge?: boolean;
  }

  async function begin({ steps = [], task = {}, driver: options = {}, parts = {}, source, acknowledge = true }: Setup) {
    const { path } = scope.use(await workspace());
    const driver = scope.use(new FakeDriver(options));
    const blobs = scope.use(
      await BlobCache.open({
        directory: join(path, 'blobs'),
        budgetBytes: 1e6,
        source: source ?? (async () => Readable.from([FILE])),
      }),
    );
    const { journal } = await EndJournal.open({ directory: join(path, 'ends'), isOurs: () => true, log: silent });
    scope.use(journal);
    const output = ofStreams<Buffer[]>(() => []);
    const take = () => {
      for (let piece = execution.output.take(65_536); piece !== null; piece = execution.output.take(65_536)) {
        output[piece.stream].push(piece.data);
        execution.output.acknowledge(piece.stream, piece.offset + piece.data.length);
      }
    };
    const retries = { count: 0 };
    const execution: Execution = Execution.begin(
      {
        attemptId: ATTEMPT,
        task: {
          argv: ['/bin/bash', '/function/f.sh', ...steps],
          env: {},
          cwd: '/work',
          user: ROOT_USER,
          image: REF,
          code: REF,
          stdin: null,
          files: [],
          memoryMiB: 128,
          cpus: 1,
          scratchMiB: 512,
          prepareTimeoutMs: 10_000,
          runTimeoutMs: 10_000,
          outputLimitBytes: 10_000_000,
          artifactsLimitBytes: 1_000_000,
          network: { mode: 'none' },
          ...task,
        },
      },
      {
        driver,
        blobs,
        journal,
        log: silent,
        sign: (statement) => sha256(Buffer.from(statement)),
        onNews: () => (acknowledge ? setImmediate(take) : undefined),
        onBootRetry: () => (retries.count += 1),
        ...parts,
      },
    );
    scope.defer(async () => {
      execution.stop('revoked');
      await execution.done;
    });
    return { execution, output, retries };
  }

  async function endOf(setup: Setup): Promise<AttemptEnded> {
    const { execution } = await begin(setup);
    await execution.done;
    return execution.ended ?? assert.fail('no end');
  }

  const OUTCOMES: readonly (readonly [string, Setup, Outcome])[] = [
    ['a process that ends, its code', { steps: ['exit:3'] }, { kind: 'exited', code: 3 }],
    ['a process that a signal ends, its number', { steps: ['signal:11'] }, { kind: 'signaled', signal: 11 }],
    ['a process over its memory, oom', { steps: ['oom'] }, { kind: 'oom' }],
    ['a start that the runtime refuses, not started', { steps: ['nonsense'] }, { kind: 'not_started', cause: 'start' }],
    ['a machine that vanishes, lost', { steps: ['vanish'] }, { kind: 'lost', cause: 'agent_lost' }],
    ['a broken frame, lost', { steps: ['garbage', 'sleep:9000'] }, { kind: 'lost', cause: 'protocol' }],
    [
      'a process over its time, timed out by the run clock',
      { steps: ['sleep:9000'], task: { runTimeoutMs: 150 } },
      { kind: 'timed_out', clock: 'run' },
    ],
    [
      'a flood over its time, timed out by the run clock',
      { steps: ['flood'], task: { runTimeoutMs: 150 } },
      { kind: 'timed_out', clock: 'run' },
    ],
    [
      'a preparation over its time, timed out by the prepare clock',
      { task: { prepareTimeoutMs: 100 }, driver: { guest: mute } },
      { kind: 'timed_out', clock: 'prepare' },
    ],
    [
      'an agent that stops answering, lost',
      { steps: ['silent', 'sleep:9000'], parts: { pingMs: 20, agentLostMs: 100 } },
      { kind: 'lost', cause: 'agent_lost' },
    ],
    [
      'a boot that fails twice, lost',
      { driver: { guest: mute, bootDeadlineMs: 50 } },
      { kind: 'lost', cause: 'sandbox' },
    ],
    [
      'a blob with another digest, lost',
      { source: async () => Readable.from([Buffer.from('AN IMAGE')]) },
      { kind: 'lost', cause: 'blob' },
    ],
  ];
  for (const [name, setup, outcome] of OUTCOMES) {
    test(name, async () => {
      const ended = await endOf(setup);
      assert.deepEqual(ended.outcome, outcome);
      const { type: _type, signature, message: _message, ...facts } = ended;
      assert.equal(signature, sha256(Buffer.from(endStatement(facts))));
    });
  }

  test('a run over its time, it ends within half a second of the limit', async () => {
    const { execution } = await begin({ steps: ['flood'], task: { runTimeoutMs: 300 } });
    await eventually('a start', () => execution.startedAtMs !== null);
    const began = performance.now();
    await execution.done;
    const tookMs = performance.now() - began;
    assert.ok(tookMs > 250 && tookMs < 800, `${tookMs} ms`);
  });

  test('a boot that fails once, the second one runs and the retry is counted', async () => {
    let boots = 0;
    const guest: FakeDriverOptions['guest'] = (stream, console) => {
      boots += 1;
      return boots === 1 ? mute(stream) : new FakeGuest(stream, console);
    };
    const { execution, retries } = await begin({ driver: { guest, bootDeadlineMs: 100 }, steps: ['exit:0'] });
    await execution.done;
    assert.deepEqual(execution.ended?.outcome, { kind: 'exited', code: 0 });
    assert.equal(retries.count, 1);
  });

  test('output on both streams, the end tells length and digest of what was sent', async () => {
    const { execution, output } = await begin({ steps: ['out:hello', 'err:oops', 'outbytes:2000000'] });
    await execution.done;
    const { stdout, stderr } = execution.ended ?? assert.fail();
    await eventually('all output is sent', () => execution.output.allSent);
    const sent = Buffer.concat(output.stdout);
    assert.deepEqual(stdout, { bytes: sent.length, sha256: sha256(sent), truncated: false });
    assert.equal(sent.length, 2_000_005);
    assert.deepEqual(stderr, { bytes: 4, sha256: sha256(Buffer.from('oops')), truncated: false });
  });

  test('output over the limit, it is cut and marked and the process ends rightly', async () => {
    const steps = ['out:0123456789', 'err:abc', 'outbytes:3000000', 'exit:5'];
    const { execution, output } = await begin({ steps, task: { outputLimitBytes: 12 } });
    await execution.done;
    const ended = execution.ended ?? assert.fail();
    assert.deepEqual(ended.outcome, { kind: 'exited', code: 5 });
    assert.deepEqual(ended.stdout, { bytes: 10, sha256: sha256(Buffer.from('0123456789')), truncated: true });
    assert.deepEqual(ended.stderr, { bytes: 2, sha256: sha256(Buffer.from('ab')), truncated: true });
    await eventually('all output is sent', () => execution.output.allSent);
    assert.equal(Buffer.concat(output.stdout).toString(), '0123456789');
  });

  test('output that nobody acknowledges, the process waits and goes on when somebody does', async () => {
    const { execution } = await begin({ steps: ['outbytes:1500000', 'exit:0'], acknowledge: false });
    await eventually('the window is full', () => held(execution) === 512 * 1024);
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.ok(isRunning(execution));
    await eventually('the end', () => {
      for (let piece = execution.output.take(65_536); piece !== null; piece = execution.output.take(65_536)) {
        execution.output.acknowledge(piece.stream, piece.offset + piece.data.length);
      }
      return execution.ended !== null;
    });
    assert.equal(execution.ended?.stdout.bytes, 1_500_000);
  });

  const isRunning = ({ ended }: Execution) => ended === null;

  /** Bytes that are ready to be sent, without taking them off. */
  function held(execution: Execution): number {
    let bytes = 0;
    for (let piece = execution.output.take(65_536); piece !== null; piece = execution.output.take(65_536)) {
      bytes += piece.data.length;
    }
    execution.output.resume('stdout', 0);
    return bytes;
  }

  test('standard input, it arrives whole', async () => {
    const stdin = Buffer.alloc(600_000, 'every byte\0\xff', 'latin1');
    const { execution } = await begin({ steps: ['cat'], task: { stdin: { base64: stdin.toString('base64') } } });
    await execution.done;
    assert.equal(execution.ended?.stdout.sha256, sha256(stdin));
  });

  test('a cancellation beside a flood, it is the end at once', async () => {
    const { execution } = await begin({ steps: ['flood'] });
    await eventually('a start', () => execution.startedAtMs !== null);
    const began = performance.now();
    execution.stop('cancelled');
    await execution.done;
    assert.ok(performance.now() - began < 500);
    assert.deepEqual(execution.ended?.outcome, { kind: 'cancelled' });
  });

  test('a cancellation before the start, nothing is started', async () => {
    const stuck: BlobSource = (_digest, signal) =>
      new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Error('aborted'))));
    let boots = 0;
    const guest: FakeDriverOptions['guest'] = (stream) => {
      boots += 1;
      return mute(stream);
    };
    const { execution } = await begin({ driver: { guest }, source: stuck });
    execution.stop('cancelled');
    await execution.done;
    assert.deepEqual(execution.ended?.outcome, { kind: 'cancelled' });
    assert.equal(boots, 0);
  });

  test('two causes, the first decides', async () => {
    const { execution } = await begin({ steps: ['sleep:9000'] });
    execution.stop('host_reclaimed');
    execution.stop('cancelled');
    await execution.done;
    assert.deepEqual(execution.ended?.outcome, { kind: 'lost', cause: 'host_reclaimed' });
    execution.stop('cancelled');
    assert.deepEqual(execution.ended?.outcome, { kind: 'lost', cause: 'host_reclaimed' });
  });

  const running = ({ startedAtMs }: Execution) => startedAtMs !== null;

  for (const [what, task, signal] of [
    ['a cancellation, the function is asked by SIGTERM', {}, 15],
    ['an image with a signal of its own, the function is asked by that', { stopSignal: 3 }, 3],
  ] as const) {
    test(`${what} and what it writes then is delivered`, async () => {
      const { execution, output } = await begin({ steps: ['out:up\n', 'trap:50', 'sleep:9000', 'out:never'], task });
      await eventually('it runs', () => output.stdout.length > 0);
      execution.stop('cancelled');
      execution.stop('cancelled');
      await execution.done;
      const { outcome, stdout } = execution.ended ?? assert.fail();
      assert.deepEqual(outcome, { kind: 'cancelled' });
      await eventually('all output is sent', () => execution.output.allSent);
      const sent = Buffer.concat(output.stdout);
      assert.equal(sent.toString(), `up\ncaught ${signal}\n`);
      assert.deepEqual(stdout, { bytes: sent.length, sha256: sha256(sent), truncated: false });
    });
  }

  test('a function that does not stop when it is asked, it is killed after its grace', async () => {
    const { execution, output } = await begin({ steps: ['trap:60000', 'sleep:9000'], task: { stopGraceMs: 300 } });
    await eventually('it runs', () => running(execution));
    const began = performance.now();
    execution.stop('cancelled');
    await execution.done;
    const tookMs = performance.now() - began;
    assert.ok(tookMs >= 280, `${tookMs} ms`);
    assert.deepEqual(execution.ended?.outcome, { kind: 'cancelled' });
    await eventually('its word', () => Buffer.concat(output.stdout).toString() === 'caught 15\n');
  });

  test('a worker that stops, its functions are asked to stop too', async () => {
    const { execution } = await begin({ steps: ['trap:0', 'sleep:9000'] });
    await eventually('it runs', () => running(execution));
    execution.stop('host_reclaimed');
    await execution.done;
    assert.deepEqual(execution.ended?.outcome, { kind: 'lost', cause: 'host_reclaimed' });
    assert.equal(execution.ended?.stdout.bytes, 'caught 15\n'.length);
  });

  for (const [what, stop] of [
    ['a revocation', (execution: Execution) => execution.stop('revoked')],
    ['output that is lost', (execution: Execution) => execution.loseOutput()],
  ] as const) {
    test(`${what} while a function stops, it is killed at once`, async () => {
      const { execution } = await begin({ steps: ['trap:60000', 'sleep:9000'], task: { stopGraceMs: 20_000 } });
      await eventually('it runs', () => running(execution));
      execution.stop('cancelled');
      const began = performance.now();
      stop(execution);
      await execution.done;
      const tookMs = performance.now() - began;
      assert.ok(tookMs < 10_000, `${tookMs} ms`);
    });
  }

  test('a run over its time while a function stops, the grace is over and the cancellation stays the end', async () => {
    const task = { stopGraceMs: 20_000, runTimeoutMs: 500 };
    const { execution } = await begin({ steps: ['trap:60000', 'sleep:9000'], task });
    await eventually('it runs', () => running(execution));
    execution.stop('cancelled');
    const began = performance.now();
    await execution.done;
    const tookMs = performance.now() - began;
    assert.ok(tookMs < 10_000, `${tookMs} ms`);
    assert.deepEqual(execution.ended?.outcome, { kind: 'cancelled' });
  });

  test('a revocation, nothing is reported', async () => {
    const { execution } = await begin({ steps: ['sleep:9000'] });
    await eventually('a start', () => execution.startedAtMs !== null);
    execution.stop('revoked');
    await execution.done;
    assert.equal(execution.ended, null);
  });

  test('an agent that answers, its age stays near the ping interval and is null after the end', async () => {
    const { execution } = await begin({ steps: ['sleep:300'], parts: { pingMs: 20, agentLostMs: 200 } });
    assert.equal(execution.agentAgeMs(), null);
    await eventually('a start', () => execution.startedAtMs !== null);
    await new Promise((resolve) => setTimeout(resolve, 150));
    const age = execution.agentAgeMs();
    assert.ok(age !== null && age < 100, `${age} ms`);
    await execution.done;
    assert.deepEqual(execution.ended?.outcome, { kind: 'exited', code: 0 });
    assert.equal(execution.agentAgeMs(), null);
  });
});
