import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { Stack } from './support/stack.ts';

const sha256 = (bytes: Uint8Array) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

describe('output', () => {
  let stack: Stack;
  before(async () => {
    stack = await Stack.dev();
  });
  after(async () => stack[Symbol.asyncDispose]());

  test('standard output and standard error, are kept apart', async () => {
    await stack.deploy('both', 'bash', 'for i in 1 2 3; do echo "out $i"; echo "err $i" >&2; done');
    const ran = await stack.cocore(['run', 'both']);
    assert.equal(ran.stdout.toString(), 'out 1\nout 2\nout 3\n');
    assert.equal(ran.stderr, 'err 1\nerr 2\nerr 3\n');
  });

  test('all 256 byte values on both streams, come back intact', async () => {
    const source = 'import sys\nb = bytes(range(256))\nsys.stdout.buffer.write(b)\nsys.stderr.buffer.write(b[::-1])\n';
    await stack.deploy('bytes', 'python', source);
    const all = Buffer.from(Uint8Array.from({ length: 256 }, (_, at) => at));
    const ended = await stack.client.executions.create('bytes', {}, { waitMs: 60_000 });
    assert.equal(ended.state, 'success');
    assert.ok((await stack.output(ended.id, 'stdout')).equals(all));
    assert.ok((await stack.output(ended.id, 'stderr')).equals(Buffer.from(all).reverse()));
    assert.equal(ended.output.stdout.sha256, sha256(all));
  });

  test('20 MB under a raised cap, has the right length and hash', async () => {
    const source = 'import sys\nfor i in range(2500): sys.stdout.write(f"{i:07d}" + "x" * 7993)\n';
    await stack.deploy('large', 'python', source, { outputLimitBytes: 32 * 2 ** 20, timeoutMs: 300_000 });
    const expected = Buffer.from(
      Array.from({ length: 2500 }, (_, at) => String(at).padStart(7, '0') + 'x'.repeat(7993)).join(''),
    );
    const ran = await stack.cocore(['run', 'large']);
    assert.equal(ran.code, 0, ran.stderr);
    assert.equal(sha256(ran.stdout), sha256(expected));
    const { executions } = await stack.client.executions.list({ function: 'large' });
    assert.deepEqual(executions[0]!.output.stdout, { bytes: 20_000_000, truncated: false, sha256: sha256(expected) });
    assert.equal(sha256(await stack.output(executions[0]!.id, 'stdout')), sha256(expected));
  });

  test('output over the cap, is cut and marked, and the function still ends by itself', async () => {
    await stack.deploy('chatty', 'bash', 'head -c 3000000 /dev/zero | tr "\\0" a; echo end >&2; exit 5', {
      outputLimitBytes: 1_000_000,
    });
    const ended = await stack.client.executions.create('chatty', {}, { waitMs: 60_000 });
    assert.deepEqual([ended.state, ended.reason, ended.exitCode], ['failure', 'exit_code', 5]);
    assert.equal(ended.output.stdout.bytes + ended.output.stderr.bytes, 1_000_000);
    assert.ok(ended.output.stdout.truncated);
    const kept = await stack.output(ended.id, 'stdout');
    assert.equal(ended.output.stdout.sha256, sha256(kept));
  });

  test('a stream read from an offset, is the rest of it, and no browser would show it', async () => {
    await stack.deploy('page', 'bash', 'printf "<script>alert(1)</script>"');
    const ended = await stack.client.executions.create('page', {}, { waitMs: 60_000 });
    const response = await fetch(`${stack.url}/v1/executions/${ended.id}/output/stdout?offset=8`, {
      headers: { authorization: `Bearer ${stack.apiKey}` },
    });
    assert.equal(await response.text(), 'alert(1)</script>');
    assert.match(response.headers.get('content-disposition') ?? '', /^attachment/);
    assert.equal(response.headers.get('content-type'), 'application/octet-stream');
    assert.equal(response.headers.get('x-content-type-options'), 'nosniff');
  });
});
