import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { type AttemptAssign, ATTEMPT_STREAMS, type OfStreams, ofStreams } from '@cocore/protocol';
import { BlobCache } from '../src/blobs/blob-cache.ts';
import { CapacityLedger } from '../src/capacity/ledger.ts';
import { type AttemptEntry, AttemptRecords } from '../src/execution/attempt-records.ts';
import { Attempts, type AttemptsParts } from '../src/execution/attempts.ts';
import type { Attempt } from '../src/execution/attempt.ts';
import { EndJournal } from '../src/execution/end-journal.ts';
import { FakeDriver } from '../src/sandbox/fake/fake-driver.ts';
import { LOOSE_NETWORKS } from './support/loose-networks.ts';
import { silent } from './support/run-program.ts';
import { assignment } from './support/scripted-server.ts';
import { eventually, workspace } from './support/workspace.ts';

const BLOB = Buffer.from('an image');
const sha256 = (bytes: Uint8Array) => `sha256:${createHash('sha256').update(bytes).digest('hex')}` as const;
const REF = { digest: sha256(BLOB), bytes: BLOB.length };
const [ONE, TWO] = ['at_01m8515c5dec3ssmk0fssmppb1', 'at_01m8515c5dec3ssmk0fssmppb2'] as const;
const LINES = 400;
const line = (number: number) =>
  `${number} ${createHash('sha256').update(`tag/${number}`).digest('hex').slice(0, 16)}\n`;
const WHOLE = Buffer.from(Array.from({ length: LINES }, (_, at) => line(at + 1)).join(''));

/** What a control server keeps of one attempt. */
class Kept {
  readonly bytes: OfStreams<Buffer> = ofStreams(() => Buffer.alloc(0));

  /** Takes what waits, and acknowledges it as far as `until`. */
  take({ output }: Attempt, until = Infinity): void {
    for (let piece = output.take(1000); piece !== null; piece = output.take(1000)) {
      const { stream, offset, data } = piece;
      assert.equal(offset, this.bytes[stream].length, `${stream} is sent on without a gap or a repetition`);
      this.bytes[stream] = Buffer.concat([this.bytes[stream], data]);
      if (this.bytes.stdout.length > until) return;
      output.acknowledge(stream, this.bytes[stream].length);
    }
  }

  get offsets(): OfStreams<number> {
    return ofStreams((stream) => this.bytes[stream].length);
  }
}

describe('a daemon that died, and whose sandboxes live', () => {
  let scope: AsyncDisposableStack;
  let path: string;
  let driver: FakeDriver;
  let blobs: BlobCache;
  beforeEach(async () => {
    scope = new AsyncDisposableStack();
    path = scope.use(await workspace()).path;
    driver = scope.use(new FakeDriver({ recover: true, network: true }));
    const source = async () => Readable.from([BLOB]);
    blobs = scope.use(await BlobCache.open({ directory: join(path, 'blobs'), budgetBytes: 1e6, source }));
  });
  afterEach(() => scope.disposeAsync());

  const recordsPath = () => join(path, 'attempts');
  const recorded = () => readdirSync(recordsPath()).filter((name) => !name.endsWith('.new'));
  const openRecords = () => AttemptRecords.open({ directory: recordsPath(), log: silent });

  /** A life of the daemon; `die` leaves what it was doing undone. */
  async function life(parts: Partial<AttemptsParts> = {}) {
    const { records, left } = await openRecords();
    const opened = await EndJournal.open({ directory: join(path, 'ends'), isOurs: () => true, log: silent });
    let isDead = false;
    const over = Promise.withResolvers<void>();
    scope.defer(() => over.resolve());
    // What is dead gets no further than to an end that is never written down.
    const { journal } = opened;
    scope.use(journal);
    const write = journal.write.bind(journal);
    journal.write = (record) => (isDead ? over.promise : write(record));
    const attempts = new Attempts(
      new CapacityLedger({ cpus: 4, memoryMiB: 4096, diskMiB: 4096 }),
      {
        driver,
        networks: LOOSE_NETWORKS,
        blobs,
        journal,
        records,
        log: silent,
        sign: () => 'A'.repeat(86),
        onNews: () => undefined,
        onBootRetry: () => undefined,
        ...parts,
      },
      opened.left,
    );
    for (const entry of left) {
      const sandbox = await driver.recover(entry.handle);
      if (sandbox === null) await records.remove(entry.attemptId);
      else await attempts.takeUp(entry, sandbox);
    }
    scope.defer(() => (isDead ? undefined : attempts.reclaim()));
    return { attempts, die: () => (isDead = true) };
  }

  const assign = (attempts: Attempts, steps: readonly string[], task: Partial<AttemptAssign['task']> = {}) => {
    const whole = assignment(ONE, 1, REF, steps);
    assert.equal(attempts.assign({ ...whole, task: { ...whole.task, ...task } }), null);
  };

  test('rule 10: a function that writes lines over three lives, each line comes once, and the end is its own', async () => {
    const kept = new Kept();
    let { attempts, die } = await life();
    assign(attempts, [`lines:tag:${LINES}:2`, 'err:last words', 'result:{"a":1}', 'exit:7']);
    const startedAt: (number | null)[] = [];
    for (const until of [2_000, 5_000]) {
      await eventually('some lines', () => {
        kept.take(attempts.get(ONE)!, until);
        return kept.bytes.stdout.length > until;
      });
      await eventually('it is written down', () => recorded().length === 1);
      startedAt.push(attempts.get(ONE)!.startedAtMs);
      die();
      ({ attempts, die } = await life());
      assert.equal(attempts.list().length, 1);
      const attempt = attempts.get(ONE)!;
      assert.equal(attempt.startedAtMs, startedAt[0]);
      // The control server may be away for a while.
      assert.equal(attempt.output.take(1000), null);
      assert.deepEqual(attempt.resume(kept.offsets), []);
    }
    const attempt = attempts.get(ONE)!;
    const from = kept.offsets.stdout;
    await eventually('the end', () => {
      kept.take(attempt);
      return attempt.ended !== null && attempt.output.allSent;
    });
    assert.equal(kept.bytes.stdout.toString(), WHOLE.toString());
    assert.equal(kept.bytes.stderr.toString(), 'last words');
    assert.equal(kept.bytes.result.toString(), '{"a":1}');
    const ended = attempt.ended!;
    assert.deepEqual(ended.outcome, { kind: 'exited', code: 7 });
    const hashFrom = ended.stdout.hashFrom!;
    assert.ok(hashFrom > 0 && hashFrom <= from, `${hashFrom}`);
    assert.deepEqual(ended.stdout, {
      bytes: WHOLE.length,
      sha256: sha256(WHOLE.subarray(hashFrom)),
      truncated: false,
      hashFrom,
    });
    assert.equal(ended.stderr.hashFrom, undefined);
    assert.ok(ended.usage.host!.wallMs! > 0);
    assert.deepEqual(recorded(), []);
  });

  test('rule 10: input that was given in part, the new life gives the rest', async () => {
    const kept = new Kept();
    const input = Buffer.alloc(2_000_000, 'an input that is longer than all windows\n');
    const { attempts, die } = await life();
    assign(attempts, ['cat', 'exit:0'], { stdin: { base64: input.toString('base64') } });
    await eventually('some of it is back', () => {
      kept.take(attempts.get(ONE)!, 1000);
      return kept.bytes.stdout.length > 1000;
    });
    await eventually('it is written down', () => recorded().length === 1);
    die();
    const next = (await life()).attempts.get(ONE)!;
    next.resume(kept.offsets);
    await eventually('the end', () => {
      kept.take(next);
      return next.ended !== null && next.output.allSent;
    });
    assert.deepEqual([next.ended?.outcome, next.ended?.message], [{ kind: 'exited', code: 0 }, null]);
    assert.ok(kept.bytes.stdout.equals(input), `${kept.bytes.stdout.length} bytes`);
  });

  test('rule 10: a function whose time ran out meanwhile, it ends as that once the control server has said what it has', async () => {
    const { attempts, die } = await life();
    assign(attempts, ['out:x', 'sleep:60000'], { runTimeoutMs: 300 });
    await eventually('it is written down', () => recorded().length === 1);
    die();
    const uptimeMs = attempts.get(ONE)!.startedAtMs! + 10_000;
    const next = (await life({ uptime: () => uptimeMs })).attempts.get(ONE)!;
    next.resume(ofStreams(() => 0));
    await eventually('the end', () => next.ended !== null);
    assert.deepEqual(next.ended?.outcome, { kind: 'timed_out', clock: 'run' });
  });

  test('a sandbox that is gone, or was never written down, its attempt is not taken up', async () => {
    const { attempts, die } = await life();
    assign(attempts, ['sleep:60000'], { network: { mode: 'egress', allow: ['*'], maxBytes: 1 } });
    attempts.acceptanceCommitted(ONE);
    await eventually('it runs', () => attempts.get(ONE)?.startedAtMs !== null);
    assert.deepEqual(recorded(), [], 'what has a network is not taken up');
    die();
    const entry: AttemptEntry = {
      version: 1,
      attemptId: ONE,
      driver: 'fake',
      isolation: 'container',
      handle: { version: 1, driver: 'fake', name: 'gone' },
      task: { ...assignment(ONE, 1, REF, []).task },
      startedAtMs: 1,
      bootId: (await openRecords()).records.bootId,
    };
    const write = (change: Partial<AttemptEntry>) =>
      writeFileSync(join(recordsPath(), `${ONE}.json`), JSON.stringify({ ...entry, ...change }));
    write({});
    assert.deepEqual((await life()).attempts.list(), []);
    assert.deepEqual(recorded(), []);
    write({ bootId: 'another' });
    writeFileSync(join(recordsPath(), `${ONE}.json.new`), '{');
    assert.deepEqual((await openRecords()).left, []);
    assert.deepEqual(recorded(), []);
  });

  test('rule 10: an agent that does not answer the new life, its attempt is lost with its host', async () => {
    driver = scope.use(new FakeDriver({ recover: true, bootDeadlineMs: 500 }));
    const kept = new Kept();
    const { attempts, die } = await life();
    assign(attempts, ['out:heard', 'silent', 'sleep:60000']);
    await eventually('output', () => {
      kept.take(attempts.get(ONE)!);
      return kept.bytes.stdout.length === 5;
    });
    await eventually('it is written down', () => recorded().length === 1);
    die();
    const next = (await life()).attempts.get(ONE)!;
    await eventually('the end', () => next.ended !== null);
    assert.deepEqual(next.ended?.outcome, { kind: 'lost', cause: 'host_lost' });
    assert.match(next.ended?.message ?? '', /did not answer/);
    // It is told of an end and asked for nothing more.
    assert.deepEqual(next.resume(kept.offsets), []);
    assert.equal(next.output.take(1000), null);
    assert.deepEqual(recorded(), []);
  });

  test('what outlives the daemon is what is written down, and only that', async () => {
    const letGo: string[] = [];
    class Outliving extends FakeDriver {
      override async start(...args: Parameters<FakeDriver['start']>) {
        const sandbox = await super.start(...args);
        sandbox.outlive = () => letGo.push(`${recorded().length} on the disk`);
        return sandbox;
      }
    }
    driver = scope.use(new Outliving({ recover: true, network: true }));
    const { attempts } = await life();
    assign(attempts, ['sleep:60000']);
    await eventually('it is let go', () => letGo.length > 0);
    assert.deepEqual(letGo, ['1 on the disk']);
    const other = assignment(TWO, 2, REF, ['out:x', 'sleep:60000']);
    attempts.assign({ ...other, task: { ...other.task, network: { mode: 'egress', allow: ['*'], maxBytes: 1 } } });
    attempts.acceptanceCommitted(TWO);
    const kept = new Kept();
    await eventually('it runs', () => {
      kept.take(attempts.get(TWO)!);
      return kept.bytes.stdout.length === 1;
    });
    assert.equal(letGo.length, 1);
  });

  test('output beyond the limit, what is kept of it is not known any more: it is not taken up', async () => {
    const { attempts } = await life();
    assign(attempts, ['out:0123456789', 'sleep:300', 'out:0123456789', 'sleep:60000'], { outputLimitBytes: 15 });
    await eventually('it is written down', () => recorded().length === 1);
    await eventually('it is not any more', () => recorded().length === 0);
    assert.equal(attempts.get(ONE)?.ended, null);
  });

  test('rule 7: a cancellation that comes with the welcome of the new life, it is carried out', async () => {
    const { attempts, die } = await life();
    assign(attempts, ['trap:0', 'out:x', 'sleep:60000']);
    await eventually('it is written down', () => recorded().length === 1);
    die();
    const next = (await life()).attempts;
    next.get(ONE)!.resume(ofStreams(() => 0));
    next.stop(ONE, 'cancelled');
    await eventually('the end', () => next.get(ONE)?.ended !== null);
    assert.deepEqual(next.get(ONE)?.ended?.outcome, { kind: 'cancelled' });
    assert.ok(ATTEMPT_STREAMS.every((stream) => next.get(ONE)!.ended![stream].hashFrom === undefined));
  });
});
