import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { describe, test } from 'node:test';
import { CocoreClient } from '@cocore/client';
import { cocore, type Environment, ROOT, start } from '../support/command.ts';
import { descendants, isAlive } from '../support/processes.ts';
import { Stack, temporary } from '../support/stack.ts';
import { until } from '../support/wait.ts';

const credentialsIn = (env: Environment): string[] => {
  const directory = join(env['XDG_CONFIG_HOME']!, 'cocore', 'credentials');
  return existsSync(directory) ? readdirSync(directory).map((name) => join(directory, name)) : [];
};

describe('where and who', () => {
  const wrong: [string, Environment, RegExp][] = [
    ['no address', { COCORE_URL: 'nonsense' }, /^error usage: COCORE_URL is not an address/],
    ['another scheme', { COCORE_URL: 'ftp://127.0.0.1' }, /^error usage: COCORE_URL is not http or https/],
    ['a path', { COCORE_URL: 'http://127.0.0.1:1/base' }, /^error usage: COCORE_URL must end after host and port/],
    ['a query', { COCORE_URL: 'http://127.0.0.1:1/?key=x' }, /^error usage: COCORE_URL must end after host and port/],
    ['another machine in the clear', { COCORE_URL: 'http://192.0.2.1:1' }, /^error insecure_refused: /],
    ['a certificate that is not there', { COCORE_CA_FILE: '/nothing' }, /^error file_unreadable: /],
    ['a certificate that is none', { COCORE_CA_FILE: '/etc/passwd' }, /^error file_unreadable: .*no certificate/],
  ];
  for (const [what, settings, line] of wrong) {
    test(`${what}, is refused`, async () => {
      using home = temporary();
      const result = await cocore(['ps'], { ...home.env, COCORE_API_KEY: 'x', ...settings });
      assert.equal(result.code, 2);
      assert.match(result.stderr, line);
    });
  }

  test('a password in the address, is refused and not printed', async () => {
    using home = temporary();
    const result = await cocore(['ps'], {
      ...home.env,
      COCORE_URL: 'http://me:secret@127.0.0.1:1',
      COCORE_API_KEY: 'x',
    });
    assert.match(result.stderr, /^error usage: /);
    assert.doesNotMatch(result.stderr, /secret/);
  });

  test('keys for several servers, the command asks for one of them', async () => {
    using home = temporary();
    const directory = join(home.env['XDG_CONFIG_HOME']!, 'cocore', 'credentials');
    mkdirSync(directory, { recursive: true });
    for (const url of ['http://127.0.0.1:40001', 'http://127.0.0.1:40002'])
      writeFileSync(join(directory, `${encodeURIComponent(url)}.json`), JSON.stringify({ url, apiKey: 'x' }));
    const result = await cocore(['ps'], home.env);
    assert.match(result.stderr, /^error usage: .*40001 and http:\/\/127\.0\.0\.1:40002; name one in COCORE_URL/);
  });
});

describe('run', () => {
  test('an argument that is not UTF-8, is refused instead of changed', async () => {
    using home = temporary();
    const script = `exec "$0" packages/cli/bin/cocore.js run anything "$(printf 'a\\377')"`;
    const child = spawn('sh', ['-c', script, process.execPath], { cwd: ROOT, env: home.env, stdio: 'pipe' });
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    const [code] = (await once(child, 'close')) as [number];
    assert.equal(code, 2);
    assert.match(stderr, /^error invalid_text: /);
  });

  test('a replacement character, is an argument as any other', async () => {
    using home = temporary();
    const result = await cocore(['run', 'anything', '\ufffd'], home.env);
    assert.match(result.stderr, /^error key_missing: /);
  });

  test('Ctrl-C before the server has answered, cancels what was made', async () => {
    await using stack = await Stack.dev('--isolation', 'fake');
    await stack.deploy('huge', 'bash', 'exit 0', HUGE);
    const release = Promise.withResolvers<void>();
    await using late = await lateAnswers(stack.url, release.promise);
    const env = { ...stack.home.env, COCORE_URL: late.url, COCORE_API_KEY: stack.apiKey };
    const command = start(['run', 'huge'], env);
    const id = await until('it is made', async () => (await stack.client.executions.list({})).executions[0]?.id);
    command.child.kill('SIGINT');
    await until('the signal is taken', () => !hasPendingSignal(command.child.pid!));
    release.resolve();
    assert.equal((await command.ended).code, 130);
    assert.equal((await stack.client.executions.get(id)).state, 'cancelled');
  });
});

/** A shape that no worker of the machine has room for: it stays open. */
const HUGE = { memoryMiB: 16_384, cpus: 8 };

/** Stands before a control server and keeps back its answers to new executions. */
async function lateAnswers(url: string, released: Promise<void>) {
  const server = createServer((request, response) => {
    const { authorization, 'content-type': type } = request.headers;
    const headers = { authorization: authorization!, ...(type === undefined ? {} : { 'content-type': type }) };
    void (async () => {
      const body = request.method === 'POST' ? Buffer.concat(await Array.fromAsync<Buffer>(request)) : null;
      const answer = await fetch(`${url}${request.url}`, { method: request.method!, headers, body });
      if (request.url!.endsWith('/executions')) await released;
      response.writeHead(answer.status, { 'content-type': answer.headers.get('content-type')! });
      await pipeline(answer.body!, response);
    })().catch(() => response.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Whether the kernel still holds a signal for a process. */
function hasPendingSignal(pid: number): boolean {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  return /^(?:SigPnd|ShdPnd):.*[1-9a-f]$/m.test(status);
}

describe('deploy', () => {
  test('a device without an end, is refused', async () => {
    using home = temporary();
    const result = await cocore(['deploy', '/dev/zero', '--name', 'x', '--runtime', 'bash'], home.env);
    assert.equal(result.code, 2);
    assert.match(result.stderr, /^error code_invalid: /);
  });
});

describe('dev', () => {
  const wrong: [string, string[], RegExp][] = [
    ['a port that is none', ['--port', '99999'], /^error usage: /],
    ['a directory that cannot be made', ['--port', '0', '--data-dir', '/dev/null/x'], /^error file_unreadable: /],
    // What the fake driver leases is on no host.
    [
      'more than this host has',
      ['--port', '0', '--isolation', 'gvisor', '--cpus', '99999'],
      /^error limit_exceeded: --cpus 99999/,
    ],
    ['a lease that is no number', ['--port', '0', '--memory', 'much'], /^error usage: --memory/],
  ];
  for (const [what, args, line] of wrong) {
    test(`${what}, is said once and its key is gone`, async () => {
      using home = temporary();
      const result = await cocore(['dev', '--isolation', 'fake', ...args], home.env);
      assert.equal(result.code, 2, result.stderr);
      assert.match(result.stderr, line);
      assert.equal(result.stderr.match(/^error /gm)?.length, 1, result.stderr);
      assert.deepEqual(credentialsIn(home.env), []);
    });
  }

  test('a data directory that is in use, is said so', async () => {
    await using stack = await Stack.dev('--isolation', 'fake');
    const second = await stack.cocore(['dev', '--port', '0', '--isolation', 'fake']);
    assert.equal(second.code, 2);
    assert.match(second.stderr, /^error data_dir_in_use: .*\n.*\n$/);
  });

  test('a first start that failed before the worker joined, does not spoil the next', async () => {
    using home = temporary();
    const failed = await cocore(['dev', '--port', '0', '--isolation', 'gvisor', '--cpus', '99999'], home.env);
    assert.equal(failed.code, 2);
    const dev = start(['dev', '--port', '0', '--isolation', 'fake'], home.env, 'keep open');
    await dev.waitFor('stdout', /^ready /m);
    dev.child.kill('SIGTERM');
    assert.equal((await dev.ended).code, 0);
  });

  test('its key, is readable by its owner alone, and gone after SIGTERM', async () => {
    await using stack = await Stack.dev('--isolation', 'fake');
    const [file] = credentialsIn(stack.home.env);
    assert.equal(statSync(file!).mode & 0o777, 0o600);
    const started = descendants(stack.command.child.pid!);
    stack.command.child.kill('SIGTERM');
    assert.equal((await stack.command.ended).code, 0);
    assert.deepEqual(credentialsIn(stack.home.env), []);
    assert.deepEqual(
      started.filter(({ pid }) => isAlive(pid)),
      [],
    );
  });

  test(
    'without root and without sudo, it says so and its key is gone',
    { skip: !isRoot() && 'made for a test that runs as root' },
    async () => {
      using home = userHome();
      const result = await asUser(home.env, ['dev', '--port', '0', '--isolation', 'fake']).ended;
      assert.equal(result.code, 2, result.stderr);
      assert.match(result.stderr, /^error host_unfit: sudo cannot be started$/m);
      assert.deepEqual(credentialsIn(home.env), []);
    },
  );

  test(
    'a user with sudo, gets a worker that is root, and nothing of it is left',
    { skip: !isRoot() && 'made for a test that runs as root' },
    async () => {
      using home = userHome();
      const bin = join(home.path, 'bin');
      mkdirSync(bin);
      makeSudo(join(bin, 'sudo'));
      const env = { ...home.env, PATH: `${bin}:/usr/bin:/bin` };
      for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
        const dev = asUser(env, ['dev', '--port', '0', '--isolation', 'fake']);
        const [, url] = await dev.waitFor('stdout', /^ready (\S+)$/m);
        const started = descendants(dev.child.pid!);
        const worker = started.find(({ command }) => command.includes('packages/worker/'))!;
        assert.equal(statSync(`/proc/${worker.pid}`).uid, 0);
        assert.ok(url!.startsWith('http://127.0.0.1:'));
        dev.child.kill(signal);
        await dev.ended;
        await until('all of it is gone', () => started.every(({ pid }) => !isAlive(pid)), 20_000);
        if (signal === 'SIGTERM') assert.deepEqual(credentialsIn(home.env), []);
      }
    },
  );
});

describe('what is printed', () => {
  test('of a cancelled execution and of workers, names both and says what became of it', async () => {
    await using stack = await Stack.dev('--isolation', 'fake');
    await stack.deploy('huge', 'bash', 'exit 0', HUGE);
    const { id } = await stack.client.executions.create('huge', {});
    const shown = (await stack.cocore(['get', id])).stdout.toString();
    assert.doesNotMatch(shown, /heartbeat|usage/, 'no worker has it');
    const cancelled = await stack.cocore(['cancel', id]);
    assert.equal(cancelled.stdout.toString(), `${id} cancelled before it ran: cancelled (user_cancel)\n`);
    const [worker] = await stack.client.workers.list();
    assert.ok((await stack.cocore(['workers'])).stdout.toString().includes(worker!.id));
    const key = await new CocoreClient({ url: stack.url, apiKey: stack.apiKey }).keys.create({});
    assert.equal((await stack.cocore(['keys', 'revoke', key.id])).stdout.toString(), `${key.id} is revoked\n`);
  });

  test('the version, and options without an odd default', async () => {
    using home = temporary();
    assert.match((await cocore(['--version'], home.env)).stdout.toString(), /^\d+\.\d+\.\d+\n$/);
    for (const command of ['run', 'deploy', 'dev', 'server', 'worker']) {
      const help = (await cocore([command, '--help'], home.env)).stdout.toString();
      assert.doesNotMatch(help, /default: \{\}/, command);
    }
  });
});

const USER_ID = 61_234;

function isRoot(): boolean {
  return process.getuid?.() === 0;
}

/** A home that belongs to a user who is not root, with artifacts that this user can read. */
function userHome() {
  const home = temporary();
  const cache = join(home.path, 'cache');
  mkdirSync(cache);
  writeFileSync(join(cache, 'base'), 'of no use to the fake driver');
  writeFileSync(
    join(cache, 'current.json'),
    JSON.stringify({ baseImage: join(cache, 'base'), nodeImage: join(cache, 'base') }),
  );
  home.env['COCORE_CACHE_DIR'] = cache;
  for (const path of [home.path, ...['HOME', 'XDG_CONFIG_HOME', 'XDG_DATA_HOME'].map((name) => home.env[name]!)]) {
    mkdirSync(path, { recursive: true });
    chownSync(path, USER_ID, USER_ID);
  }
  return home;
}

function asUser(env: Environment, args: string[]) {
  return start(args, env, 'keep open', { uid: USER_ID, gid: USER_ID });
}

/** What sudo is to this command: a program that makes root of whoever starts it, and that its starter may not signal. */
function makeSudo(path: string): void {
  const source = `#include <unistd.h>
int main(int n, char **a) { (void)n; return setgid(0) || setuid(0) ? 9 : execvp(a[2], a + 2); }`;
  const built = spawnSync('cc', ['-x', 'c', '-o', path, '-'], { input: source, encoding: 'utf8' });
  assert.equal(built.status, 0, built.stderr);
  chmodSync(path, 0o4755);
}
