import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { chmodSync, lstatSync, mkdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { CocoreError, MAX_ARCHIVE_BYTES, MAX_ARCHIVE_DEPTH, MAX_ARCHIVE_ENTRIES } from '@cocore/protocol';
import { readArchive } from '../src/code/code-archive.ts';
import { Content } from '../src/code/content.ts';
import { writeTree } from '../src/code/write-tree.ts';
import { pax, type RawEntry, tar } from './support/tar.ts';
import { temporaryDirectory } from './support/temporary.ts';

async function refusal(archive: Buffer): Promise<string> {
  try {
    await readArchive(Content.of(archive));
  } catch (error) {
    assert.ok(error instanceof CocoreError && error.code === 'code_invalid', String(error));
    return error.message;
  }
  throw new Error('it was taken');
}

describe('an archive of code', () => {
  test('packed by GNU tar in each of its formats, is unpacked with its links and what is executable', async () => {
    using source = temporaryDirectory();
    const deep = join(source.path, 'a'.repeat(60), 'b'.repeat(60));
    mkdirSync(deep, { recursive: true });
    writeFileSync(join(deep, 'größe.txt'), 'long');
    writeFileSync(join(source.path, 'run.sh'), '#!/bin/sh\n', { mode: 0o4711 });
    chmodSync(join(source.path, 'run.sh'), 0o4711);
    writeFileSync(join(source.path, 'empty'), '', { mode: 0o600 });
    symlinkSync('run.sh', join(source.path, 'link'));
    symlinkSync(`../${'a'.repeat(60)}`, join(deep, '..', 'up'));
    for (const format of ['gnu', 'pax', 'ustar']) {
      using directory = temporaryDirectory();
      const archive = execFileSync('tar', ['--format', format, '-C', source.path, '-cf', '-', '.']);
      const tree = await readArchive(Content.of(archive));
      await writeTree(tree, join(directory.path, 'tree'));
      const at = (...path: string[]) => join(directory.path, 'tree', ...path);
      assert.equal(readFileSync(at('a'.repeat(60), 'b'.repeat(60), 'größe.txt'), 'utf8'), 'long', format);
      assert.equal(lstatSync(at('run.sh')).mode & 0o7777, 0o755);
      assert.equal(lstatSync(at('empty')).mode & 0o7777, 0o644);
      assert.equal(lstatSync(at('a'.repeat(60))).mode & 0o7777, 0o755);
      assert.equal(readlinkSync(at('link')), 'run.sh');
      tree.requireFile('run.sh');
      tree.requireFile('link');
      assert.throws(() => tree.requireFile('empty'), /is an empty file/);
      assert.throws(() => tree.requireFile('a'.repeat(60)), /is not a file/);
      assert.throws(() => tree.requireFile('no.py'), /has no file "no\.py"/);
    }
  });

  const file = (name: string): RawEntry => ({ name, content: 'x' });
  const hostile: [string, readonly RawEntry[] | Buffer, RegExp][] = [
    ['a path that leads out', [file('a/../../b')], /"a\/\.\.\/\.\.\/b" leads out/],
    ['a path that leads out by an extended header', [pax({ path: '../b' }), file('a')], /leads out/],
    [
      'a path that leads out by a long name of GNU',
      [{ name: '././@LongLink', flag: 'L', content: '../b\0' }, file('a')],
      /leads out/,
    ],
    ['an absolute path', [file('/etc/passwd')], /absolute/],
    ['a link that leads out', [{ name: 'a', flag: '2', link: '../x' }], /"a" is a link that leads out/],
    ['an absolute link', [{ name: 'a', flag: '2', link: '/etc' }], /absolute/],
    ['a link to nothing', [{ name: 'a', flag: '2', link: '' }], /a link to nothing/],
    [
      'links that lead out together',
      [
        { name: 'd/up', flag: '2', link: '..' },
        { name: 'out', flag: '2', link: 'd/up/../x' },
      ],
      /"out" is a link that leads out/,
    ],
    [
      'links in a circle',
      [
        { name: 'a', flag: '2', link: 'b' },
        { name: 'b', flag: '2', link: 'a' },
      ],
      /in a circle/,
    ],
    ['a file through a link', [{ name: 'a', flag: '2', link: 'b' }, file('a/x')], /lies in "a", which is no directory/],
    ['a file below a file', [file('a'), file('a/x')], /lies in "a", which is no directory/],
    ['a file twice', [file('a'), file('./a')], /is there twice/],
    [
      'a directory twice',
      [
        { name: 'a/', flag: '5' },
        { name: 'a', flag: '5' },
      ],
      /is there twice/,
    ],
    ['a link in a file’s place', [file('a'), { name: 'a', flag: '2', link: 'b' }], /is there twice/],
    ['a file in the place of the whole', [file('.')], /takes the place/],
    ['a place that is CoCore’s own', [file('.cocore/handler.py')], /CoCore's own/],
    ['a hard link', [file('a'), { name: 'b', flag: '1', link: 'a' }], /hard link/],
    ['a character device', [{ name: 'a', flag: '3' }], /a device/],
    ['a block device', [{ name: 'a', flag: '4' }], /a device/],
    ['a pipe', [{ name: 'a', flag: '6' }], /named pipe/],
    ['a sparse file', [{ name: 'a', flag: 'S' }], /a kind that is not known/],
    ['a sparse file by extended header', [pax({ 'GNU.sparse.major': '1' }), file('a')], /extended header/],
    ['a path for all files', [pax({ path: 'x' }, 'g'), file('a')], /extended header/],
    [
      'an extended header that is not one',
      [{ name: 'x', flag: 'x', content: '99 a=b\n' }, file('a')],
      /extended header/,
    ],
    [
      'an extended header without end',
      [{ name: 'x', flag: 'x', content: 'x'.repeat(20_000) }, file('a')],
      /more than 16384/,
    ],
    ['a size that is no number', [pax({ size: 'NaN' }), file('a')], /size that makes no sense/],
    [
      'a size below nothing',
      [{ ...file('a'), size: '\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff' }],
      /size that makes no sense/,
    ],
    ['a size beyond the archive', [{ ...file('a'), size: '00000100000\0' }], /ends in the middle/],
    ['a directory with bytes', [{ name: 'a', flag: '5', content: 'x' }], /directory with bytes/],
    ['a name with NUL', [pax({ path: 'a\0b' }), file('a')], /NUL/],
    ['a name that is too long', [file('x'.repeat(90)), pax({ path: 'y'.repeat(256) }), file('a')], /longer than 255/],
    ['a path that is too long', [pax({ path: `${'y/'.repeat(600)}a` }), file('a')], /longer than|deeper than/],
    ['what lies too deep', [file(`${'a/'.repeat(MAX_ARCHIVE_DEPTH)}x`)], /deeper than 32/],
    [
      'too many files',
      Array.from({ length: MAX_ARCHIVE_ENTRIES + 1 }, (_, at) => ({ name: `f${at}`, flag: '5' })),
      /more than 10000/,
    ],
    [
      'too many directories that are only implied',
      Array.from({ length: MAX_ARCHIVE_ENTRIES / 2 + 1 }, (_, at) => file(`d${at}/f`)),
      /more than 10000/,
    ],
    [
      'too many links',
      Array.from({ length: 1001 }, (_, at) => ({ name: `l${at}`, flag: '2', link: 'x' })),
      /more than 1000 links/,
    ],
    ['too many bytes', [{ name: 'a', content: Buffer.alloc(MAX_ARCHIVE_BYTES + 1) }], /more than 67108864 bytes/],
    ['no tar archive', Buffer.from('x'.repeat(2048)), /not a tar archive/],
    ['nothing', Buffer.alloc(0), /ends in the middle/],
    ['an archive without its end', tar([file('a')]).subarray(0, 1024), /ends in the middle/],
  ];
  for (const [what, entries, message] of hostile) {
    test(`${what}, is refused`, async () => {
      assert.match(await refusal(Buffer.isBuffer(entries) ? entries : tar(entries)), message);
    });
  }

  test('a name whose bytes are not UTF-8 in a header that is right, is refused', async () => {
    const archive = tar([{ name: 'aX', content: 'x' }]);
    // The sum of the header stays what it is.
    archive[0] = 0xb9;
    archive[1] = 0x00;
    assert.match(await refusal(archive), /not UTF-8/);
  });

  test('links that lead to what is not there, and directories named after what is in them, are taken', async () => {
    using directory = temporaryDirectory();
    const archive = tar([file('a/b/x'), { name: 'a/b/', flag: '5' }, { name: 'l', flag: '2', link: 'a/../missing' }]);
    const tree = await readArchive(Content.of(archive));
    await writeTree(tree, join(directory.path, 'tree'));
    assert.equal(readlinkSync(join(directory.path, 'tree', 'l')), 'a/../missing');
  });
});
