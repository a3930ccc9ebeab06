import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { DataDir } from '../src/data-dir.ts';
import { OutputArchive } from '../src/output/output-archive.ts';
import { S3Client, textOf } from '../src/s3/client.ts';
import type { S3Options } from '../src/s3/options.ts';
import { moveStore } from '../src/store/move/move-store.ts';
import { INLINE_OUTPUT_BYTES } from '../src/store/store.ts';
import { CuttingProxy } from './support/cutting-proxy.ts';
import { ManualClock } from './support/manual-clock.ts';
import { postgresSkip, TestPostgres } from './support/postgres.ts';
import { S3Server } from './support/s3/s3-server.ts';
import { ScriptedWorker } from './support/scripted-worker.ts';
import { temporaryDirectory } from './support/temporary.ts';
import { TestServer } from './support/test-server.ts';
import { until } from './support/until.ts';

/** Of different lines, more than the store keeps by itself. */
const TEXT = Array.from({ length: 6 * 1024 }, (_, line) => `line ${line}\n`).join('');
const SHORT = 'little\n';

let s3: S3Server;
let postgres: TestPostgres;
before(async () => {
  s3 = await S3Server.start();
  if (postgresSkip === false) postgres = await TestPostgres.start();
});
after(async () => {
  await s3[Symbol.asyncDispose]();
  if (postgresSkip === false) await postgres[Symbol.asyncDispose]();
});

/** The objects of outputs, by attempt and stream, in the store's list, which may come after them. */
async function objects(options: S3Options): Promise<string[]> {
  using client = new S3Client(options);
  const query = { 'list-type': '2', prefix: `${options.prefix}output/` };
  const text = await textOf(await client.send({ method: 'GET', key: '', query }));
  return [...text.matchAll(/<Key>[^<]*output\/([^<]*)<\/Key>/g)].map(([, name]) => name!);
}

/** One that has written the long text to stdout and the short one to stderr, and ended. */
async function ended(server: TestServer, worker: ScriptedWorker): Promise<{ id: string; attemptId: string }> {
  await server.run('talks');
  const assign = await worker.startNext();
  for (let at = 0; at < TEXT.length; at += INLINE_OUTPUT_BYTES) {
    worker.output(assign.channel, 'stdout', at, TEXT.slice(at, at + INLINE_OUTPUT_BYTES));
  }
  worker.output(assign.channel, 'stderr', 0, SHORT);
  worker.end(assign, { kind: 'exited', code: 0 }, { stdout: TEXT, stderr: SHORT });
  await worker.next('AttemptEndedAck', ({ attemptId }) => attemptId === assign.attemptId, 30_000);
  return { id: assign.executionId, attemptId: assign.attemptId };
}

async function assertReads(server: TestServer, id: string): Promise<void> {
  for (const offset of [0, 1, INLINE_OUTPUT_BYTES, TEXT.length - 5, TEXT.length]) {
    const { status, body } = await server.call<string>('GET', `/v1/executions/${id}/output/stdout?offset=${offset}`);
    assert.equal(status, 200);
    assert.ok(body === TEXT.slice(offset), `from ${offset}`);
  }
  const { body } = await server.call<string>('GET', `/v1/executions/${id}/output/stderr`);
  assert.equal(body, SHORT);
  const { stdout } = await server.execution(id, '1s');
  assert.ok(stdout?.data === TEXT);
}

for (const store of ['files', 'PostgreSQL'] as const) {
  const skip = store === 'PostgreSQL' && postgresSkip;
  describe(`output in an object store, before that in ${store}`, { skip }, () => {
    const database = async () => (store === 'files' ? {} : { databaseUrl: await postgres.create() });
    /** What is still here of an attempt beyond what the store keeps by itself. */
    const isHere = async (server: TestServer, databaseUrl: string | undefined, attemptId: string): Promise<boolean> => {
      if (databaseUrl !== undefined) {
        const rows = await postgres.query(
          `SELECT 1 FROM output_chunks WHERE attempt_id = '${attemptId}' AND "offset" + octet_length(data) > ${INLINE_OUTPUT_BYTES}`,
          databaseUrl,
        );
        return rows.length > 0;
      }
      const output = join(server.directory.path, 'data', 'output');
      return readdirSync(output, { recursive: true }).some((name) => String(name).includes(attemptId));
    };

    test('an execution that has ended, what is beyond the first bytes goes there, and all is read as before', async () => {
      const outputS3 = await s3.bucket();
      const options = await database();
      await using server = await TestServer.start({ ...options, outputS3 });
      await using worker = await ScriptedWorker.connect(server);
      await server.deploy('talks');
      const { id, attemptId } = await ended(server, worker);
      await until('it is not here', async () => !(await isHere(server, options.databaseUrl, attemptId)), 30_000);
      await until('it is there', async () => (await objects(outputS3)).join() === `${attemptId}.stdout`);
      await assertReads(server, id);
      // Without it the server says what it lacks, and gives what it has.
      await server.restart(undefined, { outputS3: null });
      const reply = await server.call('GET', `/v1/executions/${id}/output/stderr`);
      assert.equal(reply.status, 200);
      const record = await server.call('GET', `/v1/executions/${id}?wait=1s`);
      assert.deepEqual([record.status, record.body.code], [503, 'not_ready']);
      assert.match(record.body.detail ?? '', /--output-store/);
      await server.restart();
      await assertReads(server, id);
    });

    test('one that runs, it stays here; one of before the archive was there goes to it', async () => {
      const options = await database();
      await using server = await TestServer.start(options);
      await using worker = await ScriptedWorker.connect(server);
      await server.deploy('talks');
      const before = await ended(server, worker);
      const outputS3 = await s3.bucket();
      await server.restart(undefined, { outputS3 });
      await using again = await ScriptedWorker.connect(server);
      await server.run('talks');
      const running = await again.startNext();
      again.output(running.channel, 'stdout', 0, TEXT.slice(0, INLINE_OUTPUT_BYTES));
      again.output(running.channel, 'stdout', INLINE_OUTPUT_BYTES, TEXT.slice(INLINE_OUTPUT_BYTES));
      await until(
        'the one of before is there',
        async () => {
          return !(await isHere(server, options.databaseUrl, before.attemptId));
        },
        30_000,
      );
      await assertReads(server, before.id);
      await until('it is there', async () => (await objects(outputS3)).join() === `${before.attemptId}.stdout`);
      assert.equal(await isHere(server, options.databaseUrl, running.attemptId), true);
    });

    test('an object store that is away, nothing is lost, and it goes there later', async () => {
      const real = await s3.bucket();
      const proxy = await CuttingProxy.start(Number(real.endpoint.port));
      const outputS3 = { ...real, endpoint: new URL(`http://127.0.0.1:${proxy.port}`) };
      const options = await database();
      await using server = await TestServer.start({ ...options, outputS3 });
      await using worker = await ScriptedWorker.connect(server);
      await server.deploy('talks');
      await proxy[Symbol.asyncDispose]();
      const { id, attemptId } = await ended(server, worker);
      await assertReads(server, id);
      assert.equal(await isHere(server, options.databaseUrl, attemptId), true);
      await server.restart(undefined, { outputS3: real });
      await until('it is there', async () => !(await isHere(server, options.databaseUrl, attemptId)), 30_000);
      await assertReads(server, id);
    });

    test('an execution that is kept no more, its objects are gone', async () => {
      const outputS3 = await s3.bucket();
      const clock = new ManualClock();
      await using server = await TestServer.start({
        ...(await database()),
        ...{ outputS3, clock, retention: { maxAgeMs: 60_000 } },
      });
      await using worker = await ScriptedWorker.connect(server);
      await server.deploy('talks');
      const { id } = await ended(server, worker);
      await until('it is there', async () => (await objects(outputS3)).length === 1, 30_000);
      clock.advance(60_001);
      // A sweep is what it begins with; without the archive it removes the rest.
      await server.restart(undefined, { outputS3: null });
      await until('it is expired', async () => (await server.execution(id)).expired);
      assert.equal((await objects(outputS3)).length, 1);
      await server.restart();
      await until('its object is gone', async () => (await objects(outputS3)).length === 0, 30_000);
    });
  });
}

test(
  'a store that is moved to PostgreSQL, what is in the object store stays there and is read as before',
  { skip: postgresSkip },
  async () => {
    const outputS3 = await s3.bucket();
    await using server = await TestServer.start({ outputS3 });
    await using worker = await ScriptedWorker.connect(server);
    await server.deploy('talks');
    const { id } = await ended(server, worker);
    const output = join(server.directory.path, 'data', 'output');
    const files = () => readdirSync(output, { recursive: true }).filter((name) => String(name).includes('at_'));
    await until('it is not here', () => files().length === 0, 30_000);
    const databaseUrl = await postgres.create();
    await server.restart(
      async () => {
        using dataDir = DataDir.open(join(server.directory.path, 'data'));
        const signal = new AbortController().signal;
        await moveStore({ dataDir, databaseUrl, nowMs: Date.now(), signal, onProgress: () => undefined });
      },
      { databaseUrl },
    );
    await assertReads(server, id);
  },
);

test('a connection to the object store that breaks in the middle, what is read is whole', async () => {
  const real = await s3.bucket();
  await using proxy = await CuttingProxy.start(Number(real.endpoint.port));
  using archive = new OutputArchive({ ...real, endpoint: new URL(`http://127.0.0.1:${proxy.port}`) });
  using directory = temporaryDirectory();
  const bytes = Buffer.alloc(4_000_000, 'abc');
  bytes.write('MARK', 3_000_000);
  const path = join(directory.path, 'stream');
  writeFileSync(path, bytes);
  await archive.keep('at_1', 'stdout', {
    ...{ path, bytes: bytes.length },
    sha256: createHash('sha256').update(bytes).digest('hex'),
  });
  proxy.cutAt('MARK');
  const read: Uint8Array[] = [];
  for await (const piece of archive.read('at_1', 'stdout', 100, bytes.length)) read.push(piece);
  assert.equal(proxy.cuts, 1);
  assert.ok(Buffer.concat(read).equals(bytes.subarray(100)));
  await assert.rejects(archive.read('at_2', 'stdout', 0, 1).next(), /404/);
});
