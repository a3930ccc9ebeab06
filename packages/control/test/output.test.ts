import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ofStreams } from '@cocore/protocol';
import { OutputStore } from '../src/output/output-store.ts';
import { INLINE_OUTPUT_BYTES } from '../src/store/store.ts';
import type { OutputGrowth, Store } from '../src/store/store.ts';
import { openSqliteStore } from '../src/store/sqlite/sqlite-store.ts';
import { DEFAULT_LIMITS } from '../src/admission.ts';
import { type Temporary, temporaryDirectory } from './support/temporary.ts';
import { BASH_FILE } from './support/version-fields.ts';

/** A real store with one accepted attempt. */
async function accepted(directory: Temporary) {
  const store = await openSqliteStore({ path: join(directory.path, 'db') });
  const projectId = await store.ensureProject('p');
  const blob = { digest: `sha256:${'a'.repeat(64)}`, bytes: 1 };
  const limits = DEFAULT_LIMITS;
  const version = {
    projectId,
    name: 'f',
    ...BASH_FILE,
    code: blob,
    image: blob,
    env: {},
    isolation: 'container',
  } as const;
  await store.createFunctionVersion({ ...version, memoryMiB: 128, cpus: 1, timeoutMs: 1, outputLimitBytes: 1 }, limits);
  const execution = {
    projectId,
    function: 'f',
    args: [],
    env: {},
    stdin: null,
    files: [],
    timeoutMs: null,
    outputLimitBytes: null,
    idempotencyKey: null,
  };
  const [created] = await store.createExecutions([execution], limits);
  const attempt = created!.queued!;
  await store.createJoinToken({ hash: Buffer.from('t'), ttlMs: 1e6 });
  const capabilities = {
    driver: 'fake',
    isolation: 'container',
    cpus: 1,
    memoryMiB: 1,
    diskMiB: 1,
    sandboxOverheadMiB: 0,
    egress: false,
  } as const;
  const hello = {
    sessionId: 's',
    publicKey: 'k',
    joinTokenHash: Buffer.from('t'),
    name: 'n',
    daemonVersion: '1',
    platform: 'p',
    capabilities,
    inventory: [],
  };
  const opened = await store.openSession(hello);
  assert.equal(opened.kind, 'opened');
  await store.assign(attempt, { workerId: 'workerId' in opened ? opened.workerId : '', sessionId: 's' });
  await store.recordAccepted(attempt, 's', { driver: 'fake', isolation: 'container' });
  return { store, attempt, output: new OutputStore(join(directory.path, 'output'), store) };
}

const LIMITS = { outputBytes: 1e9, artifactsBytes: 1e6 };
const frame = (offset: number, data: Uint8Array) => ({ channel: 1, stream: 'stdout' as const, offset, data });
const pattern = (bytes: number) => Buffer.from(Array.from({ length: bytes }, (_, at) => (at * 7) % 251));
const digest = (data: Uint8Array) => `sha256:${createHash('sha256').update(data).digest('hex')}`;

for (const size of [1, 1000, INLINE_OUTPUT_BYTES, 50_000]) {
  test(`output in pieces of ${size} bytes, it is read back whole from any offset and its digest is known`, async () => {
    using directory = temporaryDirectory();
    const { store, attempt, output } = await accepted(directory);
    const all = pattern(size === 1 ? 300 : INLINE_OUTPUT_BYTES * 5 + 123);
    await using writer = output.writer(
      attempt,
      ofStreams(() => 0),
      LIMITS,
    );
    for (let at = 0; at < all.length; at += size) {
      const { reported } = await writer.append([frame(at, all.subarray(at, at + size))], 's');
      assert.equal(await reported, 'recorded');
    }
    assert.equal(await writer.digest('stdout'), digest(all));
    for (const offset of [0, 1, INLINE_OUTPUT_BYTES - 1, INLINE_OUTPUT_BYTES, INLINE_OUTPUT_BYTES + 1, all.length]) {
      if (offset > all.length) continue;
      assert.ok(
        all.subarray(offset).equals(await output.readAll(attempt, 'stdout', offset, all.length)),
        `from ${offset}`,
      );
    }
    assert.ok(all.subarray(10, 200).equals(await output.readAll(attempt, 'stdout', 10, 200)));
    await store.close();
  });
}

test('a writer made anew over committed bytes, it goes on, and bytes that were never committed are written over', async () => {
  using directory = temporaryDirectory();
  const { store, attempt, output } = await accepted(directory);
  const all = pattern(60_000);
  {
    await using writer = output.writer(
      attempt,
      ofStreams(() => 0),
      LIMITS,
    );
    await (
      await writer.append([frame(0, all.subarray(0, 40_000))], 's')
    ).reported;
  }
  appendFileSync(output.segmentPath(attempt, 'stdout'), 'written before a crash, never committed');
  await using writer = output.writer(attempt, { ...ofStreams(() => 0), stdout: 40_000 }, LIMITS);
  await (
    await writer.append([frame(40_000, all.subarray(40_000))], 's')
  ).reported;
  assert.equal(await writer.digest('stdout'), digest(all));
  assert.ok(all.equals(await output.readAll(attempt, 'stdout', 0, all.length)));
  await store.close();
});

test('a commit that the store refuses, the writer is where it was and takes the bytes again', async () => {
  using directory = temporaryDirectory();
  const { store, attempt, output } = await accepted(directory);
  await using writer = output.writer(
    attempt,
    ofStreams(() => 0),
    LIMITS,
  );
  const all = pattern(30_000);
  await (
    await writer.append([frame(0, all.subarray(0, 20_000))], 's')
  ).reported;
  assert.equal(await (await writer.append([frame(20_000, Buffer.alloc(10_000))], 'old')).reported, 'stale');
  assert.equal(writer.committed('stdout'), 20_000);
  await (
    await writer.append([frame(20_000, all.subarray(20_000))], 's')
  ).reported;
  assert.equal(await writer.digest('stdout'), digest(all));
  assert.ok(all.equals(await output.readAll(attempt, 'stdout', 0, all.length)));
  await store.close();
});

test('bytes again, of what turned out not to count, it is stale as they were and no failure', async () => {
  using directory = temporaryDirectory();
  const { store, attempt, output } = await accepted(directory);
  await using writer = output.writer(
    attempt,
    ofStreams(() => 0),
    LIMITS,
  );
  const first = await writer.append([frame(0, pattern(10_000))], 'old');
  const again = await writer.append([frame(0, pattern(12_000))], 'old');
  assert.deepEqual([await first.reported, await again.reported, writer.hasFailed], ['stale', 'stale', false]);
  await store.close();
});

test('frames that follow before the first is committed, they are committed in order; a repeat among them is compared', async () => {
  using directory = temporaryDirectory();
  const { store, attempt, output } = await accepted(directory);
  await using writer = output.writer(
    attempt,
    ofStreams(() => 0),
    LIMITS,
  );
  const one = await writer.append([frame(0, Buffer.from('abc'))], 's');
  const two = await writer.append([frame(3, Buffer.from('def')), frame(2, Buffer.from('cdefg'))], 's');
  const three = await writer.append([frame(0, Buffer.from('abcd'))], 's');
  assert.deepEqual(await Promise.all([one.reported, two.reported, three.reported]), [
    'recorded',
    'recorded',
    'repeated',
  ]);
  await assert.rejects(writer.append([frame(5, Buffer.from('XX'))], 's'), /differs/);
  await assert.rejects(writer.append([frame(9, Buffer.from('X'))], 's'), /gap/);
  assert.equal((await output.readAll(attempt, 'stdout', 0, 7)).toString(), 'abcdefg');
  await store.close();
});

test('bytes beyond the inline part, they are on disk before their length is committed', async () => {
  using directory = temporaryDirectory();
  const { store, attempt } = await accepted(directory);
  const seen: number[] = [];
  const watched: Store = {
    ...store,
    recordOutput: async (key, sessionId, growth: readonly OutputGrowth[]) => {
      const { statSync } = await import('node:fs');
      seen.push(statSync(output.segmentPath(attempt, 'stdout')).size + INLINE_OUTPUT_BYTES - growth[0]!.to);
      return store.recordOutput(key, sessionId, growth);
    },
  };
  const output = new OutputStore(join(directory.path, 'output'), watched);
  await using writer = output.writer(
    attempt,
    ofStreams(() => 0),
    LIMITS,
  );
  for (let at = 0; at < 100_000; at += 25_000) {
    await (
      await writer.append([frame(at, pattern(25_000))], 's')
    ).reported;
  }
  assert.deepEqual(seen, [0, 0, 0, 0]);
  await store.close();
});

test('a session that is replaced while its output waits for the commit, the new one goes on from what is committed', async () => {
  using directory = temporaryDirectory();
  const { store, attempt, output } = await accepted(directory);
  const all = pattern(INLINE_OUTPUT_BYTES * 2);
  await using writer = output.writer(
    attempt,
    ofStreams(() => 0),
    LIMITS,
  );
  const stale = await writer.append([frame(0, pattern(50_000))], 'replaced');
  const { reported } = await writer.append([frame(0, all)], 's');
  assert.deepEqual([await stale.reported, await reported], ['stale', 'recorded']);
  assert.equal(await writer.digest('stdout'), digest(all));
  assert.ok(all.equals(await output.readAll(attempt, 'stdout', 0, all.length)));
  await store.close();
});

test('a flood of frames that repeat, it is refused before it costs anything; a flood of short frames costs little', async () => {
  using directory = temporaryDirectory();
  const { store, attempt, output } = await accepted(directory);
  await using writer = output.writer(
    attempt,
    ofStreams(() => 0),
    LIMITS,
  );
  const all = pattern(15 * 65_536);
  const pieces = Array.from({ length: 15 }, (_, at) =>
    frame(at * 65_536, all.subarray(at * 65_536, (at + 1) * 65_536)),
  );
  const short = (count: number) =>
    Array.from({ length: count }, (_, at) =>
      frame(at % all.length, all.subarray(at % all.length, (at % all.length) + 1)),
    );
  const startMs = performance.now();
  await assert.rejects(writer.append([...pieces, ...short(60_000)], 's'), /repeated than a session may/);
  assert.equal(await (await writer.append(short(60_000), 's')).reported, 'recorded');
  // Beside others' tests; what it replaces took 6 s and more on a quiet machine.
  assert.ok(performance.now() - startMs < 2_000);
  await assert.rejects(async () => {
    for (let at = 0; at < 60_000; at += 1) await writer.append([frame(at, all.subarray(at, at + 1))], 's');
  }, /repeated than a session may/);
  await store.close();
});
