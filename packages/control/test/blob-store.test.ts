import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { after, before, suite, test } from 'node:test';
import { CocoreError } from '@cocore/protocol';
import { BlobStore } from '../src/blobs/blob-store.ts';
import { DiskBackend } from '../src/blobs/disk-backend.ts';
import { S3Backend } from '../src/blobs/s3-backend.ts';
import { readS3Options, type S3Options } from '../src/s3/options.ts';
import { blobStoreConformance } from './blob-store.conformance.ts';
import { S3Server } from './support/s3/s3-server.ts';
import { temporaryDirectory } from './support/temporary.ts';

const code =
  (wanted: string, message = /./) =>
  (error: unknown) =>
    error instanceof CocoreError && error.code === wanted && message.test(error.message);

blobStoreConformance('disk', {
  place: (directory) => Promise.resolve(directory),
  backend: (directory) => new DiskBackend(directory),
});

suite('S3', () => {
  let s3: S3Server;
  before(async () => {
    s3 = await S3Server.start();
  });
  after(() => s3[Symbol.asyncDispose]());

  blobStoreConformance('S3', {
    place: () => s3.bucket(),
    // Its list is read in three pages.
    backend: (options) => new S3Backend(options, 2),
  });

  /** A store, open, as server `server-1`. */
  async function opened(options: S3Options) {
    const scope = new AsyncDisposableStack();
    const directory = scope.use(temporaryDirectory());
    const store = new BlobStore(join(directory.path, 'blobs'), scope.use(new S3Backend(options)));
    await store.open('server-1');
    return { store, directory: directory.path, [Symbol.asyncDispose]: () => scope.disposeAsync() };
  }

  test('a bucket and prefix that another server has, they are refused; another prefix is not', async () => {
    const options = await s3.bucket();
    await using _first = await opened(options);
    using other = new S3Backend(options);
    await assert.rejects(other.open('server-2'), code('data_dir_in_use', /server-1/));
    using beside = new S3Backend({ ...options, prefix: 'else/' });
    await beside.open('server-2');
  });

  test('a bucket that is not there, or a secret that is wrong, the start says so', async () => {
    const options = await s3.bucket();
    using absent = new S3Backend({ ...options, bucket: 'absent' });
    await assert.rejects(absent.open('s'), code('usage', /absent .* 404 NoSuchBucket/));
    using wrong = new S3Backend({ ...options, secretAccessKey: 'wrong' });
    await assert.rejects(wrong.open('s'), code('usage', /403 SignatureDoesNotMatch/));
  });

  test('a store that nobody listens at, it is said after a few tries', async () => {
    using backend = new S3Backend({ ...(await s3.bucket()), endpoint: new URL('http://127.0.0.1:1') });
    await assert.rejects(backend.size(`sha256:${'0'.repeat(64)}`), code('not_ready', /ECONNREFUSED/));
  });

  test('a presigned address, it reads that blob without credentials, from any byte, and no other', async () => {
    await using made = await opened(await s3.bucket({ publicEndpoint: s3.endpoint }));
    const bytes = randomBytes(100_000);
    const { digest } = await made.store.put(Readable.from([bytes]), 1e6);
    const other = await made.store.put(Readable.from([Buffer.from('other')]), 1e6);
    const url = await made.store.directUrl(digest);
    assert.equal(url?.origin, s3.endpoint.origin);
    const whole = await fetch(url);
    assert.ok(Buffer.from(await whole.arrayBuffer()).equals(bytes));
    const rest = await fetch(url, { headers: { range: 'bytes=99990-' } });
    assert.equal(rest.status, 206);
    assert.ok(Buffer.from(await rest.arrayBuffer()).equals(bytes.subarray(99_990)));
    const moved = await fetch(url.href.replace(digest.slice(7), other.digest.slice(7)));
    assert.equal(moved.status, 403);
    await using hidden = await opened(await s3.bucket());
    assert.equal(await hidden.store.directUrl(digest), null);
  });

  test('a large file of the host, it is streamed: memory holds a piece of it', async () => {
    await using made = await opened(await s3.bucket());
    const path = join(made.directory, 'large');
    await writeFile(path, Buffer.alloc(192 * 1024 * 1024, 'x'));
    const beforeBytes = process.memoryUsage().rss;
    let peakBytes = 0;
    const sampling = setInterval(() => (peakBytes = Math.max(peakBytes, process.memoryUsage().rss)), 20);
    const { digest, bytes } = await made.store.adopt(path);
    const hash = createHash('sha256');
    for await (const chunk of (await made.store.read(digest)).stream) hash.update(chunk as Buffer);
    clearInterval(sampling);
    assert.equal(`sha256:${hash.digest('hex')}`, digest);
    assert.equal(bytes, 192 * 1024 * 1024);
    assert.ok(
      peakBytes > 0 && peakBytes - beforeBytes < 128 * 1024 * 1024,
      `${(peakBytes - beforeBytes) / 2 ** 20} MiB more`,
    );
  });

  test('a store that fails for a moment, or does not know conditional puts, the put succeeds', async () => {
    const options = await s3.bucket();
    const seen: string[] = [];
    const relay = createServer((request, response) => {
      seen.push(`${request.method} ${request.headers['if-none-match'] ?? '-'}`);
      request.resume();
      request.once('end', () => {
        const isFirst = seen.length === 1;
        if (isFirst) response.writeHead(503).end('<Error><Code>SlowDown</Code></Error>');
        else if (request.method === 'HEAD') response.writeHead(404).end();
        else if (request.headers['if-none-match'] !== undefined) {
          response.writeHead(501).end('<Error><Code>NotImplemented</Code></Error>');
        } else response.writeHead(200).end();
      });
    });
    relay.listen(0, '127.0.0.1');
    await new Promise((resolve) => relay.once('listening', resolve));
    const endpoint = new URL(`http://127.0.0.1:${(relay.address() as AddressInfo).port}`);
    {
      using directory = temporaryDirectory();
      const path = join(directory.path, 'file');
      await writeFile(path, 'x');
      using backend = new S3Backend({ ...options, endpoint });
      const digest = `sha256:${createHash('sha256').update('x').digest('hex')}`;
      assert.equal(await backend.keep(path, { digest, bytes: 1 }), true);
      assert.equal(await backend.keep(path, { digest, bytes: 1 }), true);
    }
    relay.close();
    assert.deepEqual(seen, ['HEAD -', 'HEAD -', 'PUT *', 'PUT -', 'HEAD -', 'PUT -']);
  });

  test('bytes that are not those of the name, the store refuses them', async () => {
    using backend = new S3Backend(await s3.bucket());
    await backend.open('server-1');
    using directory = temporaryDirectory();
    const path = join(directory.path, 'file');
    await writeFile(path, 'y');
    const digest = `sha256:${createHash('sha256').update('x').digest('hex')}`;
    await assert.rejects(backend.keep(path, { digest, bytes: 1 }), code('not_ready', /400/));
    assert.equal(await backend.size(digest), null);
  });
});

test('a blob that the disk has damaged, it is mended by putting its bytes again', async () => {
  using directory = temporaryDirectory();
  const store = new BlobStore(join(directory.path, 'blobs'), new DiskBackend(directory.path));
  await store.open('s');
  const { digest } = await store.put(Readable.from([Buffer.from('good')]), 10);
  const hex = digest.slice('sha256:'.length);
  const path = join(directory.path, 'sha256', hex.slice(0, 2), hex);
  await writeFile(path, 'evil');
  await store.put(Readable.from([Buffer.from('good')]), 10);
  assert.equal((await buffer((await store.read(digest)).stream)).toString(), 'good');
});

suite('the options of an S3 store', () => {
  const env = { AWS_ACCESS_KEY_ID: 'id', AWS_SECRET_ACCESS_KEY: 'secret' };

  test('a bucket and the usual environment, it is Amazon’s store of that region', () => {
    const options = readS3Options('--blob-store', 's3://bucket/a/b', {
      ...env,
      AWS_REGION: 'eu-west-1',
      AWS_SESSION_TOKEN: 'token',
    });
    assert.equal(options.endpoint.href, 'https://s3.eu-west-1.amazonaws.com/');
    assert.equal(options.prefix, 'a/b/');
    assert.deepEqual([options.accessKeyId, options.secretAccessKey, options.sessionToken], ['id', 'secret', 'token']);
    assert.equal(options.publicEndpoint, null);
    assert.equal(readS3Options('--blob-store', 's3://bucket', env).prefix, '');
    assert.equal(readS3Options('--blob-store', 's3://bucket//a//', env).prefix, 'a/');
  });

  test('another endpoint, plain HTTP goes to loopback only', () => {
    const at = (url: string) =>
      readS3Options('--blob-store', 's3://bucket', { ...env, COCORE_S3_ENDPOINT: url }).endpoint.origin;
    assert.equal(at('https://minio.example:9000'), 'https://minio.example:9000');
    for (const url of ['http://127.0.0.1:9000', 'http://localhost:9000', 'http://[::1]:9000'])
      assert.equal(at(url), url);
    for (const url of ['http://minio.example', 'http://127.0.0.1.example', 'http://10.0.0.1:9000']) {
      assert.throws(() => at(url), code('insecure_refused'));
    }
    for (const url of ['minio:9000', 'ftp://host', 'https://host/path', 'https://user@host']) {
      assert.throws(() => at(url), code('usage'));
    }
    const both = { ...env, COCORE_S3_PUBLIC_ENDPOINT: 'http://store.example' };
    assert.throws(() => readS3Options('--blob-store', 's3://bucket', both), code('insecure_refused', /PUBLIC/));
  });

  test('places that are none, and missing credentials, they are refused', () => {
    for (const place of ['s3://', 's3://B', 's3://bucket/a b', 's3://bucket/../x', '/var/blobs', 's3:bucket']) {
      assert.throws(() => readS3Options('--blob-store', place, env), code('usage'), place);
    }
    assert.throws(() => readS3Options('--blob-store', 's3://bucket', {}), code('usage', /AWS_ACCESS_KEY_ID/));
    assert.throws(
      () => readS3Options('--blob-store', 's3://bucket', { ...env, AWS_SECRET_ACCESS_KEY: '' }),
      code('usage', /SECRET/),
    );
  });
});
