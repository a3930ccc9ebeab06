import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { pino } from 'pino';
import { CONDEMNED_MS } from '../src/store/verbs/condemned-blobs.ts';
import { DEFAULT_LIMITS } from '../src/admission.ts';
import { BlobStore } from '../src/blobs/blob-store.ts';
import { BlobSweeper, ORPHAN_TTL_MS, UNUSED_BLOB_TTL_MS } from '../src/blobs/blob-sweeper.ts';
import { DiskBackend } from '../src/blobs/disk-backend.ts';
import { openSqliteStore } from '../src/store/sqlite/sqlite-store.ts';
import { until } from './support/until.ts';
import { temporaryDirectory } from './support/temporary.ts';

const never = new AbortController().signal;

/** A store and a sweeper whose clock is that of the files, and `lateMs` later. */
async function fixture() {
  const scope = new AsyncDisposableStack();
  const { path } = scope.use(temporaryDirectory());
  const clock = { lateMs: 0, nowMs: () => Date.now() + clock.lateMs, uptimeMs: () => performance.now() };
  const store = scope.adopt(await openSqliteStore({ path: join(path, 'db'), now: clock.nowMs }), (one) => one.close());
  const blobs = new BlobStore(join(path, 'blobs'), new DiskBackend(join(path, 'blobs')));
  await blobs.open('server');
  const projectId = await store.ensureProject('default');
  return {
    path,
    clock,
    blobs,
    sweep: () => new BlobSweeper({ store, blobs, clock, log: pino({ level: 'silent' }) }).sweep(never),
    upload: (text: string) =>
      blobs.put(Readable.from([Buffer.from(text)]), 100, (blob) => store.addBlob(projectId, blob, DEFAULT_LIMITS)),
    kept: async () => {
      const found: string[] = [];
      for await (const { digest } of blobs.list()) found.push(digest);
      return found.sort();
    },
    [Symbol.asyncDispose]: () => scope.disposeAsync(),
  };
}

test('an upload that nothing names, it goes after a day; one that was uploaded again stays', async () => {
  await using made = await fixture();
  const first = await made.upload('first');
  const second = await made.upload('second');
  await made.sweep();
  assert.deepEqual(await made.kept(), [first.digest, second.digest].sort());
  made.clock.lateMs = UNUSED_BLOB_TTL_MS - 60_000;
  await made.upload('second');
  made.clock.lateMs = UNUSED_BLOB_TTL_MS + 60_000;
  await made.sweep();
  assert.deepEqual(await made.kept(), [second.digest]);
});

test('bytes that no project has, they go after an hour; what the server itself adopted stays', async () => {
  await using made = await fixture();
  // As a crash between bytes and row leaves them.
  const orphan = await made.blobs.put(Readable.from([Buffer.from('orphan')]), 100);
  const path = join(made.path, 'image');
  await writeFile(path, 'image');
  const own = await made.blobs.adopt(path);
  made.clock.lateMs = ORPHAN_TTL_MS - 60_000;
  await made.sweep();
  assert.deepEqual(await made.kept(), [orphan.digest, own.digest].sort());
  made.clock.lateMs = ORPHAN_TTL_MS + 60_000;
  await made.sweep();
  assert.deepEqual(await made.kept(), [own.digest]);
});

test('uploads of the bytes that are being swept, whoever was answered can read them', async () => {
  await using made = await fixture();
  await made.upload('contended');
  made.clock.lateMs = UNUSED_BLOB_TTL_MS + 60_000;
  const sweeps = Array.from({ length: 5 }, () => made.sweep());
  const { digest } = await made.upload('contended');
  await Promise.all(sweeps);
  assert.deepEqual(await made.kept(), [digest]);
});

/** Two servers that share a place and a store. */
async function sharedFixture() {
  const scope = new AsyncDisposableStack();
  const { path } = scope.use(temporaryDirectory());
  const clock = { lateMs: 0, nowMs: () => Date.now() + clock.lateMs, uptimeMs: () => performance.now() };
  const store = scope.adopt(await openSqliteStore({ path: join(path, 'db'), now: clock.nowMs }), (one) => one.close());
  const projectId = await store.ensureProject('default');
  const backend = new DiskBackend(join(path, 'blobs'));
  const server = async (name: string) => {
    const blobs = new BlobStore(join(path, name), backend, (digest) => store.spareBlob(digest));
    await blobs.open('server');
    return {
      blobs,
      sweep: () =>
        new BlobSweeper({ store, blobs, clock, log: pino({ level: 'silent' }), isShared: true }).sweep(never),
      upload: (text: string) =>
        blobs.put(Readable.from([Buffer.from(text)]), 100, (blob) => store.addBlob(projectId, blob, DEFAULT_LIMITS)),
    };
  };
  const has = async (digest: string) => (await backend.size(digest)) !== null;
  const servers = { one: await server('one'), two: await server('two') };
  return { path, clock, store, has, ...servers, [Symbol.asyncDispose]: () => scope.disposeAsync() };
}

test('servers that share a place, what nobody needs goes hours after it was found so; what one of them uploads or adopts stays', async () => {
  await using made = await sharedFixture();
  const { one, two, clock, has } = made;
  const [gone, again] = [await one.upload('gone'), await one.upload('again')];
  const path = join(made.path, 'image');
  await writeFile(path, 'image');
  const own = await two.blobs.adopt(path);
  clock.lateMs = UNUSED_BLOB_TTL_MS + 60_000;
  await one.sweep();
  await two.upload('again');
  for (let passedMs = 0; passedMs <= CONDEMNED_MS; passedMs += CONDEMNED_MS / 2) {
    assert.deepEqual(await Promise.all([gone, again, own].map(({ digest }) => has(digest))), [true, true, true]);
    clock.lateMs += CONDEMNED_MS / 2;
    await two.blobs.spareOwn();
    if (passedMs < CONDEMNED_MS / 2) await one.sweep();
  }
  await one.sweep();
  assert.deepEqual(await Promise.all([gone, again, own].map(({ digest }) => has(digest))), [false, true, true]);
});

test('bytes that another server removes now, who keeps them waits, and they are there afterwards', async () => {
  await using made = await sharedFixture();
  const { two, clock, store, has } = made;
  const { digest } = await made.one.upload('contended');
  clock.lateMs = UNUSED_BLOB_TTL_MS + 60_000;
  await store.forgetUnusedBlobs({ layersMs: 0, blobsMs: UNUSED_BLOB_TTL_MS });
  assert.equal(await store.condemnBlob(digest), 'condemned');
  clock.lateMs += CONDEMNED_MS + 60_000;
  assert.equal(await store.condemnBlob(digest), 'remove');
  assert.equal(await store.condemnBlob(digest), 'condemned');
  let isUploaded = false;
  const uploading = two.upload('contended').then(() => (isUploaded = true));
  await until('it is asked for', async () => !(await store.spareBlob(digest)));
  await made.one.blobs.removeUnless(digest, () => Promise.resolve(false));
  assert.equal(isUploaded, false);
  await store.forgetCondemnedBlob(digest);
  await uploading;
  assert.equal(await has(digest), true);
  assert.equal(await store.condemnBlob(digest), 'needed');
});
