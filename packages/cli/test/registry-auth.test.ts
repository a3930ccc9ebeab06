import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { nameOfImage, registryAuth, registryOf } from '../src/images/registry-auth.ts';

const home = mkdtempSync(join(tmpdir(), 'cocore-cli-test-'));
after(() => rmSync(home, { recursive: true }));
mkdirSync(join(home, '.docker'));

const base64 = (text: string) => Buffer.from(text).toString('base64');
const env = { HOME: home, PATH: `${home}:/usr/bin:/bin` };

function configure(config: unknown): void {
  const text = typeof config === 'string' ? config : JSON.stringify(config);
  writeFileSync(join(home, '.docker', 'config.json'), text);
}

function helper(name: string, script: string): void {
  const path = join(home, `docker-credential-${name}`);
  writeFileSync(path, `#!/bin/sh\n${script}\n`);
  chmodSync(path, 0o755);
}

test('a reference, its registry is told apart from a path', () => {
  assert.equal(registryOf('python'), 'docker.io');
  assert.equal(registryOf('library/python:3.12'), 'docker.io');
  assert.equal(registryOf('ghcr.io/owner/name@sha256:00'), 'ghcr.io');
  assert.equal(registryOf('localhost/name'), 'localhost');
  assert.equal(registryOf('127.0.0.1:5000/name:tag'), '127.0.0.1:5000');
});

test('an image without a name for its function, it has the last part of its reference', () => {
  assert.equal(nameOfImage('python:3.12'), 'python');
  assert.equal(nameOfImage('ghcr.io/Owner/My_App@sha256:00'), 'my-app');
  assert.equal(nameOfImage('127.0.0.1:5000/thing'), 'thing');
});

describe('credentials of registries', () => {
  test('no configuration, there are none', () => {
    assert.equal(registryAuth('python', { ...env, DOCKER_CONFIG: join(home, 'nothing') }), undefined);
  });

  test('in the file itself, Docker Hub by its old name', () => {
    configure({
      auths: {
        'https://index.docker.io/v1/': { auth: base64('me:a:b') },
        'ghcr.io': { auth: base64('you:secret') },
        'token.example': { identitytoken: 'opaque' },
        'empty.example': {},
      },
    });
    assert.deepEqual(registryAuth('python:3.12', env), { username: 'me', password: 'a:b' });
    assert.deepEqual(registryAuth('ghcr.io/o/n', env), { username: 'you', password: 'secret' });
    assert.deepEqual(registryAuth('token.example/o/n', env), { identityToken: 'opaque' });
    assert.equal(registryAuth('empty.example/o/n', env), undefined);
    assert.equal(registryAuth('other.example/o/n', env), undefined);
  });

  test('of a helper, it is asked by the registry’s name and comes before the file', () => {
    helper('one', 'read name; echo "{\\"Username\\":\\"$name\\",\\"Secret\\":\\"$1\\"}"');
    helper('none', 'echo "credentials not found in native keychain"; exit 1');
    helper('token', 'echo \'{"Username":"<token>","Secret":"opaque"}\'');
    configure({
      credHelpers: { 'ghcr.io': 'one', 'token.example': 'token' },
      credsStore: 'none',
      auths: { 'kept.example': { auth: base64('me:secret') }, 'ghcr.io': { auth: base64('not:this') } },
    });
    assert.deepEqual(registryAuth('ghcr.io/o/n', env), { username: 'ghcr.io', password: 'get' });
    assert.deepEqual(registryAuth('token.example/n', env), { identityToken: 'opaque' });
    assert.deepEqual(registryAuth('kept.example/n', env), { username: 'me', password: 'secret' });
  });

  test('what cannot be read, it is an error that names it', () => {
    const refused = (expected: RegExp) =>
      assert.throws(() => registryAuth('ghcr.io/o/n', env), { code: 'file_unreadable', message: expected });
    configure('{');
    refused(/config\.json is not a configuration/);
    configure({ auths: { 'ghcr.io': { auth: base64('nothing') } } });
    refused(/no user and password for ghcr\.io/);
    configure({ credHelpers: { 'ghcr.io': '../evil' } });
    refused(/cannot be a program/);
    configure({ credHelpers: { 'ghcr.io': 'absent' } });
    refused(/docker-credential-absent, which .* does not run/);
    helper('broken', 'echo locked; exit 3');
    configure({ credHelpers: { 'ghcr.io': 'broken' } });
    refused(/docker-credential-broken failed: locked/);
    helper('babble', 'echo hello');
    configure({ credHelpers: { 'ghcr.io': 'babble' } });
    refused(/cannot be read/);
  });
});
