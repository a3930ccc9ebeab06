import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CocoreError } from '@cocore/protocol';
import { parseReference } from '../../src/importer/reference.ts';

const DIGEST = `sha256:${'0'.repeat(64)}`;

test('a reference, is completed as Docker does', () => {
  const cases: [string, string, string][] = [
    ['debian', 'docker.io', 'docker.io/library/debian:latest'],
    ['debian:12', 'docker.io', 'docker.io/library/debian:12'],
    ['index.docker.io/debian', 'docker.io', 'docker.io/library/debian:latest'],
    ['me/tool', 'docker.io', 'docker.io/me/tool:latest'],
    ['ghcr.io/a/b/c:v1', 'ghcr.io', 'ghcr.io/a/b/c:v1'],
    ['host:5000/a', 'host:5000', 'host:5000/a:latest'],
    ['localhost/a', 'localhost', 'localhost/a:latest'],
    [`debian:12@${DIGEST}`, 'docker.io', `docker.io/library/debian@${DIGEST}`],
  ];
  for (const [text, registry, full] of cases) {
    const found = parseReference(text);
    assert.deepEqual([found.registry, found.full], [registry, full], text);
  }
});

test('a registry on the loopback, is known as one by its name', () => {
  assert.deepEqual(parseReference('127.0.0.1:5000/a').loopback, { host: '127.0.0.1', port: 5000 });
  assert.deepEqual(parseReference('127.9.9.9:5000/a').loopback, { host: '127.9.9.9', port: 5000 });
  assert.deepEqual(parseReference('localhost:5000/a').loopback, { host: '127.0.0.1', port: 5000 });
  for (const text of ['127.example.org/a', 'localhost.example.org/a', '10.0.0.1:5000/a', 'debian']) {
    assert.equal(parseReference(text).loopback, null, text);
  }
});

test('what is no reference, is refused', () => {
  const bad = [
    '',
    ' ',
    '--all',
    'A/b',
    'a b',
    'a//b',
    'a:',
    'a:b:c',
    'a@sha256:1',
    `a@${DIGEST}@${DIGEST}`,
    'docker://a',
    '-x.y/a',
    'localhost:0/a',
    'x.y:65536/a',
  ];
  for (const text of [...bad, 'a/../b', 'a\n', `${'a/'.repeat(300)}a`]) {
    assert.throws(
      () => parseReference(text),
      (error) => error instanceof CocoreError && error.code === 'invalid_request',
      text,
    );
  }
});
