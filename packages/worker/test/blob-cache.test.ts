import { CocoreError } from '@cocore/protocol';
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { BlobCache, type BlobSource } from '../src/blobs/blob-cache.ts';
import { workspace } from './support/workspace.ts';

const bytesOf = (text: string) => Buffer.from(text.repeat(100));
const refOf = (bytes: Buffer) => ({
  digest: `sha256:${createHash('sha256').update(bytes).digest('hex')}`,
  bytes: bytes.length,
});
const never = new AbortController().signal;

/** A source of these blobs that counts what is asked of it. */
function sourceOf(...blobs: Buffer[]) {
  const asked: string[] = [];
  const byDigest = new Map(blobs.map((bytes) => [refOf(bytes).digest, bytes]));
  const source: BlobSource = async (digest) => {
    asked.push(digest);
    const bytes = byDigest.get(digest);
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
      source: async () => Readable.from([answer]),
    });
    await assert.rejects(cache.use(ref, never), isBlobError(message));
    assert.deepEqual(await readdir(directory.path), []);
  }
});

test('a full budget, the oldest that nobody uses goes; what is in use stays', async () => {
  await using directory = await workspace();
  const [a, b, c, d] = ['a', 'b', 'c', 'd'].map(bytesOf) as [Buffer, Buffer, Buffer, Buffer];
  const { source, asked } = sourceOf(a, b, c, d);
  await using cache = await BlobCache.open({ directory: directory.path, budgetBytes: 250, source });
  using held = await cache.use(refOf(a), never);
  (await cache.use(refOf(b), never))[Symbol.dispose]();
  const third = await cache.use(refOf(c), never);
  assert.ok((await readFile(held.path)).equals(a));
  assert.equal((await readdir(directory.path)).length, 2, 'b went');
  await assert.rejects(cache.use(refOf(d), never), isBlobError(/disk budget/));
  third[Symbol.dispose]();
  (await cache.use(refOf(d), never))[Symbol.dispose]();
  assert.equal(asked.length, 4);
});

test('a wait that is given up, it ends at once and the download with the last who waits', async () => {
  await using directory = await workspace();
  const aborted: string[] = [];
  const source: BlobSource = (digest, signal) =>
    new Promise((_, reject) => {
      signal.addEventListener('abort', () => {
        aborted.push(digest);
        reject(new Error('aborted'));
      });
    });
  await using cache = await BlobCache.open({ directory: directory.path, budgetBytes: 1000, source });
  const ref = refOf(bytesOf('a'));
  const [one, two] = [new AbortController(), new AbortController()];
  const waits = [cache.use(ref, one.signal), cache.use(ref, two.signal)];
  one.abort(new Error('first'));
  await assert.rejects(waits[0]!, /first/);
  assert.deepEqual(aborted, []);
  two.abort(new Error('second'));
  await assert.rejects(waits[1]!, /second/);
  assert.deepEqual(aborted, [ref.digest]);
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
  const source: BlobSource = async () => {
    asked += 1;
    if (asked === 1) throw new Error('connection refused');
    return Readable.from(asked === 2 ? [bytes.subarray(0, 10)] : [bytes]);
  };
  await using cache = await BlobCache.open({ directory: directory.path, budgetBytes: 1000, source, retryDelayMs: 1 });
  using lease = await cache.use(refOf(bytes), never);
  assert.ok((await readFile(lease.path)).equals(bytes));
  assert.equal(asked, 3);
});
