import { CocoreError } from '@cocore/protocol';
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { chmod, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { BlobCache } from '../src/blobs/blob-cache.ts';
import { type BlobSource, download, SourceAway } from '../src/blobs/download.ts';
import { eventually, workspace } from './support/workspace.ts';

const bytesOf = (text: string) => Buffer.from(text.repeat(100));
const refOf = (bytes: Buffer) => ({
  digest: `sha256:${createHash('sha256').update(bytes).digest('hex')}`,
  bytes: bytes.length,
});
const nameOf = (bytes: Buffer) => refOf(bytes).digest.slice('sha256:'.length);
const MiB = 1024 * 1024;
const never = new AbortController().signal;

/** A source of these blobs that counts what is asked of it. */
function sourceOf(...blobs: Buffer[]) {
  const asked: string[] = [];
  const byDigest = new Map(blobs.map((bytes) => [refOf(bytes).digest, bytes]));
  const source: BlobSource = async (digest, _signal, from) => {
    asked.push(digest);
    const bytes = byDigest.get(digest)?.subarray(from);
    if (bytes === undefined) throw new Error('the server answered 404');
    return Readable.from([bytes.subarray(0, 50), bytes.subarray(50)]);
  };
  return { source, asked };
}

const isBlobError = (pattern: RegExp) => (error: unknown) =>
  error instanceof CocoreError && error.code === 'blob_not_found' && pattern.test(error.message);

test('many who want one blob, it is fetched once and everybody may read it', async () => {
  await using directory = await workspace();
  const bytes = bytesOf('a');
  const { source, asked } = sourceOf(bytes);
  await using cache = await BlobCache.open({ directory: directory.path, budgetBytes: 1000, source });
  const leases = await Promise.all([1, 2, 3].map(() => cache.use(refOf(bytes), never)));
  for (const { path } of leases) assert.ok((await readFile(path)).equals(bytes));
  assert.equal(asked.length, 1);
  assert.equal((await stat(leases[0]!.path)).mode & 0o777, 0o444);
});

test('an earlier life’s blob is used again, and its unfinished files are removed', async () => {
  await using directory = await workspace();
  const bytes = bytesOf('a');
  const { source, asked } = sourceOf(bytes);
  const options = { directory: directory.path, budgetBytes: 1000, source };
  {
    await using cache = await BlobCache.open(options);
    using _lease = await cache.use(refOf(bytes), never);
  }
  await writeFile(join(directory.path, '1-1.part'), 'half');
  await using cache = await BlobCache.open(options);
  using _lease = await cache.use(refOf(bytes), never);
  assert.equal(asked.length, 1);
  assert.equal((await readdir(directory.path)).length, 1);
});

test('bytes that are not the blob’s, they are refused and nothing is kept', async () => {
  await using directory = await workspace();
  const ref = refOf(bytesOf('a'));
  const answers: [Buffer, RegExp][] = [
    [bytesOf('b'), /its digest is another/],
    [Buffer.concat([bytesOf('a'), Buffer.from('!')]), /longer than 100 bytes/],
    [bytesOf('a').subarray(1), /99 bytes instead of 100/],
  ];
  for (const [answer, message] of answers) {
    await using cache = await BlobCache.open({
      directory: directory.path,
      budgetBytes: 1000,
      retryDelayMs: 1,
      source: async (_digest, _signal, from) => Readable.from([answer.subarray(from)]),
    });
    await assert.rejects(cache.use(ref, never), isBlobError(message));
    assert.deepEqual(await readdir(directory.path), []);
  }
});

test('a full budget, what was used longest ago goes; what is in use stays', async () => {
  await using directory = await workspace();
  const [a, b, c, d] = ['a', 'b', 'c', 'd'].map(bytesOf) as [Buffer, Buffer, Buffer, Buffer];
  const { source, asked } = sourceOf(a, b, c, d);
  await using cache = await BlobCache.open({ directory: directory.path, budgetBytes: 250, source });
  using held = await cache.use(refOf(a), never);
  (await cache.use(refOf(b), never))[Symbol.dispose]();
  (await cache.use(refOf(c), never))[Symbol.dispose]();
  assert.ok((await readFile(held.path)).equals(a));
  (await cache.use(refOf(d), never))[Symbol.dispose]();
  assert.deepEqual((await readdir(directory.path)).sort(), [a, d].map(nameOf).sort());
  assert.equal(asked.length, 4);
});

test('a budget that is all in use, a download waits for room, and a smaller one that has it goes past', async () => {
  await using directory = await workspace();
  const [a, b, c] = ['a', 'b', 'c'].map(bytesOf) as [Buffer, Buffer, Buffer];
  const small = Buffer.from('small');
  const { source, asked } = sourceOf(a, b, c, small);
  await using cache = await BlobCache.open({ directory: directory.path, budgetBytes: 210, source });
  using _first = await cache.use(refOf(a), never);
  const second = await cache.use(refOf(b), never);
  const abort = new AbortController();
  const given = cache.use(refOf(c), abort.signal);
  const waiting = cache.use(refOf(c), never);
  using _small = await cache.use(refOf(small), never);
  abort.abort(new Error('given up'));
  await assert.rejects(given, /given up/);
  assert.equal(asked.length, 3);
  second[Symbol.dispose]();
  using third = await waiting;
  assert.ok((await readFile(third.path)).equals(c));
  assert.deepEqual((await readdir(directory.path)).sort(), [a, c, small].map(nameOf).sort());
});

test('a blob that is larger than the whole budget, it is refused at once', async () => {
  await using directory = await workspace();
  const { source, asked } = sourceOf(bytesOf('a'));
  await using cache = await BlobCache.open({ directory: directory.path, budgetBytes: 99, source });
  await assert.rejects(
    cache.use(refOf(bytesOf('a')), never),
    isBlobError(/100 bytes, more than the disk budget of 99/),
  );
  assert.deepEqual(asked, []);
});

test('many blobs at once, the budget holds at every moment and no more than eight are fetched together', async () => {
  await using directory = await workspace();
  const blobs = Array.from({ length: 40 }, (_, index) => Buffer.alloc(1000, `${index} `));
  const { source } = sourceOf(...blobs);
  let under = 0;
  let most = 0;
  let mostBytes = 0;
  const watched: BlobSource = async (digest, signal, from) => {
    under += 1;
    most = Math.max(most, under);
    const body = await source(digest, signal, from);
    return Readable.from(
      (async function* () {
        for await (const chunk of body) {
          yield chunk as Buffer;
          const sizes = await Promise.all(
            (await readdir(directory.path)).map((name) => stat(join(directory.path, name)).catch(() => ({ size: 0 }))),
          );
          mostBytes = Math.max(
            mostBytes,
            sizes.reduce((sum, { size }) => sum + size, 0),
          );
        }
        under -= 1;
      })(),
    );
  };
  await using cache = await BlobCache.open({ directory: directory.path, budgetBytes: 12_500, source: watched });
  await Promise.all(
    blobs.map(async (bytes) => {
      using lease = await cache.use(refOf(bytes), never);
      assert.ok((await readFile(lease.path)).equals(bytes));
    }),
  );
  assert.equal(most, 8);
  assert.ok(mostBytes > 0 && mostBytes <= 12_500, `${mostBytes} bytes`);
});

test('a daemon that is killed, the next knows what was used last', async () => {
  await using directory = await workspace();
  const [a, b, c] = ['a', 'b', 'c'].map(bytesOf) as [Buffer, Buffer, Buffer];
  const { source } = sourceOf(a, b, c);
  const options = { directory: directory.path, budgetBytes: 200, source };
  const killed = await BlobCache.open(options);
  const use = async (bytes: Buffer) => {
    const startMs = Date.now();
    await eventually('time goes on', () => Date.now() > startMs);
    (await killed.use(refOf(bytes), never))[Symbol.dispose]();
  };
  await use(a);
  await use(b);
  const before = (await stat(join(directory.path, nameOf(a)))).atimeMs;
  await use(a);
  await eventually('the time is written', async () => (await stat(join(directory.path, nameOf(a)))).atimeMs > before);
  await using cache = await BlobCache.open(options);
  using _lease = await cache.use(refOf(c), never);
  assert.deepEqual((await readdir(directory.path)).sort(), [a, c].map(nameOf).sort());
});

test('a smaller budget than before, what was used longest ago goes at the start', async () => {
  await using directory = await workspace();
  const blobs = ['a', 'b', 'c'].map(bytesOf) as [Buffer, Buffer, Buffer];
  const { source } = sourceOf(...blobs);
  {
    await using cache = await BlobCache.open({ directory: directory.path, budgetBytes: 300, source });
    for (const bytes of blobs) {
      const startMs = Date.now();
      await eventually('time goes on', () => Date.now() > startMs);
      (await cache.use(refOf(bytes), never))[Symbol.dispose]();
    }
  }
  await using cache = await BlobCache.open({ directory: directory.path, budgetBytes: 150, source });
  using _lease = await cache.use(refOf(blobs[2]), never);
  assert.deepEqual(await readdir(directory.path), [nameOf(blobs[2])]);
});

for (const [when, damage] of [
  ['changed', (path: string) => writeFile(path, bytesOf('x'))],
  ['cut short', (path: string) => writeFile(path, 'a')],
  ['taken away', (path: string) => rm(path)],
] as const) {
  test(`a file that is ${when} between lives or between uses, the blob is fetched again`, async () => {
    await using directory = await workspace();
    const bytes = bytesOf('a');
    const { source, asked } = sourceOf(bytes);
    const options = { directory: directory.path, budgetBytes: 1000, source };
    const path = join(directory.path, nameOf(bytes));
    const damaged = async () => {
      await chmod(path, 0o644);
      await damage(path);
    };
    {
      await using cache = await BlobCache.open(options);
      (await cache.use(refOf(bytes), never))[Symbol.dispose]();
      const writtenMs = (await stat(path)).mtimeMs;
      await eventually('time goes on', () => Date.now() > writtenMs + 1);
      await damaged();
      using lease = await cache.use(refOf(bytes), never);
      assert.ok((await readFile(lease.path)).equals(bytes));
      assert.equal(asked.length, 2);
    }
    await damaged();
    await using cache = await BlobCache.open(options);
    const leases = await Promise.all([1, 2, 3].map(() => cache.use(refOf(bytes), never)));
    for (const lease of leases) assert.ok((await readFile(lease.path)).equals(bytes));
    assert.equal(asked.length, 3);
  });
}

test('a download that breaks off, it goes on where it was', async () => {
  await using directory = await workspace();
  const bytes = Buffer.alloc(9 * MiB, 'many bytes');
  const froms: number[] = [];
  let served = 0;
  const source: BlobSource = async (_digest, _signal, from) => {
    froms.push(from);
    return Readable.from(
      (async function* () {
        const piece = bytes.subarray(from, from + 1.5 * MiB);
        served += piece.length;
        yield piece;
        if (from + piece.length < bytes.length) throw new Error('the connection was reset');
      })(),
    );
  };
  const options = { directory: directory.path, budgetBytes: 10 * MiB, source, retryDelayMs: 1 };
  await using cache = await BlobCache.open(options);
  using lease = await cache.use(refOf(bytes), never);
  assert.ok((await readFile(lease.path)).equals(bytes));
  assert.deepEqual(
    froms.map((from) => from / MiB),
    [0, 1.5, 3, 4.5, 6, 7.5],
  );
  assert.equal(served, bytes.length);
});

test('wrong bytes before a download broke off, it begins anew', async () => {
  await using directory = await workspace();
  const bytes = bytesOf('a');
  const froms: number[] = [];
  const source: BlobSource = async (_digest, _signal, from) => {
    froms.push(from);
    return Readable.from([froms.length === 1 ? bytesOf('b').subarray(0, 40) : bytes.subarray(from)]);
  };
  await using cache = await BlobCache.open({ directory: directory.path, budgetBytes: 1000, source, retryDelayMs: 1 });
  using lease = await cache.use(refOf(bytes), never);
  assert.ok((await readFile(lease.path)).equals(bytes));
  assert.deepEqual(froms, [0, 40, 0]);
});

test('large blobs, they are named while they are here, given ones too', async () => {
  await using directory = await workspace();
  const given = join(directory.path, 'base');
  const [base, large, other] = ['0', '1', '2'].map((text) => Buffer.alloc(MiB, text)) as [Buffer, Buffer, Buffer];
  await writeFile(given, base);
  const { source } = sourceOf(large, other, bytesOf('a'));
  const told: number[] = [];
  const options = { directory: join(directory.path, 'blobs'), budgetBytes: 1.5 * MiB, source, given: [given] };
  await using cache: BlobCache = await BlobCache.open({
    ...options,
    onChange: () => told.push(cache.largeBlobs().length),
  });
  const digests = (...blobs: Buffer[]) => blobs.map((bytes) => refOf(bytes).digest);
  assert.deepEqual(cache.largeBlobs(), digests(base));
  (await cache.use(refOf(bytesOf('a')), never))[Symbol.dispose]();
  (await cache.use(refOf(large), never))[Symbol.dispose]();
  assert.deepEqual(cache.largeBlobs(), digests(base, large));
  (await cache.use(refOf(other), never))[Symbol.dispose]();
  assert.deepEqual(cache.largeBlobs(), digests(base, other));
  assert.deepEqual(told, [2, 1, 2]);
});

test('a wait that is given up, it ends at once and the download with the last who waits', async () => {
  await using directory = await workspace();
  const aborted: string[] = [];
  let asked = 0;
  const source: BlobSource = (digest, signal) =>
    new Promise((_, reject) => {
      asked += 1;
      signal.addEventListener('abort', () => {
        aborted.push(digest);
        reject(new Error('aborted'));
      });
    });
  await using cache = await BlobCache.open({ directory: directory.path, budgetBytes: 1000, source });
  const ref = refOf(bytesOf('a'));
  const [one, two] = [new AbortController(), new AbortController()];
  const waits = [cache.use(ref, one.signal), cache.use(ref, two.signal)];
  await eventually('it is asked for', () => asked === 1);
  one.abort(new Error('first'));
  await assert.rejects(waits[0]!, /first/);
  assert.deepEqual(aborted, []);
  two.abort(new Error('second'));
  await assert.rejects(waits[1]!, /second/);
  assert.deepEqual(aborted, [ref.digest]);
});

test('a download that is given up while its file is made, nobody is asked for the blob', async () => {
  await using directory = await workspace();
  const bytes = bytesOf('a');
  const { source, asked } = sourceOf(bytes);
  const given = AbortSignal.abort(new Error('not wanted'));
  const path = join(directory.path, 'blob');
  await assert.rejects(download(refOf(bytes), path, source, 1, given), /not wanted/);
  assert.deepEqual(asked, []);
});

test('a file that the owner gave, it is used where it is', async () => {
  await using directory = await workspace();
  const given = join(directory.path, 'base');
  await writeFile(given, bytesOf('a'));
  const { source, asked } = sourceOf();
  const cacheDir = join(directory.path, 'blobs');
  await using cache = await BlobCache.open({ directory: cacheDir, budgetBytes: 0, source, given: [given] });
  using lease = await cache.use(refOf(bytesOf('a')), never);
  assert.equal(lease.path, given);
  assert.deepEqual(asked, []);
});

test('a server that fails for a moment, the blob is asked for again', async () => {
  await using directory = await workspace();
  const bytes = bytesOf('a');
  let asked = 0;
  const source: BlobSource = async (_digest, _signal, from) => {
    asked += 1;
    if (asked === 1) throw new Error('connection refused');
    return Readable.from([bytes.subarray(from, asked === 2 ? 10 : bytes.length)]);
  };
  await using cache = await BlobCache.open({ directory: directory.path, budgetBytes: 1000, source, retryDelayMs: 1 });
  using lease = await cache.use(refOf(bytes), never);
  assert.ok((await readFile(lease.path)).equals(bytes));
  assert.equal(asked, 3);
});

test('a server that is away for longer than a blob is tried, it is waited for', async () => {
  await using directory = await workspace();
  const bytes = bytesOf('a');
  let asked = 0;
  const source: BlobSource = async (_digest, _signal, from) => {
    asked += 1;
    if (asked !== 3 && asked < 20) throw new SourceAway('there is no session with the control server');
    return Readable.from([bytes.subarray(from, asked === 3 ? 40 : bytes.length)]);
  };
  await using cache = await BlobCache.open({ directory: directory.path, budgetBytes: 1000, source, retryDelayMs: 1 });
  using lease = await cache.use(refOf(bytes), never);
  assert.ok((await readFile(lease.path)).equals(bytes));
  assert.equal(asked, 20);
});

test('a server that stays away, whoever waits may give up at once', async () => {
  await using directory = await workspace();
  const asked = Promise.withResolvers<void>();
  const source: BlobSource = () => {
    asked.resolve();
    return Promise.reject(new SourceAway('there is no session with the control server'));
  };
  const options = { directory: directory.path, budgetBytes: 1000, source, retryDelayMs: 60_000 };
  await using cache = await BlobCache.open(options);
  const giveUp = new AbortController();
  const use = cache.use(refOf(bytesOf('a')), giveUp.signal);
  await asked.promise;
  giveUp.abort(new Error('the preparation takes too long'));
  await assert.rejects(use, /the preparation takes too long/);
});
