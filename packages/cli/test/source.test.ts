import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { CocoreError, type ErrorCode, MAX_ARCHIVE_ENTRIES, type RuntimeRecord } from '@cocore/protocol';
import { SourceDirectory } from '../src/source/directory.ts';
import { lineOf } from '../src/source/json-lines.ts';
import { readProjectFile } from '../src/source/project-file.ts';
import { findEntry, guessRuntime } from '../src/source/runtimes.ts';

const runtime = (name: string, extensions: string[], interpreters: string[], entries: string[]): RuntimeRecord => ({
  name,
  extensions,
  interpreters,
  entries,
  manifest: name === 'node' ? { file: 'package.json', field: 'main' } : null,
  handlers: false,
});
const RUNTIMES = [
  runtime('bash', ['.sh', '.bash'], ['bash', 'sh'], ['main.sh']),
  runtime('python', ['.py'], ['python'], ['main.py', 'handler.py']),
  runtime('node', ['.js', '.ts'], ['node'], ['index.js', 'index.ts']),
];

/** A directory with these files; a link's content is `-> TARGET`. */
function directoryOf(files: Record<string, string>) {
  const path = mkdtempSync(join(tmpdir(), 'cocore-source-'));
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(dirname(join(path, name)), { recursive: true });
    if (content.startsWith('-> ')) symlinkSync(content.slice(3), join(path, name));
    else writeFileSync(join(path, name), content);
  }
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}

const fails = (code: ErrorCode, message: RegExp) => (error: unknown) =>
  error instanceof CocoreError && error.code === code && message.test(error.message);

/** What GNU tar lists of an archive: mode, owner, size, time and name. */
const listed = (archive: Buffer): string[] =>
  execFileSync('tar', ['--utc', '--full-time', '--quoting-style=literal', '-tvf', '-'], {
    input: archive,
    encoding: 'utf8',
  })
    .trim()
    .split('\n')
    .map((line) => line.replaceAll(/ +/g, ' '));

describe('a directory', () => {
  test('is packed without who, when and where, and keeps what is executable and its links', async () => {
    using one = directoryOf({ 'main.sh': 'echo', 'lib/größe.txt': 'x', 'lib/link': '-> ../main.sh', 'lib-x': '' });
    chmodSync(join(one.path, 'main.sh'), 0o4750);
    chmodSync(join(one.path, 'lib-x'), 0o600);
    const archive = await SourceDirectory.read(one.path).pack();
    assert.deepEqual(listed(archive), [
      'drwxr-xr-x 0/0 0 1970-01-01 00:00:00 lib',
      '-rw-r--r-- 0/0 0 1970-01-01 00:00:00 lib-x',
      '-rw-r--r-- 0/0 1 1970-01-01 00:00:00 lib/größe.txt',
      'lrwxr-xr-x 0/0 0 1970-01-01 00:00:00 lib/link -> ../main.sh',
      '-rwxr-xr-x 0/0 4 1970-01-01 00:00:00 main.sh',
    ]);
    using other = directoryOf({ 'lib-x': '', 'lib/link': '-> ../main.sh', 'lib/größe.txt': 'x', 'main.sh': 'echo' });
    chmodSync(join(other.path, 'main.sh'), 0o700);
    utimesSync(join(other.path, 'main.sh'), 1, 1);
    assert.ok(archive.equals(await SourceDirectory.read(other.path).pack()));
  });

  test('leaves out what its ignore file names, and what is never code', () => {
    using directory = directoryOf({
      '.cocoreignore': '# notes\n*.log\n!keep.log\n/data/\nsecret/*\n!secret/a\n!cocore.json\n',
      'main.py': '',
      'cocore.json': '{}',
      'a.log': '',
      'keep.log': '',
      'sub/b.log': '',
      'sub/data/x': '',
      'data/x': '',
      'secret/a': '',
      'secret/b': '',
      '.git/config': '',
      '.venv/x': '',
      '__pycache__/x.pyc': '',
      'sub/__pycache__/x.pyc': '',
      'node_modules/a/index.js': '',
    });
    const read = SourceDirectory.read(directory.path);
    const kept = 'main.py cocore.json keep.log sub/data/x secret/a node_modules/a/index.js'.split(' ');
    const left =
      'a.log sub/b.log data/x secret/b .git/config .venv/x __pycache__/x.pyc sub/__pycache__/x.pyc .cocoreignore';
    assert.deepEqual(
      kept.filter((path) => !read.has(path)),
      [],
    );
    assert.deepEqual(
      left.split(' ').filter((path) => read.has(path)),
      [],
    );
  });

  test('a file that is left out, may be of any kind', async () => {
    using directory = directoryOf({ '.cocoreignore': 'socket\nout\n', out: '-> ../..', 'main.sh': 'x' });
    await using _socket = await socketAt(join(directory.path, 'socket'));
    assert.deepEqual(listed(await SourceDirectory.read(directory.path).pack()).length, 1);
  });

  test('sockets, pipes, links that lead out and names that are not UTF-8, are refused by name', async () => {
    using socket = directoryOf({});
    await using _socket = await socketAt(join(socket.path, 's'));
    const refused = (path: string, message: RegExp) =>
      assert.throws(() => SourceDirectory.read(path), fails('code_invalid', message));
    refused(socket.path, /\/s is a socket, a pipe or a device; leave it out in \.cocoreignore/);
    using pipe = directoryOf({});
    execFileSync('mkfifo', [join(pipe.path, 'p')]);
    refused(pipe.path, /\/p is a socket, a pipe or a device/);
    for (const target of ['../..', '/etc/passwd', 'sub/../../../x']) {
      using link = directoryOf({ 'a/l': `-> ${target}` });
      refused(link.path, /\/a\/l is a link that leads out of the directory/);
    }
    using name = directoryOf({});
    writeFileSync(Buffer.concat([Buffer.from(`${name.path}/`), Buffer.from([0x61, 0xff])]), '');
    refused(name.path, /not UTF-8/);
  });

  test('too many files, are refused before they are sent', () => {
    using directory = directoryOf({});
    for (let at = 0; at <= MAX_ARCHIVE_ENTRIES; at += 1) writeFileSync(join(directory.path, `f${at}`), '');
    assert.throws(() => SourceDirectory.read(directory.path), fails('code_invalid', /more than 10000 files/));
  });
});

async function socketAt(path: string): Promise<AsyncDisposable> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(path, resolve));
  return server;
}

describe('what is run', () => {
  test('the runtime, is told by the extension, else by the first line', () => {
    const cases: [string, string, string | undefined][] = [
      ['a.py', '', 'python'],
      ['a.sh', '', 'bash'],
      ['dir.py/a.ts', '', 'node'],
      ['a', '#!/bin/bash\n', 'bash'],
      ['a', '#!/usr/bin/env python3\n', 'python'],
      ['a', '#!/usr/bin/env -S python3.12 -u\n', 'python'],
      ['a', '#!/usr/bin/perl\n', undefined],
      ['a', 'print()\n', undefined],
    ];
    for (const [path, content, name] of cases) {
      assert.equal(guessRuntime(path, Buffer.from(content), RUNTIMES)?.name, name, `${path} ${content}`);
    }
  });

  test('the entry, is the one candidate, or what the manifest names', () => {
    const found = (files: Record<string, string>, wanted?: string) => {
      using directory = directoryOf(files);
      return findEntry(SourceDirectory.read(directory.path), wanted, RUNTIMES);
    };
    assert.equal(found({ 'main.py': '', 'other.py': '' }), 'main.py');
    assert.equal(found({ 'package.json': '{"main": "./src/start.ts"}', 'index.js': '' }), 'src/start.ts');
    assert.equal(found({ 'package.json': '{"name": "x"}', 'index.js': '' }), 'index.js');
    assert.equal(found({ 'package.json': 'broken', 'index.js': '' }), 'index.js');
    assert.equal(found({ 'main.py': '', 'index.js': '' }, 'node'), 'index.js');
    assert.throws(
      () => found({ 'main.py': '', 'index.js': '' }),
      fails('code_invalid', /several files .*: main\.py, index\.js; .*--entry/),
    );
    assert.throws(() => found({ 'x.py': '' }), fails('code_invalid', /no file that is run by its name/));
  });
});

describe('cocore.json', () => {
  const read = (text: string) => {
    using directory = directoryOf({ 'cocore.json': text });
    return readProjectFile(directory.path);
  };

  test('what it says, is taken; a directory without it says nothing', () => {
    const whole = {
      $schema: 'x',
      name: 'add',
      runtime: 'python',
      entry: 'src/main.py',
      handler: 'handler',
      memoryMiB: 512,
      cpus: 2,
      timeoutMs: 5000,
      env: { A: 'b' },
      isolation: 'gvisor',
      outputLimitBytes: 1000,
    };
    assert.deepEqual(read(JSON.stringify(whole)), whole);
    using empty = directoryOf({});
    assert.deepEqual(readProjectFile(empty.path), {});
  });

  const bad: [string, string, RegExp][] = [
    [
      'an unknown field',
      '{\n  "name": "a",\n  "colour": 1\n}',
      /cocore\.json:3: colour: there is no such field; there are name, runtime, entry/,
    ],
    ['a value of the wrong kind', '{\n  "env": {\n    "A": "x",\n    "B": 1\n  }\n}', /cocore\.json:4: env\.B: /],
    ['a size that is not offered', '{"name": "a",\n"memoryMiB": 300}', /cocore\.json:2: memoryMiB: .*256\|512/],
    ['an entry outside', '{\n"entry": "../x"}', /cocore\.json:2: entry: /],
    ['broken JSON', '{\n  "name": "a"\n  "cpus": 1\n}', /cocore\.json:3: Expected ','/],
    ['JSON that ends early', '{\n  "name": "a",\n', /cocore\.json:3: /],
    ['no object', '[]', /cocore\.json:1: /],
  ];
  for (const [what, text, message] of bad) {
    test(`${what}, is refused with its line`, () => {
      assert.throws(() => read(text), fails('project_invalid', message));
    });
  }

  test('the line of a field, is found among fields and strings of the same name', () => {
    const text = '{\n"a": ["b", {"c": 1},\n{\n"c": "\\"c\\": {"}],\n"c": {"a":\n{"c": 2}}\n}';
    assert.equal(lineOf(text, ['c']), 5);
    assert.equal(lineOf(text, ['a', '2', 'c']), 4);
    assert.equal(lineOf(text, ['c', 'a', 'c']), 6);
    assert.equal(lineOf(text, ['c', 'missing']), 5);
  });
});
