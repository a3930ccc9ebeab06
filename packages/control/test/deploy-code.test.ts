import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { type FunctionDeployInput, FunctionRecord } from '@cocore/protocol';
import { pax, type RawEntry, tar } from './support/tar.ts';
import { TestServer } from './support/test-server.ts';

const CODE: readonly RawEntry[] = [
  { name: 'main.py', content: 'import lib.greet\n' },
  { name: 'lib/greet.py', content: 'print("hello")\n' },
  { name: 'tool', content: '#!/bin/sh\n', mode: 0o755 },
];

describe('deploying a directory', () => {
  let server: TestServer;
  before(async () => {
    server = await TestServer.start();
  });
  after(async () => server[Symbol.asyncDispose]());

  async function upload(entries: readonly RawEntry[]): Promise<string> {
    const body = { raw: tar(entries), type: 'application/octet-stream' };
    return (await server.call<{ digest: string }>('POST', '/v1/blobs', { body })).body.digest;
  }
  async function deploy(blob: string, change: Partial<FunctionDeployInput> & { entry?: string } = {}, key?: string) {
    const { entry = 'main.py', ...rest } = change;
    const json = { name: 'dir', runtime: 'python', archive: { blob, entry }, ...rest };
    return server.call('POST', '/v1/functions', { body: { json }, ...(key === undefined ? {} : { key }) });
  }
  const recordOf = async (entries: readonly RawEntry[], change = {}) =>
    FunctionRecord.parse((await deploy(await upload(entries), change)).body);

  test('an archive, becomes a version that says what is run', async () => {
    const record = await recordOf(CODE);
    assert.deepEqual(record.source, { kind: 'archive', entry: 'main.py' });
    assert.equal(record.runtime, 'python');
    assert.equal(record.handler, null);
  });

  test('the same files in another order, of other owners and times, are the same code', async () => {
    const { codeDigest } = await recordOf(CODE);
    const again = [...CODE].reverse().map((entry) => ({ ...entry, uid: 1000, mtime: 1e9 }));
    assert.equal(
      (await recordOf([{ name: './', flag: '5' }, pax({ comment: 'x' }, 'g'), ...again])).codeDigest,
      codeDigest,
    );
    const changed = CODE.map((entry) => (entry.name === 'tool' ? { ...entry, mode: 0o644 } : entry));
    assert.notEqual((await recordOf(changed)).codeDigest, codeDigest, 'what is executable is part of it');
  });

  test('a handler, has its bootstrap beside it and is other code', async () => {
    const { codeDigest } = await recordOf(CODE);
    const record = await recordOf(CODE, { handler: 'handler' });
    assert.equal(record.handler, 'handler');
    assert.notEqual(record.codeDigest, codeDigest);
  });

  test('what cannot be deployed, is refused, leaves the version that serves, and nothing behind', async () => {
    const { version } = await recordOf(CODE);
    const blob = await upload(CODE);
    const other = await server.otherProjectKey();
    const cases: [string, Awaited<ReturnType<typeof deploy>>, string, RegExp][] = [
      ['another project’s blob', await deploy(blob, {}, other), 'blob_not_found', /in this project/],
      ['an entry that is missing', await deploy(blob, { entry: 'no.py' }), 'code_invalid', /no file "no\.py"/],
      ['an entry that is a directory', await deploy(blob, { entry: 'lib' }), 'code_invalid', /not a file/],
      ['an entry outside', await deploy(blob, { entry: '../x' }), 'invalid_request', /archive\.entry/],
      [
        'a handler of a runtime without',
        await deploy(blob, { runtime: 'bash', handler: 'h' }),
        'code_invalid',
        /no handlers/,
      ],
      ['a runtime that is none', await deploy(blob, { runtime: 'cobol' }), 'runtime_unknown', /cobol/],
      ['a hostile archive', await deploy(await upload([{ name: '../x', content: 'x' }])), 'code_invalid', /leads out/],
    ];
    for (const [what, { body }, code, detail] of cases) {
      assert.equal(body.code, code, `${what}: ${body.detail}`);
      assert.match(body.detail, detail, what);
    }
    const { body } = await server.call<FunctionRecord>('GET', '/v1/functions/dir');
    assert.equal(body.version, version);
    assert.deepEqual(readdirSync(join(server.directory.path, 'data', 'tmp')), []);
  });

  test('many archives at a time, all are taken', async () => {
    const blob = await upload(CODE);
    const answers = await Promise.all(Array.from({ length: 10 }, async () => deploy(blob, { name: 'many' })));
    assert.deepEqual(new Set(answers.map(({ status }) => status)), new Set([201]));
  });
});
