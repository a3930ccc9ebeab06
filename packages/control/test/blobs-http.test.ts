import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { suite, test } from 'node:test';
import type { BlobRecord } from '@cocore/protocol';
import { DEFAULT_LIMITS } from '../src/admission.ts';
import { S3Server } from './support/s3/s3-server.ts';
import { ScriptedWorker } from './support/scripted-worker.ts';
import { TestServer } from './support/test-server.ts';

const octets = (raw: string | Uint8Array) => ({ raw, type: 'application/octet-stream' });
const digestOf = (raw: string) => `sha256:${createHash('sha256').update(raw).digest('hex')}`;

async function upload(server: TestServer, raw: string | Uint8Array, key = server.key) {
  return server.call<BlobRecord & { code?: string }>('POST', '/v1/blobs', { key, body: octets(raw) });
}

/** As a worker fetches: redirects are the caller's to follow. */
function fetchBlob(server: TestServer, worker: ScriptedWorker, digest: string, headers: Record<string, string> = {}) {
  return fetch(`${server.url}/v1/worker/blobs/${digest}`, {
    headers: { authorization: `Bearer ${worker.welcome.blobToken}`, ...headers },
    redirect: 'manual',
  });
}

/** A blob as an execution's standard input, up to its assignment. */
async function assigned(server: TestServer, worker: ScriptedWorker, raw: string) {
  const { digest } = (await upload(server, raw)).body;
  await server.run('blobs', { stdin: { blob: digest } });
  await worker.startNext();
  return digest;
}

suite('blobs of projects', () => {
  test('a digest that another project uploaded, it is not found; the same bytes uploaded, it is', async () => {
    await using server = await TestServer.start();
    const other = await server.otherProjectKey();
    const { digest } = (await upload(server, 'private')).body;
    await server.deploy('mine', {}, other);
    const run = (blob: string) =>
      server.call('POST', '/v1/functions/mine/executions', { key: other, body: { json: { stdin: { blob } } } });
    const refused = await run(digest);
    assert.deepEqual([refused.status, refused.body.code], [404, 'blob_not_found']);
    const unknown = await run(digestOf('never'));
    assert.equal(unknown.body.detail.replace(digestOf('never'), digest), refused.body.detail);
    assert.equal((await upload(server, 'private', other)).status, 201);
    assert.equal((await run(digest)).status, 202);
  });

  test('every place that names a digest, another project’s is not found there', async () => {
    await using server = await TestServer.start();
    const other = await server.otherProjectKey();
    await server.deploy('mine', {}, other);
    const { digest } = (await upload(server, 'private')).body;
    const places = [
      ['/v1/functions/mine/executions', { stdin: { blob: digest } }],
      ['/v1/functions/mine/executions', { files: [{ name: 'in.csv', blob: digest }] }],
      ['/v1/functions', { name: 'built', runtime: 'bash', archive: { blob: digest, entry: 'a.sh' } }],
    ] as const;
    for (const [path, json] of places) {
      const reply = await server.call('POST', path, { key: other, body: { json } });
      assert.equal(reply.body.code, 'blob_not_found', JSON.stringify([json, reply.body]));
    }
  });

  test('code that another project deployed, its digest is nothing that can be named', async () => {
    await using server = await TestServer.start();
    const { codeDigest, imageDigest } = await server.deploy('theirs');
    const other = await server.otherProjectKey();
    await server.deploy('mine', { file: { name: 'b.sh', contentBase64: 'ZWNobyAx' } }, other);
    for (const blob of [codeDigest, imageDigest]) {
      const reply = await server.call('POST', '/v1/functions/mine/executions', {
        key: other,
        body: { json: { stdin: { blob } } },
      });
      assert.equal(reply.body.code, 'blob_not_found');
    }
  });

  test('uploads at once beyond what the project may have, the sum holds and the rest leaves nothing', async () => {
    const limits = { ...DEFAULT_LIMITS, maxBlobBytes: 3_500 };
    await using server = await TestServer.start({ limits });
    const bodies = Array.from({ length: 10 }, (_, index) => Buffer.alloc(1_000, `${index}`));
    const replies = await Promise.all(bodies.map((body) => upload(server, body)));
    assert.equal(replies.filter(({ status }) => status === 201).length, 3);
    assert.equal(replies.filter(({ body }) => body.code === 'quota_exceeded').length, 7);
    const again = await Promise.all(bodies.map((body) => upload(server, body)));
    assert.deepEqual(
      again.map(({ status }) => status),
      replies.map(({ status }) => status),
    );
  });
});

suite('fetching of blobs', () => {
  test('from a byte on, the rest comes; a range that is nothing of it, all comes', async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('blobs');
    const digest = await assigned(server, worker, '0123456789');
    const rest = await fetchBlob(server, worker, digest, { range: 'bytes=4-' });
    assert.deepEqual([rest.status, rest.headers.get('content-range')], [206, 'bytes 4-9/10']);
    assert.equal(rest.headers.get('content-length'), '6');
    assert.equal(await rest.text(), '456789');
    for (const range of ['bytes=10-', 'bytes=-3', 'bytes=2-3', 'bytes=0-', 'bytes=99999999999999999999-', 'lines=1-']) {
      const whole = await fetchBlob(server, worker, digest, { range });
      assert.deepEqual([whole.status, await whole.text()], [200, '0123456789'], range);
    }
  });

  test('blobs in S3 that workers do not reach, they come through the server', async () => {
    await using s3 = await S3Server.start();
    const options = await s3.bucket();
    await using server = await TestServer.start({ s3: options });
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('blobs');
    const digest = await assigned(server, worker, '0123456789');
    assert.equal(await (await fetchBlob(server, worker, digest)).text(), '0123456789');
    const rest = await fetchBlob(server, worker, digest, { range: 'bytes=4-' });
    assert.deepEqual([rest.status, await rest.text()], [206, '456789']);
    await server.restart();
    assert.equal((await upload(server, '0123456789')).status, 201);
  });

  test('blobs in S3 that workers reach, only a live assignment’s are sent there, without the server’s credentials', async () => {
    await using s3 = await S3Server.start();
    const options = await s3.bucket({ publicEndpoint: s3.endpoint });
    await using server = await TestServer.start({ s3: options });
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('blobs');
    const secret = (await upload(server, 'secret')).body.digest;
    const digest = await assigned(server, worker, '0123456789');
    const sent = await fetchBlob(server, worker, digest);
    assert.equal(sent.status, 307);
    const place = sent.headers.get('location')!;
    assert.ok(place.startsWith(`${s3.endpoint.origin}/${options.bucket}/`));
    assert.ok(!place.includes(options.secretAccessKey));
    assert.equal(await (await fetch(place, { headers: { range: 'bytes=4-' } })).text(), '456789');
    assert.equal((await fetchBlob(server, worker, secret)).status, 404);
  });
});

suite('where blobs are', () => {
  test('a worker that has told that it has the image, it is chosen before a tighter one', async () => {
    await using server = await TestServer.start();
    await using tight = await ScriptedWorker.connect(server, { capabilities: { memoryMiB: 2048 } });
    await using holder = await ScriptedWorker.connect(server);
    const { imageDigest } = await server.deploy('local');
    holder.send({ type: 'WorkerBlobs', added: [imageDigest], removed: [] });
    holder.beat(1);
    await holder.next('HeartbeatAck');
    await server.run('local');
    await holder.startNext();
    holder.send({ type: 'WorkerBlobs', added: [], removed: [imageDigest] });
    holder.beat(2);
    await holder.next('HeartbeatAck', ({ sequence }) => sequence === 2);
    await server.run('local');
    await tight.startNext();
  });

  test('a worker that tells of more than it may, its session ends', async () => {
    await using server = await TestServer.start();
    await using worker = await ScriptedWorker.connect(server);
    for (const letter of ['a', 'b']) {
      const added = Array.from({ length: 501 }, (_, index) => digestOf(`${letter}${index}`));
      worker.send({ type: 'WorkerBlobs', added, removed: [] });
    }
    const { code, reason } = await worker.closed;
    assert.equal(code, 1008);
    assert.match(reason, /protocol_violation.*1000 blobs/);
  });
});
