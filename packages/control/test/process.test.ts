import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import type { TLSSocket } from 'node:tls';
import { JoinTokenContent } from '@cocore/protocol';
import { Identity, ScriptedWorker } from './support/scripted-worker.ts';
import { type Temporary, temporaryDirectory } from './support/temporary.ts';
import { TestServer } from './support/test-server.ts';

const MAIN = join(import.meta.dirname, '..', 'src', 'main.ts');

function prepare(directory: Temporary): string[] {
  writeFileSync(join(directory.path, 'base'), 'base');
  writeFileSync(
    join(directory.path, 'current.json'),
    JSON.stringify({ baseImage: join(directory.path, 'base'), nodeImage: join(directory.path, 'base') }),
  );
  return ['--data-dir', join(directory.path, 'data'), '--artifacts', join(directory.path, 'current.json')];
}

function start(args: readonly string[]) {
  const child = spawn(process.execPath, [MAIN, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const exited = once(child, 'close').then(([code]) => ({ code: code as number | null, stderr }));
  return { child, exited };
}

async function fails(args: readonly string[]): Promise<{ code: number | null; stderr: string }> {
  return start(args).exited;
}

test('the server as a process, it prints one ready line, keeps its secrets to itself, and SIGTERM ends it with 0', async () => {
  using directory = temporaryDirectory();
  const args = prepare(directory);
  const { child, exited } = start(args);
  const [line] = (await once(createInterface({ input: child.stdout }), 'line')) as [string];
  const url = /^ready (http:\/\/127\.0\.0\.1:\d+)$/.exec(line)?.[1];
  assert.ok(url !== undefined, line);
  const data = (name: string) => join(directory.path, 'data', name);
  assert.equal(statSync(data('operator.key')).mode & 0o777, 0o600);
  assert.equal(statSync(join(directory.path, 'data')).mode & 0o777, 0o700);
  const key = readFileSync(data('operator.key'), 'utf8').trim();
  const reply = await fetch(`${url}/v1/server`, { headers: { authorization: `Bearer ${key}` } });
  const { serverId } = (await reply.json()) as { serverId: string };
  assert.equal(serverId, (JSON.parse(readFileSync(data('server.json'), 'utf8')) as { serverId: string }).serverId);

  const second = await fails(args);
  assert.deepEqual([second.code, second.stderr.split('\n')[0]?.split(':')[0]], [1, 'error data_dir_in_use']);
  const port = new URL(url).port;
  const elsewhere = ['--data-dir', join(directory.path, 'other'), ...args.slice(2), '--port', port];
  assert.match((await fails(elsewhere)).stderr, /^error address_in_use: /m);

  child.kill('SIGTERM');
  const ended = await exited;
  assert.equal(ended.code, 0);
  assert.ok(!ended.stderr.includes(key.split('.')[1]!));
  assert.ok(!existsSync(data('server.json.new')));
});

test('a command line that is wrong, the error is two lines and the code 2', async () => {
  using directory = temporaryDirectory();
  const args = prepare(directory);
  for (const [wrong, code] of [
    [[], 'usage'],
    [[...args, '--colour'], 'usage'],
    [[...args, '--port', '99999'], 'usage'],
    [[...args, '--default-isolation', 'paper'], 'usage'],
    [[...args, '--idempotency-ttl', '24'], 'usage'],
    [[...args, '--worker-trust', 'much'], 'usage'],
    [[...args, '--database-url', 'mysql://root:secret@localhost'], 'usage'],
    [[...args, '--keep-executions', '0d'], 'usage'],
    [[...args, '--keep-output', '10GB'], 'usage'],
    [[...args, '--tls-self', '--tls-cert', 'x'], 'usage'],
    [[...args, '--host', '0.0.0.0'], 'insecure_refused'],
    [[...args, '--tls-cert', 'nothing', '--tls-key', 'nothing'], 'file_unreadable'],
    [['--data-dir', directory.path, '--artifacts', 'nothing'], 'artifact_missing'],
  ] as const) {
    const { code: status, stderr } = await fails(wrong);
    assert.equal(status, 2, code);
    assert.match(stderr, new RegExp(`^error ${code}: .*\n.*\n$`));
  }
});

test('a certificate that the server made itself, it names the host, stays over a restart and is in join tokens', async () => {
  await using server = await TestServer.start({ tls: { kind: 'self' } });
  const fingerprint = async (): Promise<{ sha256: string; token: string }> => {
    const outgoing = request(`${server.url}/v1/join-tokens`, {
      method: 'POST',
      agent: false,
      ca: readFileSync(join(server.directory.path, 'data', 'tls', 'cert.pem')),
      headers: { authorization: `Bearer ${server.key}` },
    });
    outgoing.end();
    const [response] = (await once(outgoing, 'response')) as [NodeJS.ReadableStream & { socket: TLSSocket }];
    const sha256 = response.socket.getPeerCertificate().fingerprint256.replaceAll(':', '').toLowerCase();
    let text = '';
    for await (const chunk of response) text += String(chunk);
    return { sha256, token: (JSON.parse(text) as { token: string }).token };
  };
  const { sha256, token } = await fingerprint();
  const content = JoinTokenContent.parse(JSON.parse(Buffer.from(token.slice(3), 'base64url').toString()));
  assert.deepEqual([content.certificateSha256, content.serverId], [sha256, server.server.serverId]);
  await using worker = await ScriptedWorker.connect(server, { identity: new Identity(), joinToken: token });
  assert.ok(worker.welcome.workerId);
  await server.restart();
  assert.equal((await fingerprint()).sha256, sha256);
});
